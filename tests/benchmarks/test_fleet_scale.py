"""The scale benchmark with few boards: every part runs over a real broker, and verdicts say what figures hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import commands, listing, state
from benchmarks.scale.ground import Broker, Operators, simulated_fleet
from benchmarks.scale.judging import Figure

BOARDS = 12


@pytest.mark.parametrize(
    ("values", "goal", "least", "floor", "verdict"),
    [
        ([1.0, 1.1, 1.2], 2.0, False, (), "met"),
        ([2.5, 2.6, 2.7], 2.0, False, (), "missed"),
        ([1.9, 2.0, 2.4], 2.1, False, (), "withheld: noise"),
        ([1.0, 1.0, 1.0], 1.5, False, (1.4, 1.4, 1.4), "withheld: noise"),
        ([0.4], 0.5, True, (), "missed"),
        ([0.6], 0.5, True, (), "met"),
        ([7.0], None, False, (), "–"),
    ],
)
def test_a_verdict_needs_more_than_its_noise(
    values: list[float], goal: float | None, least: bool, floor: tuple[float, ...], verdict: str
) -> None:
    assert Figure("part", "name", values, goal, "x", least, floor).verdict == verdict


def test_a_few_boards_are_commanded_replayed_listed_and_come_back(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        operators = Operators(tmp_path, broker)
        with simulated_fleet(broker, operators, BOARDS) as fleet:
            found = commands.measure(broker, fleet, operators, BOARDS, 1)
            found += state.measure_state(broker, operators, BOARDS, 1)
            found += state.measure_outage(broker, fleet, BOARDS, 1)
            counted = fleet.ask("count")
        found += listing.measure(broker, operators, BOARDS, 1)
    assert all(value > 0 for figure in found for value in figure.values if figure.unit in ("s", "x"))
    assert (counted["online"], counted["connects"]) == (BOARDS, 2 * BOARDS)
    assert counted["answers"] == BOARDS * 6  # three bare rounds of echoes, three of ours
