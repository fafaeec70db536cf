"""Channel pruning of a torch model: whole channels go, and every layer that reads or writes them is rebuilt smaller.

Which layers hang together is torch-pruning's to find (Fang et al. 2023, arXiv:2301.12900, DepGraph). Importance of a
channel: L1 norm of its filter (Li et al. 2017, arXiv:1608.08710); mean absolute activation (Hu et al. 2016,
arXiv:1607.03250, which counts zeros); first-order Taylor, the loss's gradient times the weight (Molchanov et al. 2019,
arXiv:1906.10771).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.compress.nets.surgery import last_layer, macs, weighted
from agent.compress.nets.train import Tensors

_ROUNDS = 40  # small steps: importance is judged anew after each
_SAMPLES = 512


class _Activations:
    """Importance by mean absolute activation: each layer's output channels, recorded on training samples."""

    def __init__(self, tp: Any, model: nn.Module, data: Tensors) -> None:
        self._tp, self._model, self._data = tp, model, data
        self._seen: dict[nn.Module, Tensor] = {}

    def record(self) -> None:
        """Look at the samples once."""
        self._seen = {}

        def keep(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            apart = (0, *range(2, output.ndim))
            self._seen[module] = output.detach().abs().mean(dim=apart)

        hooks = [layer.register_forward_hook(keep) for _, layer in weighted(self._model)]
        with torch.no_grad():
            self._model.eval()(self._data.inputs[:_SAMPLES])
        for hook in hooks:
            hook.remove()

    def __call__(self, group: Any, **_: object) -> Tensor | None:
        scores = [
            self._seen[dependency.target.module][torch.as_tensor(indices)]
            for dependency, indices in group
            if dependency.handler in (
                self._tp.prune_conv_out_channels, self._tp.prune_linear_out_channels,
                self._tp.prune_depthwise_conv_out_channels,
            ) and dependency.target.module in self._seen
        ]  # fmt: skip
        width = min((len(one) for one in scores), default=0)
        whole = [one / one.mean().clamp(min=1e-12) for one in scores if len(one) == width]
        return torch.stack(whole).mean(0) if whole else None


def prune_channels(
    model: nn.Module, data: Tensors, *, share_of_macs: float, importance: str, round_to: int
) -> dict[str, Any]:
    """Prune in place until at most ``share_of_macs`` (0..1) of the multiply-accumulates are left.

    Returns: MACs before and after, and the output channels of every layer. Raises: ValueError: it cannot get there.
    """
    import torch_pruning as tp

    example = data.inputs[:1]
    before = macs(model, example)
    judge, look = _importance(tp, model, data, importance)
    pruner = tp.pruner.BasePruner(
        model, example, importance=judge, global_pruning=importance != "activation", pruning_ratio=0.95,
        max_pruning_ratio=0.95, iterative_steps=_ROUNDS, ignored_layers=[last_layer(model)[1]], round_to=round_to,
    )  # fmt: skip
    for _ in range(_ROUNDS):
        if macs(model, example) <= share_of_macs * before:
            break
        look()
        pruner.step()
    model.zero_grad()
    after = macs(model, example)
    if after > share_of_macs * before:
        raise ValueError(f"{after / before:.2f} of the multiply-accumulates are left after all rounds")
    channels = {name: layer.weight.shape[0] for name, layer in weighted(model)}
    return {"macs_before": before, "macs_after": after, "macs_ratio": after / before, "channels": channels}


def _importance(tp: Any, model: nn.Module, data: Tensors, kind: str) -> tuple[Any, Callable[[], None]]:
    """Return torch-pruning's importance, and what must be done before each step."""
    if kind == "l1":
        return tp.importance.GroupMagnitudeImportance(p=1), lambda: None
    if kind == "activation":
        seen = _Activations(tp, model, data)
        return seen, seen.record

    def gradients() -> None:
        model.eval().zero_grad()
        loss = functional.cross_entropy(model(data.inputs[:_SAMPLES]), data.labels[:_SAMPLES])
        loss.backward()

    return tp.importance.GroupTaylorImportance(), gradients
