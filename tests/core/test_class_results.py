"""What boards of a class tell each other: one voice each, a median that liars do not move, and nothing from nothing."""

from __future__ import annotations

import random

import msgspec
import pytest

from agent.core.class_results import (
    FIRM_BOARDS,
    LEAST_SPREAD,
    BoardResults,
    ClassResult,
    deviations,
    pool,
    pooled,
    spread,
)
from agent.core.measurement import OperatingPoint

POINT = OperatingPoint(engine="onnxruntime", engine_version="1", provider="CPUExecutionProvider", threads=1)


def result(p50_s: float | None = 0.01, **fields: object) -> ClassResult:
    return ClassResult(
        **{
            "artifact_sha256": "a", "candidate": "m", **msgspec.structs.asdict(POINT), "verdict": "ok", "n": 100,
            "measured_at": "2026-01-01T00:00:00Z", "latency_p50_s": p50_s, **fields,
        }  # type: ignore[arg-type]
    )  # fmt: skip


def told(board: str, *results: ClassResult, at: str = "2026-01-01T00:00:00Z", of: str = "class") -> BoardResults:
    return BoardResults(board=board, task="t", class_fingerprint=of, told_at=at, results=results)


def test_a_board_has_one_voice_its_newest() -> None:
    old, new = told("f/a", result(0.01)), told("f/a", result(0.02), at="2026-01-02T00:00:00Z")
    for order in ((old, new), (new, old)):
        view = pool(order, class_fingerprint="class", task="t")
        assert view.boards == 1
        figure = view.options["a", POINT].figures["latency_p50"]
        assert (figure.value, figure.boards, figure.firm) == (0.02, 1, False)


def test_other_classes_tasks_and_the_asking_board_are_left_out() -> None:
    view = pool(
        [told("f/a", result()), told("f/b", result(), of="other"), told("f/me", result())],
        class_fingerprint="class", task="t", but="f/me",
    )  # fmt: skip
    assert view.boards == 1
    assert pool([told("f/a", result())], class_fingerprint="class", task="other").options == {}


@pytest.mark.parametrize("boards", [3, 5, 8, 21])
def test_fewer_liars_than_half_leave_the_figure_between_true_ones(boards: int) -> None:
    rnd = random.Random(boards)
    for _ in range(50):
        true = [0.01 * rnd.uniform(0.97, 1.03) for _ in range(boards // 2 + 1)]
        lies = [0.01 * 10 ** rnd.uniform(-6, 6) for _ in range(boards - len(true))]
        figure = pooled(rnd.sample(true + lies, boards))
        assert min(true) <= figure.value <= max(true)
        assert figure.firm == (figure.near >= FIRM_BOARDS and 2 * figure.near > boards)


def test_one_liar_makes_nothing_firm_that_is_not_true() -> None:
    assert not pooled([0.001]).firm
    assert not pooled([0.001, 0.001]).firm
    assert not pooled([0.01, 0.01, 1.0]).firm  # two that agree may be two that lie
    assert pooled([0.01, 0.0101, 0.0102, 1.0]).firm


def test_what_did_not_run_and_tails_of_a_few_runs_say_nothing() -> None:
    view = pool(
        [
            told("f/a", result(latency_p95_s=0.02, n=20)),
            told("f/b", result(0.5, latency_p95_s=0.5, verdict="wrong_output")),
            told("f/c", result(0.012, latency_p95_s=0.03, n=100)),
        ],
        class_fingerprint="class", task="t",
    )  # fmt: skip
    option = view.options["a", POINT]
    assert (option.boards, option.failed) == (3, 1)
    assert option.figures["latency_p50"].boards == 2
    assert (option.figures["latency_p95"].boards, option.figures["latency_p95"].value) == (1, 0.03)


def test_power_of_different_scopes_is_never_mixed() -> None:
    board, module = {"power_mean_w": 5.0, "power_scope": "board"}, {"power_mean_w": 1.0, "power_scope": "module"}
    view = pool(
        [told("f/a", result(**board)), told("f/b", result(**board)), told("f/c", result(**module))],
        class_fingerprint="class", task="t",
    )  # fmt: skip
    assert view.options["a", POINT].figures["power_mean"].value == 5.0
    assert view.options["a", POINT].figures["power_mean"].boards == 2


def test_the_spread_is_the_usual_one_of_few_boards_and_their_own_of_many() -> None:
    rnd = random.Random(1)
    few = spread([0.01, 0.0101, 0.0102])
    many = spread([0.01 * rnd.lognormvariate(0, 0.2) for _ in range(200)])
    assert few > LEAST_SPREAD
    assert many == pytest.approx(0.2, rel=0.3)
    assert spread([0.01] * 400) == LEAST_SPREAD


def test_nonsense_is_refused_where_it_is_read() -> None:
    document = msgspec.json.encode(told("f/a", result()))
    assert msgspec.json.decode(document, type=BoardResults).results[0].latency_p50_s == 0.01
    for bad in (b"-0.01", b"0", b'"fast"', b"NaN"):
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(document.replace(b":0.01", b":" + bad), type=BoardResults)


def test_a_deviation_needs_enough_boards_for_its_option() -> None:
    boards = [told(f"f/{n}", result(0.01 * (2.0 if n == 0 else 1.0))) for n in range(5)]
    found = deviations(boards, "latency_p50", least_boards=5)
    assert found["f/0"][0].value == pytest.approx(0.693, abs=1e-3)
    assert deviations(boards[:4], "latency_p50", least_boards=5) == {}
