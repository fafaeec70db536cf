"""The view of a fleet: what is kept, what is refused, that nothing from the network reaches a terminal as it came."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.messages import encode
from agent.core.payloads import DecisionMessage, DeploymentMessage, Job, Reported, Status
from agent.fleet.following import Following
from agent.fleet.plain import plain
from agent.fleet.view import MAX_TASKS, FleetView, as_document
from benchmarks.simulated.documents import CLASSES
from tests.fleet.simulated_board import EPOCH

ROOT = "boardfit/v1/plant"


def status(name: str, **more: object) -> bytes:
    return encode(Status(**{"fleet": "plant", "device": name, "state": "online", **more}))  # type: ignore[arg-type]


def test_a_last_will_leaves_what_was_known() -> None:
    view = FleetView("plant")
    view.take(f"{ROOT}/pi/status", status("pi", epoch=EPOCH, agent_version="1"))
    assert view.boards["pi"].reachable
    view.take(f"{ROOT}/pi/status", status("pi", state="offline"))
    board = view.boards["pi"]
    assert (board.status, board.epoch, board.agent_version, board.reachable) == ("offline", EPOCH, "1", False)
    view.take(f"{ROOT}/pi/status", b"")
    assert view.boards == {}


def test_a_figure_of_another_candidate_is_not_shown_for_what_serves() -> None:
    view, told = FleetView("plant"), {"fleet": "plant", "device": "pi", "task": "t"}

    def decided(candidate: str, p95_s: float) -> None:
        decision = DecisionMessage(
            **told, id="d", decided_at="", class_fingerprint="c", outcome="chosen", reason="", options_total=1,
            options_fitting=1, options=(), budgets=(), objectives=(), candidate=candidate, latency_p95_s=p95_s,
        )  # fmt: skip
        view.take(f"{ROOT}/pi/decision/t", encode(decision))

    def serves(**more: object) -> None:
        deployment = DeploymentMessage(**told, phase="done", changed_at="", **more)  # type: ignore[arg-type]
        view.take(f"{ROOT}/pi/deployment/t", encode(deployment))

    decided("small", 0.004)
    task = view.boards["pi"].tasks["t"]
    assert task.p95_s is None  # nothing serves
    serves(candidate="small")
    assert task.p95_s == 0.004
    decided("large", 0.009)
    assert task.p95_s is None
    serves(candidate="small", expected_latency_p95_s=0.005)
    assert task.p95_s == 0.005


def test_a_board_was_last_seen_when_it_last_said_something() -> None:
    view = FleetView("plant")
    view.take(f"{ROOT}/pi/status", status("pi", time="2026-12-01T12:00:00.000Z"))
    view.take(f"{ROOT}/pi/status", status("pi", state="offline"))
    assert view.boards["pi"].seen == "2026-12-01T12:00:00.000Z"


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (f"{ROOT}/pi/status", b"\xff{"),
        (f"{ROOT}/pi/status", b'{"state": "dancing"}'),
        (f"{ROOT}/pi/status", status("pi")[:-1] + b"x" * 300_000 + b"}"),
        (f"{ROOT}/pi/profile", status("pi")),
        (f"{ROOT}/PI/status", status("pi")),
        (f"{ROOT}/pi/status/more", status("pi")),
        ("elsewhere", b"{}"),
    ],
)
def test_what_cannot_be_read_is_counted_and_changes_nothing(topic: str, payload: bytes) -> None:
    view = FleetView("plant")
    assert view.take(topic, payload) is None
    assert (view.refused, {b for b in view.boards.values() if b.status}) == (1, set())
    assert view.last_refusal and view.last_refusal.isprintable()


def test_another_fleet_and_orders_are_left_alone() -> None:
    view = FleetView("plant")
    for topic in ("boardfit/v1/farm/pi/status", f"{ROOT}/pi/desired", f"{ROOT}/_all/cmd/bench"):
        assert view.take(topic, b"{}") is None
    assert (view.refused, view.boards) == (0, {})


def test_a_board_cannot_fill_the_view() -> None:
    view = FleetView("plant")
    for number in range(MAX_TASKS + 5):
        deployment = {"fleet": "plant", "device": "pi", "task": "t", "phase": "ACTIVE", "changed_at": ""}
        view.take(f"{ROOT}/pi/deployment/t{number}", msgspec.json.encode(deployment))
    assert (len(view.boards["pi"].tasks), view.refused) == (MAX_TASKS, 5)
    groups = tuple(f"group-{n}" * 20 for n in range(500))
    view.take(
        f"{ROOT}/pi/reported", encode(Reported(fleet="plant", device="pi", version=1, agent_version="", groups=groups))
    )
    kept = view.boards["pi"].groups or ()
    assert len(kept) <= 32 and max(map(len, kept)) <= 64


@given(st.text(max_size=400))
def test_plain_text_moves_no_cursor(text: str) -> None:
    shown = plain(text)
    assert len(shown) <= 64
    assert shown.isprintable() or all(letter.isprintable() or letter.isspace() for letter in shown)
    assert not set(shown) & set("\x1b\x07\x08\x9b\u202e\u2066\n\r")


def test_a_board_takes_a_few_kib() -> None:
    profile = encode(CLASSES[0].profile({"fleet": "plant", "device": "pi"}))
    view = FleetView("plant")
    gc.collect()
    tracemalloc.start()
    for number in range(500):
        name = f"board-{number}"
        view.take(f"{ROOT}/{name}/profile", profile)
        view.take(f"{ROOT}/{name}/status", status(name, epoch=f"{number:032}", reason=f"reason {number}"))
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert view.refused == 0
    assert used / 500 < 20 * 1024


def job(state: str, revision: int, **more: object) -> Job:
    return Job(**{"fleet": "plant", "device": "pi", "id": "job-0001", "verb": "bench", "state": state, **more},
               revision=revision)  # type: ignore[arg-type]  # fmt: skip


def test_the_greatest_revision_of_a_job_holds() -> None:
    following = Following("job-0001", ["pi"])
    assert following.take("pi", job("SUCCEEDED", 3)) is not None
    for late in (job("IN_PROGRESS", 2), job("QUEUED", 1), job("FAILED", 3)):
        assert following.take("pi", late) is None
    assert following.summary().all_succeeded


def test_strangers_and_other_jobs_are_left_out() -> None:
    following = Following("job-0001", ["pi"])
    assert following.take("px", job("SUCCEEDED", 1)) is None
    assert following.take("pi", job("SUCCEEDED", 1, id="job-0002")) is None
    assert following.take("px", job("SUCCEEDED", 1), others=True) is not None
    assert not following.ended


def test_who_does_not_answer_is_not_waited_for_and_counts_when_it_answers_yet() -> None:
    following = Following("job-0001", ["pi", "px", "py"], offline=["py"])
    following.take("pi", job("SUCCEEDED", 1))
    assert not following.ended
    assert following.give_up_on_silent() == ["px"]
    assert following.ended
    assert following.summary().text == "1 succeeded, 2 did not answer"
    following.take("px", job("FAILED", 1, reason="\x1b[2Jno\u202e"))
    assert following.answers["px"].reason == "·[2Jno·"
    assert not following.summary().all_succeeded


def test_nothing_addressed_is_no_success() -> None:
    assert not Following("job-0001", []).summary().all_succeeded


def test_models_that_a_board_keeps_out_are_shown_with_the_reason_and_bounded() -> None:
    view, told = FleetView("plant"), {"fleet": "plant", "device": "pi", "task": "t", "phase": "DONE", "changed_at": ""}
    reasons = {f"bad-{number:03}": f"quarantined after 3 failures\x1b[31m {'x' * 900}" for number in range(100)}
    deployment = DeploymentMessage(**told, candidate="good", withheld=reasons, withheld_count=100)  # type: ignore[arg-type]
    view.take(f"{ROOT}/pi/deployment/t", encode(deployment))
    (first, text), *others = view.boards["pi"].tasks["t"].withheld
    assert (first, len(others), text.isprintable()) == ("bad-000", 31, True)
    assert len(text) < 400
    shown = as_document(view.boards["pi"])["tasks"]
    assert shown["t"]["withheld"][0][0] == "bad-000"  # type: ignore[index]
    again = DeploymentMessage(**told, candidate="good")  # type: ignore[arg-type]
    view.take(f"{ROOT}/pi/deployment/t", encode(again))
    assert view.boards["pi"].tasks["t"].withheld == ()
