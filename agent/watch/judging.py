"""Ties the rule of ``agent.core.watch`` to a board: when it is looked at, and against which measurement.

Rules:
- The board is read when a task has become degraded, over ``LOOK_S``, and not before: an idle agent reads nothing.
- What it was like when the model was measured is in the stored measurement of the very artifact and operating point; it
  is looked up by a copy of this process, so that the documents go with it. A board or measurement that does not say
  leaves a cause out, and never makes one up.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from agent.apart import done_apart
from agent.core.deployment import Deployment
from agent.core.watch import Conditions
from agent.errors import BoardfitError
from agent.replay import Replays
from agent.site import Site

LOOK_S = 2.0


class Ticks(NamedTuple):
    """Ticks of all processors, the busy ones, and those of the application and of the agent."""

    total: int
    busy: int
    application: int
    agent: int


def read_ticks(site: Site, senders: Collection[int]) -> Ticks | None:
    """Return the counters now. Args: senders: the processes that tell of the task."""
    agent = site.board.processor_ticks(os.getpid())
    told = [site.board.processor_ticks(pid) for pid in senders if pid > 0]
    if agent is None or not told or any(one is None or one.ours == 0 for one in told):
        return None  # an application that is hidden from us (ProtectProc=, a container) would pass for somebody else
    return Ticks(agent.total, agent.busy, sum(one.ours for one in told if one is not None), agent.ours)


def conditions_now(site: Site, engine_version: str | None, before: Ticks | None, after: Ticks | None) -> Conditions:
    """Return what the board says now. Args: before, after: two readings apart in time, for who uses the processors."""
    reading = site.board.read_context()
    others = agent = None
    if before is not None and after is not None and after.total > before.total:
        total = after.total - before.total
        busy, application = after.busy - before.busy, after.application - before.application
        others = min(1.0, max(0.0, (busy - application) / total))
        agent = min(1.0, max(0.0, (after.agent - before.agent) / total))
    return Conditions(
        temperature_celsius=reading.temperature_celsius, clock_hz=reading.clock_hz, governor=reading.governor,
        power_mode=reading.power_mode, throttle=reading.throttle_now, supply_ok=reading.supply_ok,
        engine_version=engine_version, kernel=site.board.kernel(), memory_pressure=site.board.memory_pressure(),
        processor_pressure=site.board.processor_pressure(),
        others_share=others, agent_share=agent,
    )  # fmt: skip


def with_outputs(site: Site, deployed: Deployment, now: Conditions) -> Conditions:
    """Return the conditions with what golden replays say of the release."""
    try:
        last = Replays(site.database).all().get(deployed.task)
    except BoardfitError:  # the disk; whoever writes there says so
        return now
    if last is None or not last.changed or last.release != deployed.release:
        return now
    return msgspec.structs.replace(now, outputs_changed=f"since {last.since}: {last.cause}")


def conditions_then(site: Site, deployed: Deployment) -> Conditions:
    """Return what the board was like when what is deployed was measured; nothing where that is not known any more."""

    def look() -> bytes:
        with Site(site.written, site.state_dir, clock=site.clock) as own:
            return msgspec.json.encode(_measured(own, deployed))

    answer = done_apart(look)
    return _measured(site, deployed) if answer is None else msgspec.json.decode(answer, type=Conditions)


def _measured(site: Site, deployed: Deployment) -> Conditions:
    facts = site.records.facts()
    if facts is None:
        return Conditions(engine_version=deployed.point.engine_version)
    artifact = (deployed.model.sha256, deployed.point)
    all_of_them = site.records.measurements(deployed.task, facts.class_fingerprint)
    some = [one for one in all_of_them if (one.artifact_sha256, one.point) == artifact and one.context is not None]
    newest = max(some, key=lambda one: one.started_at, default=None)
    versions = Conditions(engine_version=deployed.point.engine_version, kernel=facts.os.kernel)
    if newest is None or newest.context is None:
        return versions
    reading = newest.context.after
    return msgspec.structs.replace(
        versions, temperature_celsius=reading.temperature_celsius, clock_hz=reading.clock_hz,
        governor=reading.governor, power_mode=reading.power_mode,
    )  # fmt: skip
