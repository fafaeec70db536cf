"""What ``setup`` asks, in its order: registry and root, broker and name, tasks and budgets; and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from agent.clock import SystemClock
from agent.config import MqttConfig, parse_config
from agent.config_values import beside, usable_name
from agent.core.budget import parse_budgets
from agent.device.board import this_board
from agent.enrolment.names import Member, board_name
from agent.enrolment.proof import Finding
from agent.errors import ConfigError
from agent.setup.answers import NONE, Questions, yes
from agent.setup.trying import read_sensors, take_root, try_broker, try_registry
from agent.setup.writing import found_root
from agent.site import Site

T = TypeVar("T")


class UntilRight(Protocol):
    """Runs a step again, on a terminal, until it raises nothing; ``keys`` are then asked anew."""

    def __call__(self, step: Callable[[], T], *keys: str) -> T:
        """Return what the step does."""


class Wanted(msgspec.Struct, kw_only=True):
    """What the answers make. ``root``: to be written beside agent.yaml; ``left``: what is still to be done."""

    sections: dict[str, Any]
    root: bytes | None = None
    password: str | None = None
    password_file: Path | None = None
    findings: list[Finding] = []
    left: list[str] = []


def ask_all(
    questions: Questions,
    present: dict[str, Any],
    agent_yaml: Path,
    until_right: UntilRight,
    show: Callable[[Finding], None],
) -> Wanted:
    """Ask and try everything. Args: present: what is configured now. Raises: BoardfitError: without a terminal."""
    wanted = Wanted(sections={})

    def found(findings: Iterable[Finding]) -> None:
        for finding in findings:
            wanted.findings.append(finding)
            show(finding)

    def registry() -> dict[str, int]:
        section, root = _registry(questions, present.get("registry") or {}, agent_yaml)
        finding, tasks = try_registry(section, root)
        path = found_root(agent_yaml)
        if Path(str(section["root"])) == path or not _lies_beside(str(section["root"]), agent_yaml):
            wanted.root, section["root"] = root, path.name
        wanted.sections["registry"] = section
        found([finding])
        return tasks

    tasks = until_right(registry, "registry", "root", "root_sha256")
    until_right(
        lambda: found(_broker(questions, present, agent_yaml, wanted)),
        "broker", "ca", "fleet", "group", "device", "enroll", "certificate", "username", "password", "password_file",
    )  # fmt: skip
    with Site(parse_config({}, path=None), agent_yaml.parent) as site:  # for its board alone: no state is opened
        found(read_sensors(site))
        offered = {} if wanted.findings[-1].state == "fail" else site.board.profile.default_budgets
    before = present.get("tasks") or {}
    until_right(lambda: _tasks(questions, tasks, before, dict(offered), wanted), "tasks", "budgets")
    return wanted


def _lies_beside(root: str, agent_yaml: Path) -> bool:
    """Return whether a root of trust is a file of the configuration's own folder, which the service can read."""
    return not root.startswith(("http://", "https://")) and agent_yaml.parent in beside(agent_yaml, root).parents


def _registry(questions: Questions, before: dict[str, Any], agent_yaml: Path) -> tuple[dict[str, Any], bytes]:
    url = questions.ask(
        "registry", "Where do signed candidates come from? An http(s):// or file:// address, or a folder.",
        before.get("url"),
    )  # fmt: skip
    known = str(beside(agent_yaml, str(before["root"]))) if "root" in before else None
    where = questions.ask(
        "root", "Which root of trust judges them? The path of root.json, which you have brought here, or an address of "
        "it together with its fingerprint.", known,
    )  # fmt: skip
    fingerprint = ""
    if where.startswith(("http://", "https://")) or questions.listed("root_sha256"):
        sentence = "What is its fingerprint, as `sha256sum root.json` prints it where it was made?"
        fingerprint = questions.ask("root_sha256", sentence, "")
    root = take_root(where, fingerprint)
    return {**before, "url": url, "root": where}, root


