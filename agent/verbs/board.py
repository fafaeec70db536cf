"""``profile`` and ``doctor``: what this board is, and whether boardfit can work on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent import pipeline
from agent.core.facts import DeviceFacts
from agent.core.units import format_quantity
from agent.device.case import open_case
from agent.verbs.checkup import check_installation
from agent.verbs.invocation import Invocation, Verbs


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verbs of this module."""
    text = "Reads what this board is: facts, matched profile, sensors, engines proven by running a tiny model."
    parser = verbs.add_parser("profile", parents=[common], help="what this board is", description=text)
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--capture",
        type=Path,
        metavar="DIR",
        help="record this board's files without serials, addresses and names, to send: a new folder or FILE.tar.gz",
    )
    other.add_argument(
        "--root", type=Path, metavar="DIR", help="read a folder recorded with --capture, not this machine"
    )
    parser.set_defaults(handler=run_profile)
    text = "Checks this installation and says what to fix: configuration, disk, registry, broker, engines, sensors."
    parser = verbs.add_parser("doctor", parents=[common], help="check this installation", description=text)
    parser.set_defaults(handler=run_doctor)


def run_profile(call: Invocation) -> int:
    """Profile the board, store and print the facts; or record it; or print those of a recorded one."""
    if call.arguments.capture is not None:
        return _capture(call)
    if call.arguments.root is not None:
        facts = open_case(call.arguments.root).facts()
    else:
        with call.site() as site:
            facts = pipeline.profile(site)
    if call.console.as_json:
        call.console.document(facts)
    else:
        show_facts(call, facts)
    return 0


def _capture(call: Invocation) -> int:
    from agent.device.capture import capture  # archives and compressors, which no other verb needs

    done = capture(call.arguments.capture)
    if call.console.as_json:
        call.console.document(done)
        return 0
    console = call.console
    size = format_quantity(done.size_bytes, "bytes")
    console.line(f"{done.place}: {done.files} files, {size}, of a board of profile {done.profile}")
    removed = ", ".join(f"{kind} in {count} places" for kind, count in sorted(done.removed.items()) if count)
    console.line(f"Removed: {removed or 'nothing that had to be'}")
    for rel, why in done.unread.items():
        console.line(f"Could not be read: {rel}, {why}", style="yellow")
    if done.left_out:
        console.line(f"Left out for size: {done.left_out} further files", style="yellow")
    for place in done.differs:
        console.line(f"Reads differently from there than here: {place}", style="yellow")
    console.line("ORIGIN.md in it says what it holds. Look through it before you send it.")
    return 0


def show_facts(call: Invocation, facts: DeviceFacts) -> None:
    """Print the facts for a person."""
    console, board, cpu, memory = call.console, facts.board, facts.cpu, facts.memory
    console.heading(board.model or board.profile)
    limit = (
        f", limited to {format_quantity(memory.limit_bytes, 'bytes')} by {memory.limit_source}"
        if memory.limit_bytes
        else ""
    )
    clusters = "; ".join(
        f"{len(cluster.cores)} x {cluster.name or cluster.part or 'core'}"
        + (f" up to {format_quantity(cluster.max_freq_hz, 'frequency')}" if cluster.max_freq_hz else "")
        + (f", governor {cluster.governor}" if cluster.governor else "")
        for cluster in cpu.clusters
    )
    rows = [
        ("profile", f"{board.profile} (recognised by {board.matched_on})"),
        ("SoC", board.soc or "unknown"),
        ("cores", f"{clusters or cpu.architecture}; {cpu.worker_threads} of {len(cpu.present)} may be used"),
        ("memory", format_quantity(memory.total_bytes, "bytes") + limit),
        (
            "system",
            f"{facts.os.name or 'unknown'}, kernel {facts.os.kernel or '?'}, Python {facts.os.python or '?'}",
        ),
        ("power mode", facts.power_mode or "none"),
        ("virtual", board.virtualization or "no"),
        ("class", facts.class_fingerprint),
    ]
    console.table(("", ""), rows)
    if facts.engines:  # a recorded board has none: nothing can be run on it
        _show_engines(call, facts)
    if facts.accelerators:
        console.heading("Accelerators")
        parts = [(a.kind, a.name, ", ".join(a.usable_by) or "no engine here uses it") for a in facts.accelerators]
        console.table(("kind", "name", "usable by"), parts)
    console.heading("Sensors")
    style = {"ok": "green", "denied": "yellow", "broken": "red"}
    console.table(
        ("quantity", "source", "state", "note"),
        [
            (
                sensor.quantity,
                sensor.name,
                (sensor.status, style.get(sensor.status, "dim")),
                sensor.reason or sensor.scope or "",
            )
            for sensor in facts.sensors
        ],
    )
    for trap in facts.traps:
        console.line(f"Known trap here: {trap}", style="yellow")
    for issue in facts.known_issues:
        console.line(f"Known issue of this board: {issue}", style="yellow")
    for text in facts.unlike_profile:
        console.line(f"Unlike its profile: {text}; `boardfit profile --capture DIR` records it for us", style="yellow")


def _show_engines(call: Invocation, facts: DeviceFacts) -> None:
    call.console.heading("Engines, proven by running a tiny model")
    call.console.table(
        ("engine", "version", "state", "providers or reason"),
        [
            (
                engine.name,
                engine.version or "–",
                ("runs", "green") if engine.proven else ("does not run", "red"),
                ", ".join(engine.providers) if engine.proven else engine.reason or "",
            )
            for engine in facts.engines
        ],
    )
    beyond = [(engine, one) for engine in facts.engines for one in engine.beyond]
    if not beyond:
        return
    style = {"proven": "green", "opened": "green", "refused": "red"}
    call.console.heading("Execution providers and delegates beyond the processor's own, as found and tried")
    call.console.table(
        ("engine", "provider", "state", "with, or why not"),
        [
            (
                engine.name,
                one.name,
                (one.state, style[one.state]),
                "; ".join(filter(None, (one.reason, ", ".join(one.drivers)))) + (f" → {one.fix}" if one.fix else ""),
            )
            for engine, one in beyond
        ],
    )


def run_doctor(call: Invocation) -> int:
    """Check the installation; the exit code is 1 when something must be fixed."""
    findings = check_installation(call)
    failed = any(finding.state == "fail" for finding in findings)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.doctor/1", "healthy": not failed, "findings": findings})
        return 1 if failed else 0
    style = {"ok": "green", "warn": "yellow", "fail": "red"}
    rows = [((f.state, style[f.state]), f.subject, f.text + (f" → {f.fix}" if f.fix else "")) for f in findings]
    call.console.table(("", "subject", "finding"), rows)
    return 1 if failed else 0
