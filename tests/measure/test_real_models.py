"""Models and data that nobody here wrote; skipped by name where they are absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.manifest import Quantization, TensorSpec
from agent.core.measurement import Measurement
from tests.measure.models import LITERT_POINT

pytestmark = pytest.mark.real
TFLITE_RUNTIME_POINT = LITERT_POINT.__class__(
    engine="tflite-runtime", engine_version="0", provider="XNNPACK", threads=1
)


@pytest.mark.parametrize(
    ("model", "pack", "correct"),
    [
        ("kws_dscnn_float.tflite", "eval_float32.npz", 900),
        ("kws_dscnn_int8.tflite", "eval_int8.npz", 902),
        ("kws_dscnn_int8.tflite", "eval_float32.npz", 902),
        ("kws_float.onnx", "eval_float32.npz", 901),
        ("kws_int8.onnx", "eval_int8.npz", 902),
    ],
)
def test_keyword_spotting_has_its_known_accuracy(
    measure: Callable[..., Measurement], real: Path, model: str, pack: str, correct: int
) -> None:
    result = measure(real / "kws" / model, evaluation=real / "kws" / pack)
    assert (result.verdict, result.reason) == ("ok", None)
    assert result.accuracy is not None
    assert (result.accuracy.correct, result.accuracy.n) == (correct, 1000)


def test_a_float_pack_is_quantized_by_the_manifest_where_the_model_has_no_scale(
    measure: Callable[..., Measurement], real: Path
) -> None:
    spec = TensorSpec(
        name="input_1",
        dtype="int8",
        shape=(-1, 49, 10, 1),
        quantization=Quantization(scale=0.5847029089927673, zero_point=83),
    )
    result = measure(
        real / "kws" / "kws_int8.onnx", evaluation=real / "kws" / "eval_float32.npz", manifest={"inputs": (spec,)}
    )
    assert result.accuracy is not None and result.accuracy.correct == 902


@pytest.mark.parametrize("point", [LITERT_POINT, TFLITE_RUNTIME_POINT], ids=lambda point: point.engine)
def test_a_recurrent_uint8_model_is_reset_before_every_image(
    measure: Callable[..., Measurement], real: Path, point: object
) -> None:
    path, pack = real / "mnist" / "coral_lstm_uint8.tflite", real / "mnist" / "eval_uint8.npz"
    result = measure(path, evaluation=pack, point=point)
    assert result.accuracy is not None
    assert (result.accuracy.n, result.accuracy.correct) == (2000, 1942), "0.8595 is what it has with state left over"


def test_images_for_a_float_model_need_preprocessing(measure: Callable[..., Measurement], real: Path) -> None:
    path, pack = real / "mnist" / "tflm_lstm_float.tflite", real / "mnist" / "eval_uint8.npz"
    bare = measure(path, evaluation=pack)
    assert bare.verdict == "bad_evaluation"
    pytest.importorskip("agent.runtimes.preprocess")
    steps = ({"op": "scale", "factor": 1 / 255, "offset": 0.0}, {"op": "layout", "to": "nhw"})
    result = measure(path, evaluation=pack, manifest={"preprocessing": steps})
    assert (result.verdict, result.reason) == ("ok", None)
    assert result.accuracy is not None and result.accuracy.top1.value == pytest.approx(0.975, abs=0.001)


@pytest.mark.parametrize("name", ["lfs_pointer_not_a_model.tflite", "person_detect_bad_quant_dim.tflite"])
@pytest.mark.parametrize("point", [LITERT_POINT, TFLITE_RUNTIME_POINT], ids=lambda point: point.engine)
def test_hostile_files_are_refused(measure: Callable[..., Measurement], real: Path, name: str, point: object) -> None:
    result = measure(real / "hostile" / name, point=point)
    assert result.verdict == "load_failed"
