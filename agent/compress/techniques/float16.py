"""Float16: half the bytes. ONNX computes in it too; TFLite widens the weights at load and computes in float32."""

from __future__ import annotations

from typing import Any, Literal

from agent.compress.technique import Parameters, Step, Technique


class Float16(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``activations``: ``float16`` computes in float16 where the format can (ONNX); input and output stay float32."""

    activations: Literal["float16", "float32"] = "float16"


def apply(step: Step) -> dict[str, Any]:
    """Write the model with float16 weights."""
    return _onnx(step) if step.kind == "onnx" else _tflite(step)


def _onnx(step: Step) -> dict[str, Any]:
    import onnx
    from onnxconverter_common import float16

    model = onnx.load(str(step.source))
    onnx.save(float16.convert_float_to_float16(model, keep_io_types=True), str(step.target))
    return {"weights": "float16", "activations": "float16"}


def _tflite(step: Step) -> dict[str, Any]:
    from ai_edge_quantizer import qtyping, quantizer

    worker = quantizer.Quantizer(str(step.source))
    for operation in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        worker.add_weight_only_config(
            regex=".*",
            operation_name=qtyping.TFLOperationName[operation],
            num_bits=16,
            algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
        )
    worker.quantize().export_model(str(step.target), overwrite=True)
    return {"weights": "float16", "activations": "float32"}


TECHNIQUES = (
    Technique(
        name="float16",
        summary="store weights as float16",
        source="IEEE 754 binary16; onnxconverter-common, ai-edge-quantizer",
        kinds=("onnx", "tflite"),
        parameters=Float16,
        apply=apply,
        libraries=("onnxconverter-common", "ai-edge-quantizer"),
    ),
)
