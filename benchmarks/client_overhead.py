"""What `agent.client` costs an application: each inference beside calling the engine directly, and the pause of a swap.

    python benchmarks/client_overhead.py [--seconds 10] [--swaps 20] [--json | --markdown]

Overhead: one process, one thread. A pair is a block of calls through the client and a block of direct calls of the
very engine on the very file (`InferenceSession.run`, or set_tensor, invoke, get_tensor), one right after the other;
which comes first changes from pair to pair. The client's thread looks for releases and tells an agent's socket as ever.
Shown is the median over the pairs of the difference of their medians, in microseconds and as a share of 1 ms, with its
95 % interval (binomial, from the ranks). The models are of the bundled zoo.

Swap pause: calls follow each other without pause while `current` is moved between two releases. A pause is the longest
time between the ends of two successive calls from 100 ms before a swap until 100 ms after it, less one inference (the
median of direct calls): what an application waits longer than it would. Beside it the same windows where nothing was
swapped, which is what the machine does by itself. Shown are the median and the 99th percentile (of few swaps: the
longest). Loading takes a core for a while; with a single core calls share it.

Exit status 1 where the upper end of the overhead's interval is above 1 % of 1 ms, the pauses' 99th percentile is above
one inference more than that without swaps, or a request failed.
"""

from __future__ import annotations

import argparse
import json
import math
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from agent.client import Model, open_model  # noqa: E402
from agent.core.deployment import SOCKET_NAME  # noqa: E402
from agent.core.statistics import percentile_interval  # noqa: E402
from agent.deploy.store import CURRENT, ReleaseStore  # noqa: E402
from benchmarks.table import render  # noqa: E402
from benchmarks.zoo.files import artifact  # noqa: E402
from tests.client.places import TASK, point_of, stage  # noqa: E402

MODELS = ("mobilenet_v1-w025-onnx-f32", "mobilenet_v1-w025-tflite-f32")
SWAP_BETWEEN = {MODELS[0]: "mobilenet_v1-w025-onnx-static-int8", MODELS[1]: "mobilenet_v1-w025-tflite-static-int8"}
BLOCK = 50  # calls
MOST_US = 10.0  # 1 % of 1 ms
AROUND_S = 0.1

Call = Callable[[], object]


class Overhead(NamedTuple):
    """What one call through the client takes longer, in microseconds, and the median of a direct call in seconds."""

    median_us: float
    low_us: float
    high_us: float
    direct_s: float
    pairs: int


class Pauses(NamedTuple):
    """Longest waits beyond one inference, in seconds: around swaps, and where nothing was swapped."""

    swaps: tuple[float, ...]
    still: tuple[float, ...]
    calls: int
    failed: int


def direct(name: str, x: Any) -> Call:
    """Return what an application without the client would call."""
    point, path = point_of(name), str(artifact(name))
    if point.engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=[point.provider])
        return lambda: session.run(None, {"input": x})[0]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    given, got = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call() -> object:
        interpreter.set_tensor(given, x)
        interpreter.invoke()
        return interpreter.get_tensor(got)

    return call


def block(call: Call) -> float:
    """Return the median time of a block of calls in seconds."""
    taken = []
    for _ in range(BLOCK):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def overhead(model: Model, plain: Call, x: Any, seconds: float) -> Overhead:
    """Take pairs of blocks for so long."""
    differences, directs = [], []

    def through() -> object:
        return model(x)

    for call in (through, plain):
        block(call)
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(differences) < 10:
        order = (through, plain) if len(differences) % 2 else (plain, through)
        found = {call: block(call) for call in order}
        differences.append((found[through] - found[plain]) * 1e6)
        directs.append(found[plain])
    interval = percentile_interval(differences, 0.5)
    low, high = (math.nan if bound is None else bound for bound in (interval.low, interval.high))
    return Overhead(median(differences), low, high, median(directs), len(differences))


