"""How an evaluation pack becomes what the model takes."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import ModelError
from agent.registry.pack_child import check_labels, fit_inputs, read_pack

FLOAT = {"name": "x", "dtype": "float32", "shape": [-1, 4]}
INT8 = {"name": "x", "dtype": "int8", "shape": [1, 4], "quantization": {"scale": 0.5, "zero_point": 10}}
GOOD = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
LABELS = np.zeros(8, np.int64)


def facts(spec: dict) -> dict:
    return {"inputs": [spec], "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 3]}]}


def test_the_models_own_dtype_is_taken_as_it_is():
    assert np.array_equal(fit_inputs(GOOD, FLOAT, []), GOOD[:, None])
    stored = np.arange(8, dtype=np.int8).reshape(2, 4)
    assert np.array_equal(fit_inputs(stored[:, None], INT8, []), stored[:, None])


def test_float_is_quantized_by_the_models_own_scale():
    given = np.array([[0.0, 0.25, 0.75, 1000.0], [-1000.0, -0.25, -0.5, 0.5]], np.float32)
    # rint is to even: 0.25 / 0.5 = 0.5 -> 0, 0.75 / 0.5 = 1.5 -> 2
    assert fit_inputs(given, INT8, [])[:, 0].tolist() == [[10, 10, 12, 127], [-128, 10, 9, 11]]


@pytest.mark.parametrize(
    "arrays",
    [
        {"inputs": GOOD[:, :3], "labels": LABELS},
        {"inputs": GOOD.astype(np.float64), "labels": LABELS},
        {"inputs": GOOD.astype(np.uint8), "labels": LABELS},
        {"inputs": GOOD, "labels": LABELS.astype(np.int32)},
        {"inputs": GOOD, "labels": LABELS[:7]},
        {"inputs": GOOD, "labels": LABELS[:, None]},
        {"inputs": np.full((8, 4), np.nan, np.float32), "labels": LABELS},
        {"images": GOOD, "labels": LABELS},
        {"inputs": np.array([{"a": 1}] * 8, dtype=object), "labels": LABELS},
        {"inputs": GOOD[:0], "labels": LABELS[:0]},
        {"inputs": np.float32(1), "labels": LABELS},
    ],
)
def test_a_pack_that_does_not_fit_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "pack.npz", **arrays)
    with pytest.raises(ModelError):
        read_pack(tmp_path / "pack.npz", facts(FLOAT), [])


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + b"\0" * 40, b"not a zip"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "pack.npz").write_bytes(content)
    with pytest.raises(ModelError, match="not a readable"):
        read_pack(tmp_path / "pack.npz", facts(FLOAT), [])


def test_a_model_with_two_inputs_takes_no_pack(tmp_path):
    np.savez(tmp_path / "pack.npz", inputs=GOOD, labels=LABELS)
    with pytest.raises(ModelError, match="2 inputs"):
        read_pack(tmp_path / "pack.npz", {**facts(FLOAT), "inputs": [FLOAT, FLOAT]}, [])


@pytest.mark.parametrize(
    ("labels", "offset", "names", "good"),
    [([0, 2], 0, None, True), ([0, 3], 0, None, False), ([-1, 0], 0, None, False), ([-1, 1], 1, None, True),
     ([0, 2], 1, None, False), ([0, 2], 0, 2, False), ([0, 2], 0, 3, True)],
)  # fmt: skip
def test_labels_must_lie_within_the_classes(labels, offset, names, good):
    if good:
        check_labels(np.array(labels), 3, offset, names)
    else:
        with pytest.raises(ModelError):
            check_labels(np.array(labels), 3, offset, names)
