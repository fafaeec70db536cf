"""What later training must not undo: zeros of a pruned layer, weights that share one value.

A technique puts its rule on the model; ``nets.train`` applies every rule after each step of the optimizer, so that a
chain such as prune, then distil keeps what the first step made. A technique that rebuilds layers drops the rules, and
says so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_ATTRIBUTE = "boardfit_holds"


class Zeros(NamedTuple):
    """Weights that stay zero: ``kept`` is 1 where a weight lives."""

    parameter: str
    kept: Tensor

    def apply(self, weight: Tensor) -> None:
        """Put the zeros back."""
        weight.mul_(self.kept)


class Shared(NamedTuple):
    """Weights that share values: members of one group take their mean; group -1 stands alone, at zero."""

    parameter: str
    groups: Tensor  # int64, of the weight's shape
    values: int

    def apply(self, weight: Tensor) -> None:
        """Set each group to its mean: for plain gradient descent, the centroid moves by its members' mean step."""
        flat, groups = weight.view(-1), self.groups.view(-1)
        member = groups >= 0
        sums = torch.zeros(self.values).index_add_(0, groups[member], flat[member])
        counts = torch.zeros(self.values).index_add_(0, groups[member], torch.ones(int(member.sum())))
        flat[member] = (sums / counts.clamp(min=1))[groups[member]]
        flat[~member] = 0.0


Hold = Zeros | Shared


def holds_of(model: nn.Module) -> list[Hold]:
    """Return the rules on a model."""
    found: list[Hold] = getattr(model, _ATTRIBUTE, [])
    return found


def hold(model: nn.Module, rules: list[Hold]) -> None:
    """Put rules on a model beside those it has, and apply them."""
    setattr(model, _ATTRIBUTE, [*holds_of(model), *rules])
    apply_holds(model)


def drop_holds(model: nn.Module) -> int:
    """Take all rules off. Returns: how many there were."""
    count = len(holds_of(model))
    setattr(model, _ATTRIBUTE, [])
    return count


def apply_holds(model: nn.Module) -> None:
    """Apply every rule."""
    rules = holds_of(model)
    if rules:
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for rule in rules:
                rule.apply(weights[rule.parameter])
