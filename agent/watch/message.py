"""What the fleet is told of a task's live window: its figures, flat. When it is told is for ``agent.watch.live``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.core.payloads import Origin, Telemetry

if TYPE_CHECKING:  # loaded when the first application tells something
    from agent.core.live import LiveFigures


def message_for_task(one: LiveFigures, origin: Origin) -> Telemetry:
    """Return a window as telemetry of its task's own group."""
    return Telemetry(
        **msgspec.structs.asdict(origin),
        group=f"task.{one.task}",
        task=one.task,
        live_release=one.release,
        live_window_s=one.window_s,
        live_requests=one.requests,
        live_errors=one.errors,
        live_latency_p50_s=one.latency_p50_s,
        live_latency_p95_s=one.latency_p95_s,
        live_latency_p99_s=one.latency_p99_s,
        live_expected_latency_p95_s=one.expected_latency_p95_s,
        live_budget_latency_p95_s=one.budget_latency_p95_s,
        live_rung=one.rung,
        live_rungs=one.rungs,
        live_degraded=one.degraded,
    )
