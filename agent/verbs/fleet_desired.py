"""``fleet desired get | set | clear`` and ``fleet schedule``: settings that operators ask for, and those in force.

Rules:
- ``set`` takes the whole document of a scope: what it leaves out is as agent.yaml says. Needs the role admin.
- It stays on the broker for boards that are away; they take it when they come back.
- Exit code 0 only when every board addressed has taken it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.clock import SystemClock, iso
from agent.config_values import check_keys
from agent.core.desired import Desired, DesiredSettings
from agent.core.messages import decode
from agent.core.payloads import Reported
from agent.core.topics import parse_topic
from agent.documents import YamlProblemError, parse_yaml
from agent.errors import ConfigError, ReportError
from agent.fleet.desiring import Lying, Taking, audience_of, check_settings, next_version, publish, read_all
from agent.fleet.listed import listed
from agent.fleet.plain import LONG, plain
from agent.fleet.settings import operator_name
from agent.fleet.signing import OperatorKey
from agent.verbs.fleet import Console, console, ledger_folder
from agent.verbs.fleet_orders import names_text, order_options, seconds
from agent.verbs.invocation import Invocation

_TAKE_S = 30.0
_BUDGET = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=|=)\s*(\S.*?)\s*")
_SCOPES = "all, group:NAME, or boards (names or an expression: each gets a document of its own)"
_EXAMPLE = "{tasks: {digits: {budgets: {latency_p95: 20 ms}, pin: net-int8}}, caps: {download: 1 GiB}}"


def register(add: Callable[..., argparse.ArgumentParser], desired: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the actions of this module. Args: desired: adds one below ``fleet desired``."""
    parser = desired("get", "Show the settings that are asked for, and what boards say of them", run_get)
    parser.add_argument("boards", nargs="*", metavar="SCOPE", help="all, group:NAME or a board (default: every one)")
    text = "check signatures by the operator list of this registry (default: the `registry` of the configuration)"
    parser.add_argument("--registry", metavar="URL", help=text)
    parser.add_argument("--root", type=Path, metavar="FILE", help="that registry's root of trust, root.json")
    for name, summary in (
        ("set", "Ask for settings in place of those in agent.yaml"),
        ("clear", "Ask for nothing any more: agent.yaml holds"),
    ):
        parser = desired(name, summary, run_set)
        parser.add_argument("boards", nargs="+", metavar="SCOPE", help=_SCOPES)
        parser.set_defaults(clear=name == "clear")
        if name == "set":
            text = f"the whole document, like: {_EXAMPLE}"
            parser.add_argument("--file", type=Path, metavar="FILE.yaml", help=text)
            parser.add_argument("--task", metavar="T", help="of one task, in place of a file:")
            parser.add_argument("--budget", action="append", default=[], metavar="NAME<=LIMIT", help="repeatable")
            parser.add_argument("--objective", action="append", default=[], metavar="TEXT", help="repeatable, in order")
            parser.add_argument("--pin", metavar="C", help="this candidate and no other; empty lifts a wider pin")
        order_options(parser)
    add("schedule", "Show what boards have scheduled, and when it is due next", run_schedule, boards="*")


def run_get(call: Invocation) -> int:
    """Show documents."""
    with console(call, ("status", "reported")) as opened:
        clock = SystemClock()
        known = listed(opened.settings, ledger_folder(call), clock)
        lying = read_all(opened.link, lambda scope, sealed, desired: known.judge(scope, sealed, desired, clock))
        boards = opened.view.sorted()
    chosen = call.arguments.boards or sorted(lying)
    missing = [scope for scope in call.arguments.boards if scope not in lying]
    if call.console.as_json:
        documents = [lying[scope] for scope in chosen if scope in lying]
        reports = [{"board": b.name, "versions": b.desired_versions, "error": b.desired_error} for b in boards]
        call.console.document({"schema": "boardfit.fleet-desired/1", "desired": documents, "boards": reports})
        return 0
    for scope in chosen:
        if scope in lying:
            _show(call, lying[scope])
    if missing or not lying:
        call.console.line(f"Nothing is asked for of {', '.join(missing) or opened.settings.fleet}.")
    for board in boards:
        if board.desired_versions or board.desired_error:
            taken = ", ".join(f"{scope} {version}" for scope, version in board.desired_versions.items()) or "nothing"
            refused = f"; refused: {board.desired_error}" if board.desired_error else ""
            call.console.line(f"{board.name} has taken {taken}{refused}")
    return 0


