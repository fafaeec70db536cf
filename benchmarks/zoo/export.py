"""From a trained network to a float32 file: ONNX (opset 17, IR 8) or TFLite (channels last). Batch size is 1, fixed.

Opset 17 is far below the oldest supported runtime's limit, so every board can open the files.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.zoo.catalog import IMAGE_SIDE

OPSET = 17
INPUT, OUTPUT = "image", "logits"


def export_onnx(model: nn.Module, path: Path) -> None:
    """Write float32 ONNX with input ``image`` [1, 1, 32, 32] and output ``logits`` [1, 10], constants folded."""
    import onnx
    import onnxslim

    # dynamo=False: the newer exporter writes opset 18 and up.
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, IMAGE_SIDE, IMAGE_SIDE),),
        str(path),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=OPSET,
        dynamo=False,
    )
    onnx.save(onnxslim.slim(str(path)), str(path))


def export_tflite(model: nn.Module, path: Path) -> None:
    """Write float32 TFLite with one input [1, 32, 32, 1] and one output [1, 10]."""
    import litert_torch

    channels_last = litert_torch.to_channel_last_io(model, args=[0])
    litert_torch.convert(channels_last, (torch.zeros(1, IMAGE_SIDE, IMAGE_SIDE, 1),)).export(str(path))
