"""What it costs an application to lend requests to a candidate (docs/client.md), and what where nobody asks.

    python benchmarks/lending_overhead.py [--seconds 10] [--rate 20] [--json | --markdown]

One process, one thread that calls without pause, through ``agent.client``, on a model of the bundled zoo. A pair is a
second in which an agent's socket asks ``--rate`` times and reads what is lent (in another process, as the agent does),
and one in which it asks nothing; which comes first changes. Shown is the median over the pairs of the difference of
their mean call times, with its 95 % interval; and the median of the calls that were copied beside that of those that
were not, also of the calling thread's own processor time, which a busy machine leaves alone. The check that every call
pays for (``armed`` is false) is timed alone, in a loop less the empty loop.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import socket
import struct
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import fmean, median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402

from agent.client import Model, open_model  # noqa: E402
from agent.core.shadow import SOCKET_NAME, Ask, Sample  # noqa: E402
from agent.core.statistics import percentile_interval  # noqa: E402
from benchmarks.table import render  # noqa: E402
from tests.client.places import ONNX, TASK, deploy  # noqa: E402

_LOOPS = 1_000_000
_OPEN_S = 30.0


def ask(folder: Path, release: str, rate: float, on: Event) -> None:
    """Be the agent: ask so often a second while ``on`` is set, and read what comes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(folder / "deploy" / TASK / SOCKET_NAME))
        server.listen()
        end, _ = server.accept()
        with end, end.makefile("rb") as given:
            end.sendall(msgspec.json.encode(Ask(task=TASK, release=release)) + b"\n")
            while True:
                on.wait()
                end.sendall(b".")
                prefix = given.read(4)
                if len(prefix) < 4:
                    return
                sample = msgspec.json.decode(given.read(struct.unpack(">I", prefix)[0]), type=Sample)
                given.read(sample.length)
                time.sleep(1.0 / rate)


def second(model: Model, x: np.ndarray) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Call for a second. Returns: seconds, and those of this thread's processor, of calls not copied, and of copied."""
    plain, copied = [], []
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        before = model._lender._slot
        begin, used = time.perf_counter(), time.thread_time()
        model(x)
        taken = (time.perf_counter() - begin, time.thread_time() - used)
        (plain if model._lender._slot is before else copied).append(taken)
    return plain, copied


def check_ns(model: Model) -> float:
    """Return what looking at ``armed`` takes, in nanoseconds."""

    def empty() -> int:
        begin = time.perf_counter_ns()
        for _ in range(_LOOPS):
            pass
        return time.perf_counter_ns() - begin

    def look() -> int:
        begin = time.perf_counter_ns()
        for _ in range(_LOOPS):
            if model._lender.armed:
                pass
        return time.perf_counter_ns() - begin

    return (min(look() for _ in range(5)) - min(empty() for _ in range(5))) / _LOOPS


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two")
    parser.add_argument("--rate", type=float, default=20.0, help="requests asked for a second")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    on = multiprocessing.get_context("spawn").Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document = deploy(folder, ONNX)
        x = np.random.default_rng(1).random((1, 1, 32, 32), np.float32)
        agent = multiprocessing.get_context("spawn").Process(
            target=ask, args=(folder, document.release, options.rate, on), daemon=True
        )
        agent.start()
        with open_model(TASK, state_dir=folder) as model:
            check = check_ns(model)
            on.set()
            begin = time.monotonic()
            while not model._lender.armed:
                if time.monotonic() - begin > _OPEN_S:
                    raise SystemExit("nobody asked")
                time.sleep(0.01)
            differences, alone, copied = [], [], []
            for number in range(max(2, round(options.seconds))):
                found = {}
                for asked in (True, False) if number % 2 else (False, True):
                    (on.set if asked else on.clear)()
                    found[asked] = second(model, x)
                both = [one for one, _ in (*found[True][0], *found[True][1])]
                differences.append((fmean(both) - fmean(one for one, _ in found[False][0])) * 1e6)
                alone += found[False][0]
                copied += found[True][1]
        agent.terminate()
        agent.join()
    interval = percentile_interval(differences, 0.5)
    low, high = (math.nan if bound is None else bound for bound in (interval.low, interval.high))
    times, cpu = (
        [(median(one[place] for one in some) * 1e6 if some else None) for some in (alone, copied)] for place in (0, 1)
    )
    result = {
        "check_ns": check, "call_us": times[0], "rate_per_s": options.rate, "mean_us": median(differences),
        "mean_low_us": low, "mean_high_us": high, "copied_calls": len(copied), "copied_call_us": times[1],
        "call_processor_us": cpu[0], "copied_call_processor_us": cpu[1],
    }  # fmt: skip
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    rows = [(key, f"{value:.3g}" if isinstance(value, float) else str(value)) for key, value in result.items()]
    print(render(("figure", "value"), rows, markdown=options.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
