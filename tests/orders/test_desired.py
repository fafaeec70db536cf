"""Desired settings: taken by version, refused with the reason, in force for every later pass and after a restart."""

from __future__ import annotations

from typing import Any

from tests.orders.conftest import WAIT_S, Board

ENTRY = {"name": "nightly", "action": "sync", "cron": "0 3 * * *"}


def wanted(latency: str, **more: Any) -> dict[str, Any]:
    return {"tasks": {"digits": {"budgets": {"latency_p95": latency}}}, **more}


def wait_for(board: Board, **versions: int) -> None:
    names = {name.replace("line2", "group:line-2"): version for name, version in versions.items()}
    board.fleet.wait(lambda: bool(board.fleet.topic("/reported")) and board.reported.desired_versions == names, WAIT_S)


def test_the_newest_version_wins_and_an_older_one_harms_nothing(board: Board) -> None:
    board.start()
    first = board.reported.version
    board.desire(2, wanted("10 ms", schedule=[ENTRY]))
    wait_for(board, device=2)
    assert board.reported.tasks["digits"].budgets == ("latency_p95 <= 10 ms",)
    assert [entry.name for entry in board.reported.schedule] == ["nightly"]
    assert board.reported.schedule[0].next_at is not None
    assert board.reported.version == first + 1
    board.desire(1, wanted("99 ms"))
    board.desire(2, wanted("98 ms"))
    board.desire(3, {"tasks": {"digits": {"objective": ["minimize size"], "pin": "a"}}})
    wait_for(board, device=3)
    task = board.reported.tasks["digits"]
    assert (task.budgets, task.objective, task.pin) == (("latency_p95 <= 20 ms",), ("minimize size",), "a")
    assert board.reported.schedule == ()


def test_what_is_not_valid_is_refused_and_the_old_stays(board: Board) -> None:
    board.start()
    board.desire(1, wanted("10 ms"))
    wait_for(board, device=1)
    for version, settings, reason in (
        (2, wanted("10"), "unit"),
        (3, {"tasks": {"digit": {"pin": "a"}}}, "there is no task digit here"),
        (4, {"schedule": [{**ENTRY, "cron": "never"}]}, "is not a cron expression"),
        (5, {"schedule": [{**ENTRY, "crom": "never"}]}, "unknown key"),
        (6, {"caps": {"download": "0 MiB"}}, "above zero"),
        (7, {"caps": {"downlaod": "1 MiB"}}, "unknown key"),
    ):
        board.desire(version, settings)
        board.fleet.wait(lambda v=version: board.reported.desired_error_version == v, WAIT_S)  # type: ignore[misc]
        assert reason in (board.reported.desired_error or "")
        assert board.reported.desired_versions == {"device": 1}
        assert board.reported.tasks["digits"].budgets == ("latency_p95 <= 10 ms",)
    board.desire(8, wanted("11 ms"), issuer="otto")
    board.fleet.wait(lambda: "needs admin" in (board.reported.desired_error or ""), WAIT_S)
    assert board.reported.cap_download_bytes is None
    board.desire(8, wanted("11 ms", caps={"download": "1 MiB"}))
    wait_for(board, device=8)
    assert board.reported.desired_error is None
    assert board.reported.cap_download_bytes == 2**20


def test_it_holds_after_a_restart_and_for_the_verbs(board: Board) -> None:
    board.start()
    board.desire(1, wanted("10 ms"))
    wait_for(board, device=1)
    board.stop()
    said = len(board.fleet.topic("/reported"))
    board.start()
    board.fleet.wait(lambda: len(board.fleet.topic("/reported")) > said, WAIT_S)
    assert board.reported.tasks["digits"].budgets == ("latency_p95 <= 10 ms",)
    assert board.reported.desired_version == 1


def test_scopes_lie_over_each_other_the_device_last(board: Board) -> None:
    board.start()
    board.desire(
        7, {"tasks": {"digits": {"pin": "a", "objective": ["minimize size"]}, "speech": {"pin": "b"}}}, group="line-2"
    )
    wait_for(board, line2=7)
    board.desire(1, {"tasks": {"digits": {"pin": ""}}})
    wait_for(board, device=1, line2=7)
    task = board.reported.tasks["digits"]
    assert (task.pin, task.objective) == (None, ("minimize size",))
    assert list(board.reported.tasks) == ["digits"]  # this board has no speech


def test_set_desired_is_the_same_as_a_command(board: Board) -> None:
    board.start()
    arguments = {"version": 4, "settings": wanted("10 ms")}
    done = board.wait(board.order("set-desired", "anna", arguments=arguments), "SUCCEEDED")
    assert done.result == {"scope": "device", "version": 4}
    wait_for(board, device=4)
    stale = board.wait(board.order("set-desired", "anna", arguments=arguments), "REJECTED")
    assert "is not above 4" in (stale.reason or "")
    invalid = {"version": 5, "settings": wanted("soon")}
    assert "not a quantity" in (
        board.wait(board.order("set-desired", "anna", arguments=invalid), "REJECTED").reason or ""
    )
    assert board.reported.desired_versions == {"device": 4}
