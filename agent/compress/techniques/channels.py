"""Channel (neuron) pruning: layers rebuilt smaller, then fine-tuned. Faster on every engine, unlike zeroed weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agent.compress.technique import Parameters, Step, Technique
from agent.compress.training import FINE_TUNING, Training
from agent.errors import ModelError


class Channels(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``macs``: share of the multiply-accumulates that may be left. ``round_to``: channels stay a multiple of it."""

    macs: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    importance: Literal["l1", "activation", "taylor"] = "l1"
    round_to: Annotated[int, msgspec.Meta(ge=1)] = 4
    fine_tune: Training = FINE_TUNING


def apply(step: Step) -> dict[str, Any]:
    """Write the pruned, fine-tuned model."""
    from agent.compress.nets.channels import prune_channels
    from agent.compress.nets.files import load, save
    from agent.compress.nets.holding import drop_holds
    from agent.compress.nets.surgery import parameter_count
    from agent.compress.nets.train import tensors, train

    asked: Channels = step.parameters
    model = load(step.source)
    before, undone = parameter_count(model), drop_holds(model)
    try:
        reached = prune_channels(
            model, tensors(step.samples), share_of_macs=asked.macs, importance=asked.importance, round_to=asked.round_to
        )
    except ValueError as error:
        raise ModelError(f"channel_pruning: {error}", fix="ask for more, or a smaller round_to") from error
    tuned = train(model, step.samples, asked.fine_tune, step.seed)
    save(model, step.target)
    return {**reached, "parameters_ratio": parameter_count(model) / before, "rules_undone": undone, **tuned}


TECHNIQUES = (
    Technique(
        name="channel_pruning",
        summary="remove the least important channels and rebuild the layers",
        source="Li et al. 2017, arXiv:1608.08710; Molchanov et al. 2019, arXiv:1906.10771; torch-pruning",
        kinds=("torch",),
        parameters=Channels,
        apply=apply,
        libraries=("torch", "torch-pruning"),
    ),
)
