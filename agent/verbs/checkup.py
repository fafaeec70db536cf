"""What ``doctor`` looks at: each check does the real thing once and says ok, warn or fail with what to fix."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Literal

import msgspec

from agent.config import Config
from agent.core.facts import Accelerator, EngineFacts
from agent.core.operators import parse_operators
from agent.core.units import format_quantity
from agent.device.accelerators import how_to_use
from agent.device.worker_group import open_group
from agent.errors import BoardfitError, OrderError
from agent.mqtt import Connection
from agent.ownership import objection
from agent.runtimes.prove import prove_engines
from agent.sandbox.asking import ask_level
from agent.site import Site
from agent.verbs.invocation import Invocation

_SPACE_WANTED_BYTES = 256 * 2**20  # chosen: a few large candidates and the database


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One checked thing."""

    subject: str
    state: Literal["ok", "warn", "fail"]
    text: str
    fix: str | None = None


def check_installation(call: Invocation) -> tuple[Finding, ...]:
    """Run every check; one that fails does not keep the others from running."""
    findings: list[Finding] = []
    try:
        config = call.config()
    except BoardfitError as error:
        return (_failed("configuration", error),)
    where = str(config.path) if config.path else "built-in defaults: no file at /etc/boardfit/agent.yaml"
    findings.append(Finding(subject="configuration", state="ok" if config.path else "warn", text=where))
    with Site(config, call.state_dir) as site:
        for check in (_state, _board, _confinement, _registry, _broker, _operators):
            try:
                findings += check(site, config)
            except BoardfitError as error:
                findings.append(_failed(check.__name__.strip("_"), error))
    return tuple(findings)


def _failed(subject: str, error: BoardfitError) -> Finding:
    return Finding(subject=subject, state="fail", text=error.problem, fix=error.fix)


def _state(site: Site, _config: Config) -> Iterator[Finding]:
    unreadable = site.records.count_unreadable()
    if unreadable:
        text = f"{unreadable} stored documents cannot be read by this version and count for nothing"
        fix = "they are kept: a version that wrote them reads them; `boardfit bench --again` measures anew"
        yield Finding(subject="state", state="warn", text=text, fix=fix)
    free = shutil.disk_usage(site.state_dir).free
    text = f"{site.state_dir}: {format_quantity(free, 'bytes')} free"
    if site.database.set_aside:
        yield Finding(
            subject="state", state="warn", text=f"a damaged database was set aside: {site.database.set_aside}"
        )
    if free < _SPACE_WANTED_BYTES:
        yield Finding(subject="state", state="warn", text=text, fix="free some space: candidates need room")
    else:
        yield Finding(subject="state", state="ok", text=text)
    readable = os.stat(site.state_dir).st_mode & 0o005 == 0o005  # noqa: PTH116
    if not readable:
        fix = f"chmod o+rx {site.state_dir}, or run the application in the same group"
        yield Finding(subject="state", state="warn", text="other users cannot read the deployed model", fix=fix)


def _engines(engines: tuple[EngineFacts, ...]) -> Iterator[Finding]:
    for engine in engines:
        if engine.proven:
            text = f"{engine.name} {engine.version} runs on {', '.join(engine.providers)}"
            yield Finding(subject="engines", state="ok", text=text)
        else:
            yield Finding(subject="engines", state="warn", text=f"{engine.name}: {engine.reason}")
        for one in engine.beyond:
            if one.state == "refused":
                text = f"{engine.name} with {one.name} is not used: {one.reason}"
                yield Finding(subject="accelerators", state="warn", text=text, fix=one.fix)
            else:
                with_what = f" ({', '.join(one.drivers)})" if one.drivers else ""
                text = f"{engine.name} with {one.name} is {one.state}{with_what}"
                text += f": {one.reason}" if one.reason else ", proven again with each model before it is measured"
                yield Finding(subject="accelerators", state="ok", text=text)


def _accelerators(accelerators: Iterable[Accelerator]) -> Iterator[Finding]:
    for one in accelerators:
        where = f" at {one.node}" if one.node else ""
        if one.usable_by:
            text = f"{one.name}{where} is used by {', '.join(one.usable_by)}"
            yield Finding(subject="accelerators", state="ok", text=text)
            continue
        fix = how_to_use(one)
        note = f" ({one.note})" if one.note else ""
        text = f"{one.name}{where} is used by no engine here{note}"
        yield Finding(subject="accelerators", state="ok" if fix is None else "warn", text=text, fix=fix)


