"""From a float32 file to a smaller one of the same format, by the tools of each format.

- ``onnx_float16``: weights and activations float16, input and output stay float32 (onnxconverter-common).
- ``onnx_int8``: static, QDQ, int8 activations, int8 weights per channel, of which 7 bits are used (onnxruntime).
- ``onnx_int8_full_range``: the same with all 8 bits of the weights.
- ``tflite_float16``: weights stored as float16, widened at load; arithmetic stays float32 (ai-edge-quantizer).
- ``tflite_int8``: static, int8 weights per channel, int8 activations, input and output (ai-edge-quantizer).

Ranges of activations are the least and the greatest value seen on the calibration inputs, which are training images.
Each function returns the manifest's ``compression`` entry that says what it did.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def onnx_float16(source: Path, target: Path, _calibration: NDArray[np.float32]) -> dict[str, Any]:
    """Halve an ONNX file's weights and compute in float16."""
    import onnx
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))
    return {"technique": "float16", "parameters": {"weights": "float16", "activations": "float16"}}


def onnx_int8(source: Path, target: Path, calibration: NDArray[np.float32]) -> dict[str, Any]:
    """Quantize an ONNX file statically, from float32 [N, 1, 32, 32] calibration inputs, to the same result everywhere.

    x86 without VNNI adds two 8-bit products in a 16-bit sum that saturates, so weights of 8 bits give other results
    there than on ARM. With 7 bits the sum always fits, and every machine computes the same.
    Source: onnxruntime's ``quantize_static``, argument ``reduce_range``; seen on AVX2 with onnxruntime 1.31.1, where
    the two agree again once graph optimization is off.
    """
    return _quantize_onnx(source, target, calibration, weight_bits=7)


def onnx_int8_full_range(source: Path, target: Path, calibration: NDArray[np.float32]) -> dict[str, Any]:
    """Quantize with all 8 bits of the weights: finer where sums are exact, wrong at times on x86 without VNNI."""
    return _quantize_onnx(source, target, calibration, weight_bits=8)


def _quantize_onnx(source: Path, target: Path, calibration: NDArray[np.float32], *, weight_bits: int) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    input_name = onnx.load(str(source)).graph.input[0].name

    class _Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self._samples = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            sample = next(self._samples, None)
            return None if sample is None else {input_name: sample[None]}

    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Samples(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=weight_bits == 7,
        )
    return _static_int8(len(calibration), weight_bits)


def tflite_float16(source: Path, target: Path, _calibration: NDArray[np.float32]) -> dict[str, Any]:
    """Store a TFLite file's convolution and linear weights as float16."""
    from ai_edge_quantizer import qtyping, quantizer

    worker = quantizer.Quantizer(str(source))
    for operation in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        worker.add_weight_only_config(
            regex=".*",
            operation_name=qtyping.TFLOperationName[operation],
            num_bits=16,
            algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
        )
    worker.quantize().export_model(str(target), overwrite=True)
    return {"technique": "float16", "parameters": {"weights": "float16", "activations": "float32"}}


def tflite_int8(source: Path, target: Path, calibration: NDArray[np.float32]) -> dict[str, Any]:
    """Quantize a TFLite file statically, from float32 [N, 32, 32, 1] calibration inputs."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    signatures = Interpreter(str(source)).get_signature_list()
    (key,) = signatures
    (input_name,) = signatures[key]["inputs"]
    worker = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    samples = [{input_name: sample[None]} for sample in calibration]
    ranges = worker.calibrate({key: samples}, num_threads=2)
    worker.quantize(ranges).export_model(str(target), overwrite=True)
    return _static_int8(len(calibration), weight_bits=8)


def _static_int8(samples: int, weight_bits: int) -> dict[str, Any]:
    return {
        "technique": "static_int8",
        "parameters": {
            "weights": "int8",
            "weight_bits_used": weight_bits,
            "activations": "int8",
            "granularity": "per_channel",
            "calibration": "min_max",
            "calibration_samples": samples,
        },
    }


QUANTIZERS = {
    ("onnx", "f16"): onnx_float16,
    ("onnx", "int8"): onnx_int8,
    ("onnx", "int8-full-range"): onnx_int8_full_range,
    ("tflite", "f16"): tflite_float16,
    ("tflite", "int8"): tflite_int8,
}
