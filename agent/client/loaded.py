"""One loaded model in an application's process: what it takes, one inference at a time, and its own counts.

Rules:
- It is loaded by the very code that measured it (``agent.runtimes``), at the operating point of the decision; where the
  provider would be another one than decided, it is refused.
- One call at a time: a call holds ``lock`` while the engine runs, so that retiring waits for the call in progress.
- What is fed decides what comes back: real numbers for an input of integers with a scale are quantized by it, and such
  outputs come back as real numbers; in the model's own type nothing is converted.
- A shape must be the model's, but for dimensions of 1 and dynamic ones: the same rule an evaluation pack has.
- Counted is the engine's call alone, which is what the decision's latency is of.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.core.deployment import Deployment
from agent.core.histogram import BUCKETS, bucket_of
from agent.core.manifest import Quantization, TensorSpec
from agent.errors import DeploymentError, InferenceError, InputError, ModelError
from agent.runtimes.table import EngineUnavailableError, PlacementError, Runtime, engine_row, runtime_class

WARM_RUNS = 3  # chosen: the first allocates, the second repacks where an engine does so late
Array: TypeAlias = NDArray[Any]


class Retired(Exception):  # noqa: N818 - no fault: the caller takes the model that came instead
    """The model was swapped out or closed before the call began."""


class _Port:
    """One input or output as this process handles it. ``quantization`` is None unless it counts in integers."""

    __slots__ = ("dtype", "free", "name", "quantization", "shape", "spec")

    def __init__(self, spec: TensorSpec, told: TensorSpec | None) -> None:
        self.spec, self.name, self.dtype = spec, spec.name, np.dtype(spec.dtype)
        sizes = spec.shape
        if told is not None and len(told.shape) == len(sizes):
            sizes = tuple(size if size >= 0 else other for size, other in zip(sizes, told.shape, strict=True))
        self.shape, self.free = sizes, any(size < 0 for size in spec.shape)
        scale = spec.quantization or (None if told is None else told.quantization)
        self.quantization: Quantization | None = scale if self.dtype.kind in "iu" else None

    def taken(self, given: Any) -> tuple[Array, bool]:
        """Return what the engine takes, and whether it was quantized. Raises: InputError."""
        array = given if isinstance(given, np.ndarray) else self._array(given)
        quantized = False
        if array.dtype != self.dtype:
            array, quantized = self._converted(array)
        if array.shape != self.shape and not self._fits(array.shape):
            array = self._reshaped(array)
        return (array if array.flags.c_contiguous else np.ascontiguousarray(array)), quantized

    def _array(self, given: Any) -> Array:
        try:
            return np.asarray(given, self.dtype if self.quantization is None else np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._problem(f"{type(given).__name__}, which is no array of numbers") from error

    def _converted(self, array: Array) -> tuple[Array, bool]:
        real = array.dtype.kind == "f"
        if real and self.dtype.kind == "f":
            return array.astype(self.dtype), False
        if real and self.quantization is not None:
            limits: Any = np.iinfo(self.dtype)
            steps = np.rint(array / np.float32(self.quantization.scale)) + self.quantization.zero_point
            return np.clip(steps, limits.min, limits.max).astype(self.dtype), True
        raise self._problem(f"{array.dtype} {list(array.shape)}")

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return (
            self.free and len(shape) == len(self.spec.shape)
            and all(own in (-1, size) for own, size in zip(self.spec.shape, shape, strict=True))
        )  # fmt: skip

    def _reshaped(self, array: Array) -> Array:
        wanted = tuple(size for size in self.shape if size != 1)
        if any(size < 0 for size in self.shape) or tuple(size for size in array.shape if size != 1) != wanted:
            raise self._problem(f"{array.dtype} {list(array.shape)}")
        return array.reshape(self.shape)

    def _problem(self, given: str) -> InputError:
        also = " or real numbers to be quantized" if self.quantization is not None else ""
        shape = str([size if size >= 0 else "any" for size in self.spec.shape]).replace("'", "")
        return InputError(
            f"input {self.name!r} takes {self.dtype.name} {shape}{also}, not {given}",
            fix="feed what the deployment's `inputs` say, or images to `from_images`",
        )


class Loaded:
    """A release, loaded and warm. ``counts`` and ``errors`` only grow; a reader takes differences."""

    def __init__(self, document: Deployment, model: Path, engines: Path | None = None) -> None:
        """Load. Args: model: a path to the checked file. engines: as ``load_keeping`` takes it.

        Raises: DeploymentError, ModelError.
        """
        self.document = document
        self.lock = threading.Lock()
        self.counts = [0] * BUCKETS
        self.errors = 0
        self.runtime: Runtime | None = _load(document, model, engines)
        self.engine_version = installed_version(document.point.engine)
        self._inputs = tuple(
            _Port(spec, _told(document.inputs, index, spec.name)) for index, spec in enumerate(self.runtime.inputs)
        )
        self._outputs = tuple(
            _Port(spec, _told(document.outputs, index, spec.name)) for index, spec in enumerate(self.runtime.outputs)
        )
        self._shapes = tuple(port.shape for port in self._inputs)
        self._free = any(port.free for port in self._inputs)
        self._resized: tuple[tuple[int, ...], ...] | None = None
        self._names = tuple(port.name for port in self._outputs)
        self._plain = len(self._inputs) == len(self._outputs) == 1 and not self._free
        self._dtype = self._inputs[0].dtype if self._plain else None
        self._shape = self._inputs[0].shape if self._plain else None

    def warm(self) -> None:
        """Run a few times on zeros, where the shapes are known. Raises: ModelError: the engine fails."""
        if any(size < 1 for port in self._inputs for size in port.shape[1:]):
            return
        zeros = [np.zeros([max(1, size) for size in port.shape], port.dtype) for port in self._inputs]
        try:
            for _ in range(WARM_RUNS):
                self._call(zeros)
        except InferenceError as error:
            raise ModelError(f"{self.document.candidate} loads and does not run: {error.problem}") from error
        self.counts, self.errors = [0] * BUCKETS, 0

    def infer(self, given: Sequence[Any], named: dict[str, Any]) -> Any:
        """Run one inference and count it.

        Returns: the output, or with several of them a mapping by name. Raises: Retired, InputError, InferenceError.
        """
        array = given[0] if self._plain and len(given) == 1 and not named else None
        if (
            type(array) is np.ndarray
            and array.dtype is self._dtype
            and array.shape == self._shape
            and array.flags.c_contiguous
        ):
            return self._one(array)
        arrays, quantized = self._arranged(given, named)
        with self.lock:
            results = self._call(arrays)
        if quantized:
            results = [_real(port, value) for port, value in zip(self._outputs, results, strict=True)]
        return results[0] if len(results) == 1 else dict(zip(self._names, results, strict=True))

    def retire(self) -> None:
        """Wait for the call in progress, then free the engine here rather than in the application's next call."""
        with self.lock:
            runtime, self.runtime = self.runtime, None
        del runtime

    def _one(self, array: Array) -> Array:
        """Run one inference of one input and one output; what most calls are, so it says everything in one place."""
        with self.lock:
            runtime = self.runtime
            if runtime is None:
                raise Retired
            try:
                runtime.set_input(0, array)
                runtime.reset()
                begin = perf_counter_ns()
                runtime.run()
                taken = perf_counter_ns() - begin
                result = runtime.output(0)
            except Exception as error:
                raise self._failure(error) from error
            exponent = taken.bit_length() - 6  # histogram.bucket_of, written out
            self.counts[(exponent << 5) + (taken >> exponent) if exponent > 0 else taken] += 1
            return result

    def _call(self, arrays: list[Array]) -> list[Array]:
        runtime = self.runtime
        if runtime is None:
            raise Retired
        try:
            if self._free:
                self._resize(runtime, arrays)
            for index, array in enumerate(arrays):
                runtime.set_input(index, array)
            runtime.reset()
            begin = perf_counter_ns()
            runtime.run()
            taken = perf_counter_ns() - begin
            results = [runtime.output(index) for index in range(len(self._outputs))]
        except Exception as error:
            raise self._failure(error) from error
        self.counts[bucket_of(taken)] += 1
        return results

    def _failure(self, error: Exception) -> InferenceError:
        self.errors += 1
        text = str(error).strip().splitlines()[:1] or [type(error).__name__]
        return InferenceError(f"the engine failed on {self.document.candidate}: {text[0][:300]}")

    def _resize(self, runtime: Runtime, arrays: list[Array]) -> None:
        shapes = tuple(array.shape for array in arrays)
        if shapes != self._resized:
            runtime.resize(shapes)
            self._resized = shapes

    def _arranged(self, given: Sequence[Any], named: dict[str, Any]) -> tuple[list[Array], bool]:
        """Put inputs into the model's order: by place, or all by name."""
        names = [port.name for port in self._inputs]
        if len(given) == 1 and isinstance(given[0], dict) and not named:
            named, given = given[0], ()
        if given and named:
            raise InputError("inputs were given by place and by name at once", fix="give all of them in one way")
        if named and set(named) != set(names):
            wrong = ", ".join(sorted(set(named) ^ set(names)))
            raise InputError(f"the model's inputs are {', '.join(names)}; wrong or missing: {wrong}")
        if not named and len(given) != len(names):
            raise InputError(f"the model has {len(names)} inputs ({', '.join(names)}), and {len(given)} were given")
        values = [named[name] for name in names] if named else given
        taken = [port.taken(value) for port, value in zip(self._inputs, values, strict=True)]
        return [array for array, _ in taken], any(quantized for _, quantized in taken)


