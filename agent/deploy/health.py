"""The probation after a switch: proved again through the ``current`` link, watched, and proved once more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.core.deployment import Deployment
from agent.core.ports import Clock, Probe, ProbeResult, StopRequested
from agent.errors import Interrupted

_LOOK_EVERY_S = 0.5  # how soon a stop is noticed; chosen


def watch_probation(
    probe: Probe,
    current: Path,
    deployment: Deployment,
    *,
    probation_s: float,
    clock: Clock,
    stop: StopRequested,
    pause: Callable[[float], None],
) -> ProbeResult:
    """Prove the switched model through ``current``, wait ``probation_s``, and prove it again.

    Returns: the first proof that does not hold, or the last one. Without a watch time there is one proof.
    Raises: Interrupted: a stop was asked for meanwhile.
    """
    result = probe(current, deployment)
    if not result.passed or probation_s <= 0:
        return result
    end_s = clock.monotonic_s() + probation_s
    while (left_s := end_s - clock.monotonic_s()) > 0:
        if stop():
            raise Interrupted("a stop was asked for during the probation")
        pause(min(left_s, _LOOK_EVERY_S))
    return probe(current, deployment)
