"""``boardfit fleet`` over a real broker against simulated boards: lists, commands, the end, interruptions."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent.core.messages import encode
from agent.core.payloads import Status
from agent.errors import ReportError
from agent.mqtt import Connection, drive
from tests.brokers import Mosquitto
from tests.fleet.conftest import Desk
from tests.fleet.simulated_board import EPOCH, SimulatedBoard
from tests.scenarios.conftest import ROOT

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


def test_boards_whose_status_says_less_are_listed_by_their_profile(desk: Desk, simulate: Simulate) -> None:
    simulate("pi-1", groups=("line-2",))
    simulate("pi-2", groups=("line-3",), older=True)
    shown = desk("list")
    assert shown.code == 0, shown.err
    rows = {words[0]: set(words) for line in shown.out.splitlines() if (words := line.split())}
    assert {"bcm2712", "line-2"} <= rows["pi-1"]
    assert {"bcm2712", "line-3"} <= rows["pi-2"]
    assert "1 board, 1 online." in desk("list", "group:line-3").out
    assert "2 boards, 2 online." in desk("list", "engine=onnxruntime").out


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


def test_a_benchmark_is_shared_out_among_boards_of_one_class(desk: Desk, simulate: Simulate) -> None:
    one, two = simulate("pi-1", desk.operator()), simulate("pi-2", desk.operator())
    simulate("pi-3", desk.operator()).stop(goodbye=False)
    ended = desk("bench", "pi-1", "pi-2", "pi-3", "--task", "digits", "--slices", "1")
    assert "bench: 2 succeeded" in ended.out, ended.err
    for board in (one, two):
        (command,) = board.commands
        assert command.arguments == {"task": "digits", "among": ["pi-1", "pi-2"], "overlap": 1}
    too_many = desk("bench", "pi-1", "pi-2", "--slices", "3")
    assert too_many.code == 2
    assert "between 1 and" in too_many.err
    simulate("pi-4", desk.operator(), soc="bcm2711")
    mixed = desk("bench", "pi-1", "pi-4", "--slices", "1")
    assert mixed.code == 2
    assert "2 classes" in mixed.err


def test_a_deployment_names_each_boards_epoch_and_waits_for_nobody_who_is_away(desk: Desk, simulate: Simulate) -> None:
    here = simulate("pi-1", desk.operator())
    simulate("pi-2", desk.operator()).stop(goodbye=False)
    ended = desk("deploy", "all", "--task", "digits", "--candidate", "net-int8")
    assert ended.code == 1
    assert "offline: pi-2" in ended.out.splitlines()
    assert "deploy: 1 succeeded, 1 did not answer." in ended.out
    (command,) = here.commands
    assert (command.epoch, command.audience.device, command.arguments["candidate"]) == (EPOCH, "pi-1", "net-int8")


def test_a_group_is_reached_by_one_broadcast_and_who_is_silent_is_said(desk: Desk, simulate: Simulate) -> None:
    one = simulate("pi-1", desk.operator(), groups=("line-2",))
    simulate("pi-2", groups=("line-2",))  # no operator is listed there: it answers nobody
    other = simulate("pi-3", desk.operator())
    ended = desk("sync", "group:line-2", "--answer", "500 ms", "--json")
    assert ended.code == 1
    assert (ended.document["succeeded"], ended.document["silent"]) == (["pi-1"], ["pi-2"])
    assert (one.commands[0].audience.group, one.commands[0].audience.device) == ("line-2", None)
    assert other.commands == []


def test_a_failure_is_told_with_its_reason(desk: Desk, simulate: Simulate) -> None:
    simulate("pi-1", desk.operator(), ends="FAILED")
    ended = desk("select", "pi-1")
    assert ended.code == 1
    assert "failed: pi-1: no candidate fits" in ended.out


def test_ctrl_c_leaves_jobs_running_and_jobs_goes_on_with_them(desk: Desk, simulate: Simulate) -> None:
    board = simulate("pi-1", desk.operator(), holds=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", *desk.words("bench", "pi-1")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any("pi-1: at work" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    (command,) = board.commands
    assert f"boardfit fleet jobs {command.id}" in rest
    assert "1 not finished" in rest
    board.end(command)  # while nobody listens: the broker keeps it
    listed = desk("jobs")
    assert listed.code == 0, listed.err
    assert "1 done" in listed.out
    followed = desk("jobs", command.id[:6], "--json")
    assert (followed.code, followed.document["succeeded"]) == (0, ["pi-1"])


def test_a_broker_that_dies_meanwhile_is_waited_for(desk: Desk, broker: Mosquitto, simulate: Simulate) -> None:
    board = simulate("pi-1", desk.operator(), holds=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", *desk.words("bench", "pi-1")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any("pi-1: at work" in line for line in process.stdout)
    broker.kill()
    broker.start()
    while process.poll() is None:  # told again until the console, back at the broker, has heard it
        with suppress(ReportError):
            board.end(board.commands[0])
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    rest = process.stdout.read()
    assert (process.returncode, "bench: 1 succeeded." in rest) == (0, True), rest


def test_two_consoles_of_one_operator_use_no_counter_twice(desk: Desk, simulate: Simulate) -> None:
    board = simulate("pi-1", desk.operator())
    words = [sys.executable, "-m", "agent", *desk.words("select", "pi-1", "--json")]
    consoles = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [console.wait(60) for console in consoles] == [0, 0, 0]
    counters = [command.counter for command in board.commands]
    assert counters == sorted(set(counters))
    assert len(counters) == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("bench", "pi-9"), 2, "there is no board pi-9 in plant. Did you mean pi-1"),
        (("bench", "socs=bcm2712"), 2, "boards have no field `socs`. Did you mean `soc`"),
        (("bench", "soc=tegra"), 2, "no board of plant is meant by soc=tegra"),
        (("deploy", "pi-1", "--task", "../x"), 1, "not the arguments of deploy"),
        (("bench", "pi-1", "--timeout", "20"), 2, "has no unit"),
        (("bench", "pi-1", "--key", "/nowhere/key"), 2, "is not known"),
        (("jobs", "ffff"), 2, "no command sent from here begins with 'ffff'"),
        (("list", "--broker", "mqtt://127.0.0.1:1"), 1, "127.0.0.1:1"),
        (("list", "--broker", "http://x"), 2, "neither mqtt:// nor mqtts://"),
        (("list", "--fleet", "PLANT"), 2, "cannot stand in an MQTT topic"),
        (("watch", "--json"), 2, "no JSON document"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    desk: Desk, simulate: Simulate, words: tuple[str, ...], code: int, said: str
) -> None:
    if words[0] != "list":
        simulate("pi-1", desk.operator())
    ended = desk(*words)
    assert (ended.code, said in ended.err) == (code, True), ended.err


def test_a_broker_whose_queue_is_too_short_is_an_error_and_no_shorter_list(
    desk: Desk, start_broker: Callable[..., Mosquitto], simulate: Simulate
) -> None:
    broker = start_broker("allow_anonymous true\nmax_queued_messages 5\nmax_inflight_messages 5")
    connection = Connection(broker.settings())
    connection.connect(10)
    sent = [
        connection.publish(
            f"boardfit/v1/plant/b{number}/status",
            encode(Status(fleet="plant", device=f"b{number}", state="online")), retain=True,
        )
        for number in range(40)
    ]  # fmt: skip
    assert drive(connection, lambda: all(one.state == "acked" for one in sent), 20)
    connection.close()
    ended = desk("list", "--broker", broker.settings().url)
    assert ended.code == 1
    assert "max_queued_messages" in ended.err


@pytest.mark.parametrize("rules", ["topic read #", "topic write #"])
def test_a_broker_that_forbids_it_is_said(
    desk: Desk, start_broker: Callable[..., Mosquitto], tmp_path: Path, rules: str
) -> None:
    access = tmp_path / "access"
    access.write_text(f"{rules}\n")
    broker = start_broker(f"allow_anonymous true\nacl_file {access}")
    ended = desk("list", "--broker", broker.settings().url)
    assert ended.code == 1
    assert "allow operators to read and write boardfit/v1/plant/#" in ended.err.replace("Allow", "allow")


def test_control_characters_of_a_board_never_reach_the_terminal(
    desk: Desk, broker: Mosquitto, simulate: Simulate
) -> None:
    simulate("pi-1", soc="\x1b[2J\u202eevil")
    for words in (("list",), ("show", "pi-1")):
        shown = desk(*words)
        assert shown.code == 0, shown.err
        assert not set(shown.out) & set("\x1b\u202e")
        assert "evil" in shown.out


def test_watch_shows_what_changes_and_ends_with_ctrl_c(desk: Desk, simulate: Simulate) -> None:
    board = simulate("pi-1", groups=("line-2",))
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", *desk.words("watch", "group:line-2")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any("pi-1" in line and "online" in line for line in process.stdout)
    board.stop(goodbye=False)
    assert any("pi-1" in line and "offline" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_watch_is_a_live_table_on_a_terminal(desk: Desk, simulate: Simulate) -> None:
    simulate("pi-1").tell_task("digits", "net-int8", 0.004)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", *desk.words("watch")], cwd=ROOT, stdout=slave, stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "30"},
    )  # fmt: skip
    os.close(slave)
    shown = ""
    while "1 board, 1 online" not in shown:
        shown += os.read(master, 65536).decode(errors="replace")
    assert "digits → net-int8" in shown
    process.send_signal(signal.SIGINT)
    with suppress(OSError):  # the terminal's end
        while os.read(master, 65536):
            pass
    os.close(master)
    assert process.wait(60) == 0