def _broker(questions: Questions, present: dict[str, Any], agent_yaml: Path, wanted: Wanted) -> list[Finding]:
    before = present.get("mqtt") or {}
    url = questions.ask(
        "broker", f"Which broker does this board report to? mqtts://host[:port], mqtt://..., or {NONE}.",
        before.get("url", NONE),
    )  # fmt: skip
    named = present.get("device")
    named = named.get("id", "auto") if isinstance(named, dict) else named or "auto"
    wanted.sections.pop("mqtt", None)
    wanted.left.clear()
    if url == NONE:
        wanted.sections["device"] = _device(questions, str(named))
        return [Finding(subject="broker", state="warn", text="none: nothing is reported to a fleet")]
    section = _place(questions, before, url)
    device = _device(questions, str(named))
    name = this_board().device_id if device == "auto" else str(device["id"])  # type: ignore[index]
    if name is None:
        raise ConfigError("this machine has no /etc/machine-id to derive a name from", fix="give `device` a name")
    enrolled = False
    if url.startswith("mqtts://"):
        ca = questions.ask(
            "ca", "Which file has the authority of the broker's certificate? Nothing: those the system trusts.",
            str(before.get("ca", "")),
        )  # fmt: skip
        section = {key: value for key, value in section.items() if key != "ca"} | ({"ca": ca} if ca else {})
        enrolled = yes(
            questions.ask(
                "enroll", "Does this board show a certificate of its own? Its key is made here and never leaves.",
                "yes" if "cert" in before or "username" not in before else "no",
            ), "enroll",
        )  # fmt: skip
    if not enrolled:
        section = {key: value for key, value in section.items() if key not in ("cert", "key")}
        _password(questions, before, agent_yaml, section, wanted)
    else:
        waiting = _enrolled(questions, agent_yaml, section, board_name(section["fleet"], name), wanted)
        device = {"id": name}
        if waiting is not None:
            wanted.sections |= {"device": device} | ({"mqtt": before} if before else {})  # until the other holds
            return [waiting]
    wanted.sections["device"] = device
    wanted.sections["mqtt"] = section
    return [try_broker(_parsed(section, agent_yaml), name, wanted.password)]


def _place(questions: Questions, before: dict[str, Any], url: str) -> dict[str, Any]:
    """Return the section with the board's place in the fleet, without whom it connects as."""
    fleet = usable_name(
        questions.ask("fleet", "Which fleet does this board belong to?", str(before.get("fleet", "default"))), "fleet"
    )
    groups = questions.ask(
        "group", "Which groups of boards, if any, separated by commas?", ", ".join(before.get("group", []))
    )
    section = {key: value for key, value in before.items() if key not in ("username", "password_file")}
    section |= {"url": url, "fleet": fleet}
    names = [usable_name(one.strip(), "group") for one in groups.split(",") if one.strip()]
    return {key: value for key, value in section.items() if key != "group"} | ({"group": names} if names else {})


def _device(questions: Questions, before: str) -> dict[str, str] | str:
    name = questions.ask("device", "What is this board called? auto: a name derived from this machine.", before)
    return "auto" if name == "auto" else {"id": usable_name(name, "device")}


def _password(
    questions: Questions, before: dict[str, Any], agent_yaml: Path, section: dict[str, Any], wanted: Wanted
) -> None:
    wanted.password = wanted.password_file = None
    user = questions.ask(
        "username", "Under which user name, if the broker asks for one?", str(before.get("username", ""))
    )
    if not user:
        return
    section["username"] = user
    file = questions.listed("password_file") or before.get("password_file")
    secret = (
        ""
        if questions.listed("password_file")
        else questions.secret("password", "Which password?" + (" Nothing: the one that is stored." if file else ""))
    )
    if secret:
        wanted.password, wanted.password_file = secret, agent_yaml.parent / "mqtt-password"
        section["password_file"] = wanted.password_file.name
    elif file:
        section["password_file"] = str(file)


