"""The worker of a shadow run: opens the candidate as an application would, and answers each request it is given.

    python -m agent.client.understudy ANSWERS_FD PARENT_PID        started by ``agent.watch.shadow`` only

Rules:
- Confined like a measuring child, and behind everybody else: it opens the model at nice 19, and whoever started it then
  puts it at idle priority, which it may not do by itself any more.
- A request goes the way it would go after the switch: the application's own input through ``Loaded.infer``, so that
  what the candidate does not take is found here. State is reset before each.
- Inputs come on standard input, one at a time, and are kept no longer than their answer takes.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.client.loaded import Loaded
from agent.core.deployment import Deployment
from agent.core.histogram import middle_s
from agent.core.shadow import MAX_HEADER_BYTES, Compared, Ready, Sample, Tensor, read_sample
from agent.errors import BoardfitError, InputError
from agent.measure.confine import confine, limit_address_space
from agent.measure.exercise import own_wait_ns
from agent.measure.protocol import Job
from agent.runtimes.structure import check_structure
from agent.runtimes.table import engine_row, runtime_class


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker is told, one line. ``job``: for its confinement; ``classifies``: compare classes."""

    job: Job
    document: Deployment
    incumbent_label_offset: int
    classifies: bool
    tolerance: float


def main(arguments: list[str]) -> int:
    """Work until standard input ends. Returns: 0, also where the model does not open, which is told."""
    answers, parent = int(arguments[0]), int(arguments[1])
    given = sys.stdin.buffer
    orders = msgspec.json.decode(given.readline(), type=Orders)
    with suppress(OSError):
        os.nice(19)
    confine(orders.job, parent)
    try:
        loaded = _opened(orders)
    except Exception as error:  # noqa: BLE001 - an engine's own, and each is the candidate's
        problem = error.problem if isinstance(error, BoardfitError) else " ".join(str(error).split())
        _say(answers, Ready(problem=problem[:300] or type(error).__name__))
        return 0
    _say(answers, Ready())
    while (frame := _next(given)) is not None:
        _say(answers, compare(loaded, orders, *frame))
    return 0


def _opened(orders: Orders) -> Loaded:
    point = orders.document.point
    check_structure(Path(orders.job.model), engine_row(point.engine).formats[0])
    runtime_class(point.engine)
    if orders.job.memory_growth_bytes is not None:
        limit_address_space(orders.job.memory_growth_bytes)
    loaded = Loaded(orders.document, Path(orders.job.model))
    loaded.warm()
    return loaded


def _say(answers: int, what: msgspec.Struct) -> None:
    os.write(answers, msgspec.json.encode(what) + b"\n")


def _next(given: BinaryIO) -> tuple[Sample, list[NDArray[Any]]] | None:
    prefix = given.read(4)
    if len(prefix) < 4:
        return None
    (length,) = struct.unpack(">I", prefix)
    sample = read_sample(given.read(min(length, MAX_HEADER_BYTES)))
    if isinstance(sample, str):
        return None
    return sample, [_array(one, given) for one in (*sample.inputs, *sample.outputs)]


def _array(one: Tensor, given: BinaryIO) -> NDArray[Any]:
    data = given.read(one.length)
    return np.frombuffer(data, np.dtype(one.dtype).newbyteorder("<")).reshape(one.shape)


def compare(loaded: Loaded, orders: Orders, sample: Sample, arrays: list[NDArray[Any]]) -> Compared:
    """Run one request and hold the answer against the incumbent's."""
    metric: Literal["top1", "relative_error"] = "top1" if orders.classifies else "relative_error"
    split = len(sample.inputs)
    fed, wanted = arrays[:split], arrays[split:]
    before, waited = list(loaded.counts), own_wait_ns()
    begin = time.perf_counter_ns()
    try:
        got = _answer(loaded, sample, fed)
    except BoardfitError as error:
        what = "it does not take what the application feeds" if isinstance(error, InputError) else "it failed"
        return Compared(agrees=False, metric=metric, problem=f"{what}: {error.problem}"[:240])
    spent_ns, now_waited = time.perf_counter_ns() - begin, own_wait_ns()
    waited_s = None if waited is None or now_waited is None else max(0, now_waited - waited) / 1e9
    off = largest_relative(got, wanted)
    agrees = off is not None and off <= orders.tolerance
    if orders.classifies:
        agrees = same_class(got[0], wanted[0], loaded.document.label_offset, orders.incumbent_label_offset)
    latency_s = _engine_s(before, loaded.counts, spent_ns)
    return Compared(agrees=agrees, metric=metric, rel_error=off, latency_s=latency_s, waited_s=waited_s)


def _answer(loaded: Loaded, sample: Sample, fed: list[NDArray[Any]]) -> list[NDArray[Any]]:
    if sample.kind == "images":
        from agent.runtimes.preprocess import apply_steps

        images = fed[0][..., None] if fed[0].ndim == 3 else fed[0]
        result = loaded.infer((apply_steps(loaded.document.preprocessing, images),), {})
    else:
        names = [one.name for one in sample.inputs]
        by_name = {name: one for name, one in zip(names, fed, strict=True) if name is not None}
        result = loaded.infer((), by_name) if by_name else loaded.infer(fed, {})
    if not isinstance(result, dict):
        return [np.asarray(result)]
    told = [one.name for one in sample.outputs]
    return [np.asarray(result[name]) for name in told if name in result] or [np.asarray(one) for one in result.values()]


def _engine_s(before: list[int], after: list[int], spent_ns: int) -> float:
    """Return the engine's call, from the histogram that counted it; the whole request bounds it."""
    changed = next((index for index, count in enumerate(after) if count != before[index]), None)
    return spent_ns / 1e9 if changed is None else min(spent_ns / 1e9, middle_s(changed))


def largest_relative(got: list[NDArray[Any]], wanted: list[NDArray[Any]]) -> float | None:
    """Return the largest difference over the largest magnitude of the wanted output; None: they cannot be compared."""
    worst = 0.0
    if len(got) != len(wanted):
        return None
    for one, other in zip(got, wanted, strict=True):
        if one.size != other.size:
            return None
        left, right = one.astype(np.float64).reshape(-1), other.astype(np.float64).reshape(-1)
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            return None
        scale = float(np.abs(right).max()) if right.size else 0.0
        off = float(np.abs(left - right).max()) if right.size else 0.0
        worst = max(worst, off / scale if scale > 0 else (0.0 if off == 0 else float("inf")))
    return worst if np.isfinite(worst) else None


def same_class(got: NDArray[Any], wanted: NDArray[Any], own_offset: int, other_offset: int) -> bool:
    """Whether every row names the same class."""
    rows = wanted.shape[0] if wanted.ndim > 1 else 1
    if got.size == 0 or got.size % rows or wanted.size % rows:
        return False
    own = got.reshape(rows, -1).argmax(axis=1) - own_offset
    other = wanted.reshape(rows, -1).argmax(axis=1) - other_offset
    return bool((own == other).all())


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # engines' destructors hang or crash at exit, and nobody waits for them
