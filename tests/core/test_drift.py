"""What golden replays say together: one disagreement, a change, a damaged file, and outputs that agree again."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core.drift import AGAIN_S, NOT_JUDGED_S, TIMES, Change, Replay, figures_text, line, outcome_of, settled
from agent.core.measurement import GoldenResult

DAY_S = 86400.0
SAME = "have the versions they had: the engine's own files, a driver, or the memory"


def found(outcome: str, **more: Any) -> Replay:
    fields = {"task": "t", "release": "r", "candidate": "c", "at": "2026-05-04T03:00:00Z", "samples": 4}
    fields |= {"good_engine_version": "1.0", "good_kernel": "6.1", "engine_version": "1.0", "kernel": "6.1"}
    return Replay(**{**fields, "outcome": outcome, **more})


def run(*outcomes: str, **more: Any) -> tuple[Replay, list[Change | None]]:
    kept, changes = None, []
    for outcome in outcomes:
        kept, change = settled(kept, found(outcome, **more))
        changes.append(change)
    assert kept is not None
    return kept, changes


def test_a_change_is_what_is_there_three_times_in_a_row() -> None:
    kept, changes = run("agrees", *["differs"] * (TIMES + 2))
    assert changes == [None, "suspect", None, "changed", None, None]
    assert (kept.in_a_row, kept.changed, kept.asks) == (TIMES + 2, True, None)  # asked for once
    assert run(*["differs"] * TIMES)[0].asks == "c, which serves t, gives other outputs than it was proven with"


def test_one_that_agrees_in_between_begins_anew() -> None:
    kept, changes = run("differs", "differs", "agrees", "differs", "differs")
    assert changes == ["suspect", None, "agrees_again", "suspect", None]
    assert not kept.changed


def test_one_that_could_not_be_judged_counts_neither_way() -> None:
    kept, changes = run("differs", "not_judged", "differs", "not_judged", "differs")
    assert changes == ["suspect", None, None, None, "changed"]
    assert kept.in_a_row == TIMES


def test_outputs_that_agree_again_after_a_change_ask_for_a_pass_and_after_a_doubt_do_not() -> None:
    kept, changes = run("differs", "differs", "differs", "agrees")
    assert (changes[-1], kept.changed, kept.in_a_row) == ("agrees_again", False, 0)
    assert kept.asks is not None
    assert run("differs", "agrees")[0].asks is None


def test_a_damaged_file_is_told_once_and_asks_for_a_pass_each_time() -> None:
    kept, changes = run("damaged", "damaged", "agrees", reason="its SHA-256 differs")
    assert changes == ["damaged", None, "agrees_again"]
    assert run("damaged", "damaged")[0].asks is not None
    assert kept.in_a_row == 0


def test_another_release_begins_anew() -> None:
    changed = run("differs", "differs", "differs")[0]
    kept, change = settled(changed, found("agrees", release="another"))
    assert (kept.changed, kept.asks, change) == (False, None, None)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"engine_version": "1.1"}, "the engine is 1.1, and was 1.0"),
        ({"kernel": "6.6"}, "the kernel is 6.6, and was 6.1"),
        ({}, f"engine and kernel {SAME}"),
        ({"kernel": None}, f"engine and kernel {SAME}"),
    ],
)  # fmt: skip
def test_what_is_suspected_is_what_differs_from_when_it_last_agreed(more: dict[str, Any], says: str) -> None:
    agreed = settled(None, found("agrees"))[0]
    assert settled(agreed, found("differs", **more))[0].cause == says


def test_how_soon_it_is_replayed_again() -> None:
    assert run("agrees")[0].again_s(DAY_S) == DAY_S
    assert run("differs")[0].again_s(DAY_S) == AGAIN_S
    assert run("differs", "differs", "differs")[0].again_s(DAY_S) == DAY_S
    assert run("not_judged")[0].again_s(DAY_S) == NOT_JUDGED_S


@pytest.mark.parametrize(
    ("golden", "verdict", "outcome"),
    [
        (GoldenResult(checked=True, passed=True), "ok", "agrees"),
        (GoldenResult(checked=True, passed=False, reason="off"), "ok", "differs"),
        (GoldenResult(checked=False, passed=None, reason="no array"), "ok", "not_judged"),
        (None, "crashed", "fails"),
        (None, "load_failed", "fails"),
        (None, "engine_missing", "fails"),
        (None, "out_of_memory", "not_judged"),
        (None, "timeout", "not_judged"),
    ],
)
def test_what_a_worker_s_end_says(golden: GoldenResult | None, verdict: str, outcome: str) -> None:
    assert outcome_of(golden, verdict, "why")[0] == outcome


def test_figures_in_words() -> None:
    off = found("differs", samples_off=3, max_abs_error=0.125, max_rel_error=0.5, tolerance=0.01, in_a_row=1)
    words = "3 of 4 golden samples are off by up to 0.125 (50.00% of the largest output) where 0.01 is allowed"
    assert figures_text(off) == words
    assert line(off) == f"t: c {words}, replayed at 2026-05-04T03:00:00Z; 1 in a row, 3 are a change"
    infinite = found("differs", samples_off=1, reason="golden outputs differ by inf where 0.01 is allowed")
    assert "1 of 4 golden samples are off (golden outputs differ by inf" in figures_text(infinite)
