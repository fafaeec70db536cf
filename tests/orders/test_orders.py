"""Commands against a real daemon over a real broker: every verb, every refusal, at most once, cancel in every state."""

from __future__ import annotations

import json
import select
import signal
from typing import Any

import msgspec
import pytest

from agent.core.command import Audience
from agent.core.messages import decode
from agent.core.payloads import Event
from tests.orders.conftest import KEYS, WAIT_S, Board


def test_what_only_asks_is_answered_at_once_and_kept_nowhere(board: Board) -> None:
    board.start()
    status = board.wait(board.order("status", "vera"), "SUCCEEDED")
    assert status.result["epoch"] == board.epoch
    assert (status.issuer, status.seq) == ("vera", 0)  # 0: not from the outbox
    assert board.wait(board.order("profile", "vera"), "REJECTED").reason == (
        "this board was not profiled yet. its first pass does that"
    )


DEPLOYED = {"outcome": "deployed", "phase": "ACTIVE", "candidate": "a"}
DONE: tuple[tuple[str, dict[str, Any], str, dict[str, Any]], ...] = (
    ("bench", {"task": "digits", "candidates": ["a"], "again": True},
     "bench --task digits --candidate a --again", {"measured": 2, "untried": 1}),
    ("select", {"task": "digits"}, "select --task digits", {"decision": "d1", "outcome": None, "candidate": "a"}),
    ("sync", {}, "sync", {"candidates": 3, "reachable": True, "targets_version": 7}),
    ("deploy", {"task": "digits", "candidate": "a"}, "deploy --task digits --candidate a", DEPLOYED),
    ("rollback", {"task": "digits"}, "rollback --task digits", DEPLOYED),
    ("pardon", {"task": "digits", "candidate": "a"}, "pardon --task digits --candidate a",
     {"pardoned": 2, "candidates": "a, b"}),
    ("leave-safe-mode", {}, "recover --leave-safe-mode", {"settled": 0}),
)  # fmt: skip


def test_each_verb_is_run_as_its_command_line_and_told_in_every_state(board: Board) -> None:
    board.start()
    ordered = [(board.order(verb, arguments=arguments), line, result) for verb, arguments, line, result in DONE]
    for job_id, line, result in ordered:
        done = board.wait(job_id, "SUCCEEDED")
        assert board.calls(line.split()[0]) == [line]
        assert (done.result, done.exit_code, done.reason) == (result, 0, None)
        kept = [job for job in board.jobs(job_id) if job.seq]
        assert [job.state for job in kept] == ["QUEUED", "IN_PROGRESS", "SUCCEEDED"]
        revisions = [job.revision for job in kept]
        assert revisions == sorted(set(revisions))


def test_a_verb_that_fails_says_why(board: Board) -> None:
    (board.folder / "fail-select").touch()
    board.start()
    failed = board.wait(board.order("select"), "FAILED")
    assert (failed.exit_code, failed.reason) == (3, "no candidate fits. loosen a budget")


REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "role": ("bench", "vera", {}, "bench needs operator"),
    "audience": ("bench", "otto", {"audience": Audience(fleet="plant", device="px")}, "it is for 'px'"),
    "fleet": ("bench", "otto", {"audience": Audience(fleet="farm", device="pi")}, "it is for the fleet"),
    "expired": ("bench", "otto",
                {"issued_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T00:10:00Z"}, "it expired"),
    "epoch": ("deploy", "otto", {"epoch": "0" * 32}, "present epoch"),
    "name": ("bench", "otto", {"issuer": "anna"}, "is not of 'anna'"),
    "pardon": ("pardon", "vera", {"arguments": {"task": "digits"}}, "pardon needs operator"),
    "safe mode": ("leave-safe-mode", "vera", {}, "leave-safe-mode needs operator"),
    "admin": ("set-desired", "otto", {"arguments": {"version": 1, "settings": {}}}, "needs admin"),
    "job": ("cancel", "otto", {"arguments": {"job": "job-9999"}}, "there is no job job-9999"),
}  # fmt: skip


