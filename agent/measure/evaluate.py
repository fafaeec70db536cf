"""Feeding a model: synthetic input for timing, a pack for accuracy, golden data for proof. In the child only.

Rules:
- A pack's sample fits when its shape is the model's input shape but for dimensions of 1; the same number of elements in
  another order (NHWC for NCHW) does not fit.
- A model's state is reset before every sample: samples are independent, and golden outputs were made that way.
- Accuracy is of the whole pack, or of as many samples, in random order, as decide its limit; a pack that would take
  too long gives a reason.
- Golden data that cannot be compared is "not checked" with a reason; data that differs is "not passed".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from agent.core import golden
from agent.core.manifest import Quantization, TensorSpec
from agent.core.measurement import GoldenResult, Proof
from agent.core.sequential import ProportionTest
from agent.errors import ModelError
from agent.measure.protocol import AccuracyTest, Evaluated, Job
from agent.runtimes.table import Runtime

Array: TypeAlias = NDArray[Any]
KEPT_BITS = 1 << 16  # samples whose single results are kept
_CHUNK = 64  # samples preprocessed at once: bounds memory
_TICK_S = 0.2
_TRIAL_RATIO = 0.05  # of the time allowed, spent before the whole pack's duration is judged: a first sample is slow
_PATTERN = 4096


class PackError(Exception):
    """The evaluation pack does not fit the model; the text is one sentence."""


def resolve_shapes(runtime: Runtime, job: Job) -> tuple[tuple[int, ...], ...]:
    """Give every dynamic dimension a size: the batch for the first, the manifest's for the others.

    Raises: ValueError: a dimension is dynamic in the model and in the manifest.
    """
    by_name = {spec.name: spec.shape for spec in job.inputs}
    shapes = []
    for index, spec in enumerate(runtime.inputs):
        told = by_name.get(spec.name) or (job.inputs[index].shape if index < len(job.inputs) else ())
        shape = [
            told[axis] if size < 0 and axis < len(told) and len(told) == len(spec.shape) else size
            for axis, size in enumerate(spec.shape)
        ]
        if shape and (spec.shape[0] < 0 or job.point.batch > 1):
            shape[0] = job.point.batch
        if any(size < 0 for size in shape):
            raise ValueError(f"input {spec.name} has shape {list(spec.shape)} and the manifest does not fix it")
        shapes.append(tuple(shape))
    return tuple(shapes)


def synthetic(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Return an input of a repeated pattern: 0 to 1 for floats, the whole range for 8 bits, 0 and 1 for wider integers.

    The same on every board; wider integers are mostly indices, so they stay small. Raises: ValueError: no such dtype.
    """
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise ValueError(f"input {spec.name} is of type {spec.dtype}, which cannot be filled") from error
    pattern = (np.arange(_PATTERN, dtype=np.uint32) * np.uint32(2654435761)) >> np.uint32(8)
    if dtype.kind == "f":
        source = (pattern / np.float32(1 << 24)).astype(dtype)
    elif dtype.itemsize == 1 and dtype.kind in "iu":
        source = (pattern & 0xFF).astype(np.uint8).view(dtype)
    elif dtype.kind in "iub":
        source = (pattern & 1).astype(dtype)
    else:
        raise ValueError(f"input {spec.name} is of type {spec.dtype}, which cannot be filled")
    array: Array = np.empty(shape, dtype)
    flat = array.reshape(-1)
    whole = flat.size // _PATTERN * _PATTERN
    flat[:whole].reshape(-1, _PATTERN)[:] = source
    flat[whole:] = source[: flat.size - whole]
    return array


def quantize(values: Array, dtype: np.dtype[Any], quantization: Quantization) -> Array:
    """Return round(values / scale) + zero_point, clipped to the integer type; ties to even, as the engines do."""
    limits: Any = np.iinfo(dtype)
    steps = np.rint(values / np.float32(quantization.scale)) + quantization.zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _read_npz(path: str, names: tuple[str, ...]) -> dict[str, Array]:
    """Read arrays without pickles. Raises: PackError: not an .npz, or an array is missing."""
    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise PackError(f"the pack has no array {', '.join(missing)}; it has {', '.join(archive.files)}")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, BadZipFile, AttributeError, EOFError) as error:
        raise PackError(f"the pack cannot be read: {error}") from error