def _confinement(site: Site, _config: Config) -> Iterator[Finding]:
    level = ask_level()
    if level.in_force:
        text = f"a model is measured with {', '.join(level.in_force)}"
        yield Finding(subject="confinement", state="ok", text=text)
    for part, reason, fix in level.missing:
        state: Literal["ok", "warn"] = "ok" if part == "landlock_tcp" else "warn"
        yield Finding(subject="confinement", state=state, text=f"{part}: {reason}", fix=fix)
    group = open_group(site.board.root)
    if isinstance(group, str):
        text = f"memory_group: {group}; a limit on address space bounds a model's memory instead"
        fix = "run the agent by its unit file on a system with cgroup v2 (Raspberry Pi: cgroup_enable=memory)"
        yield Finding(subject="confinement", state="warn", text=text, fix=fix)
        return
    with closing(group):
        text = "memory_group: each worker has its own" + ("" if group.limits else ", and it takes no limit")
    yield Finding(subject="confinement", state="ok" if group.limits else "warn", text=text)


def _board(site: Site, _config: Config) -> Iterator[Finding]:
    engines = prove_engines()
    yield from _engines(engines)
    facts = site.board.facts(engines)
    yield Finding(
        subject="board", state="ok", text=f"{facts.board.model or 'unknown model'}, profile {facts.board.profile}"
    )
    yield from _accelerators(facts.accelerators)
    if not site.board.power_meters():
        text = f"no power figures: {site.board.power_absence()}"
        yield Finding(
            subject="board", state="warn", text=text, fix="power and energy budgets stay unknown and never pass"
        )
    for trap in facts.traps:
        yield Finding(subject="board", state="warn", text=trap)
    for issue in facts.known_issues:
        yield Finding(subject="board", state="warn", text=f"known issue: {issue}")
    for text in facts.unlike_profile:
        fix = "`boardfit profile --capture DIR` records this board, so that its profile can be corrected"
        yield Finding(subject="board", state="warn", text=f"unlike its profile: {text}", fix=fix)


def _registry(site: Site, config: Config) -> Iterator[Finding]:
    if config.registry is None:
        yield Finding(subject="registry", state="warn", text="none is configured", fix="add `registry:` to agent.yaml")
        return
    status = site.registry.refresh()
    text = f"{config.registry.url}: {status.candidates} candidates, valid until {min(status.expires.values())}"
    yield Finding(subject="registry", state="ok", text=text)


def _broker(site: Site, config: Config) -> Iterator[Finding]:
    if config.mqtt is None:
        yield Finding(subject="broker", state="warn", text="none is configured: nothing is reported to a fleet")
        return
    refused = objection(site.standing)
    if refused is not None:
        raise refused
    publisher = site.publisher()
    assert publisher is not None
    # A name of its own: with the device's, a running daemon would be thrown off.
    settings = msgspec.structs.replace(
        publisher.connection.settings, client_id=f"{publisher.connection.settings.client_id}/doctor"
    )
    connection = Connection(settings)
    try:
        connection.connect(10.0)
    finally:
        connection.close()
    yield Finding(subject="broker", state="ok", text=f"{config.mqtt.url} accepts {site.device_id}")


def _operators(site: Site, config: Config) -> Iterator[Finding]:
    if config.mqtt is None:
        return
    document = site.records.operators()
    try:
        listed = () if document is None else parse_operators(document).operators
    except OrderError as error:
        yield _failed("operators", error)
        return
    if not listed:
        text = "the registry lists no operators: this board takes no commands from anybody"
        fix = "where it should: `boardfit registry operators add`, then `boardfit sync` here"
        yield Finding(subject="operators", state="ok" if document is None else "warn", text=text, fix=fix)
        if config.mqtt.receipts == "signed":
            text = "receipts must be signed by a listed key, and none is: this board forgets no record that was sent"
            yield Finding(subject="receipts", state="warn", text=text, fix="list the collector's key, as above")
        return
    text = ", ".join(f"{one.name} ({one.role}, until {one.valid_until[:10]})" for one in listed)
    yield Finding(subject="operators", state="ok", text=f"may order this board about: {text}")
