"""``profile`` and ``doctor``: what this board is, and whether boardfit can work on it."""

from __future__ import annotations

import argparse

from agent import pipeline
from agent.core.facts import DeviceFacts
from agent.core.units import format_quantity
from agent.verbs.checkup import check_installation
from agent.verbs.invocation import Invocation, Verbs


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verbs of this module."""
    text = "Reads what this board is: facts, matched profile, sensors, engines proven by running a tiny model."
    parser = verbs.add_parser("profile", parents=[common], help="what this board is", description=text)
    parser.set_defaults(handler=run_profile)
    text = "Checks this installation and says what to fix: configuration, disk, registry, broker, engines, sensors."
    parser = verbs.add_parser("doctor", parents=[common], help="check this installation", description=text)
    parser.set_defaults(handler=run_doctor)


def run_profile(call: Invocation) -> int:
    """Profile the board, store and print the facts."""
    with call.site() as site:
        facts = pipeline.profile(site)
    if call.console.as_json:
        call.console.document(facts)
    else:
        show_facts(call, facts)
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
    console.heading("Engines, proven by running a tiny model")
    console.table(
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
