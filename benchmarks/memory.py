"""Memory as boardfit reports it, beside an observer outside of it and beside the usual instruments.

    python benchmarks/memory.py [--runs 20] [--spikes 30] [--spread 10] [--json | --markdown]

- *agreement*: each run is watched by another process, which reads the kernel's own peak (VmHWM, and that of the
  worker's memory cgroup where it has one) until the worker is gone. The ratio is boardfit's figure over the observer's.
- *spikes*: a model whose loading makes a tensor of 32 MiB out of constants and drops it again. Caught is at least 95 %
  of it above what stays; a poller of the resident set with a period of 10 ms looks at the same runs.
- *spread*: the greatest less the least of the model's own memory over runs of one model.
- *limit*: a model that wants 16 GiB; its worker has to die alone.
- Usual instruments: ``ru_maxrss`` of a child of a parent of 400 MB, polling, ``tracemalloc`` around the same model.

Nothing here is a time, so a busy machine changes no verdict: only a poller fares better, as a spike lasts longer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.clock import SystemClock  # noqa: E402
from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, EngineFacts, MemoryFacts, OsFacts  # noqa: E402
from agent.core.manifest import Candidate, Manifest, TargetRef  # noqa: E402
from agent.core.measurement import Measurement, OperatingPoint  # noqa: E402
from agent.core.ports import ProcessMemory  # noqa: E402
from agent.device.board import Board  # noqa: E402
from agent.device.root import SysRoot  # noqa: E402
from agent.measure.bench import measure_one  # noqa: E402
from agent.measure.settings import MeasureSettings  # noqa: E402
from benchmarks.table import render  # noqa: E402
from benchmarks.zoo.files import artifact  # noqa: E402

MODELS = (artifact("mobilenet_v1-w050-onnx-f32"), artifact("mobilenet_v1-w025-tflite-f32"))
SETTINGS = MeasureSettings(min_runs=20, min_time_s=0.05, max_time_s=0.5, contended="flag")
SPIKE_BYTES = 32 << 20  # of which the engine has two for a moment; about 30 ms long on a calm core
CAUGHT = 0.95
AGREEMENT, SPREAD_BYTES, AGENT_BYTES = 0.02, 1e6, 1e6

# Reads one worker from outside until it is gone. VmHWM only rises between two resets, so the last reading is the peak.
OUTSIDE = r"""
import json, sys, time
pid = int(sys.argv[1])
def read(path):
    try:
        with open(path) as file: return file.read()
    except OSError: return ""
def status():
    fields = dict(line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":" in line)
    return {k: int(fields[k].split()[0]) * 1024 for k in ("VmHWM", "VmRSS") if k in fields}
def group_file():
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        number, names, path = line.split(":", 2)
        if "boardfit-worker-" in path and "memory" in names.split(","):
            return f"/sys/fs/cgroup/memory{path}/memory.max_usage_in_bytes"
        if "boardfit-worker-" in path and not names:
            return f"/sys/fs/cgroup{path}/memory.peak"
group, seen = group_file(), {"import_hwm": status().get("VmHWM", 0), "hwm": 0, "polled": 0, "group": None, "series": []}
print("ready", flush=True)
next_poll = 0.0
while now := status():
    seen["hwm"] = now["VmHWM"]  # the last one: the peak after the reset
    seen["series"].append((time.monotonic(), now["VmRSS"]))
    if time.monotonic() >= next_poll:
        next_poll = time.monotonic() + 0.01
        seen["polled"] = max(seen["polled"], now["VmRSS"])
    text = read(group) if group else ""
    seen["group"] = int(text) if text.strip().isdecimal() else seen["group"]
    time.sleep(0.002)