class Pack:
    """An evaluation pack that was checked against a model's first input."""

    def __init__(self, runtime: Runtime, shape: tuple[int, ...], job: Job) -> None:
        arrays = _read_npz(job.evaluation or "", ("inputs", "labels"))
        self.inputs, self.labels = arrays["inputs"], arrays["labels"]
        self._steps = job.preprocessing
        self._spec = runtime.inputs[0]
        self._dtype = np.dtype(self._spec.dtype)
        self._quantization = self._spec.quantization or (job.inputs[0].quantization if job.inputs else None)
        self._shape = shape
        if len(runtime.inputs) != 1:
            raise PackError(f"the model has {len(runtime.inputs)} inputs and a pack feeds one")
        n = self.inputs.shape[0] if self.inputs.ndim else 0
        if self.labels.ndim != 1 or self.labels.dtype.kind not in "iu" or len(self.labels) != n or n == 0:
            raise PackError(
                f"the pack's labels are {self.labels.dtype} {list(self.labels.shape)} and its inputs "
                f"{self.inputs.dtype} {list(self.inputs.shape)}; int64 [N] and [N, ...] are meant"
            )
        self._images = bool(self._steps) and self.inputs.dtype == np.uint8 and self.inputs.ndim in {3, 4}
        if not self._images:
            self._check(self.inputs)

    def _check(self, samples: Array) -> None:
        """Check dtype and shape of samples against the model's input. Raises: PackError."""
        wanted, got = self._shape[1:], samples.shape[1:]
        if _squeezed(got) != _squeezed(wanted):
            raise PackError(
                f"the pack's samples are {samples.dtype} {list(got)} and the model's input {self._spec.name} "
                f"takes {self._spec.dtype} {list(wanted)}"
            )
        quantizable = self._dtype.kind in "iu" and self._quantization is not None
        if samples.dtype != self._dtype and not (
            samples.dtype == np.float32 and (quantizable or self._dtype == np.float16)
        ):
            raise PackError(
                f"the pack's samples are {samples.dtype} {list(got)} and the model's input {self._spec.name} "
                f"takes {self._spec.dtype} {list(wanted)} without a scale to quantize by"
            )

    def batches(self, order: Array) -> Iterator[tuple[Array, Array]]:
        """Yield (input of the model's shape and dtype, numbers of its samples) in the given order of sample numbers.

        The last batch is filled up by repeating a sample.
        """
        size = self._shape[0]
        for begin in range(0, len(order), _CHUNK * size):
            chosen = order[begin : begin + _CHUNK * size]
            samples = self._converted(self.inputs[chosen])
            for offset in range(0, len(samples), size):
                batch, numbers = samples[offset : offset + size], chosen[offset : offset + size]
                if len(batch) < size:
                    batch = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
                yield np.ascontiguousarray(batch.reshape(self._shape)), numbers

    def _converted(self, samples: Array) -> Array:
        if self._images:
            images = samples[..., np.newaxis] if samples.ndim == 3 else samples
            try:
                samples = import_module("agent.runtimes.preprocess").apply_steps(self._steps, images)
            except ModelError as error:
                raise PackError(str(error)) from error
            self._check(samples)
        if samples.dtype == self._dtype:
            return samples
        if self._dtype.kind == "f":
            return samples.astype(self._dtype)
        assert self._quantization is not None
        return quantize(samples, self._dtype, self._quantization)


def evaluate(runtime: Runtime, shape: tuple[int, ...], job: Job, tick: Callable[[int, int], None]) -> Evaluated:
    """Return top-1 hits over the pack, or until its limit is decided: argmax of the first output less ``label_offset``.

    Raises: PackError: the pack does not fit the model.
    """
    pack = Pack(runtime, shape, job)
    n, done = len(pack.labels), 0
    hits = np.zeros(n, dtype=bool)
    judge = _Judge(job.accuracy_test)
    # Packs are often sorted by label, and a test needs samples in random order: the same one for every candidate.
    order = np.random.default_rng(n).permutation(n) if job.accuracy_test is not None else np.arange(n)
    begin = last_tick = time.monotonic()
    for batch, numbers in pack.batches(order):
        runtime.reset()
        runtime.set_input(0, batch)
        runtime.run()
        output = runtime.output(0)
        if output.ndim == 0 or output.size % shape[0]:
            raise PackError(f"the model's first output {list(output.shape)} is no list of class scores")
        predicted = output.reshape(shape[0], -1).argmax(axis=1)[: len(numbers)] - job.label_offset
        hits[numbers] = predicted == pack.labels[numbers]
        done += len(numbers)
        if judge.take(hits[numbers]):
            break
        now = time.monotonic()
        expected = (now - begin) / done * n
        patience_s = job.accuracy_time_s if judge.may_end_early else _TRIAL_RATIO * job.accuracy_time_s
        if now - begin > patience_s and expected > job.accuracy_time_s:
            allowed = f"{job.accuracy_time_s:g} s are allowed"
            return Evaluated(reason=f"the pack's {n} samples would take about {expected:.0f} s; {allowed}")
        if now - last_tick >= _TICK_S:
            tick(done, n)
            last_tick = now
    bits = np.packbits(hits).tobytes().hex() if done == n <= KEPT_BITS else ""
    return Evaluated(n=done, pack_n=n, correct=int(hits.sum()), correct_bits=bits, proof=judge.proof())


class _Judge:
    """The limit on accuracy, if there is one, held against the samples as they come."""

    def __init__(self, asked: AccuracyTest | None) -> None:
        self._asked = asked
        self._test = ProportionTest(asked.limit) if asked is not None else None
        self.may_end_early = asked is not None and asked.may_stop_when_met

    def take(self, hits: Array) -> bool:
        """Take the next samples; tell whether the rest of them is not needed."""
        if self._test is None:
            return False
        for hit in hits.tolist():
            self._test.add(hit)
        return self._test.state == "missed" or (self._test.state == "met" and self.may_end_early)

    def proof(self) -> Proof | None:
        """Return what the test said, None without one."""
        if self._asked is None or self._test is None:
            return None
        return Proof(metric="accuracy_top1", limit=self._asked.limit, state=self._test.state, n=self._test.n)


