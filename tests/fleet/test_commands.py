"""``boardfit fleet`` over a real broker against simulated boards: lists, commands, the end, interruptions."""

from __future__ import annotations

from collections.abc import Callable

from tests.fleet.conftest import Desk
from tests.fleet.simulated_board import SimulatedBoard

Simulate = Callable[..., SimulatedBoard]


def test_the_list_shows_who_is_there_and_who_was(desk: Desk, simulate: Simulate) -> None:
    simulate("pi-1", groups=("line-2",)).tell_task("digits", "net-int8", 0.004)
    simulate("pi-2").stop(goodbye=False)
    shown = desk("list")
    assert shown.code == 0, shown.err
    assert "2 boards, 1 online." in shown.out
    (line,) = [line for line in shown.out.splitlines() if line.startswith("pi-1")]
    assert {"online", "line-2", "bcm2712"} <= set(line.split())
    assert "digits → net-int8" in line
    assert "offline" in shown.out
    document = desk("list", "status=online", "--json").document
    assert [board["name"] for board in document["boards"]] == ["pi-1"]
    assert document["boards"][0]["tasks"]["digits"]["p95_s"] == 0.004


def test_one_succeeds_and_one_refuses_and_the_summary_says_so(desk: Desk, simulate: Simulate) -> None:
    simulate("pi-1", desk.operator())
    simulate("pi-2", desk.operator("viewer"))
    ended = desk("bench", "status=online", "--task", "digits")
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert "pi-1: at work (measure)" in lines
    assert "succeeded: pi-1" in lines
    assert "refused: pi-2: anna is viewer; bench needs operator" in lines
    assert lines[-1] == "bench: 1 succeeded, 1 failed."
    again = desk("bench", "pi-1", "--json")
    assert again.code == 0, again.err
    assert again.document["succeeded"] == ["pi-1"]
