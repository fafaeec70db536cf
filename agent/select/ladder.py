"""Which choices make a ladder: what may serve in place of the winner while that cannot keep its promise. Pure.

Rules:
- Rung 0 is the winner. Every other rung fits all budgets as the winner does: accuracy is given up within them alone.
- A rung is lighter than the one above it: its p95 is lower by ``STEP`` at least, and their intervals do not overlap.
  A slowdown of a fifth is the least that the watch is made to see (``agent.core.watch``): less of a step undoes none.
- Lighter for the board too. Where the energy of one inference is known of both it is lower by ``STEP`` as well, which
  is what heat and supply are about at a given number of requests; where it is not, no more threads than above.
- Of those, the best in the decision's own order: as little as possible is given up with each step.

Leaves when to step to ``agent.core.ladder``, and what is staged of it to ``agent.deploy``.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.budget import Estimate
from agent.core.decision import Choice, LadderRung, Option
from agent.core.units import format_quantity

STEP = 1.25
_UNKNOWN = Estimate.unknown("not measured")


def ladder_of(options: Sequence[Option], most: int) -> tuple[LadderRung, ...]:
    """Return the rungs, the winner first; none without a winner. Args: options: of a decision, ranked. most: rungs."""
    fitting = sorted((one for one in options if one.rank is not None), key=lambda one: one.rank or 0)
    if not fitting or most < 1:
        return ()
    rungs = [_rung(fitting[0], None)]
    above = fitting[0]
    while len(rungs) < most:
        lighter = next((one for one in fitting if _is_lighter(one, above)), None)
        if lighter is None:
            break
        rungs.append(_rung(lighter, above))
        above = lighter
    return tuple(rungs)


def _is_lighter(option: Option, above: Option) -> bool:
    if not _is_lower(_figure(option, "latency_p95"), _figure(above, "latency_p95")):
        return False
    energy, energy_above = _energy(option), _energy(above)
    if energy is None or energy_above is None:
        return option.point.threads <= above.point.threads
    return _is_lower(energy, energy_above)


def _is_lower(one: Estimate, above: Estimate) -> bool:
    if one.value is None or above.value is None or one.value * STEP > above.value:
        return False
    high = one.high if one.high is not None else one.seen_high
    return high is not None and above.low is not None and high < above.low


def _figure(option: Option, metric: str) -> Estimate:
    return option.estimates.get(metric) or _UNKNOWN


def _energy(option: Option) -> Estimate | None:
    """Return the energy of one inference where it was measured; what is calculated decides nothing here."""
    found = _figure(option, "energy_per_inference")
    return None if found.value is None or found.scope == "estimated" else found


def _rung(option: Option, above: Option | None) -> LadderRung:
    p95, energy = _figure(option, "latency_p95").value, _energy(option)
    if above is None:
        reason = "what was chosen"
    else:
        before = _figure(above, "latency_p95").value
        reason = f"p95 {format_quantity(p95, 'time')} instead of {format_quantity(before, 'time')} of {above.candidate}"
    return LadderRung(
        choice=Choice(candidate=option.candidate, artifact_sha256=option.artifact_sha256, point=option.point),
        reason=reason, latency_p95_s=p95, energy_per_inference_j=None if energy is None else energy.value,
        accuracy_top1=_figure(option, "accuracy_top1").value,
    )  # fmt: skip