def check_golden(runtime: Runtime, shapes: tuple[tuple[int, ...], ...], path: str) -> GoldenResult:
    """Run every golden input and compare every output within its tolerance.

    Returns: ``max_abs_error`` and ``tolerance`` of the output that uses most of its tolerance, in stored units, and
        ``max_rel_error`` of it, over the largest finite magnitude of that golden output.
    """
    try:
        arrays = _read_npz(path, ())
        schema = str(arrays.get(golden.SCHEMA_ARRAY, golden.SCHEMA))
        if schema != golden.SCHEMA:
            raise PackError(f"its schema is {schema:.60}, {golden.SCHEMA} is read here")
        feeds = [_golden_array(arrays, golden.input_array(i), spec) for i, spec in enumerate(runtime.inputs)]
        wanted = [_golden_array(arrays, golden.output_array(i), spec) for i, spec in enumerate(runtime.outputs)]
        tolerances = _tolerances(arrays, wanted)
        samples = {len(array) for array in (*feeds, *wanted)}
        if len(samples) != 1 or samples == {0}:
            raise PackError("the golden arrays have different numbers of samples, or none")
        for array, shape, spec in zip(feeds, shapes, runtime.inputs, strict=True):
            if _squeezed(array.shape[1:]) != _squeezed(shape):
                raise PackError(f"golden input {spec.name} is {list(array.shape[1:])}, the model takes {list(shape)}")
    except PackError as error:
        return GoldenResult(checked=False, passed=None, reason=f"golden data: {error}")
    worst = (-1.0, 0.0, 0.0, 0)  # share of the tolerance, error, tolerance, output
    count = samples.pop()
    samples_off = 0
    for sample in range(count):
        runtime.reset()
        for index, array in enumerate(feeds):
            runtime.set_input(index, np.ascontiguousarray(array[sample].reshape(shapes[index])))
        runtime.run()
        most = 0.0
        for index, array in enumerate(wanted):
            got = runtime.output(index)
            if got.size != array[sample].size:
                reason = f"output {index} has shape {list(got.shape)}, golden {list(array.shape[1:])}"
                return GoldenResult(checked=True, passed=False, reason=reason)
            off = largest_difference(got.reshape(-1), array[sample].reshape(-1))
            allowed = tolerances[index]
            share = off / allowed if allowed > 0 else (0.0 if off == 0 else float("inf"))
            most, worst = max(most, share), max(worst, (share, off, allowed, index))
        samples_off += most > 1.0
    share, off, allowed, output = worst
    passed = share <= 1.0
    text = None if passed else f"golden outputs differ by {off:.4g} where {allowed:.4g} is allowed"
    finite = off if np.isfinite(off) else None
    return GoldenResult(
        checked=True, passed=passed, max_abs_error=finite, tolerance=allowed, reason=text, samples=count,
        samples_off=samples_off, max_rel_error=None if finite is None else _relative(finite, wanted[output]),
    )  # fmt: skip


def _relative(off: float, wanted: Array) -> float | None:
    magnitudes = np.abs(wanted.astype(np.float64))
    finite = magnitudes[np.isfinite(magnitudes)]
    largest = float(finite.max()) if finite.size else 0.0
    return off / largest if largest > 0 else None


def _golden_array(arrays: dict[str, Array], name: str, spec: TensorSpec) -> Array:
    if name not in arrays:
        raise PackError(f"there is no array {name}")
    array = arrays[name]
    if array.dtype != np.dtype(spec.dtype) or array.ndim == 0:
        raise PackError(f"{name} is {array.dtype} {list(array.shape)}, the model has {spec.dtype}")
    return array


def _tolerances(arrays: dict[str, Array], wanted: list[Array]) -> list[float]:
    """Return the largest difference allowed for each output: the file's, else the default for its range."""
    stored = arrays.get(golden.TOLERANCE_ARRAY)
    if stored is None:
        return [default_tolerance(array) for array in wanted]
    values = [float(value) for value in np.atleast_1d(stored)]
    if len(values) not in {1, len(wanted)} or not all(value >= 0 for value in values):
        raise PackError(f"it has {len(values)} tolerances for {len(wanted)} outputs, or a negative one")
    return values * len(wanted) if len(values) == 1 else values


def default_tolerance(wanted: Array) -> float:
    """Return the tolerance of an output whose publisher gave none, from its range over the golden samples."""
    values = wanted.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return golden.default_tolerance(wanted.dtype.name, low, high, quantized=wanted.dtype.kind in "iu")


def largest_difference(got: Array, wanted: Array) -> float:
    """Return the largest absolute difference; infinity where one is not finite and the other is not the same."""
    left, right = got.astype(np.float64), wanted.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    if bool(same.all()):
        return 0.0
    difference = np.abs(left[~same] - right[~same])
    return float("inf") if not np.isfinite(difference).all() else float(difference.max())
