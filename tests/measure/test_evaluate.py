from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core import golden
from agent.core.manifest import Quantization, TensorSpec
from agent.core.measurement import OperatingPoint
from agent.measure.evaluate import (
    Pack,
    PackError,
    default_tolerance,
    evaluate,
    largest_difference,
    quantize,
    resolve_shapes,
    synthetic,
)
from agent.measure.protocol import AccuracyTest, Job
from tests.measure.models import ONNX_POINT


class Fixed:
    """Stands for a runtime: only its inputs are asked for."""

    def __init__(self, *inputs: TensorSpec) -> None:
        self.inputs = inputs


def spec(dtype: str, *shape: int, scale: float | None = None) -> TensorSpec:
    quantization = Quantization(scale=scale, zero_point=-128) if scale else None
    return TensorSpec(name="x", dtype=dtype, shape=shape, quantization=quantization)


def open_pack(path: Path, model: TensorSpec, inputs: np.ndarray, **job: Any) -> Pack:
    np.savez(path, inputs=inputs, labels=np.zeros(len(inputs), np.int64))
    fields: dict[str, Any] = {"model": "m", "point": ONNX_POINT, "evaluation": str(path)}
    runtime: Any = Fixed(model)
    return Pack(runtime, model.shape, Job(**{**fields, **job}))


@pytest.mark.parametrize(
    ("model", "samples"),
    [
        (spec("float32", 1, 8, 6, 1), np.zeros((3, 8, 6, 1), np.float32)),
        (spec("float32", 1, 8, 6, 1), np.zeros((3, 8, 6), np.float32)),
        (spec("float32", 1, 1, 8, 6), np.zeros((3, 8, 6, 1), np.float32)),
        (spec("float32", 1, 8, 6), np.zeros((3, 1, 8, 6), np.float32)),
        (spec("float16", 1, 8, 6), np.zeros((3, 8, 6), np.float32)),
        (spec("int8", 1, 8, 6, scale=0.5), np.zeros((3, 8, 6), np.float32)),
        (spec("uint8", 1, 8, 6), np.zeros((3, 8, 6), np.uint8)),
    ],
)
def test_samples_that_fit(tmp_path: Path, model: TensorSpec, samples: np.ndarray) -> None:
    batches = list(open_pack(tmp_path / "p.npz", model, samples).batches(np.arange(len(samples))))
    assert [(batch.shape, batch.dtype.name, len(numbers)) for batch, numbers in batches] == [
        (model.shape, model.dtype, 1)
    ] * 3


@pytest.mark.parametrize(
    ("model", "samples", "words"),
    [
        (spec("float32", 1, 3, 8, 8), np.zeros((2, 8, 8, 3), np.float32), "float32 [8, 8, 3] and the model's input x"),
        (spec("float32", 1, 8, 6), np.zeros((2, 6, 8), np.float32), "takes float32 [8, 6]"),
        (spec("float32", 1, 8, 6), np.zeros((2, 8, 6), np.uint8), "without a scale"),
        (spec("int8", 1, 8, 6), np.zeros((2, 8, 6), np.float32), "without a scale"),
        (spec("uint8", 1, 8, 6, scale=0.5), np.zeros((2, 8, 6), np.int8), "without a scale"),
        (spec("float32", 1, 8, 6), np.zeros((0, 8, 6), np.float32), "the pack's labels"),
    ],
)
def test_samples_that_do_not(tmp_path: Path, model: TensorSpec, samples: np.ndarray, words: str) -> None:
    with pytest.raises(PackError) as error:
        open_pack(tmp_path / "p.npz", model, samples)
    assert words in str(error.value)


def test_a_pack_with_pickles_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot be read"):
        open_pack(tmp_path / "p.npz", spec("float32", 1, 2), np.array([{"a": 1}, None], dtype=object))


def test_a_pack_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    runtime: Any = Fixed(spec("float32", 1, 2))
    with pytest.raises(PackError, match="cannot be read"):
        Pack(runtime, (1, 2), Job(model="m", point=ONNX_POINT, evaluation=str(path)))


def test_the_last_batch_is_filled_and_its_filling_not_counted(tmp_path: Path) -> None:
    samples = np.arange(10, dtype=np.float32).reshape(5, 2)
    batches = list(open_pack(tmp_path / "p.npz", spec("float32", 2, 2), samples).batches(np.arange(len(samples))))
    assert [len(numbers) for _, numbers in batches] == [2, 2, 1]
    assert batches[-1][0].tolist() == [[8.0, 9.0], [8.0, 9.0]]


