"""Latencies counted in fixed buckets, the same everywhere, so that counts of many senders can be added. Pure.

Rules:
- A latency is a whole number of nanoseconds. Below 64 each has a bucket of its own; above, each power of two is divided
  into 32 equal buckets: ``e = bit_length - 6``, ``index = 32 * e + (ns >> e)``. Integer arithmetic alone, the same in
  every language. The scheme is that of HdrHistogram (Tene), with five bits kept.
- A bucket is at most 1/32 of its lower bound wide, so the middle of one, which stands for all in it, is off by at most
  ``ERROR_RATIO`` (1/64, 1.6 %).
- 1,888 buckets hold every latency below 2^63 ns: nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

BUCKETS = 1888
ERROR_RATIO = 1 / 64


def bucket_of(latency_ns: int) -> int:
    """Return the bucket of a latency in nanoseconds, 0 <= latency < 2^63."""
    exponent = latency_ns.bit_length() - 6
    return (exponent << 5) + (latency_ns >> exponent) if exponent > 0 else latency_ns


def lower_bound_ns(index: int) -> int:
    """Return the smallest latency of a bucket; that of the next bucket is the first one above it."""
    exponent = max(0, (index >> 5) - 1)
    return (index - (exponent << 5)) << exponent


def middle_s(index: int) -> float:
    """Return what stands for all latencies of a bucket, in seconds."""
    return (lower_bound_ns(index) + lower_bound_ns(index + 1) - 1) / 2e9


def quantile_s(counts: Mapping[int, int], q: float) -> float | None:
    """Return the q-quantile (0 < q <= 1) of counted latencies in seconds, off by at most ``ERROR_RATIO``.

    It is the smallest bucket up to which at least a share q was counted. None without any count.
    """
    total = sum(counts.values())
    seen = 0
    for index in sorted(counts):
        seen += counts[index]
        if seen >= q * total and seen:
            return middle_s(index)
    return None


def count_over(counts: Iterable[tuple[int, int]], limit_ns: int) -> int:
    """Return how many latencies are surely longer than a limit: those of the buckets that begin above it."""
    return sum(count for index, count in counts if lower_bound_ns(index) > limit_ns)
