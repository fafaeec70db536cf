"""What feeds the board, what others do with its processor, and what a process writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.device.mains import read_on_mains
from agent.device.neighbours import Ticks, others_share, read_ticks
from agent.device.root import SysRoot
from agent.device.written import read_written_bytes


def supply(root: Path, name: str, **files: str) -> None:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text + "\n")


CHARGER = {"type": "Mains", "online": "1"}
UNPLUGGED = {"type": "USB", "online": "0"}
MOUSE = {"type": "Battery", "scope": "Device", "status": "Discharging"}


@pytest.mark.parametrize(
    ("supplies", "on_mains"),
    [
        ([], None),
        ([MOUSE], None),
        ([CHARGER], True),
        ([UNPLUGGED], None),
        ([CHARGER, {"type": "Battery", "status": "Discharging"}], True),
        ([UNPLUGGED, {"type": "Battery", "status": "Discharging"}], False),
        ([{"type": "Battery", "status": "Discharging"}], False),
        ([{"type": "Battery", "status": "Charging"}], True),
        ([{"type": "Battery", "status": "Not charging"}, MOUSE], True),
        ([{"type": "Battery", "status": "Unknown"}], None),
        ([{"type": "UPS", "online": "1"}], None),
    ],
)
def test_what_feeds_the_board(tmp_path: Path, supplies: list[dict[str, str]], on_mains: bool | None) -> None:
    for number, files in enumerate(supplies):
        supply(tmp_path, f"s{number}", **files)
    assert read_on_mains(SysRoot(tmp_path)) is on_mains


def process(root: Path, pid: int, parent: int, times: str) -> None:
    (root / f"proc/{pid}").mkdir(parents=True, exist_ok=True)
    text = f"{pid} (a) b) S {parent} 1 1 0 -1 4194304 100 0 0 0 {times} 20 0 1 0 5 0 0\n"
    (root / f"proc/{pid}/stat").write_text(text)


def test_everybody_else_s_share_leaves_out_a_whole_tree(tmp_path: Path) -> None:
    root = SysRoot(tmp_path)
    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc/stat"
    stat.write_text("cpu  100 0 0 900 0 0 0 0 0 0\n")
    process(tmp_path, 10, 1, "10 0 0 0")
    process(tmp_path, 11, 10, "20 5 0 0")
    process(tmp_path, 12, 11, "30 0 0 0")
    process(tmp_path, 99, 1, "500 0 0 0")
    before = read_ticks(root, 10)
    assert before == Ticks(total=1000, busy=100, ours=65)
    # 12 ended and 11 took leave of it: its 40 ticks in all are 11's children's now
    (tmp_path / "proc/12/stat").unlink()
    process(tmp_path, 11, 10, "20 5 40 0")
    stat.write_text("cpu  160 0 0 1020 20 0 0 0 0 0\n")
    after = read_ticks(root, 10)
    assert after == Ticks(total=1200, busy=160, ours=75)
    assert others_share(before, after) == pytest.approx(50 / 200)
    assert others_share(after, after) is None
    assert others_share(None, after) is None


def test_the_running_kernel_counts_our_children_among_ours() -> None:
    before = read_ticks(SysRoot(), os.getpid())
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = read_ticks(SysRoot(), os.getpid())
    assert before is not None
    assert after is not None
    assert after.ours - before.ours >= 25  # of 30 at 100 Hz


def test_what_a_child_wrote_is_ours_once_it_has_ended(tmp_path: Path) -> None:
    before = read_written_bytes(SysRoot(), os.getpid())
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    if before is None or kind.strip() == "tmpfs":
        pytest.skip("this kernel counts no I/O of a process, or temporary files lie in memory")
    code = "import os, sys\nwith open(sys.argv[1], 'wb') as f:\n f.write(b'x' * 2_000_000)\n os.fsync(f.fileno())"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=True)
    after = read_written_bytes(SysRoot(), os.getpid())
    assert after is not None
    assert after - before >= 2_000_000
    assert read_written_bytes(SysRoot(tmp_path), 1) is None
