"""Several real children at once: what counts, what is seen of all of them, and what ends the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.combination import JointMeasurement
from agent.core.measurement import OperatingPoint
from agent.core.ports import MappedMemory, together_bytes
from agent.device.memory import read_mapped
from agent.device.root import SysRoot
from agent.measure.settings import MeasureSettings
from agent.measure.together import Member, measure_together
from tests.measure.board import RealClock, ScriptedMeter, TestBoard
from tests.measure.models import ONNX_POINT, candidate, endless_loop, facts, identity_classifier

ROOT = SysRoot()


class JointBoard(TestBoard):
    """Real memory of real processes; ``blind`` is a kernel without smaps."""

    __test__ = False

    def __init__(self, *, blind: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self.blind = blind

    def mapped_memory(self, pid: int) -> MappedMemory | None:
        return None if self.blind else read_mapped(ROOT, pid)


def member(path: Path, task: str, point: OperatingPoint = ONNX_POINT) -> Member:
    return Member(candidate(path, task=task), point, path)


def run(members: list[Member], board: JointBoard | None = None, **more: Any) -> JointMeasurement | None:
    settings = {"contended": "flag", "min_runs": 20, "max_time_s": 5.0, "deadline_s": 60.0}
    return measure_together(
        members, facts=facts(), board=board or JointBoard(), clock=RealClock(),
        settings=MeasureSettings(**(settings | more.pop("settings", {}))), window_s=0.6, **more,
    )  # fmt: skip


@pytest.fixture
def two(tmp_path: Path) -> list[Member]:
    path = identity_classifier(tmp_path / "m.onnx")
    return [member(path, "digits"), member(path, "words")]


def test_two_run_at_once_and_each_has_its_own_figures(two: list[Member]) -> None:
    shares = iter((0.7, 0.25))  # the first is from before the window
    found = run(two, JointBoard(meter=ScriptedMeter([3.0])), others=lambda: next(shares), bounded=(0.5,))
    assert found is not None
    assert (found.verdict, found.reason) == ("ok", None)
    assert [one.task for one in found.members] == ["digits", "words"]
    for one in found.members:
        assert one.n >= 20
        assert one.latency_p50_s is not None
        assert one.latency_p50_s.high is not None
        assert one.latency_p95_s is not None
        assert 0 < one.latency_p50_s.value <= one.latency_p95_s.value
        assert one.throughput_per_s is not None
        assert one.memory_bytes is not None
        assert one.peak_bytes is not None
    peaks = [one.peak_bytes or 0 for one in found.members]
    assert found.memory_bytes is not None
    # Both have the same engine mapped: together they have less than twice what one has, and more than one alone.
    assert max(peaks) < found.memory_bytes < sum(peaks)
    assert found.memory_method is not None
    assert "smaps" in found.memory_method
    assert found.power_mean_w is not None
    assert found.power_mean_w.value == pytest.approx(3.0)
    assert (found.power_source, found.power_scope, found.power_reason) == ("simulated", "board", None)
    assert found.others_share == 0.25
    assert found.window_s is not None
    assert found.window_s >= 0.6
    assert found.key == msgspec.structs.replace(found, members=found.members[::-1]).key
    assert msgspec.json.decode(msgspec.json.encode(found), type=JointMeasurement) == found


def test_what_the_kernel_does_not_share_out_is_counted_for_each(two: list[Member]) -> None:
    found = run(two, JointBoard(blind=True))
    assert found is not None
    assert found.memory_bytes is not None
    assert found.memory_bytes >= max(one.peak_bytes or 0 for one in found.members) * 1.5
    assert found.memory_method is not None
    assert "VmRSS" in found.memory_method
    assert (found.power_mean_w, found.power_reason) == (None, "the test board has no power meter")


def test_other_work_voids_the_figures_where_it_is_refused(two: list[Member]) -> None:
    found = run(two, others=lambda: 0.4, settings={"contended": "refuse"})
    assert found is not None
    assert (found.verdict, found.reason) == ("contended", "other work used 40% of the processors meanwhile")


def test_one_that_cannot_be_loaded_is_named_and_ends_it(two: list[Member], tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_bytes(b"nonsense")
    found = run([two[0], member(tmp_path / "n.onnx", "words")])
    assert found is not None
    assert found.verdict == "load_failed"
    assert found.reason is not None
    assert found.reason.startswith("words: the model is refused")
    assert [one.latency_p95_s for one in found.members] == [None, None]
    assert found.memory_bytes is None


def test_a_stop_leaves_nothing(two: list[Member]) -> None:
    assert run(two, stop=lambda: True) is None


def test_one_that_never_comes_back_ends_it_at_its_deadline(tmp_path: Path) -> None:
    members = [
        member(identity_classifier(tmp_path / "m.onnx"), "digits"),
        member(endless_loop(tmp_path / "n.onnx"), "x"),
    ]
    clock = Hurried()
    found = measure_together(
        members, facts=facts(), board=JointBoard(), clock=clock, window_s=0.2,
        settings=MeasureSettings(contended="flag", deadline_s=5.0, max_time_s=1.0),
    )  # fmt: skip
    assert found is not None
    assert found.verdict == "timeout"
    assert (found.reason or "").startswith("x: it was still")


class Hurried(RealClock):
    """A clock on which half an hour passes in ten seconds."""

    def monotonic_s(self) -> float:
        return super().monotonic_s() * 30


SMAPS = """55d0c2e00000-55d0c2e10000 r-xp 00002000 08:01 1234                       /usr/lib/libengine.so.1 (deleted)
Size:                 64 kB
KernelPageSize:        4 kB
Rss:                  40 kB
Pss:                  10 kB
Anonymous:             8 kB
Swap:                  4 kB
VmFlags: rd ex mr mw me
55d0c3000000-55d0c3021000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                 100 kB
Anonymous:           100 kB
Swap:                  0 kB
"""


def test_a_file_that_several_have_counts_once_however_many_others_have_it(tmp_path: Path) -> None:
    for pid in (7, 8):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "smaps").write_text(SMAPS)
    one, other = (read_mapped(SysRoot(tmp_path), pid) for pid in (7, 8))
    assert one is not None
    assert other is not None
    assert one.own_bytes == (8 + 4 + 100) * 1024
    assert list(one.files.values()) == [(32 * 1024, 64 * 1024)]
    assert together_bytes([one]) == (112 + 32) * 1024
    assert together_bytes([one, other]) == (224 + 64) * 1024  # 32 each, and the range is 64 long
    assert together_bytes([one, other, one]) == (336 + 64) * 1024
    assert read_mapped(SysRoot(tmp_path), 9) is None
