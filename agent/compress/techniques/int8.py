"""Post-training quantization: int8 weights with float, int8 or int16 activations.

Affine quantization, real = scale * (stored - zero point): Jacob et al. 2018, CVPR (arXiv:1712.05877). Rules:
- Ranges of activations come from calibration samples, which are training samples.
- x86 without VNNI adds two 8-bit products in a 16-bit sum that saturates, so ONNX weights of 8 bits give other results
  there than on ARM. ``weight_bits`` 7 makes the sum fit always, and every machine computes the same (onnxruntime's
  ``reduce_range``).
- A TFLite range is the least and greatest value seen; its quantizer has no other rule for activations.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

from agent.compress.technique import Parameters, Step, Technique
from agent.errors import ConfigError


class Dynamic(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weights int8; activations are quantized anew at each run, by what they then are."""


class Static(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weights and activations int8.

    ``calibration``: ``min_max``; ``entropy`` (least Kullback-Leibler divergence of the histogram, Migacz 2017);
    ``percentile`` (99.99 % of the histogram). ``weight_bits``: see above.
    """

    calibration: Literal["min_max", "entropy", "percentile"] = "min_max"
    per_channel: bool = True
    weight_bits: Literal[7, 8] = 7


class Wide(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weights int8, activations int16: nearly float's accuracy where an engine has kernels for it, slow elsewhere."""


def dynamic(step: Step) -> dict[str, Any]:
    """Write the model with int8 weights and dynamically quantized activations."""
    if step.kind == "tflite":
        from ai_edge_quantizer import quantizer, recipe

        worker = quantizer.Quantizer(str(step.source), recipe.dynamic_wi8_afp32())
        worker.quantize().export_model(str(step.target), overwrite=True)
        return {"weights": "int8", "activations": "float32"}
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        quantize_dynamic(_prepared(step.source, Path(scratch)), str(step.target), weight_type=QuantType.QUInt8)
    return {"weights": "uint8", "activations": "uint8, at run time"}


def static(step: Step) -> dict[str, Any]:
    """Write the model with int8 weights and activations."""
    asked: Static = step.parameters
    if step.kind == "tflite":
        if asked.calibration != "min_max" or not asked.per_channel:
            raise ConfigError(
                "static_int8: TFLite's quantizer takes calibration min_max, per channel, only",
                fix="use these, or leave tflite out of the formats",
            )
        from ai_edge_quantizer import recipe

        return _tflite_static(step, recipe.static_wi8_ai8(), "int8")
    return _onnx_static(step, asked.calibration, asked.per_channel, asked.weight_bits, wide=False)


def wide(step: Step) -> dict[str, Any]:
    """Write the model with int8 weights and int16 activations."""
    if step.kind == "tflite":
        from ai_edge_quantizer import recipe

        return _tflite_static(step, recipe.static_wi8_ai16(), "int16")
    return _onnx_static(step, "min_max", per_channel=True, weight_bits=8, wide=True)


def _prepared(source: Path, scratch: Path) -> str:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = scratch / "prepared.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    return str(prepared)


def _onnx_static(step: Step, calibration: str, per_channel: bool, weight_bits: int, *, wide: bool) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    methods = {
        "min_max": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    samples = step.samples.calibration_inputs("onnx", step.seed)
    given = onnx.load(str(step.source), load_external_data=False)
    input_name = given.graph.input[0].name

    class _Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self._samples, None)
            return None if sample is None else {input_name: sample[None]}

    with tempfile.TemporaryDirectory() as scratch:
        quantize_static(
            _prepared(step.source, Path(scratch)),
            str(step.target),
            _Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt16 if wide else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=weight_bits == 7,
            calibrate_method=methods[calibration],
            extra_options={"UseQDQContribOps": True} if wide else {},  # 16 bits are in ONNX from opset 21 on only
        )
    if wide:
        _to_opset(step.target, next(entry.version for entry in given.opset_import if entry.domain in ("", "ai.onnx")))
    return {
        "weights": "int8",
        "weight_bits_used": weight_bits,
        "activations": "int16" if wide else "int8",
        "calibration_samples": len(samples),
    }


def _to_opset(path: Path, version: int) -> None:
    """Take a file back to an opset: onnxruntime moves models with 16-bit types to 21, which none of the nodes needs."""
    import onnx
    from onnx.version_converter import convert_version

    onnx.save(convert_version(onnx.load(str(path)), version), str(path))


def _tflite_static(step: Step, how: Any, activations: str) -> dict[str, Any]:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer

    ((key, signature),) = Interpreter(str(step.source)).get_signature_list().items()
    (input_name,) = signature["inputs"]
    samples = step.samples.calibration_inputs("tflite", step.seed)
    worker = quantizer.Quantizer(str(step.source), how)
    ranges = worker.calibrate({key: [{input_name: sample[None]} for sample in samples]}, num_threads=2)
    worker.quantize(ranges).export_model(str(step.target), overwrite=True)
    return {
        "weights": "int8", "weight_bits_used": 8, "activations": activations, "calibration_samples": len(samples),
    }  # fmt: skip


_LIBRARIES = ("onnxruntime", "ai-edge-quantizer")
_SOURCE = "Jacob et al. 2018, arXiv:1712.05877; onnxruntime.quantization, ai-edge-quantizer"
TECHNIQUES = (
    Technique(
        name="dynamic_int8", summary="int8 weights, activations quantized at each run", source=_SOURCE,
        kinds=("onnx", "tflite"), parameters=Dynamic, apply=dynamic, libraries=_LIBRARIES,
    ),
    Technique(
        name="static_int8", summary="int8 weights and activations, ranges from calibration samples", source=_SOURCE,
        kinds=("onnx", "tflite"), parameters=Static, apply=static, libraries=_LIBRARIES,
    ),
    Technique(
        name="int8_int16", summary="int8 weights, int16 activations", source=_SOURCE,
        kinds=("onnx", "tflite"), parameters=Wide, apply=wide, libraries=_LIBRARIES, revision=2,
    ),
)  # fmt: skip
