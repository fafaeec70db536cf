"""The agent's socket: who is listened to, how much of it, and what is not taken."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.core.deployment import SOCKET_NAME
from agent.core.live import MAX_REPORT_BYTES, LiveReport
from agent.watch.receiver import BURST, MOST_AT_ONCE, MOST_PER_S, PER_S, Receiver
from tests.device.conftest import StillClock

REPORT = LiveReport(task="digits", release="a" * 64, period_s=1.0, requests=3, latency=((500, 2), (501, 1)))


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def receiver(tmp_path: Path, clock: StillClock) -> Iterator[Receiver]:
    made = Receiver(tmp_path, clock)
    assert made.open() is not None
    yield made
    made.close()
    assert not (tmp_path / SOCKET_NAME).exists()


@pytest.fixture
def sender(tmp_path: Path, receiver: Receiver) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.connect(str(tmp_path / SOCKET_NAME))
        end.setblocking(False)
        yield end


def test_a_report_comes_with_the_process_that_sent_it(receiver: Receiver, sender: socket.socket) -> None:
    sender.send(msgspec.json.encode(REPORT))
    (told,), more = receiver.take()
    assert (told.sender, told.report, told.asked, more) == (os.getpid(), REPORT, None, False)
    assert receiver.take() == ([], False)


def test_only_user_and_group_may_tell(tmp_path: Path, receiver: Receiver) -> None:
    assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_cannot_tell(tmp_path: Path, receiver: Receiver) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "try: s.sendto(b'{}', sys.argv[1])\n"
        "except PermissionError: print('refused')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / SOCKET_NAME)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "refused\n"
    assert receiver.take() == ([], False)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[]", b"{}", b'{"schema": "boardfit.live/2"}', b"[" * 9000,
        msgspec.json.encode(REPORT).replace(b'"period_s":1.0', b'"period_s":1e9'),
        msgspec.json.encode(REPORT).replace(b'"requests":3', b'"requests":4'),
        msgspec.json.encode(REPORT).replace(b'"requests":3', b'"requests":-3'),
        msgspec.json.encode(REPORT).replace(b"[500,2]", b"[502,2]"),
        msgspec.json.encode(REPORT).replace(b"[501,1]", b"[1888,1]"),
        msgspec.json.encode(REPORT).replace(b"aaa", b"AAA"),
        b" " * (MAX_REPORT_BYTES + 1),
    ],
)  # fmt: skip
def test_what_is_no_report_is_counted_and_dropped(receiver: Receiver, sender: socket.socket, data: bytes) -> None:
    sender.send(data)
    assert receiver.take() == ([], False)
    assert sum(receiver.refused.values()) == 1


def test_the_longest_honest_report_is_taken(receiver: Receiver, sender: socket.socket) -> None:
    whole = tuple((index, 500_000) for index in range(1888))
    data = msgspec.json.encode(msgspec.structs.replace(REPORT, requests=1888 * 500_000, latency=whole))
    assert len(data) <= MAX_REPORT_BYTES
    sender.send(data)
    assert receiver.take()[0][0].report is not None


def test_a_process_that_tells_too_often_is_heard_at_its_rate(
    receiver: Receiver, sender: socket.socket, clock: StillClock
) -> None:
    heard = 0
    for _ in range(30):
        sender.send(msgspec.json.encode(REPORT))
        heard += len(receiver.take()[0])
    assert heard == BURST
    assert receiver.refused == {"too often": 30 - BURST}
    clock.now_s += 1.0
    for _ in range(30):
        sender.send(msgspec.json.encode(REPORT))
        heard += len(receiver.take()[0])
    assert heard == BURST + PER_S


def test_a_flood_is_read_up_to_a_rate_and_then_rests(
    receiver: Receiver, sender: socket.socket, clock: StillClock
) -> None:
    def reads() -> int:
        count = 0
        while True:
            sender.send(b"{}")
            if receiver.take()[1]:
                return count
            count += 1

    assert reads() == MOST_AT_ONCE
    clock.now_s += 1.0
    assert reads() == MOST_PER_S
    assert len(receiver._buckets) == 1


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path, clock: StillClock) -> None:
    first = Receiver(tmp_path, clock)
    first.open()
    second = Receiver(tmp_path, clock)
    assert second.open() is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(msgspec.json.encode(REPORT), str(tmp_path / SOCKET_NAME))
    assert len(second.take()[0]) == 1
    second.close()


def test_where_it_cannot_listen_the_agent_goes_on(tmp_path: Path, clock: StillClock) -> None:
    made = Receiver(tmp_path / "nowhere", clock)
    assert made.open() is None
    made.close()
