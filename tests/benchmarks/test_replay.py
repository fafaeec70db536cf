"""The replay bank: whole, small, played by the product's own code; and what the product must reach on it."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from agent.core.statistics import percentile
from benchmarks.replay import bank as recorded
from benchmarks.replay import score
from benchmarks.replay.bank import DumpHead, Piece, Recording
from benchmarks.replay.cases import MARGIN, Case, clean_latencies, make, p95s
from benchmarks.replay.protocols import Outcome, product
from benchmarks.replay.virtual import Runs, Subject, Time, facts_for, measure

SIZE_LIMIT_BYTES = 3_000_000  # chosen: the repository carries it
CONDITIONS = {"quiet", "contended", "drifting", "bimodal", "throttled"}


@functools.cache
def bank() -> recorded.Bank:
    return recorded.load()


@functools.cache
def cases() -> tuple[Case, ...]:
    return make(bank())


@functools.cache
def played() -> tuple[score.Result, ...]:
    return tuple(score.play(case, ("product",))[0] for case in cases())


def main_set() -> list[score.Result]:
    return [result for result in played() if not result.case.near_tie]


def test_the_bank_is_small_and_says_where_it_is_from():
    assert sum(path.stat().st_size for path in recorded.FOLDER.iterdir()) <= SIZE_LIMIT_BYTES
    assert {"command", "recorded_on", "machine", "kernel", "versions", "conditions"} <= bank().about.keys()
    assert {dump.head.condition for dump in bank().dumps} == CONDITIONS == set(bank().about["conditions"])


def test_the_bank_has_candidates_that_give_no_figure():
    verdicts = {point.verdict for point in bank().points.values()}
    assert {"ok", "load_failed", "crashed", "out_of_memory", "wrong_output"} <= verdicts


def test_latencies_reach_from_a_tenth_of_a_millisecond_to_forty():
    medians = [
        percentile(clean_latencies(d), 0.5) for d in bank().dumps if d.head.condition == "quiet" and clean_latencies(d)
    ]
    assert min(medians) <= 0.2e-3
    assert max(medians) >= 20e-3


def test_there_are_sixty_cases_and_every_condition_is_among_them():
    main = [case for case in cases() if not case.near_tie]
    assert len(main) >= 60
    met = {dump.head.condition for case in main for entry in case.entries for dump in entry.attempts}
    assert met == CONDITIONS
    assert any(not entry.attempts for case in main for entry in case.entries)
    assert all(len({entry.point.key for entry in case.entries}) == len(case.entries) >= 8 for case in cases())


def test_no_true_p95_of_the_main_set_is_near_its_limit():
    for case in cases():
        for budget in case.budgets:
            if budget.metric == "latency_p95" and not case.near_tie:
                assert all(abs(value / budget.limit - 1) > MARGIN for value in p95s(case.entries)), case.name


def test_the_same_bank_gives_the_same_cases():
    assert make(bank()) == cases()


def test_a_dump_is_kept_within_a_thousandth(tmp_path):
    runs, pieces = [100_000, 123_456, 40_000_000, 7], [(2, 0, 300_000), (2, 5_000_000, 45_000_000)]
    head = DumpHead(
        point="p", condition="quiet", spawn_s=0.1, load_s=0.1, first_s=0.1, runs=4, pieces=2, wait_ratio=0.1,
        load_1min=1.0, recorded_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    recorded.save(tmp_path, {}, [], [Recording(head, runs, pieces)])
    (dump,) = recorded.load(tmp_path).dumps
    kept = [latency for piece in dump.pieces for latency in piece.latencies_ns]
    assert kept == pytest.approx(runs, rel=1.1e-3)
    assert [piece.waited_ns for piece in dump.pieces] == [0, 5_000_000]
    assert [piece.wall_ns for piece in dump.pieces] == pytest.approx([300_000, 45_000_000], rel=2e-3)


def test_a_dump_is_repeated_in_whole_pieces_and_moves_the_clock_by_what_was_recorded():
    dump = bank().dumps[0]
    time = Time()
    runs = Runs(time, dump, seed=3)
    seen = []
    for _ in range(2 * dump.head.runs):
        begin = time.now_ns
        runs()
        seen.append(time.now_ns - begin)
    once = [latency for piece in dump.pieces for latency in piece.latencies_ns]
    assert set(seen) <= set(once)
    assert seen[:60] == once[:60]


def test_the_product_refuses_a_recorded_contention_and_keeps_a_quiet_figure():
    by_condition = {}
    for dump in bank().dumps:
        if dump.head.wait_ratio > 0.45 and dump.head.condition == "contended":
            by_condition.setdefault("contended", dump)
        elif dump.head.condition == "quiet" and dump.head.wait_ratio < 0.02:
            by_condition.setdefault("quiet", dump)
    verdicts = {}
    for name, dump in by_condition.items():
        point, time = bank().points[dump.head.point], Time()
        facts = facts_for([point.point])
        verdicts[name] = measure(Subject(point, dump, 1), point.candidate, point.point, facts, time).verdict
    assert verdicts == {"contended": "contended", "quiet": "ok"}


def test_a_verdict_without_runs_is_played_as_it_was():
    for point in bank().points.values():
        if point.verdict in ("load_failed", "crashed", "out_of_memory"):
            time = Time()
            found = measure(Subject(point, None, 1), point.candidate, point.point, facts_for([point.point]), time)
            assert (found.verdict, found.reason) == (point.verdict, point.reason)
            assert found.duration_s == pytest.approx(point.died_s + point.ending_s)


def test_a_replay_gives_the_same_seconds_twice():
    case = cases()[0]
    first, second = product(case), product(case)
    assert (first.pick, first.device_s, first.measured) == (second.pick, second.device_s, second.measured)


def test_an_infeasible_pick_takes_the_score_away():
    result = main_set()[0]
    assert result._replace(feasible=False).score == 0.0
    figures = score.summary([result, result._replace(feasible=False, right=False)])
    assert figures["over_exhaustive"] == 0.0
    assert len(score.missed(figures)) >= 3
    dear = result._replace(outcome=Outcome(result.outcome.pick, result.fixed_s, 1))
    assert any("fixed-50" in text for text in score.missed(score.summary([dear])))


def test_the_product_picks_what_an_exhaustive_protocol_picks_at_a_two_hundredth_of_its_cost():
    figures = score.summary(main_set())
    assert [said for said in score.missed(figures) if "fixed-50" not in said] == [], figures


def test_the_product_costs_a_fifth_of_fifty_runs_each():
    figures = score.summary(main_set())
    assert [said for said in score.missed(figures) if "fixed-50" in said] == [], figures


def test_near_ties_stand_apart():
    figures = score.near_summary([result for result in played() if result.case.near_tie])
    assert figures["cases"] >= 8
    assert figures["infeasible"] <= figures["cases"] // 4  # within 5 % of its limit; a pick over it is over by little


def test_the_bank_lies_where_the_command_writes_it():
    assert Path(score.__file__).with_name("recorded") == recorded.FOLDER


def test_pieces_are_at_least_as_long_as_they_say():
    piece_ns = bank().about["piece_s"] * 1e9
    pieces: list[Piece] = [piece for dump in bank().dumps for piece in dump.pieces]
    assert sum(piece.wall_ns >= 0.99 * piece_ns for piece in pieces) >= 0.99 * len(pieces)
