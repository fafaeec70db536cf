"""The probation after a switch: proved through the ``current`` link, watched, and proved once more.

Rules:
- The application's health check, where it has one, is asked after the first proof, every ``_ASK_EVERY_S``, and last.
- One failure is enough: who was unhealthy and is well again goes back, too. What ran before never was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.core.deployment import Deployment
from agent.core.ports import Clock, Probe, ProbeResult, StopRequested
from agent.errors import Interrupted

_LOOK_EVERY_S = 0.5  # how soon a stop is noticed; chosen
_ASK_EVERY_S = 5.0  # chosen: a check may be a program of its own


def watch_probation(
    probe: Probe,
    current: Path,
    deployment: Deployment,
    *,
    probation_s: float,
    clock: Clock,
    stop: StopRequested,
    pause: Callable[[float], None],
    ill: Callable[[], str | None] = lambda: None,
) -> ProbeResult:
    """Prove the switched model through ``current``, watch it for ``probation_s``, and prove it again.

    Args: ill: asks the application how it is; returns why it is not well, or None.
    Returns: the first proof or check that does not hold, or the last proof. Without a watch time there is one of each.
    Raises: Interrupted: a stop was asked for meanwhile.
    """
    result = probe(current, deployment)
    if not result.passed:
        return result
    if (reason := ill()) is not None:
        return _unwell(reason)
    if probation_s <= 0:
        return result
    begun_s = clock.monotonic_s()
    end_s, ask_s = begun_s + probation_s, begun_s + _ASK_EVERY_S
    while (now_s := clock.monotonic_s()) < end_s:
        if stop():
            raise Interrupted("a stop was asked for during the probation")
        if now_s >= ask_s:
            ask_s += _ASK_EVERY_S
            if (reason := ill()) is not None:
                return _unwell(reason)
        pause(min(end_s - now_s, _LOOK_EVERY_S))
    result = probe(current, deployment)
    reason = ill() if result.passed else None
    return result if reason is None else _unwell(reason)


def _unwell(reason: str) -> ProbeResult:
    return ProbeResult(passed=False, reason=f"the application's health check failed: {reason}")
