"""Replace the long tensor and node names that exporters write: up to half of a small quantized file is names.

Nothing at run time needs them. Names of inputs, outputs and signatures stay; so do weights, operators and order.
"""

from __future__ import annotations

from pathlib import Path


def shorten_onnx(path: Path) -> None:
    """Number the inner tensors of an ONNX file without subgraphs; drop node names and recorded inner shapes."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        raise ValueError(f"{path.name} has subgraphs, whose names are not followed here")
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
    onnx.save(model, str(path))


def shorten_tflite(path: Path) -> None:
    """Number the inner tensors of a TFLite file."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    for graph in model.subgraphs:
        kept = {*graph.inputs, *graph.outputs}
        for number, tensor in enumerate(graph.tensors):
            if number not in kept:
                tensor.name = f"t{number}".encode()
    flatbuffer_utils.write_model(model, str(path))


SHORTENERS = {"onnx": shorten_onnx, "tflite": shorten_tflite}
