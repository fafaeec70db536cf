"""Finding and replacing layers of a module by name."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


def weighted(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Yield every linear and convolution layer with its name, in order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            yield name, module


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of another."""
    parent = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
    setattr(parent, name.rpartition(".")[2], layer)


def parameter_count(model: nn.Module) -> int:
    """Return how many trainable numbers a model has."""
    return sum(tensor.numel() for tensor in model.parameters())


def last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the layer that gives the logits: the last linear or convolution. Raises: ValueError: there is none."""
    found = list(weighted(model))
    if not found:
        raise ValueError("the model has no linear or convolution layer")
    return found[-1]


def macs(model: nn.Module, example: Tensor) -> int:
    """Return multiply-accumulates of the linear and convolution layers for one example [1, ...]."""
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for _, module in weighted(model)]
    try:
        model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    return total
