"""Whole measurements with real processes and real engines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.core.facts import EngineFacts
from agent.core.manifest import Needs, TensorSpec
from agent.core.measurement import ContextReading, Measurement
from agent.core.ports import ProgressEvent
from agent.measure.handing import FileRefusedError, open_files
from agent.measure.plan import plan
from agent.measure.protocol import Job
from agent.measure.settings import IN_FULL, MeasureSettings
from benchmarks.make_tiny_models import tflite_bytes
from benchmarks.zoo.files import artifact
from tests.measure import models
from tests.measure.board import ScriptedMeter, TestBoard

Measure = Callable[..., Measurement]
Fault = Callable[[str], None]


def test_every_part_of_a_good_measurement_is_there(measure: Measure, tmp_path: Path) -> None:
    labels = np.arange(40) % models.CLASSES
    path = models.identity_classifier(tmp_path / "good.onnx")
    evaluation = models.pack(tmp_path / "pack.npz", models.one_hot(labels), labels)
    events: list[ProgressEvent] = []
    result = measure(path, evaluation=evaluation, progress=events.append, agent_version="1", boot_id="b")
    assert (result.verdict, result.reason) == ("ok", None)
    assert result.latency is not None and result.latency.n >= 20
    assert result.latency.min_s <= result.latency.p50_s.value <= result.latency.max_s
    assert len(result.latencies_s) == result.latency.n
    assert result.memory is not None and result.memory.model_peak_bytes is not None
    assert result.memory.admission_peak_bytes > (result.memory.runtime_baseline_bytes or 0) > 10_000_000
    assert result.accuracy is not None
    assert (result.accuracy.correct, result.accuracy.n, result.accuracy.correct_bits) == (40, 40, "ff" * 5)
    assert (result.power, result.power_reason) == (None, "the test board has no power meter")
    assert result.placement is not None and result.placement.actual == ("CPUExecutionProvider",)
    assert {"session", "parent_death_signal", "no_new_privs", "rlimit_core"} <= set(result.confinement)
    assert (result.load_time_s or 0) > 0
    assert (result.first_inference_s or 0) > 0
    assert events and all(event.stage == "run" for event in events)


def test_the_agent_never_imports_numpy_or_an_engine() -> None:
    code = (
        "import sys, agent.measure.bench, agent.measure.plan, agent.runtimes.prove\n"
        "assert not {'numpy', 'onnxruntime', 'ai_edge_litert', 'tflite_runtime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_measurement_in_full_is_timed_in_several_processes(measure: Measure, tmp_path: Path) -> None:
    labels = np.arange(40) % models.CLASSES
    path = models.identity_classifier(tmp_path / "good.onnx")
    evaluation = models.pack(tmp_path / "pack.npz", models.one_hot(labels), labels)
    board = TestBoard()
    result = measure(path, evaluation=evaluation, stakes=IN_FULL, settings={"processes": 3}, board=board)
    assert (result.verdict, result.reason) == ("ok", None)
    assert result.latency is not None and len(result.latency.process_n) == 3
    assert sum(result.latency.process_n) == result.latency.n == len(result.latencies_s)
    assert result.accuracy is not None and result.accuracy.correct == 40  # judged once
    assert measure(path, settings={"processes": 3}).latency.process_n == ()


def test_a_model_that_fails_in_its_second_process_has_failed(measure: Measure, fault: Fault, tmp_path: Path) -> None:
    spawned = tmp_path / "spawned"
    fault(f"import os, pathlib\nn = pathlib.Path({str(spawned)!r})\nn.open('a').write('.')\n"
          "len(n.read_text()) == 2 and os.abort()\n")  # fmt: skip
    result = measure(models.identity_classifier(tmp_path / "m.onnx"), stakes=IN_FULL, settings={"processes": 3})
    assert result.verdict == "crashed"
    assert result.reason is not None and result.reason.startswith("in process 2 of 3: it died by SIGABRT")
    assert len(spawned.read_text()) == 2


def test_models_with_several_inputs_and_outputs_run(measure: Measure, tmp_path: Path) -> None:
    result = measure(models.two_inputs(tmp_path / "two.onnx"))
    assert (result.verdict, result.reason) == ("ok", None)


def test_an_endless_model_is_a_timeout(measure: Measure, tmp_path: Path) -> None:
    result = measure(models.endless_loop(tmp_path / "loop.onnx"), settings={"deadline_s": 4.0})
    assert result.verdict == "timeout"
    assert result.reason == "it was still its first inference when 4 s were over"
    assert result.latency is None


def test_a_model_that_would_kill_the_engine_is_refused_before_it_sees_it(measure: Measure, tmp_path: Path) -> None:
    result = measure(models.function_chain(tmp_path / "chain.onnx"))
    assert result.verdict == "load_failed"
    assert result.reason == "the model is refused: its functions call each other in a circle, or in a chain of over 64"


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "folder", "fifo", "absent"])
def test_a_file_that_is_not_plainly_one_is_refused(tmp_path: Path, kind: str) -> None:
    """``measure_one`` follows links on its way to the file; what is then handed over is no link and has one name."""
    path, other = tmp_path / "model.onnx", models.identity_classifier(tmp_path / "other.onnx")
    if kind == "symbolic link":
        path.symlink_to(other)
    elif kind == "hard link":
        path.hardlink_to(other)
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileRefusedError, match=r"^model\.onnx "):
        open_files(Job(model=str(path), point=models.ONNX_POINT, golden=str(other)))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_model_that_reads_outside_its_tensors_never_passes(measure: Measure, tmp_path: Path) -> None:
    path = tmp_path / "outside.tflite"
    path.write_bytes(tflite_bytes(input_index=-1))
    result = measure(path)
    # What lies before the tensors decides: mostly a segmentation fault, sometimes a refusal.
    assert result.verdict in {"crashed", "load_failed"}


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_garbage_is_refused_at_load(measure: Measure, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    result = measure(path)
    assert result.verdict == "load_failed"
    assert result.reason is not None and result.reason.startswith("the model is refused: ")


def test_a_memory_bomb_meets_its_cap(measure: Measure, tmp_path: Path) -> None:
    path = models.memory_bomb(tmp_path / "bomb.onnx")
    result = measure(path, settings={"memory_growth_bytes": 1 << 30, "deadline_s": 60.0})
    assert result.verdict == "out_of_memory"
    assert result.reason is not None and "memory ran out" in result.reason


def test_a_pack_of_another_shape_is_named_with_both_shapes(measure: Measure, tmp_path: Path) -> None:
    path = models.identity_classifier(tmp_path / "m.onnx")
    evaluation = models.pack(tmp_path / "p.npz", np.zeros((5, 3), np.float32), np.zeros(5, np.int64))
    result = measure(path, evaluation=evaluation, manifest={"inputs": ()})
    assert result.verdict == "bad_evaluation"
    assert result.reason == "the pack's samples are float32 [3] and the model's input x takes float32 [4]"
    assert result.accuracy is None
    assert result.accuracy_reason == result.reason


def test_accuracy_that_would_take_too_long_is_left_out_with_the_reason(measure: Measure, tmp_path: Path) -> None:
    labels = np.zeros(1000, np.int64)
    path = models.identity_classifier(tmp_path / "m.onnx")
    evaluation = models.pack(tmp_path / "p.npz", models.one_hot(labels), labels)
    result = measure(path, evaluation=evaluation, settings={"accuracy_time_s": 1e-6})
    assert (result.verdict, result.accuracy) == ("ok", None)
    assert result.accuracy_reason is not None and "1000 samples would take about" in result.accuracy_reason


def test_the_label_offset_is_taken_off(measure: Measure, tmp_path: Path) -> None:
    labels = np.array([0, 1, 2])
    path = models.identity_classifier(tmp_path / "m.onnx")
    evaluation = models.pack(tmp_path / "p.npz", models.one_hot(labels + 1), labels)
    result = measure(path, evaluation=evaluation, manifest={"label_offset": 1})
    assert result.accuracy is not None and result.accuracy.correct == 3


def golden(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_golden_outputs_decide(measure: Measure, tmp_path: Path) -> None:
    path = models.two_inputs(tmp_path / "two.onnx")
    a, b = np.ones((2, 4), np.float32), np.full((2, 1, 4), 3, np.float32)
    right = {"input_0": a, "input_1": b, "output_0": a + 3, "output_1": a - 3}
    good = measure(path, golden=golden(tmp_path / "good.npz", **right))
    assert good.verdict == "ok"
    assert good.golden is not None and good.golden.passed is True and good.golden.max_abs_error == 0.0
    wrong = measure(path, golden=golden(tmp_path / "wrong.npz", **{**right, "output_1": a}))
    assert wrong.verdict == "wrong_output"
    assert wrong.reason == "golden outputs differ by 3 where 1e-06 is allowed"
    loose = {**right, "output_1": a, "tolerance": np.array([0.0, 4.0]), "schema": np.array("boardfit.golden/1")}
    assert measure(path, golden=golden(tmp_path / "loose.npz", **loose)).verdict == "ok"
    strict = {**loose, "tolerance": np.array([4.0, 2.0])}
    assert measure(path, golden=golden(tmp_path / "strict.npz", **strict)).verdict == "wrong_output"
    unfit = measure(path, golden=golden(tmp_path / "unfit.npz", input_0=a))
    assert unfit.verdict == "ok"
    assert unfit.golden is not None and (unfit.golden.checked, unfit.golden.passed) == (False, None)


def test_a_flood_on_standard_error_neither_blocks_nor_fills_the_agent(
    measure: Measure, fault: Fault, tmp_path: Path
) -> None:
    fault(
        "import os\n"
        "from agent.runtimes.onnx import OnnxRuntime\n"
        "load = OnnxRuntime.load.__func__\n"
        "def noisy(cls, path, point):\n"
        "    for _ in range(200): os.write(2, b'x' * 65536)\n"
        "    os.write(2, b'\\nlast words\\n')\n"
        "    if 'fatal' in os.readlink(path): os.abort()\n"
        "    return load(cls, path, point)\n"
        "OnnxRuntime.load = classmethod(noisy)\n"
    )
    assert measure(models.identity_classifier(tmp_path / "calm.onnx")).verdict == "ok"
    result = measure(models.identity_classifier(tmp_path / "fatal.onnx"))
    assert (result.verdict, result.reason) == ("crashed", "it died by SIGABRT while loading the model: last words")


def test_a_stop_leaves_nothing_behind(measure: Measure, fault: Fault, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The grandchild says that it is here through a fifo, and holds it open as long as it lives.
    fault(
        "import os, signal, sys\n"
        "if any('agent.measure.worker' in word for word in sys.orig_argv):\n"
        "    if os.fork() == 0:\n"
        f"        fd = os.open({str(fifo)!r}, os.O_WRONLY)\n"
        "        os.write(fd, b'here')\n"
        "        signal.pause()\n"
    )
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    seen = bytearray()

    def stop() -> bool:
        with contextlib.suppress(BlockingIOError):
            seen.extend(os.read(reader, 100))
        return bool(seen)

    result = measure(models.endless_loop(tmp_path / "loop.onnx"), stop=stop)
    assert (result.verdict, result.reason) == ("interrupted", "a stop was asked for")
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b"", "end of file only comes when the grandchild is dead"
    os.close(reader)


def test_a_busy_machine_gives_no_number(measure: Measure, fault: Fault, tmp_path: Path) -> None:
    fault(
        "import sys\n"
        "if any('agent.measure.worker' in word for word in sys.orig_argv):\n"
        "    import agent.measure.exercise as exercise, itertools\n"
        "    counter = itertools.count(0, 10**12)\n"
        "    exercise.own_wait_ns = lambda: next(counter)\n"
    )
    path = models.identity_classifier(tmp_path / "m.onnx")
    settings = {"contended": "refuse", "contended_patience_s": 0.05}
    result = measure(path, settings=settings)
    assert (result.verdict, result.latency) == ("contended", None)
    assert result.latencies_dropped > 0
    assert result.context is not None and "contended" in result.context.flags
    assert result.memory is not None


def test_a_worker_killed_from_outside_is_told_apart_from_the_kernels_killer(
    measure: Measure, fault: Fault, tmp_path: Path
) -> None:
    fault(
        "import os, signal\n"
        "from agent.runtimes.onnx import OnnxRuntime\n"
        "OnnxRuntime.run = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = measure(models.identity_classifier(tmp_path / "m.onnx"))
    assert result.verdict == "crashed"
    assert result.reason is not None and "killed from outside (SIGKILL) while its first inference" in result.reason


def test_power_and_energy_come_from_a_window_of_their_own(measure: Measure, tmp_path: Path) -> None:
    meter = ScriptedMeter([2.0] * 26 + [5.0])  # 26 readings: half a second of idle at 0.02 s, both ends
    result = measure(models.identity_classifier(tmp_path / "m.onnx"), board=TestBoard(meter=meter))
    power = result.power
    assert power is not None
    assert (power.source, power.scope, power.idle_w) == ("simulated", "board", pytest.approx(2.0))
    assert power.mean_w.value == pytest.approx(5.0)
    assert power.energy_per_inference_j is not None
    assert power.energy_per_inference_j.value == pytest.approx(3.0 * power.window_s / power.inferences)
    assert power.samples >= 10
    assert result.power_reason is None


def test_conditions_before_and_after_are_kept(measure: Measure, tmp_path: Path) -> None:
    contexts = [
        ContextReading(monotonic_s=0.0, temperature_celsius=50.0, throttle_counts={"thermal": 1}),
        ContextReading(monotonic_s=1.0, temperature_celsius=85.0, throttle_counts={"thermal": 2}),
    ]
    result = measure(models.identity_classifier(tmp_path / "m.onnx"), board=TestBoard(contexts=contexts))
    assert result.context is not None
    assert (result.context.before, result.context.after) == tuple(contexts)
    assert {"hot", "throttled"} <= set(result.context.flags)


def test_what_cannot_run_here_is_not_started(measure: Measure, tmp_path: Path) -> None:
    path = models.identity_classifier(tmp_path / "m.onnx")
    refused = measure(path, candidate=models.candidate(path, needs=Needs(isa=("asimddp",))))
    assert (refused.verdict, refused.reason) == ("refused", "this processor (x86_64) lacks asimddp")
    engines = (EngineFacts(name="onnxruntime", formats=("onnx",), reason="not installed"),)
    missing = measure(path, facts=models.facts(engines=engines))
    assert missing.verdict == "engine_missing"
    assert missing.reason == "no engine for onnx is proven here (onnxruntime: not installed)"
    assert missing.confinement == ()


def test_a_dynamic_dimension_that_nobody_fixes_is_a_clear_refusal(measure: Measure, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T"])
    result_info = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T"])
    path = models._save(
        tmp_path / "dynamic.onnx", [helper.make_node("Identity", ["x"], ["y"])], [value], [result_info], []
    )
    refused = measure(path)
    assert refused.verdict == "load_failed"
    assert (
        refused.reason is not None and "input x has shape [-1, -1] and the manifest does not fix it" in refused.reason
    )
    fixed = {"inputs": (TensorSpec(name="x", dtype="float32", shape=(-1, 7)),)}
    assert measure(path, manifest=fixed).verdict == "ok"


def test_a_neighbour_on_the_same_core_is_noticed(measure: Measure, tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    path = models.identity_classifier(tmp_path / "m.onnx")
    hog = subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
    try:
        os.sched_setaffinity(0, {core})
        result = measure(
            path,
            settings={
                "contended": "refuse",
                "block_s": 0.1,
                "min_time_s": 0.5,
                "max_runs": 100_000,
                "contended_patience_s": 0.5,
            },
        )
    finally:
        os.sched_setaffinity(0, allowed)
        hog.kill()
        hog.wait()
    assert result.context is not None and "contended" in result.context.flags
    assert result.latencies_dropped > 0


def test_a_worker_dies_with_the_agent(fault: Fault, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    fault(
        "import os, sys\n"
        "if 'agent.measure.worker' in sys.orig_argv:\n"
        f"    os.write(os.open({str(fifo)!r}, os.O_WRONLY), b'here')\n"
    )
    model = models.endless_loop(tmp_path / "loop.onnx")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from agent.measure.bench import measure_one\n"
        "from tests.measure import models\n"
        "from tests.measure.board import RealClock, TestBoard\n"
        "path = Path(sys.argv[1])\n"
        "measure_one(models.candidate(path), models.ONNX_POINT, path, None, None, facts=models.facts(),\n"
        "            board=TestBoard(), clock=RealClock())\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "fault"), str(root)])}
    agent = subprocess.Popen([sys.executable, "-c", code, str(model)], cwd=root, env=environment)
    reader = os.open(fifo, os.O_RDONLY)
    assert os.read(reader, 4) == b"here"
    # Only a worker that has confined itself is bound to its agent: it is once the engine's library is mapped.
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    while "onnxruntime" not in Path(f"/proc/{children.read_text().split()[0]}/maps").read_text():
        os.sched_yield()
    agent.kill()
    agent.wait()
    assert os.read(reader, 1) == b"", "end of file only comes when the worker is dead"
    os.close(reader)


def test_where_xnnpack_takes_nothing_the_point_is_that_of_the_builtin_kernels(measure: Measure) -> None:
    """Its figures are those of other kernels; under XNNPACK's name they would be believed of XNNPACK."""
    pytest.importorskip("tflite_runtime", reason="tflite-runtime: no wheel for this Python")
    path = artifact("mobilenet_v1-w025-tflite-static-int8")
    asked = msgspec.structs.replace(models.LITERT_POINT, engine="tflite-runtime")
    result = measure(path, point=asked)
    assert (result.verdict, result.reason) == ("ok", None)
    assert result.placement is not None
    if result.placement.nodes_delegated:
        pytest.skip("tflite-runtime: its XNNPACK takes int8 nodes on this processor")
    assert result.point == msgspec.structs.replace(asked, provider="builtin")
    assert (result.placement.actual, result.placement.fallback) == (("builtin",), False)
    again = measure(path, point=result.point)  # it can be asked for by its own name
    assert again.placement is not None
    assert (again.verdict, again.point, again.placement.actual) == ("ok", result.point, ("builtin",))
    now = datetime.now(timezone.utc)
    runs = plan([models.candidate(path)], models.facts(), MeasureSettings(threads=(1,)), [result], now)
    assert {run.point.engine: run.stored is result for run in runs} == {"ai-edge-litert": False, "tflite-runtime": True}