def test_what_a_listed_key_may_not_do_is_answered_with_the_reason(board: Board) -> None:
    board.start()
    for verb, issuer, changes, reason in REFUSED.values():
        command = board.command(verb, **changes)
        if "issuer" not in changes:
            command = msgspec.structs.replace(command, issuer=issuer)
        to_us = msgspec.structs.replace(command, audience=Audience(fleet="plant", device="pi"))
        job_id = board.publish(to_us, KEYS[issuer].sign_command(command))
        assert reason in (board.wait(job_id, "REJECTED").reason or "")
    sealed = KEYS["otto"].sign_command(board.command("bench", id="elsewhere-1"))
    board.publish(board.command("sync"), sealed)
    assert "was sent as sync" in (board.wait("elsewhere-1", "REJECTED").reason or "")
    board.wait(board.order("sync"), "SUCCEEDED")
    assert board.calls("bench") == board.calls("deploy") == board.calls("pardon") == board.calls("recover") == []


def test_what_no_listed_key_has_signed_gets_no_answer_and_is_told_once(board: Board) -> None:
    board.start()
    command = board.command("bench")
    good = KEYS["otto"].sign_command(command)
    flipped = json.loads(good)
    flipped["payload"] = (
        flipped["payload"][:40] + ("A" if flipped["payload"][40] != "A" else "B") + flipped["payload"][41:]
    )
    for bad in (
        b"garbage", b"x" * 100_000, json.dumps(flipped).encode(), KEYS["mallory"].sign_command(command),
        json.dumps({**json.loads(good), "role": "admin"}).encode(),
    ):  # fmt: skip
        board.publish(command, bad)
    board.wait(board.order("sync"), "SUCCEEDED")
    assert board.jobs(command.id) == []
    assert board.calls("bench") == []
    board.fleet.wait(lambda: any(b"orders_ignored" in one.payload for one in board.fleet.topic("/pi/event")))
    (told,) = [one for one in board.fleet.topic("/pi/event") if b"orders_ignored" in one.payload]
    event = decode(told.topic, told.payload)
    assert isinstance(event, Event)
    assert "malformed" in event.text


def test_a_repeated_retained_or_replayed_command_is_done_once(board: Board) -> None:
    board.start()
    command = board.command("bench")
    envelope = KEYS["otto"].sign_command(command)
    for _ in range(3):
        board.publish(command, envelope, retain=True)
    board.wait(command.id, "SUCCEEDED")
    board.stop()
    board.start()  # finds it retained
    board.publish(command, envelope)
    later = msgspec.structs.replace(command, id="another-id")  # the counter is what counts
    board.publish(later, KEYS["otto"].sign_command(later))
    assert "replay" in (board.wait("another-id", "REJECTED").reason or "")
    board.wait(board.order("sync"), "SUCCEEDED")
    assert len(board.calls("bench")) == 1
    assert [job.state for job in board.jobs(command.id)] == ["QUEUED", "IN_PROGRESS", "SUCCEEDED"]


def test_one_who_has_lost_the_answer_may_ask_again_and_nothing_is_done_twice(board: Board) -> None:
    board.start()
    asked = board.command("bench", arguments={"task": "digits"})
    board.publish(asked, KEYS["otto"].sign_command(asked))
    board.wait(asked.id, "SUCCEEDED")
    anew = board.command("bench", id=asked.id, arguments={"task": "digits"})
    board.publish(anew, KEYS["otto"].sign_command(anew))
    board.fleet.wait(lambda: [job.state for job in board.jobs(asked.id)][3:] == ["SUCCEEDED"])
    for other in (
        board.command("bench", id=asked.id, arguments={"task": "faces"}),
        board.command("bench", "anna", id=asked.id, arguments={"task": "digits"}),
        board.command("select", id=asked.id, arguments={"task": "digits"}),
    ):
        board.publish(other, KEYS[other.issuer].sign_command(other))
    board.wait(board.order("sync"), "SUCCEEDED")
    assert len(board.jobs(asked.id)) == 4, "what is another command is not answered as this one"
    assert (len(board.calls("bench")), len(board.calls("select"))) == (1, 0)


def test_a_command_to_the_group_or_the_fleet_is_obeyed(board: Board) -> None:
    board.start()
    for audience in (Audience(fleet="plant", group="line-2"), Audience(fleet="plant")):
        board.wait(board.order("sync", audience=audience), "SUCCEEDED")
    assert len(board.calls("sync")) == 2


def test_a_board_without_a_list_obeys_nobody_and_a_revoked_key_no_longer(board: Board) -> None:
    board.list_operators("otto")
    board.start()
    held = board.hold("sync")
    running = board.order("sync")
    board.wait(running, "IN_PROGRESS")
    waiting = board.order("bench")
    board.wait(waiting, "QUEUED")
    board.list_operators("anna")  # as this very sync might
    held.release()
    board.wait(running, "SUCCEEDED")
    assert "no longer on the operator list" in (board.wait(waiting, "CANCELED").reason or "")
    ignored = board.order("bench")
    board.wait(board.order("sync", "anna"), "SUCCEEDED")
    assert board.jobs(ignored) == []
    assert board.calls("bench") == []