def test_quantization_rounds_and_clips_like_the_engines() -> None:
    values = np.array([-1000.0, 0.0, 0.25, 0.5, 0.75, 1000.0], np.float32)
    got = quantize(values, np.dtype(np.int8), Quantization(scale=0.5, zero_point=3))
    assert got.tolist() == [-128, 3, 3, 4, 5, 127]


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("float32", 0, 1), ("float16", 0, 1), ("uint8", 0, 255), ("int8", -128, 127), ("int64", 0, 1), ("bool", 0, 1)],
)
def test_synthetic_input_spans_its_range(dtype: str, low: float, high: float) -> None:
    array = synthetic(spec(dtype, 1, 100, 100), (1, 100, 100))
    assert (array.dtype.name, array.shape) == (dtype, (1, 100, 100))
    assert low <= array.min() < array.max() <= high
    assert np.array_equal(array, synthetic(spec(dtype, 1, 100, 100), (1, 100, 100)))


def test_synthetic_input_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be filled"):
        synthetic(spec("str", 1), (1,))


def test_dynamic_dimensions_take_the_batch_and_the_manifests_sizes() -> None:
    point = OperatingPoint(engine="onnxruntime", engine_version="", provider="CPUExecutionProvider", threads=1, batch=4)
    job = Job(model="m", point=point, inputs=(spec("float32", -1, 16, 3),))
    runtime: Any = Fixed(spec("float32", -1, -1, 3))
    assert resolve_shapes(runtime, job) == ((4, 16, 3),)


def test_tolerances() -> None:
    assert default_tolerance(np.array([-1.0, 3.0], np.float32)) == pytest.approx(4e-3)
    assert default_tolerance(np.array([np.nan, 5.0], np.float32)) == golden.FLOAT_FLOOR
    assert default_tolerance(np.array([1, 9], np.uint8)) == golden.INTEGER_STEPS


@pytest.mark.parametrize(
    ("got", "wanted", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([np.nan, np.inf], [np.nan, np.inf], 0.0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
        ([np.inf], [-np.inf], np.inf),
    ],
)
def test_largest_difference(got: list[float], wanted: list[float], difference: float) -> None:
    assert largest_difference(np.array(got), np.array(wanted)) == difference


class _Echo:
    """A runtime whose scores are its input: the class is the largest one."""

    def __init__(self, classes: int) -> None:
        self.inputs = (TensorSpec(name="x", dtype="float32", shape=(1, classes)),)
        self.outputs = self.inputs
        self._array = np.zeros((1, classes), np.float32)
        self.runs = 0

    def reset(self) -> None: ...

    def set_input(self, index: int, array: np.ndarray) -> None:
        self._array = array

    def run(self) -> None:
        self.runs += 1

    def output(self, index: int) -> np.ndarray:
        return self._array


@pytest.mark.parametrize(
    ("right", "may_stop", "state", "whole"),
    [(0.5, False, "missed", False), (1.0, True, "met", False), (1.0, False, "met", True), (0.9, True, "open", True)],
)
def test_accuracy_ends_when_its_limit_is_decided(
    tmp_path: Path, right: float, may_stop: bool, state: str, whole: bool
) -> None:
    n, path = 1000, tmp_path / "pack.npz"
    labels = np.zeros(n, np.int64)
    labels[int(n * right) :] = 1  # sorted: in this order a test would be misled
    np.savez(path, inputs=np.tile(np.array([[1.0, 0.0]], np.float32), (n, 1)), labels=labels)
    job = Job(
        model="", point=ONNX_POINT, evaluation=str(path),
        accuracy_test=AccuracyTest(limit=0.9, may_stop_when_met=may_stop),
    )  # fmt: skip
    runtime = _Echo(2)
    result = evaluate(runtime, (1, 2), job, lambda done, total: None)  # type: ignore[arg-type]
    assert result.proof is not None
    assert (result.proof.state, result.pack_n, result.n == n) == (state, n, whole)
    assert runtime.runs == result.n
    assert bool(result.correct_bits) is whole
    if whole:
        assert int(result.correct_bits, 16).bit_count() == result.correct == int(n * right)
