"""Low-rank factorization of a torch model's layers, then fine-tuning."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from agent.compress.technique import Parameters, Step, Technique
from agent.compress.training import FINE_TUNING, Training
from agent.errors import ConfigError, ModelError

Ratio = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class LowRank(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``ratio``: parameters that are left; or ``energy``: share of each layer's squared singular values kept."""

    ratio: Ratio | None = None
    energy: Ratio | None = None
    fine_tune: Training = FINE_TUNING


def apply(step: Step) -> dict[str, Any]:
    """Write the factored, fine-tuned model."""
    from agent.compress.nets import low_rank
    from agent.compress.nets.files import load, save
    from agent.compress.nets.holding import drop_holds
    from agent.compress.nets.surgery import parameter_count
    from agent.compress.nets.train import train

    asked: LowRank = step.parameters
    if (asked.ratio is None) == (asked.energy is None):
        raise ConfigError("low_rank: give one of ratio and energy", fix="for instance {low_rank: {ratio: 0.6}}")
    model = load(step.source)
    before, undone = parameter_count(model), drop_holds(model)
    try:
        energy = asked.energy if asked.energy is not None else low_rank.energy_for(model, asked.ratio or 0.0)
    except ValueError as error:
        raise ModelError(f"low_rank: {error}", fix="ask for a larger ratio") from error
    made, ranks = low_rank.factored(model, energy)
    if not ranks:
        raise ModelError("low_rank: no layer becomes smaller at that energy", fix="ask for less energy, or a ratio")
    tuned = train(made, step.samples, asked.fine_tune, step.seed)
    save(made, step.target)
    return {
        "energy": energy,
        "ranks": {name: list(found) for name, found in ranks.items()},
        "parameters_ratio": parameter_count(made) / before,
        "rules_undone": undone,
        **tuned,
    }


TECHNIQUES = (
    Technique(
        name="low_rank",
        summary="factor layers: SVD of dense and 1x1, Tucker-2 of k x k convolutions",
        source="Denton et al. 2014, arXiv:1404.0736; Kim et al. 2016, arXiv:1511.06530",
        kinds=("torch",),
        parameters=LowRank,
        apply=apply,
        libraries=("torch",),
    ),
)
