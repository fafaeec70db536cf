"""Mean power of a series of readings, and what is known of its error; the reading itself is left to its callers. Pure.

Rules:
- Power is integrated by the trapezoid rule over the readings' own times; an energy counter by its difference. Where a
  meter gives both, the one with the smaller error is used: a counter misses nothing between two readings, and a coarse
  one says little about a short stretch. A counter that stands still now and then has the step its jumps show, however
  many digits it has, and one that never moves says nothing.
- Fewer than ten values hold no mean. Values that did not come are counted, and the line is drawn across their place;
  a stretch without values longer than four periods and a quarter of the whole, or half of all values missing, and there
  is no figure. A counter bridges any gap but one at its ends.
- Two errors are told apart. That of the window's own mean: how much neighbouring readings differ (what lies between two
  readings can be anything between them), what gaps and uncovered ends may hide, the lag of a sensor that holds a value
  for a period, and the value's step, in quadrature. That of the mean if one went on: the spread of the readings, with
  as many independent ones as their autocorrelation leaves. The maker's accuracy and offset come on top as bounds; idle
  taken off, the offset cancels and accuracy counts for the difference alone.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from agent.core.autocorrelation import effective_runs_of_mean
from agent.core.ports import PowerSample
from agent.core.statistics import CONFIDENCE, Interval, student_t_quantile, trapezoid_j

MIN_SAMPLES = 10  # chosen: the error of a window's edges is then below a tenth of it
GAP_PERIODS = 4.0  # chosen: a sensor that is silent for longer is taken for dead
GAP_SHARE = 0.25
MISSED_SHARE = 0.5
# What passes by itself: a gated block, a busy bus, a lost acknowledgement. Documentation/i2c/fault-codes.rst (EREMOTEIO
# and ETIMEDOUT among them); EAGAIN of gated zones: prometheus/node_exporter issue 3071.
PASSING = frozenset(
    {errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENODATA, errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT}
)
_Z = 1.96
_TAIL = 0.5 + CONFIDENCE / 2.0
_TRIANGULAR = 1.0 - math.sqrt(1.0 - CONFIDENCE)  # two uniform roundings differ by less than this share of a step


class MeanPower(NamedTuple):
    """Mean power over a window in watts; ``error_w`` and ``spread_w`` are half-widths at 95 %, see above."""

    mean_w: float
    error_w: float
    spread_w: float
    deviation_w: float  # of single values
    accuracy_ratio: float | None
    offset_w: float | None
    resolution_w: float | None
    method: Literal["trapezoid", "counter"]
    samples: int
    missed: int
    span_s: float

    def over(self, length_s: float) -> MeanPower:
        """Return this mean as that of a window that is longer or shorter than the readings: its error grows."""
        open_w = _Z * self.deviation_w * abs(length_s - self.span_s) / length_s
        return self._replace(error_w=math.hypot(self.error_w, open_w))

    @property
    def rate_hz(self) -> float:
        """Return values per second as they came."""
        return (self.samples - 1) / self.span_s

    @property
    def uncertainty_w(self) -> float:
        """Return half the width of the interval of this window's mean, accuracy and offset included."""
        return self.error_w + (self.accuracy_ratio or 0.0) * abs(self.mean_w) + (self.offset_w or 0.0)

    @property
    def interval(self) -> Interval:
        """Return the interval of the mean if one went on; power below nothing is not drawn."""
        half_w = math.hypot(self.error_w, self.spread_w) + self.uncertainty_w - self.error_w
        return Interval(max(0.0, self.mean_w - half_w), self.mean_w + half_w)


def mean_power(
    samples: Sequence[PowerSample], period_s: float, begin_s: float | None = None, end_s: float | None = None
) -> MeanPower | str:
    """Return the mean power of a series, or the reason why there is none.

    Args:
        samples: in order of time, each time once.
        period_s: how often the meter has a new value.
        begin_s, end_s: when reading began and ended; None: with the first and the last value.
    """
    powers = [sample for sample in samples if sample.power_w is not None]
    energies = [sample for sample in samples if sample.energy_j is not None]
    if not powers and not energies:
        return f"gave 0 values, {MIN_SAMPLES} are needed"
    begin_s = samples[0].monotonic_s if begin_s is None else begin_s
    end_s = samples[-1].monotonic_s if end_s is None else end_s
    found: list[MeanPower] = []
    reasons: list[str] = []
    for given, integrate in ((powers, _by_trapezoid), (energies, _by_counter)):
        if given:
            times = [sample.monotonic_s for sample in given]
            reason = _unusable(times, period_s, begin_s, end_s)
            mean = integrate(given, times, period_s, (begin_s, end_s)) if reason is None else reason
            if isinstance(mean, str):
                reasons.append(mean)
            else:
                found.append(mean)
    return min(found, key=lambda mean: mean.error_w) if found else reasons[0]


def _unusable(times: Sequence[float], period_s: float, begin_s: float, end_s: float) -> str | None:
    """Return why values at these times hold no mean, None where they do."""
    if len(times) < MIN_SAMPLES:
        return f"gave {len(times)} values, {MIN_SAMPLES} are needed"
    if any(after <= before for before, after in pairwise(times)):
        return "gave values whose times do not increase"
    before_s, after_s = times[0] - begin_s, end_s - times[-1]
    if max(before_s, after_s) > _silence_s(times, period_s):
        return f"gave no value for {max(before_s, after_s):.3g} s at the {'beginning' if before_s > after_s else 'end'}"
    return None


def _silence_s(times: Sequence[float], period_s: float) -> float:
    return max(GAP_PERIODS * period_s, GAP_SHARE * (times[-1] - times[0]))


