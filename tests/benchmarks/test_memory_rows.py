"""The verdicts of the memory benchmark, on made-up figures: each one can be missed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.memory import rows

GOOD: dict[str, Any] = {
    "agreement": {
        "runs": 2, "within": 2, "ratios": [1.0, 0.99], "group_runs": 2, "group_within": 2, "poller_ratios": [0.9, 1.0],
    },
    "spikes": {"runs": 3, "caught": 3, "poller_10ms": 1, "median_held_s": 0.03},
    "spread": {"runs": 3, "measured": 3, "median": 13e6, "spread": 2e5},
    "limit": {"verdict": "out_of_memory", "reason": "", "agent_moved": 4096, "by_group": True},
    "instruments": {"ru_maxrss": 45.0, "tracemalloc": 0.001},
}  # fmt: skip


def verdicts(**changes: dict[str, Any]) -> list[bool | None]:
    found = {name: {**part, **changes.get(name, {})} for name, part in GOOD.items()}
    return [met for *_, met in rows(found)]


def test_good_figures_meet_their_goals() -> None:
    assert verdicts() == [True, True, True, None, True, True, None, None, None]


@pytest.mark.parametrize(
    ("part", "change", "row"),
    [
        ("agreement", {"within": 1}, 0),
        ("agreement", {"group_within": 1}, 1),
        ("spikes", {"caught": 2}, 2),
        ("spread", {"spread": 2e6}, 4),
        ("spread", {"measured": 2}, 4),
        ("limit", {"verdict": "crashed"}, 5),
        ("limit", {"agent_moved": 2_000_000}, 5),
    ],
)
def test_each_goal_can_be_missed(part: str, change: dict[str, Any], row: int) -> None:
    found = verdicts(**{part: change})
    assert found[row] is False
    assert [met for number, met in enumerate(found) if number != row].count(False) == 0


def test_without_a_group_nothing_is_said_of_one() -> None:
    assert verdicts(agreement={"group_runs": 0, "group_within": 0})[1] is None
