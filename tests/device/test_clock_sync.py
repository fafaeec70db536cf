"""Who says that the wall clock is synchronised."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from agent.device import clock_sync
from agent.device.clock_sync import ClockSync
from agent.device.root import SysRoot


class Hands:
    """A clock whose hands are turned by hand."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


def test_timesyncds_flag_decides_where_it_runs(tmp_path: Path) -> None:
    sync = ClockSync(SysRoot(tmp_path), Hands())  # type: ignore[arg-type]
    assert sync.read() is None  # a copied tree without the service
    folder = tmp_path / "run/systemd/timesync"
    folder.mkdir(parents=True)
    assert sync.read() is False
    (folder / "synchronized").touch()
    assert sync.read() is True


def test_the_kernel_is_asked_every_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    hands = Hands()

    def apart(work: object) -> bytes:
        asked.append(hands.now_s)
        return b"yes" if len(asked) == 1 else b"no"

    monkeypatch.setattr(clock_sync, "done_apart", apart)
    monkeypatch.setattr(clock_sync, "_TIMESYNCD", "nowhere")
    sync = ClockSync(SysRoot(Path("/")), hands)  # type: ignore[arg-type]
    answers = []
    for hands.now_s in (0.0, 599.0, 600.0, 900.0):
        answers.append(sync.read())
    assert (answers, asked) == ([True, True, False, False], [0.0, 600.0])


def test_the_kernels_answer_is_the_status_of_adjtimex() -> None:
    answer = clock_sync._ask_kernel()
    libc = ctypes.CDLL(None, use_errno=True)
    state = (ctypes.c_char * 208)()
    returned = libc.adjtimex(ctypes.byref(state))
    if returned < 0:
        assert answer == b"unknown"
    else:
        assert (answer == b"no") is bool(int.from_bytes(state.raw[40:44], "little") & 0x40)