print(json.dumps(seen))
"""
MAXRSS = r"""
import resource, sys
text = open("/proc/self/status").read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, int(text.split("VmHWM:")[1].split()[0]) * 1024)
"""
FAT_PARENT = f"""
import subprocess, sys
ballast = b"x" * 400_000_000
subprocess.run([sys.executable, "-c", {MAXRSS!r}], check=True)
"""
TRACED = r"""
import sys, tracemalloc
import numpy, onnxruntime
def hwm(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
open("/proc/self/clear_refs", "w").write("5")
before = hwm()
tracemalloc.start()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
shape = [size if isinstance(size, int) else 1 for size in given.shape]
for _ in range(20): session.run(None, {given.name: numpy.zeros(shape, "float32")})
print(tracemalloc.get_traced_memory()[1], hwm() - before)
"""


class WatchedBoard(Board):
    """This machine; the first reading of a worker sets an outside observer on it."""

    def __init__(self) -> None:
        super().__init__(SysRoot(), clock=SystemClock())
        self._watcher: subprocess.Popen[str] | None = None

    def process_memory(self, pid: int) -> ProcessMemory | None:
        if self._watcher is None:
            command = [sys.executable, "-S", "-c", OUTSIDE, str(pid)]
            self._watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert self._watcher.stdout is not None
            self._watcher.stdout.readline()  # it has read the peak of the import, which is about to be reset
        return super().process_memory(pid)

    def seen(self) -> dict[str, Any]:
        """Return what the observer saw of the last worker."""
        assert self._watcher is not None
        said, _ = self._watcher.communicate()
        self._watcher = None
        found: dict[str, Any] = json.loads(said)
        return {**found, "peak": max(found["import_hwm"], found["hwm"])}


def measure(path: Path, board: Board, growth_bytes: int | None = None) -> Measurement:
    """Let boardfit measure a model file at one thread."""
    form = path.suffix.removeprefix(".")
    name, provider = ("onnxruntime", "CPUExecutionProvider") if form == "onnx" else ("ai-edge-litert", "XNNPACK")
    candidate = Candidate(
        manifest=Manifest(task="memory", name=path.stem, format=form, inputs=(), outputs=()),  # type: ignore[arg-type]
        target=TargetRef(path=path.name, sha256="0" * 64, length=path.stat().st_size),
    )
    facts = DeviceFacts(
        board=BoardIdentity(model=None, profile="generic", matched_on="nothing"),
        cpu=CpuFacts(architecture="", present=(0,), usable=tuple(sorted(os.sched_getaffinity(0)))),
        memory=MemoryFacts(total_bytes=1 << 40),
        os=OsFacts(),
        class_fingerprint="memory",
        engines=(EngineFacts(name=name, formats=(form,), version="", providers=(provider,), proven=True),),
    )
    settings = MeasureSettings(
        min_runs=SETTINGS.min_runs, min_time_s=SETTINGS.min_time_s, max_time_s=SETTINGS.max_time_s, contended="flag",
        memory_growth_bytes=growth_bytes,
    )  # fmt: skip
    point = OperatingPoint(engine=name, engine_version="", provider=provider, threads=1)
    return measure_one(
        candidate, point, path, None, None, facts=facts, board=board, clock=SystemClock(), settings=settings
    )


def agreement(runs: int, models: Sequence[Path] = MODELS) -> dict[str, Any]:
    """Compare the reported peaks with those that another process read, run by run, the models in turn."""
    board = WatchedBoard()
    ratios, groups, polled = [], [], []
    for number in range(runs):
        memory = measure(models[number % len(models)], board).memory
        seen = board.seen()
        assert memory is not None
        ratios.append(memory.admission_peak_bytes / seen["peak"])
        polled.append(seen["polled"] / seen["peak"])
        if memory.cgroup_peak_bytes is not None and seen["group"] is not None:
            groups.append(memory.cgroup_peak_bytes / seen["group"])
    return {
        "runs": runs,
        "within": sum(abs(ratio - 1) <= AGREEMENT for ratio in ratios),
        "ratios": ratios,
        "group_runs": len(groups),
        "group_within": sum(abs(ratio - 1) <= AGREEMENT for ratio in groups),
        "group_ratios": groups,
        "poller_ratios": polled,
    }


def spike_model(path: Path) -> Path:
    """A model whose constant part is a tensor of ``SPIKE_BYTES``, folded into its sum while the model is loaded."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("shape", TensorProto.INT64, [1], [SPIKE_BYTES // 4]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(nodes, "spike", values[:1], values[1:], initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def spikes(runs: int, folder: Path) -> dict[str, Any]:
    """Count how many runs of the spike each instrument saw."""
    board, path = WatchedBoard(), spike_model(folder / "spike.onnx")
    caught = seen_by_poller = 0
    held = []
    for _ in range(runs):
        memory, seen = measure(path, board).memory, board.seen()
        assert memory is not None and memory.model_peak_bytes is not None
        assert memory.model_steady_bytes is not None and memory.runtime_baseline_bytes is not None
        floor = memory.model_steady_bytes + CAUGHT * SPIKE_BYTES
        caught += memory.model_peak_bytes >= floor
        seen_by_poller += seen["polled"] - memory.runtime_baseline_bytes >= floor
        above = [at_s for at_s, rss in seen["series"] if rss - memory.runtime_baseline_bytes >= floor]
        held.append(above[-1] - above[0] if above else 0.0)
    return {"runs": runs, "caught": caught, "poller_10ms": seen_by_poller, "median_held_s": median(held)}


def spread(runs: int, model: Path = MODELS[0]) -> dict[str, Any]:
    """Return the spread of the model's own memory."""
    board = Board(SysRoot(), clock=SystemClock())
    own = [memory.model_peak_bytes for _ in range(runs) if (memory := measure(model, board).memory)]
    values = [value for value in own if value is not None]
    return {"runs": runs, "measured": len(values), "median": median(values), "spread": max(values) - min(values)}


def resident_bytes() -> int:
    """Return what this process, which is the agent here, has resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def over_limit(folder: Path) -> dict[str, Any]:
    """Let a worker go over its limit; the second time, so that what the first one made us import does not count."""
    from tests.measure.models import memory_bomb  # the test suite's; it wants 16 GiB at its first run

    board, path = Board(SysRoot(), clock=SystemClock()), memory_bomb(folder / "bomb.onnx")
    measure(path, board, 256 << 20)
    before = resident_bytes()
    result = measure(path, board, 256 << 20)
    moved = abs(resident_bytes() - before)
    return {
        "verdict": result.verdict, "reason": result.reason, "agent_moved": moved,
        "by_group": "memory_group" in result.confinement,
    }  # fmt: skip


def instruments(model: Path = MODELS[0]) -> dict[str, float]:
    """Return what the usual instruments say over what is so."""

    def two(*command: str) -> float:
        said = subprocess.run([sys.executable, "-c", *command], check=True, capture_output=True, text=True).stdout
        claimed, true = map(int, said.split())
        return claimed / true

    return {"ru_maxrss": two(FAT_PARENT), "tracemalloc": two(TRACED, str(model))}


def rows(found: dict[str, Any]) -> list[tuple[str, str, str, bool | None]]:
    """Return a row each: what, goal, found, and whether it is met; None where nothing was promised."""
    agree, spike, own, limit, usual = (found[k] for k in ("agreement", "spikes", "spread", "limit", "instruments"))
    worst = max(agree["ratios"], key=lambda ratio: abs(ratio - 1))
    group = f"{agree['group_within']} of {agree['group_runs']}" if agree["group_runs"] else "no group of its own here"
    how = "cgroup limit" if limit["by_group"] else "RLIMIT_AS"
    alone = limit["verdict"] == "out_of_memory" and limit["agent_moved"] <= AGENT_BYTES
    polled = median(agree["poller_ratios"])
    return [
        ("admission peak over an outside observer's", "0.98..1.02 in all",
         f"{agree['within']} of {agree['runs']}, worst {worst:.4f}", agree["within"] == agree["runs"]),
        ("peak of the worker's cgroup over the observer's", "0.98..1.02 in all", group,
         agree["group_within"] == agree["group_runs"] if agree["group_runs"] else None),
        ("spikes of 32 MiB and more caught", "all", f"{spike['caught']} of {spike['runs']}",
         spike["caught"] == spike["runs"]),
        ("the same by polling each 10 ms", "", f"{spike['poller_10ms']} of {spike['runs']}", None),
        ("spread of the model's own memory", "≤ 1 MB",
         f"{own['spread'] / 1e6:.2f} of {own['median'] / 1e6:.1f} MB, {own['runs']} runs",
         own["spread"] <= SPREAD_BYTES and own["measured"] == own["runs"]),
        (f"a worker over its limit ({how})", "dies alone",
         f"{limit['verdict']}, agent moved {limit['agent_moved'] / 1e6:.2f} MB", alone),
        ("ru_maxrss over VmHWM, parent of 400 MB", "", f"{usual['ru_maxrss']:.1f}", None),
        ("tracemalloc's peak over the growth of VmHWM", "", f"{usual['tracemalloc']:.3f}", None),
        ("polling each 10 ms over VmHWM", "", f"{polled:.3f}", None),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="boardfit's memory figures beside an outside observer's")
    parser.add_argument("--runs", type=int, default=20, help="runs beside the observer (default: %(default)s)")
    parser.add_argument("--spikes", type=int, default=30, help="runs of the spike (default: %(default)s)")
    parser.add_argument("--spread", type=int, default=10, help="runs for the spread (default: %(default)s)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the table for the README")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="boardfit-memory-") as folder:
        found: dict[str, Any] = {
            "agreement": agreement(options.runs),
            "spikes": spikes(options.spikes, Path(folder)),
            "spread": spread(options.spread),
            "limit": over_limit(Path(folder)),
            "instruments": instruments(),
        }
    table = rows(found)
    missed = any(met is False for *_, met in table)
    if options.json:
        print(json.dumps({"schema": "boardfit.memory-benchmark/1", "missed": missed, **found}, indent=1))
        return int(missed)
    said = {True: "met", False: "missed", None: ""}
    body = [[what, goal, shown, said[met]] for what, goal, shown, met in table]
    print(render(("figure", "goal", "found", ""), body, markdown=options.markdown, left=4))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"
    print(f"\n{machine}; onnxruntime {version('onnxruntime')}, ai-edge-litert {version('ai-edge-litert')}.")
    print(f"The spikes were held for {found['spikes']['median_held_s'] * 1e3:.0f} ms (median, seen each 2 ms).")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