def _enrolled(
    questions: Questions, agent_yaml: Path, section: dict[str, Any], member: Member, wanted: Wanted
) -> Finding | None:
    """Put key, certificate and authority into the section; a finding where the certificate is still to be signed."""
    try:
        from agent.enrolment.identity import install_certificate, request_certificate
    except ImportError as error:
        fix = "install it with: pip install 'boardfit[enroll]'"
        raise ConfigError("enrolling needs the package cryptography", fix=fix) from error
    folder = agent_yaml.parent / "mqtt"
    made = None if "cert" in section else request_certificate(folder, member)
    sentence = (
        "Which file is the signed certificate? Nothing: the one that is in force."
        if made is None
        else f"Have {made.request} signed (boardfit enroll sign {made.request.name} --ca DIR). Which file is the "
        "signed certificate? Nothing: it comes later."
    )
    answer = questions.ask("certificate", sentence, "")
    if answer:
        ca = beside(agent_yaml, section.get("ca", ""))
        if not section.get("ca"):
            raise ConfigError("ca is missing", fix="name the authority's ca.pem, which the certificate was signed by")
        installed = install_certificate(folder, beside(agent_yaml, answer), ca, now=SystemClock().utc())
        section |= {"ca": str(installed.ca), "cert": str(installed.certificate), "key": str(installed.key)}
        if installed.name != str(member):
            raise ConfigError(f"{answer} is for {installed.name}, not {member}", fix="have this board's request signed")
    elif made is not None:
        wanted.left.append(
            f"The broker waits for a certificate: have {made.request} signed, then run setup again with "
            f"BOARDFIT_SETUP_CERTIFICATE, or boardfit enroll --certificate FILE --ca ca.pem --broker {section['url']}"
        )
        return Finding(subject="broker", state="warn", text=f"not tried: {made.request} is still to be signed")
    return None


def _parsed(section: dict[str, Any], agent_yaml: Path) -> MqttConfig:
    mqtt = parse_config({"mqtt": section}, path=agent_yaml).mqtt
    assert mqtt is not None
    return mqtt


def _tasks(
    questions: Questions,
    known: dict[str, int],
    before: dict[str, Any],
    offered: dict[str, str],
    wanted: Wanted,
) -> None:
    listed = questions.listed("tasks")
    own = listed if isinstance(listed, dict) else {}
    choice = ", ".join(f"{name} ({count} candidates)" for name, count in known.items()) or NONE
    default = ", ".join(name for name in before if name in known) or ", ".join(known) or NONE
    answer = questions.ask("tasks", f"Which tasks does this board serve? The registry has: {choice}.", default)
    names = [part.strip() for part in answer.split(",") if part.strip() and part.strip() != NONE]
    for name in names:
        if name not in known:
            raise ConfigError(f"the registry has no candidates for the task {name!r}", fix=f"it has: {choice}")
    section = {}
    for name in names:
        stored = dict(before.get(name) or {})
        if own.get(name) is not None:
            budgets = own[name].get("budgets", own[name]) if isinstance(own[name], dict) else own[name]
        else:
            at_first = stored.get("budgets") if name in before else offered
            text = ", ".join(f"{metric}: {limit}" for metric, limit in (at_first or {}).items()) or NONE
            budgets = _limits(
                questions.ask(
                    "budgets", f"Which limits must a model for {name} keep to? Those shown are "
                    f"{'configured now' if name in before else 'from the profile of this board'}; {NONE} for none.",
                    text,
                )
            )  # fmt: skip
        if not isinstance(budgets, dict):
            raise ConfigError(f"the budgets of {name} are not a mapping", fix="write them like `latency_p95: 20 ms`")
        parse_budgets(budgets, where=f"the budgets of {name}")
        section[name] = {**stored, "budgets": budgets}
    wanted.sections["tasks"] = section


def _limits(text: str) -> dict[str, str]:
    if text.strip().lower() == NONE:
        return {}
    limits = {}
    for part in text.split(","):
        metric, colon, limit = part.partition(":")
        if not colon or not limit.strip():
            raise ConfigError(f"{part.strip()!r} is not a limit", fix="write it like `latency_p95: 20 ms`")
        limits[metric.strip()] = limit.strip()
    return limits
