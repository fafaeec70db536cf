"""Weight sharing: each layer's weights take one of few values, which fine-tuning moves; with pruning before and packing
after it this is Deep Compression.

A clustered file is as large as any float file until it is packed: the engines know no code books.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from agent.compress.technique import Parameters, Step, Technique
from agent.compress.training import FINE_TUNING, Training
from agent.compress.weights import shared_values


class Clustering(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``clusters``: values a layer's weights may take; zeros of a pruned layer stay zero beside them."""

    clusters: Annotated[int, msgspec.Meta(ge=2, le=65536)] = 32
    fine_tune: Training = FINE_TUNING


def apply(step: Step) -> dict[str, Any]:
    """Write the clustered model; an ONNX file is clustered without fine-tuning."""
    if step.kind == "onnx":
        return _onnx(step)
    import torch

    from agent.compress.nets.files import load, save
    from agent.compress.nets.holding import Shared, hold
    from agent.compress.nets.sparse import prunable
    from agent.compress.nets.train import train

    asked: Clustering = step.parameters
    model = load(step.source)
    rules = []
    for name, weight in prunable(model).items():
        groups, centroids = shared_values(weight.detach().numpy(), asked.clusters)
        rules.append(Shared(name, torch.from_numpy(groups), max(1, len(centroids))))
    hold(model, list(rules))
    tuned = train(model, step.samples, asked.fine_tune, step.seed)
    save(model, step.target)
    most = max(len(weight.detach().unique()) for weight in prunable(model).values())
    return {"layers": len(rules), "most_values": most, "bits": math.ceil(math.log2(max(2, most))), **tuned}


def _onnx(step: Step) -> dict[str, Any]:
    import numpy as np
    import onnx
    from onnx import numpy_helper

    asked: Clustering = step.parameters
    model = onnx.load(str(step.source))
    used = {
        node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1
    }
    layers, most = 0, 0
    for tensor in model.graph.initializer:
        if tensor.name in used and tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            groups, centroids = shared_values(array, asked.clusters)
            shared = np.append(centroids, 0.0)[groups].astype(array.dtype)  # group -1: the zero at the end
            tensor.CopyFrom(numpy_helper.from_array(shared, tensor.name))
            layers, most = layers + 1, max(most, len(np.unique(shared)))
    onnx.save(model, str(step.target))
    return {"layers": layers, "most_values": most, "bits": math.ceil(math.log2(max(2, most)))}


TECHNIQUES = (
    Technique(
        name="weight_clustering",
        summary="let each layer's weights share few values",
        source="Han, Mao & Dally 2016, arXiv:1510.00149, section 3",
        kinds=("torch", "onnx"),
        parameters=Clustering,
        apply=apply,
        libraries=("torch",),
        revision=2,
    ),
)
