"""From a torch model to a file of each format, and the last touch on a file: short names inside.

ONNX: opset 17, IR 8, far below what the oldest supported runtime opens. TFLite: channels last where steps prepare the
samples. Batch size is 1, fixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from agent.compress.samples import Samples
from agent.compress.technique import Kind
from agent.errors import ModelError

OPSET = 17
INPUT, OUTPUT = "input", "logits"
TOLERANCE = 1e-3  # chosen: of the largest output; what a torch model and its exported file may differ by


def export(
    source: Path, target: Path, kind: Kind, samples: Samples, input_shape: tuple[int, ...] | None
) -> dict[str, Any]:
    """Write a float32 file and compare its outputs with the torch model's on training samples.

    Args: input_shape: without the batch, channels first; None takes the prepared samples' own.
    Raises: ModelError: the file's outputs are not the model's.
    """
    import torch

    from agent.compress.nets.files import load
    from agent.compress.nets.graph import as_given

    model = as_given(load(source))
    pack = samples.training_pack()
    few = pack._replace(inputs=pack.inputs[:8], labels=pack.labels[:8])
    channels_first = torch.from_numpy(np.ascontiguousarray(samples.inputs(few, "torch")))
    shape = tuple(channels_first.shape[1:]) if input_shape is None else input_shape
    if kind == "onnx":
        _export_onnx(model, torch.zeros(1, *shape), target)
        got = _run_onnx(target, channels_first.numpy())
    else:
        _export_tflite(model, torch.zeros(1, *shape), target, channels_last=bool(samples.preprocessing))
        got = _run_tflite(target, samples.inputs(few, "tflite"))
    with torch.no_grad():
        wanted = model(channels_first).numpy()
    error = float(np.abs(got - wanted).max() / max(1.0, float(np.abs(wanted).max())))
    if not error <= TOLERANCE:
        raise ModelError(f"the exported {kind} file gives other outputs, off by {error:.2g} of the largest",
                         fix="report the model: an exporter does not understand one of its layers")  # fmt: skip
    return {"largest_difference": error}


def _export_onnx(model: Any, example: Any, target: Path) -> None:
    import onnx
    import onnxslim
    import torch

    # dynamo=False: the newer exporter writes opset 18 and up.
    torch.onnx.export(
        model, (example,), str(target), input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, dynamo=False
    )
    onnx.save(onnxslim.slim(str(target)), str(target))


def _export_tflite(model: Any, example: Any, target: Path, *, channels_last: bool) -> None:
    import litert_torch

    if channels_last:
        model = litert_torch.to_channel_last_io(model, args=[0])
        example = example.permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(model, (example,)).export(str(target))


def _run_onnx(path: Path, inputs: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in inputs])


def _run_tflite(path: Path, inputs: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for sample in inputs:
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(wanted["index"]))
    return np.concatenate(outputs)


def finish(source: Path, target: Path, kind: Kind) -> dict[str, Any]:
    """Write the file with short inner names: up to half of a small quantized file is names nothing needs at run time.

    Names of inputs, outputs and signatures stay; so do weights, operators and order.
    """
    before = source.stat().st_size
    if kind == "onnx":
        _shorten_onnx(source, target)
    else:
        _shorten_tflite(source, target)
    return {"names_bytes": before - target.stat().st_size}


def _shorten_onnx(source: Path, target: Path) -> None:
    import onnx

    model = onnx.load(str(source))
    graph = model.graph
    if not any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        kept = {value.name for value in (*graph.input, *graph.output)}
        short: dict[str, str] = {}

        def rename(name: str) -> str:
            return name if not name or name in kept else short.setdefault(name, f"t{len(short)}")

        for tensor in graph.initializer:
            tensor.name = rename(tensor.name)
        for node in graph.node:
            node.ClearField("name")
            node.input[:] = [rename(name) for name in node.input]
            node.output[:] = [rename(name) for name in node.output]
        graph.ClearField("value_info")
        onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(target))


def _shorten_tflite(source: Path, target: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(source))
    for graph in model.subgraphs:
        kept = {*graph.inputs, *graph.outputs}
        for number, tensor in enumerate(graph.tensors):
            if number not in kept:
                tensor.name = f"t{number}".encode()
    flatbuffer_utils.write_model(model, str(target))