def _show(call: Invocation, lying: Lying) -> None:
    if lying.desired is None:
        call.console.line(f"{lying.scope}: cannot be read: {lying.problem}", "yellow")
        return
    wanted, signature = lying.desired, lying.signature
    head = f"{lying.scope}: version {wanted.version} of {plain(wanted.issued_at)}"
    if signature.holds:
        call.console.line(f"{head}, signed by {plain(signature.reason)}")
    else:
        said = "signature not checked" if signature.holds is None else "NOT SIGNED as boards want it"
        by = f"says to be by {plain(wanted.issuer)}, key {plain(lying.keyid or '')[:12]}"
        style = "yellow" if signature.holds is None else "red"
        call.console.line(f"{head}, {by}; {said}: {plain(signature.reason, LONG)}", style)
    text = yaml.safe_dump(_without_nothing(msgspec.to_builtins(wanted.settings)), sort_keys=False)
    for line in text.splitlines()[:200]:
        call.console.line(f"  {plain(line, 200)}")


def _without_nothing(value: Any) -> Any:
    """Leave out what is not asked for."""
    if not isinstance(value, dict):
        return value
    return {name: _without_nothing(item) for name, item in value.items() if item is not None}


def run_set(call: Invocation) -> int:
    """Publish a new version for each scope, and wait until boards have taken it."""
    settings = DesiredSettings() if call.arguments.clear else _settings(call)
    check_settings(settings)
    timeout_s = seconds(call.arguments.timeout, "--timeout") or _TAKE_S
    with console(call, ("status", "profile", "reported")) as opened:
        takings, away = ask_for(opened, call.arguments.boards, settings, timeout_s, partial(_asked, call))
    return _tell_taken(call, takings, sorted(set(away)))


def _asked(call: Invocation, scope: str, version: int) -> None:
    if not call.console.as_json:
        call.console.line(f"{scope}: version {version} is asked for.")


def ask_for(
    opened: Console, words: list[str], settings: DesiredSettings, timeout_s: float, asked: Callable[[str, int], None]
) -> tuple[list[Taking], list[str]]:
    """Publish a new version for each scope, and wait until the boards that are there have taken it.

    Args: asked: told of each scope and version that is published.
    Returns: how each version fares, and the boards that were away. Raises: ConfigError. OrderError. ReportError.
    """
    issuer, key = operator_name(opened.settings), OperatorKey.load(opened.settings.key)
    takings: list[Taking] = []
    away: list[str] = []
    lying = read_all(opened.link)
    opened.link.replay(("reported",), partial(_took, takings))
    for scope, names in _scopes(opened, words):
        audience = audience_of(opened.settings.fleet, scope)
        boards = [opened.view.boards[name] for name in names]
        version = next_version(audience, lying.get(scope), (board.desired_versions for board in boards))
        takings.append(Taking(audience.scope, version, (board.name for board in boards if board.reachable)))
        away += [board.name for board in boards if not board.reachable]
        desired = Desired(
            schema="boardfit.desired/1",
            version=version,
            issuer=issuer,
            audience=audience,
            issued_at=iso(SystemClock().utc()),
            settings=settings,
        )
        publish(opened.link, key, desired)
        asked(scope, version)
    opened.link.wait(lambda: not any(taking.waiting for taking in takings), timeout_s)
    return takings, away


def _tell_taken(call: Invocation, takings: list[Taking], away: list[str]) -> int:
    taken = sorted(name for taking in takings for name in taking.taken)
    refused = {name: reason for taking in takings for name, reason in taking.refused.items()}
    waiting = sorted(name for taking in takings for name in taking.waiting)
    if call.console.as_json:
        document = {"taken": taken, "refused": refused, "silent": waiting, "offline": away}
        versions = [{"scope": taking.scope, "version": taking.version} for taking in takings]
        call.console.document({"schema": "boardfit.fleet-desired-set/1", "versions": versions, **document})
    else:
        for names, text, style in (
            (taken, "taken by", "green"),
            (waiting, "not taken yet by", "yellow"),
            (away, "offline, will find it:", "yellow"),
        ):
            if names:
                call.console.line(f"{text} {names_text(names)}", style)
        for name, reason in sorted(refused.items()):
            call.console.line(f"refused by {name}: {reason}", "red")
    return 0 if taken and not (refused or waiting or away) else 1


