"""One recorded dump: a model loaded as the worker loads it, and every run of it with its queue wait. See ``record.py``.

    python -m benchmarks.replay.child        one JSON job on stdin; JSON lines on stdout

The worker tells the runs it kept and no others. So dumps are taken here, by a loop of the same shape as the worker's:
same engine classes, same input, between two clock readings the run alone, collector off. Runs come in pieces of at
least ``piece_s`` with the run-queue wait of each, so that a player can put them together to blocks of any length.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from agent.core.measurement import OperatingPoint
from agent.measure.confine import limit_address_space  # noqa: F401 - imported as the worker does, so that spawn costs the same
from agent.measure.exercise import own_wait_ns
from agent.measure.protocol import Job
from agent.runtimes.table import Runtime, runtime_class


def say(**fields: Any) -> None:
    sys.stdout.write(json.dumps({**fields, "monotonic_s": time.monotonic()}) + "\n")
    sys.stdout.flush()


def wait_ns() -> int:
    """Return the process's queue wait; a single look fails where a thread ends.

    Raises: SystemExit: the kernel tells none.
    """
    for _ in range(5):
        found = own_wait_ns()
        if found is not None:
            return found
    raise SystemExit("this kernel tells no run-queue wait: no bank can be recorded here")


def record(runtime: Runtime, job: dict[str, Any]) -> dict[str, Any]:
    """Return all runs and the pieces they stood in: [runs, waited ns, wall ns]."""
    clock, run = time.perf_counter_ns, runtime.run
    latencies: list[int] = []
    pieces: list[tuple[int, int, int]] = []
    piece_ns, least, most = int(job["piece_s"] * 1e9), job["min_runs"], job["max_runs"]
    gc.collect()
    gc.disable()
    begin = clock()
    while True:
        taken: list[int] = []
        waited_before, start = wait_ns(), clock()
        end = start + piece_ns
        while True:
            before = clock()
            run()
            after = clock()
            taken.append(after - before)
            if after >= end:
                break
        wall = clock() - start
        waited = wait_ns()
        latencies += taken
        pieces.append((len(taken), max(0, waited - waited_before), wall))
        spent = (clock() - begin) / 1e9
        enough = len(latencies) >= least and spent >= job["min_s"]
        if enough or len(latencies) >= most or spent >= job["max_s"]:
            return {"latencies_ns": latencies, "pieces": pieces}


def main() -> int:
    job = json.loads(sys.stdin.readline())
    point = msgspec.convert(job["point"], OperatingPoint)
    engine = runtime_class(point.engine)
    from agent.measure import evaluate as feeding

    say(event="imported")
    begin = time.perf_counter()
    runtime = engine.load(Path(job["model"]), point)
    shapes = feeding.resolve_shapes(runtime, Job(model=job["model"], point=point))
    runtime.resize(shapes)
    load_s = time.perf_counter() - begin
    for index, shape in enumerate(shapes):
        runtime.set_input(index, feeding.synthetic(runtime.inputs[index], shape))
    begin = time.perf_counter()
    runtime.run()
    say(event="first_run", load_s=load_s, first_s=time.perf_counter() - begin)
    say(event="recorded", **record(runtime, job))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
