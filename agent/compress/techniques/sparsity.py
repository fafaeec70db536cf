"""Weight pruning: the smallest weights become zero; N:M keeps N of every M in a row.

Dense kernels multiply by zeros as by any number: on the engines here a pruned model is no faster, and its file is no
smaller until it is packed. What it reached says so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agent.compress.technique import Parameters, Step, Technique
from agent.compress.training import FINE_TUNING, Training
from agent.compress.weights import magnitude_masks
from agent.errors import ConfigError


class Magnitude(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``share`` of the weights that become zero, the smallest ``overall`` or of each ``layer``.

    ``gradual``: the share grows while the model is fine-tuned (cubic); otherwise all at once, then fine-tuning. An ONNX
    file is pruned at once and not fine-tuned.
    """

    share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.7
    scope: Literal["overall", "layer"] = "overall"
    gradual: bool = True
    fine_tune: Training = FINE_TUNING


class NM(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``n`` of every ``m`` neighbouring inputs are kept."""

    n: Annotated[int, msgspec.Meta(ge=1)] = 2
    m: Annotated[int, msgspec.Meta(ge=2)] = 4
    fine_tune: Training = FINE_TUNING


_NO_FASTER = "dense kernels: no engine here is faster for it, and the file is smaller only when packed"


def magnitude(step: Step) -> dict[str, Any]:
    """Write the pruned model."""
    if step.kind == "onnx":
        return _onnx_magnitude(step)
    from agent.compress.nets import sparse
    from agent.compress.nets.files import load, save
    from agent.compress.nets.holding import Zeros, hold
    from agent.compress.nets.train import train

    asked: Magnitude = step.parameters
    model = load(step.source)
    overall = asked.scope == "overall"

    def prune(share: float) -> dict[str, Any]:
        weights = sparse.prunable(model)
        masks = sparse.magnitude_masks(weights, share, overall=overall)
        for name, mask in masks.items():
            weights[name].data.mul_(mask)
        return masks

    def further(done: float) -> None:
        prune(sparse.gradual_share(asked.share, done))

    tuned: dict[str, Any] = {}
    if asked.gradual and asked.fine_tune.epochs:
        tuned = train(model, step.samples, asked.fine_tune, step.seed, after_step=further)
    masks = prune(asked.share)
    hold(model, [Zeros(name, mask) for name, mask in masks.items()])
    if not asked.gradual and asked.fine_tune.epochs:
        tuned = train(model, step.samples, asked.fine_tune, step.seed)
    save(model, step.target)
    return {**_zeros(sparse.prunable(model)), "speed": _NO_FASTER, **tuned}


def n_m(step: Step) -> dict[str, Any]:
    """Write the model with N of every M weights kept."""
    from agent.compress.nets import sparse
    from agent.compress.nets.files import load, save
    from agent.compress.nets.holding import Zeros, hold
    from agent.compress.nets.train import train

    asked: NM = step.parameters
    if asked.n >= asked.m:
        raise ConfigError(f"n_m_sparsity: n is {asked.n} and m {asked.m}", fix="keep n below m")
    model = load(step.source)
    masks = sparse.n_m_masks(sparse.prunable(model), asked.n, asked.m)
    hold(model, [Zeros(name, mask) for name, mask in masks.items()])
    tuned = train(model, step.samples, asked.fine_tune, step.seed)
    save(model, step.target)
    return {**_zeros(sparse.prunable(model)), "layers": len(masks), "speed": _NO_FASTER, **tuned}


def _zeros(weights: dict[str, Any]) -> dict[str, Any]:
    total = sum(weight.numel() for weight in weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return {"zeros": zeros, "weights": total, "sparsity": zeros / total}


def _onnx_magnitude(step: Step) -> dict[str, Any]:
    import numpy as np
    import onnx
    from onnx import numpy_helper

    asked: Magnitude = step.parameters
    model = onnx.load(str(step.source))
    used = {
        node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1
    }
    tensors = [one for one in model.graph.initializer if one.name in used and one.data_type == onnx.TensorProto.FLOAT]
    arrays = [numpy_helper.to_array(tensor).copy() for tensor in tensors]
    for array, mask in zip(arrays, magnitude_masks(arrays, asked.share, overall=asked.scope == "overall"), strict=True):
        np.multiply(array, mask, out=array)
    for tensor, array in zip(tensors, arrays, strict=True):
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, str(step.target))
    total, zeros = sum(array.size for array in arrays), sum(int((array == 0).sum()) for array in arrays)
    return {"zeros": zeros, "weights": total, "sparsity": zeros / max(1, total), "speed": _NO_FASTER}


TECHNIQUES = (
    Technique(
        name="magnitude_pruning",
        summary="zero the smallest weights, gradually while fine-tuning",
        source="Han et al. 2015, arXiv:1506.02626; Zhu & Gupta 2017, arXiv:1710.01878",
        kinds=("torch", "onnx"),
        parameters=Magnitude,
        apply=magnitude,
        libraries=("torch",),
    ),
    Technique(
        name="n_m_sparsity",
        summary="keep N of every M neighbouring weights",
        source="Mishra et al. 2021, arXiv:2104.08378",
        kinds=("torch",),
        parameters=NM,
        apply=n_m,
        libraries=("torch",),
    ),
)