def _scopes(opened: Console, words: list[str]) -> list[tuple[str, list[str]]]:
    """Return each scope with the boards in it: the fleet, a group, or one scope per board that is meant."""
    if len(words) == 1 and (words[0] == "all" or words[0].startswith("group:")):
        selection, boards = opened.addressed(words)
        if selection.whole is not None:
            return [(selection.whole, [board.name for board in boards])]
    _, boards = opened.addressed(words)
    return [(board.name, [board.name]) for board in boards]


def _reported(topic: str, payload: bytes) -> tuple[str, Reported] | None:
    """Return a board's settings document; None for what cannot be read."""
    try:
        place = parse_topic(topic)
        device, message = place.device, decode(topic, payload, place.kind)
    except ReportError:
        return None
    return (device, message) if device is not None and isinstance(message, Reported) else None


def _took(takings: list[Taking], topic: str, payload: bytes) -> None:
    read = _reported(topic, payload)
    for taking in takings if read else ():
        taking.take(*read)  # type: ignore[misc]


def _settings(call: Invocation) -> DesiredSettings:
    """Return what is wanted, from a file or from options. Raises: ConfigError."""
    arguments = call.arguments
    task: dict[str, Any] = {}
    if arguments.budget:
        task["budgets"] = dict(_budget(text) for text in arguments.budget)
    if arguments.objective:
        task["objective"] = arguments.objective
    if arguments.pin is not None:
        task["pin"] = arguments.pin
    if (arguments.file is None) == (not task):
        raise ConfigError("say what is wanted: --file, or --task with --budget, --objective or --pin", fix=_EXAMPLE)
    if arguments.file is not None:
        return _convert(_load(arguments.file))
    if arguments.task is None:
        raise ConfigError("of which task?", fix="say --task T")
    return _convert({"tasks": {arguments.task: task}})


def _budget(text: str) -> tuple[str, str]:
    match = _BUDGET.fullmatch(text)
    if match is None:
        raise ConfigError(f"--budget {text!r} is not a limit", fix='write it like --budget "latency_p95<=20 ms"')
    return match[1], f">= {match[3]}" if match[2] == ">=" else match[3]


def _load(path: Path) -> Any:
    try:
        (document,) = parse_yaml([path.read_text("utf-8")])
    except (OSError, UnicodeDecodeError, YamlProblemError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}", fix="check the file") from error
    return document


def _convert(document: Any) -> DesiredSettings:
    if not isinstance(document, dict):
        raise ConfigError("desired settings must be a mapping", fix=_EXAMPLE)
    check_keys(document, msgspec.inspect.type_info(DesiredSettings), "")
    try:
        return msgspec.convert(document, DesiredSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the desired settings are not valid: {error}", fix="correct that value") from error


def run_schedule(call: Invocation) -> int:
    """Show the schedules in force."""
    reported: dict[str, Reported] = {}

    def take(topic: str, payload: bytes) -> None:
        opened.view.take(topic, payload)
        if (read := _reported(topic, payload)) is not None:
            reported[read[0]] = read[1]

    with console(call, ("status", "profile")) as opened:
        opened.link.replay(("reported",), take)
        names = [board.name for board in opened.addressed(call.arguments.boards or ["all"])[1]]
    rows = [(name, entry) for name in names if name in reported for entry in reported[name].schedule[:50]]
    if call.console.as_json:
        entries = [{"board": name, **msgspec.to_builtins(entry)} for name, entry in rows]
        call.console.document({"schema": "boardfit.fleet-schedule/1", "entries": entries})
        return 0
    if not rows:
        call.console.line("Nothing is scheduled there.")
        return 0
    call.console.table(
        ("board", "entry", "does", "when", "next"),
        [
            (name, plain(entry.name), plain(entry.action), plain(entry.when), plain(entry.next_at) or "–")
            for name, entry in rows
        ],
    )
    return 0