def test_killed_between_storing_and_beginning_a_job_is_done_once(board: Board) -> None:
    board.start(fault="stored")
    command = board.command("bench")
    envelope = KEYS["otto"].sign_command(command)
    board.publish(command, envelope)
    assert board.ended() == -signal.SIGKILL
    board.start()
    board.publish(command, envelope)
    board.wait(command.id, "SUCCEEDED")
    board.wait(board.order("sync"), "SUCCEEDED")
    assert len(board.calls("bench")) == 1


def test_a_switch_that_had_not_begun_is_not_made_after_a_restart(board: Board) -> None:
    board.start(fault="stored")
    command = board.command("deploy")
    board.publish(command, KEYS["otto"].sign_command(command))
    assert board.ended() == -signal.SIGKILL
    board.start()
    assert "the epoch it named ended" in (board.wait(command.id, "FAILED").reason or "")
    replayed = msgspec.structs.replace(command, id="replayed-1", counter=1000)
    board.publish(replayed, KEYS["otto"].sign_command(replayed))
    assert "present epoch" in (board.wait("replayed-1", "REJECTED").reason or "")
    assert board.calls("deploy") == []


def test_killed_at_work_a_job_has_failed_and_is_not_begun_again(board: Board) -> None:
    board.start(fault="begun")
    job_id = board.order("bench")
    assert board.ended() == -signal.SIGKILL
    board.start()
    assert "interrupted by a restart" in (board.wait(job_id, "FAILED").reason or "")
    board.wait(board.order("sync"), "SUCCEEDED")
    assert len(board.calls("bench")) == 1


def test_a_daemon_that_dies_leaves_no_child_behind(board: Board) -> None:
    held = board.hold("bench")
    board.start()
    job_id = board.order("bench")
    board.wait(job_id, "IN_PROGRESS")
    with held.reached() as pipe:
        assert board.stop(signal.SIGKILL) == -signal.SIGKILL
        gone = select.poll()
        gone.register(pipe, 0)
        assert gone.poll(WAIT_S * 1000) == [(pipe.fileno(), select.POLLERR)]  # nobody reads any more
    board.start()
    assert "interrupted by a restart" in (board.wait(job_id, "FAILED").reason or "")


def test_stopped_at_work_a_job_has_failed_and_those_behind_it_wait_on(board: Board) -> None:
    held = board.hold("bench")
    board.start()
    running, waiting = board.order("bench"), board.order("sync")
    board.wait(waiting, "QUEUED")
    with held.reached():
        assert board.stop() == 0
    board.start()
    assert "the agent was stopped" in (board.wait(running, "FAILED").reason or "")
    board.wait(waiting, "SUCCEEDED")
    assert (len(board.calls("bench")), len(board.calls("sync"))) == (1, 1)


def test_cancel_at_work_and_in_the_queue(board: Board) -> None:
    board.hold("bench")
    board.start()
    running, waiting = board.order("bench"), board.order("bench")
    board.wait(waiting, "QUEUED")
    board.fleet.wait(lambda: any(job.stage == "measure" for job in board.jobs(running)))
    step = next(job for job in board.jobs(running) if job.stage == "measure")
    assert (step.state, step.progress_ratio, step.done, step.total, step.seq) == ("IN_PROGRESS", 0.25, 1.0, 4.0, 0)
    for job_id, words in ((waiting, "before it began"), (running, "what was finished is stored")):
        canceling = board.order("cancel", arguments={"job": job_id})
        assert board.wait(canceling, "SUCCEEDED").result == {"job": job_id}
        assert words in (board.wait(job_id, "CANCELED").reason or "")
    again = board.order("cancel", arguments={"job": running})
    assert f"{running} is CANCELED" in (board.wait(again, "REJECTED").reason or "")
    assert len(board.calls("bench")) == 1


def test_every_open_state_has_an_end(board: Board) -> None:
    board.hold("bench")
    board.start()
    running = board.command("bench", deadline_s=0.5)
    board.publish(running, KEYS["otto"].sign_command(running))
    assert "it took longer than 0.5 s" in (board.wait(running.id, "TIMED_OUT").reason or "")


