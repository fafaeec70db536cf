"""Buckets are the same everywhere: their scheme, their error, and quantiles read off them."""

from __future__ import annotations

import random

from agent.core.histogram import BUCKETS, ERROR_RATIO, bucket_of, count_over, lower_bound_ns, middle_s, quantile_s


def test_buckets_follow_each_other_without_gap_and_hold_what_falls_into_them() -> None:
    assert [bucket_of(n) for n in (0, 1, 63, 64, 65, 66, 250_000, (1 << 63) - 1)] == [0, 1, 63, 64, 64, 65, 445, 1887]
    for index in range(BUCKETS):
        low, high = lower_bound_ns(index), lower_bound_ns(index + 1) - 1
        assert bucket_of(low) == bucket_of(high) == index
    assert bucket_of(lower_bound_ns(BUCKETS) - 1) == BUCKETS - 1


def test_the_middle_is_off_by_no_more_than_is_stated() -> None:
    draw = random.Random(7)
    for _ in range(20_000):
        latency_ns = int(10 ** draw.uniform(2, 11))
        assert abs(middle_s(bucket_of(latency_ns)) * 1e9 / latency_ns - 1) <= ERROR_RATIO


def test_quantiles_of_counts_are_those_of_the_values_within_the_error() -> None:
    draw = random.Random(7)
    values = sorted(int(draw.lognormvariate(14, 0.3)) for _ in range(4_000))
    counts: dict[int, int] = {}
    for value in values:
        counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    for q in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = values[max(0, -(-int(q * 4_000 * 1000) // 1000) - 1)] / 1e9
        found = quantile_s(counts, q)
        assert found is not None
        assert abs(found / exact - 1) <= 2 * ERROR_RATIO
    assert quantile_s({}, 0.5) is None


def test_what_is_surely_over_a_limit_begins_above_it() -> None:
    limit = 1_000_000
    counts = [(bucket_of(limit), 5), (bucket_of(limit) + 1, 3), (bucket_of(limit) - 1, 7)]
    assert count_over(counts, limit) == 3
