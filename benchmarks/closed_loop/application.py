"""The application: 50 requests a second through ``agent.client``, each due at a fixed time whatever became of the last.

    python -m benchmarks.closed_loop.application STATE_DIR INPUTS.npz SECONDS RATE SEED TELL_S OUT.npz

It says ``ready`` once the model is open, reads the moment of the first request (monotonic seconds, the same for every
process of a machine) from standard input, and writes what became of each request when the last one was served. One
thread serves them in their order; none is left out, so what one request takes too long the next ones wait. Latency is
counted from when a request was due (coordinated omission: G. Tene), so the waiting is in it.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from agent.client import Model, open_model

TASK = "digits"
CHECK_S = 0.1


def serve(model: Model, inputs: Any, labels: Any, dues_s: Any, order: Any) -> dict[str, Any]:
    """Serve every request. Returns: columns, one row for each; times are monotonic seconds."""
    count = len(dues_s)
    begins, ends = np.zeros(count), np.zeros(count)
    correct, failed = np.zeros(count, bool), np.zeros(count, bool)
    served_by, errors = [""] * count, []
    bursts = [np.ascontiguousarray(inputs[index : index + 1]) for index in range(len(inputs))]
    for number in range(count):
        due = dues_s[number]
        while (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        index = order[number % len(order)]
        served_by[number] = model.deployment.candidate
        begins[number] = time.monotonic()
        try:
            answer = model(bursts[index])
        except Exception as error:  # noqa: BLE001 - counted, and shown
            failed[number] = True
            errors.append(str(error))
            ends[number] = time.monotonic()
            continue
        ends[number] = time.monotonic()
        correct[number] = int(np.argmax(answer)) == labels[index]
    return {
        "due_s": dues_s, "begin_s": begins, "end_s": ends, "correct": correct, "failed": failed,
        "served_by": np.array(served_by), "errors": np.array(errors or [""]),
    }  # fmt: skip


def main() -> int:
    state, inputs, seconds, rate, seed, tell_s, out = sys.argv[1:]
    pack = np.load(inputs, allow_pickle=False)
    order = np.random.default_rng(int(seed)).permutation(len(pack["labels"]))
    with open_model(TASK, state_dir=state, check_s=CHECK_S, tell_s=float(tell_s)) as model:
        for index in order[:5]:
            model(pack["inputs"][index : index + 1])
        gc.collect()
        gc.freeze()
        print("ready", flush=True)
        start = float(sys.stdin.readline())
        dues = start + np.arange(int(float(seconds) * float(rate))) / float(rate)
        served = serve(model, pack["inputs"], pack["labels"], dues, order)
        told = (model.telling.sent, model.telling.lost)
    np.savez(Path(out), told=np.array(told), **served)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
