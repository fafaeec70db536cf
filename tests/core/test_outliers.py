"""Odd boards: named with their likely cause, good ones left alone at the stated rate, and nobody among too few."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from agent.core.class_results import BoardResults, ClassResult
from agent.core.outliers import ALPHA, LEAST_BOARDS, likely_causes, look
from tests.core.test_class_results import result

CALM = {"temperature_celsius": 50.0, "clock_hz": 1.5e9, "governor": "ondemand", "load_1min": 0.2, "supply_ok": True}


def class_of(
    boards: int, draw: random.Random, *, noise: float, options: int = 3, slow: dict[int, float] | None = None
) -> list[BoardResults]:
    """Return SIMULATED boards whose figures differ by ``noise``; those of ``slow`` are that many times as slow."""
    return [
        BoardResults(
            board=f"f/{n}", task="t", class_fingerprint="class", told_at="2026-01-01T00:00:00Z",
            results=tuple(
                result(
                    0.01 * (slow or {}).get(n, 1.0) * math.exp(draw.gauss(0.0, noise)),
                    artifact_sha256=str(o), load_time_s=0.2 * math.exp(draw.gauss(0.0, 0.2)),
                )
                for o in range(options)
            ),
        )
        for n in range(boards)
    ]  # fmt: skip


@pytest.mark.parametrize("boards", [5, 10, 40])
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_good_boards_are_named_no_more_often_than_stated(boards: int, noise: float) -> None:
    draw, classes = random.Random(boards), 200
    wrong = sum(bool(look(class_of(boards, draw, noise=noise)).outliers) for _ in range(classes))
    assert wrong <= ALPHA * classes + 3.0 * math.sqrt(ALPHA * classes)


@pytest.mark.parametrize("boards", [5, 10, 40])
def test_slow_boards_are_named_also_where_there_are_several(boards: int) -> None:
    draw, found, planted = random.Random(boards), 0, 0
    slow = dict.fromkeys(range(1 if boards < 8 else 2), 1.3)
    for _ in range(40):
        named = {one.board for one in look(class_of(boards, draw, noise=0.03, slow=slow)).outliers}
        found += sum(f"f/{n}" in named for n in slow)
        planted += len(slow)
    assert found >= 0.95 * planted


def test_too_few_boards_name_nobody_and_say_so() -> None:
    seen = look(class_of(LEAST_BOARDS - 1, random.Random(1), noise=0.01, slow={0: 3.0}))
    assert seen.outliers == ()
    assert seen.reason is not None and str(LEAST_BOARDS) in seen.reason
    assert look([]).outliers == ()


def test_one_look_at_one_model_names_nobody_and_two_do() -> None:
    boards = class_of(8, random.Random(2), noise=0.01, options=1, slow={3: 2.0})
    assert look(boards).outliers == ()
    again = [
        msgspec.structs.replace(one, results=tuple(msgspec.structs.replace(r, looks=2) for r in one.results))
        for one in boards
    ]
    assert [one.board for one in look(again).outliers] == ["f/3"]


def test_a_slow_card_is_told_from_a_slow_board() -> None:
    boards = class_of(8, random.Random(3), noise=0.02)
    slow = tuple(msgspec.structs.replace(r, load_time_s=3.0) for r in boards[5].results)
    boards[5] = msgspec.structs.replace(boards[5], results=slow)
    (named,) = look(boards).outliers
    assert (named.board, named.metric, named.cause) == ("f/5", "load_time", "card or storage")


@pytest.mark.parametrize(
    ("own", "cause", "word"),
    [
        ({"supply_ok": False, "flags": ("low_supply", "throttled")}, "supply", "cable"),
        ({"flags": ("throttled",)}, "heat", "fan"),
        ({"temperature_celsius": 78.0}, "heat", "28 °C"),
        ({"governor": "powersave"}, "governor", "powersave"),
        ({"load_1min": 3.0, "temperature_celsius": 70.0}, "other load", "3.0"),
        ({"clock_hz": 1.0e9}, "clock", "67%"),
        ({}, None, ""),
    ],
)
def test_a_cause_is_what_the_board_itself_told(own: dict[str, object], cause: str | None, word: str) -> None:
    mine: list[ClassResult] = [result(0.02, **{**CALM, **own}) for _ in range(2)]
    found = likely_causes(mine, [result(0.01, **CALM) for _ in range(6)])
    assert (found[0][0] if found else None) == cause
    assert not found or word in found[0][1]


def test_what_the_whole_class_tells_of_itself_explains_nothing() -> None:
    flagged = {**CALM, "flags": ("contended",)}
    assert likely_causes([result(0.02, **flagged)], [result(0.01, **flagged) for _ in range(4)]) == []
    assert likely_causes([result(0.02)], [result(0.01)]) == []  # nobody told anything