def test_an_order_to_switch_does_not_wait_for_a_pass_that_nobody_ordered(board: Board) -> None:
    held = board.hold("once")
    board.start()
    with held.reached():
        board.wait(board.order("deploy"), "SUCCEEDED")
    held.release()
    board.wait(board.order("sync"), "SUCCEEDED")
    assert len(board.calls("once")) == 2  # it gave way to the switch, and was taken up again
    assert board.calls("SIGUSR1") == ["SIGUSR1 once"]  # what would have let a deployment go on
    assert not board.calls("SIGTERM")


@pytest.mark.parametrize(("fault", "state", "calls"), [("beginning", "FAILED", 0), ("ended", "SUCCEEDED", 1)])
def test_killed_in_any_other_moment_a_job_has_one_end_and_is_done_at_most_once(
    board: Board, fault: str, state: str, calls: int
) -> None:
    board.start(fault)
    command = board.command("bench")
    envelope = KEYS["otto"].sign_command(command)
    board.publish(command, envelope, retain=True)
    board.ended()
    board.start()
    board.publish(command, envelope)
    board.wait(command.id, state)
    board.wait(board.order("sync"), "SUCCEEDED")
    assert len(board.calls("bench")) == calls
    assert [job.state for job in board.jobs(command.id) if job.finished_at] == [state]


def test_a_canceled_job_is_not_begun_though_the_agent_is_killed_right_after(board: Board) -> None:
    held = board.hold("sync")
    board.start("canceled")
    board.wait(board.order("sync"), "IN_PROGRESS")
    waiting = board.order("bench")
    board.wait(waiting, "QUEUED")
    with held.reached():
        canceling = board.order("cancel", arguments={"job": waiting})
        assert board.ended() == -signal.SIGKILL
    board.start()
    board.wait(canceling, "SUCCEEDED")
    assert "before it began" in (board.wait(waiting, "CANCELED").reason or "")
    (board.folder / "hold-sync").unlink()
    board.wait(board.order("sync"), "SUCCEEDED")
    assert board.calls("bench") == []


def test_a_job_that_hears_nothing_is_killed_with_its_group(board: Board) -> None:
    (board.folder / "deaf-bench").touch()
    held = board.hold("bench")
    board.start("hasty")
    job_id = board.order("bench")
    with held.reached() as pipe:
        gone = select.poll()
        gone.register(pipe, 0)
        board.order("cancel", arguments={"job": job_id})
        assert board.wait(job_id, "CANCELED").exit_code is None
        assert gone.poll(WAIT_S * 1000) == [(pipe.fileno(), select.POLLERR)]
    assert board.calls("SIGTERM") == ["SIGTERM bench"]


def test_work_that_does_not_give_way_is_stopped_and_killed(board: Board) -> None:
    (board.folder / "deaf-once").touch()
    held = board.hold("once")
    board.start("hasty")
    with held.reached():
        board.wait(board.order("deploy"), "SUCCEEDED")
    held.release()
    board.wait(board.order("sync"), "SUCCEEDED")
    assert (board.calls("SIGUSR1"), board.calls("SIGTERM")) == (["SIGUSR1 once"], ["SIGTERM once"])
    board.fleet.wait(lambda: any(b"pass_crashed" in one.payload for one in board.fleet.topic("/pi/event")), WAIT_S)


def test_a_pass_ends_when_its_daemon_is_killed(board: Board) -> None:
    held = board.hold("once")
    board.start()
    with held.reached() as pipe:
        assert board.stop(signal.SIGKILL) == -signal.SIGKILL
        gone = select.poll()
        gone.register(pipe, 0)
        assert gone.poll(WAIT_S * 1000) == [(pipe.fileno(), select.POLLERR)]


def test_a_rollback_goes_before_what_switches_nothing(board: Board) -> None:
    held = board.hold("sync")
    board.start()
    first = board.order("sync")
    board.wait(first, "IN_PROGRESS")
    late = [board.order("bench"), board.order("deploy"), board.order("select")]
    back = board.order("rollback")
    board.wait(back, "QUEUED")
    held.release()
    for job_id in (back, *late):
        board.wait(job_id, "SUCCEEDED")
    lines = (board.folder / "calls").read_text().splitlines()
    order = [line.split()[0] for line in lines if line.split()[0] in ("bench", "deploy", "select", "rollback")]
    assert order == ["bench", "deploy", "rollback", "select"]


def test_what_nobody_ordered_has_an_end_too(board: Board) -> None:
    held = board.hold("once")
    board.start("short")
    with held.reached():
        board.wait(board.order("sync"), "SUCCEEDED")  # which waits for what is at work
    held.release()
    assert "SIGTERM once" in board.calls("SIGTERM")