def pauses(model: Model, x: Any, one_s: float, *, releases: tuple[str, str], store: ReleaseStore, swaps: int) -> Pauses:
    """Call without end in this thread while another moves the link; then look at the times around each swap."""
    ends: list[float] = []
    swapped: list[float] = []
    moved = threading.Event()

    def move() -> None:
        for number in range(swaps):
            before = model.swaps
            store.set_link(TASK, CURRENT, releases[(number + 1) % 2])
            while model.swaps == before:
                time.sleep(0.001)
            swapped.append(time.perf_counter())
            time.sleep(4 * AROUND_S)
        moved.set()

    mover = threading.Thread(target=move)
    mover.start()
    failed = 0
    while not moved.is_set():
        try:
            model(x)
        except Exception as error:  # noqa: BLE001 - counted, and makes the run fail
            failed += 1
            print(error, file=sys.stderr)
        ends.append(time.perf_counter())
    mover.join()
    times = np.asarray(ends)

    def longest(at: float) -> float:
        some = times[(times >= at - AROUND_S) & (times <= at + AROUND_S)]
        return max(0.0, float(np.diff(some).max()) - one_s) if len(some) > 1 else 2 * AROUND_S

    return Pauses(
        tuple(longest(at) for at in swapped), tuple(longest(at + 2.5 * AROUND_S) for at in swapped), len(ends), failed
    )


def measure(name: str, seconds: float, swaps: int, folder: Path) -> tuple[Overhead, Pauses]:
    """Measure one engine."""
    documents = [stage(folder, one) for one in (name, SWAP_BETWEEN[name])]
    store = ReleaseStore(folder / "deploy")
    store.set_link(TASK, CURRENT, documents[0].release)
    x = np.random.default_rng(1).random(documents[0].inputs[0].shape, np.float32)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent, open_model(TASK, state_dir=folder) as model:
        agent.bind(str(folder / SOCKET_NAME))
        listener = threading.Thread(target=_listen, args=(agent,), daemon=True)
        listener.start()
        cost = overhead(model, direct(name, x), x, seconds)
        releases = (documents[0].release, documents[1].release)
        pause = pauses(model, x, cost.direct_s, releases=releases, store=store, swaps=swaps)
        assert model.telling.sent > 0, model.telling
    return cost, pause


def _listen(agent: socket.socket) -> None:
    while agent.fileno() >= 0:
        try:
            agent.recv(1 << 16)
        except OSError:
            return


def p99(values: tuple[float, ...]) -> float:
    """Return the 99th percentile; of fewer than a hundred values it is the longest."""
    return sorted(values)[max(0, math.ceil(0.99 * len(values)) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of pairs, for each engine")
    parser.add_argument("--swaps", type=int, default=20)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    found = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(name, arguments.seconds, arguments.swaps, Path(folder))
    good = True
    rows = []
    for name, (cost, pause) in found.items():
        met = cost.high_us <= MOST_US and p99(pause.swaps) <= p99(pause.still) + cost.direct_s and not pause.failed
        good = good and met
        rows.append((
            name, f"{cost.direct_s * 1e6:.0f}", f"{cost.median_us:.1f} ({cost.low_us:.1f} to {cost.high_us:.1f})",
            f"{cost.median_us / 10:.2f} %", f"{cost.pairs}", f"{len(pause.swaps)}", f"{pause.failed} of {pause.calls}",
            f"{median(pause.swaps) * 1e3:.2f}, {p99(pause.swaps) * 1e3:.2f}",
            f"{median(pause.still) * 1e3:.2f}, {p99(pause.still) * 1e3:.2f}", "met" if met else "missed",
        ))  # fmt: skip
    if arguments.json:
        print(json.dumps({name: {"overhead": c._asdict(), "pauses": p._asdict()} for name, (c, p) in found.items()}))
    else:
        heads = (
            "model", "direct, µs", "more through the client, µs (95 %)", "of 1 ms", "pairs", "swaps", "failed",
            "swap pause p50, p99, ms", "without a swap", "",
        )  # fmt: skip
        print(render(heads, rows, markdown=arguments.markdown))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