def _load(document: Deployment, model: Path, engines: Path | None) -> Runtime:
    point = document.point
    where = f"{document.candidate} at {point.label}"
    try:
        engine = runtime_class(point.engine)

        def load(keep: Path | None) -> Runtime:
            return engine.load(model, point, *(() if keep is None else (keep,)))

        if engines is None:
            runtime = load(None)
        else:
            from agent.client.engines import load_keeping  # who keeps nothing loads nothing for it

            runtime = load_keeping(engines, document, installed_version(point.engine), load)
    except DeploymentError:
        raise
    except EngineUnavailableError as error:
        raise DeploymentError(
            f"{where} cannot be opened: {error}", fix="install that engine for the application"
        ) from error
    except PlacementError as error:
        raise DeploymentError(
            f"{where} cannot be opened: {error}", fix="check the accelerator and its driver"
        ) from error
    except Exception as error:
        text = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ModelError(f"{where}: the engine refuses the model: {text[0][:300]}") from error
    placed = runtime.placement()
    if placed.fallback:
        raise DeploymentError(
            f"{where} would run on {', '.join(placed.actual)} here, which is not what was decided",
            fix="let the application use the accelerator (its group, its device nodes), or run `boardfit once`",
        )
    return runtime


def _told(specs: Sequence[TensorSpec], index: int, name: str) -> TensorSpec | None:
    by_name = next((spec for spec in specs if spec.name == name), None)
    return by_name or (specs[index] if index < len(specs) else None)


def _real(port: _Port, value: Array) -> Array:
    if port.quantization is None:
        return value
    steps = value.astype(np.float32) - np.float32(port.quantization.zero_point)
    return steps * np.float32(port.quantization.scale)


def installed_version(engine: str) -> str | None:
    """Return the version of the engine that this process has loaded, None where nothing says.

    Read off the name of its ``.dist-info`` folder beside it (PyPA, recording installed projects):
    ``importlib.metadata`` says the same and loads thirty modules.
    """
    module = sys.modules.get(engine.replace("-", "_"))
    place = None if module is None else next(iter(getattr(module, "__path__", ())), None)
    if place is None:
        return None
    names = {name.replace("-", "_") for name in engine_row(engine).distributions}
    for entry in Path(place).parent.iterdir():
        name, _, version = entry.name.removesuffix(".dist-info").partition("-")
        if entry.suffix == ".dist-info" and name.lower() in names:
            return version
    return None