def _gaps(times: Sequence[float], period_s: float) -> tuple[list[float], int]:
    """Return the steps in which values are missing, and how many."""
    gaps = [after - before for before, after in pairwise(times) if after - before > 1.5 * period_s]
    return gaps, sum(round(gap / period_s) - 1 for gap in gaps)


def _by_trapezoid(
    samples: Sequence[PowerSample], times: Sequence[float], period_s: float, ends: tuple[float, float]
) -> MeanPower | str:
    powers = [sample.power_w for sample in samples if sample.power_w is not None]
    n, span_s = len(powers), times[-1] - times[0]
    gaps, missed = _gaps(times, period_s)
    if gaps and max(gaps) > _silence_s(times, period_s):
        return f"gave no value for {max(gaps):.3g} s in between"
    if missed > MISSED_SHARE * (n + missed):
        return f"{missed} of {n + missed} values are missing"
    open_s = (max(0.0, times[0] - ends[0]), max(0.0, ends[1] - times[-1]))
    held_j = powers[0] * open_s[0] + powers[-1] * open_s[1]  # at the ends, the nearest value holds
    whole_s = span_s + sum(open_s)
    deviation, spread_w = _spread(powers)
    # independent from neighbour to neighbour, their difference has twice the variance: von Neumann 1941
    between_w = _Z * math.sqrt(math.fsum((b - a) ** 2 for a, b in pairwise(powers)) / 2.0 / (n - 1) / n)
    # in a gap the power may have been anywhere in its spread, on average over the gap
    hidden_w = _Z * deviation * math.hypot(*gaps, *open_s) / whole_s
    tenth = max(1, n // 10)
    drift_w = abs(math.fsum(powers[-tenth:]) - math.fsum(powers[:tenth])) / tenth
    resolution_w = _largest([sample.resolution_w for sample in samples])
    return MeanPower(
        mean_w=(trapezoid_j(powers, times) + held_j) / whole_s,
        error_w=math.hypot(between_w, hidden_w, drift_w * min(1.0, period_s / span_s), (resolution_w or 0.0) / 2.0),
        spread_w=spread_w,
        deviation_w=deviation,
        accuracy_ratio=_largest([sample.accuracy_ratio for sample in samples]),
        offset_w=_largest([sample.offset_w for sample in samples]),
        resolution_w=resolution_w,
        method="trapezoid",
        samples=n,
        missed=missed,
        span_s=span_s,
    )


def _by_counter(
    samples: Sequence[PowerSample], times: Sequence[float], period_s: float, ends: tuple[float, float]
) -> MeanPower | str:
    energies = [sample.energy_j for sample in samples if sample.energy_j is not None]
    span_s = times[-1] - times[0]
    count = len(energies) - 1
    rates = [(energies[i + 1] - energies[i]) / (times[i + 1] - times[i]) for i in range(count)]
    resolution_j = _largest([sample.resolution_j for sample in samples])
    jumps = sorted(after - before for before, after in pairwise(energies) if after > before)
    if not jumps:
        return "has a counter that did not move"
    if len(jumps) < count:  # it stood still now and then: it is renewed, or counts, in jumps as large as it shows
        resolution_j = max(resolution_j or 0.0, jumps[len(jumps) // 2])
    # the counter's own rounding spreads its steps and is no spread of the power: variance of a difference, step^2 / 6
    rounding = 0.0 if resolution_j is None else (resolution_j / (span_s / count)) ** 2 / 6.0
    deviation, spread_w = _spread(rates, less_variance=rounding)
    resolution_w = None if resolution_j is None else resolution_j / span_s
    open_s = (max(0.0, times[0] - ends[0]), max(0.0, ends[1] - times[-1]))
    tenth = max(1, count // 10)  # at the ends, the mean of the nearest tenth goes on
    first_w = (energies[tenth] - energies[0]) / (times[tenth] - times[0])
    last_w = (energies[-1] - energies[-1 - tenth]) / (times[-1] - times[-1 - tenth])
    whole_s = span_s + sum(open_s)
    return MeanPower(
        mean_w=(energies[-1] - energies[0] + first_w * open_s[0] + last_w * open_s[1]) / whole_s,
        error_w=math.hypot(_TRIANGULAR * (resolution_w or 0.0), _Z * deviation * math.hypot(*open_s) / whole_s),
        spread_w=spread_w,
        deviation_w=deviation,
        accuracy_ratio=_largest([sample.accuracy_ratio for sample in samples]),
        offset_w=_largest([sample.offset_w for sample in samples]),
        resolution_w=resolution_w,
        method="counter",
        samples=len(samples),
        missed=_gaps(times, period_s)[1],
        span_s=span_s,
    )


def _spread(values: Sequence[float], less_variance: float = 0.0) -> tuple[float, float]:
    """Return the standard deviation, and the half-width at 95 % of the mean of autocorrelated values if one went on.

    However few independent ones their autocorrelation leaves, the mean is not drawn farther than the values went.
    """
    n = len(values)
    mean = math.fsum(values) / n
    apart = [value - mean for value in values]
    squares = math.fsum(one * one for one in apart)
    variance = max(0.0, squares / (n - 1) - less_variance)
    if squares <= 0.0 or variance <= 0.0:
        return 0.0, 0.0
    independent = max(2.0, effective_runs_of_mean(values))
    quantile = student_t_quantile(_TAIL, max(1, round(independent) - 1))
    farthest = max(*apart, -min(apart))
    return math.sqrt(variance), min(farthest, quantile * math.sqrt(variance / independent))


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
