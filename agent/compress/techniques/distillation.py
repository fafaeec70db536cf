"""Knowledge distillation: a model is trained to give a teacher's outputs, and its features, besides the labels."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from agent.compress.search import Search
from agent.compress.technique import Parameters, Step, Technique
from agent.compress.training import Training


class Distillation(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``teacher``: a torch model of the recipe.

    ``logits``: weight of the softened outputs' divergence, the rest is the labels'. ``features``: weight of the squared
    error between the teacher's last features and a linear map of the student's, learned beside it and thrown away.
    ``search``: find these, and ``training.`` levers, by trials.
    """

    teacher: str
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    logits: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.7
    features: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    training: Training = Training(label_smoothing=0.0)
    search: Search | None = None


def apply(step: Step) -> dict[str, Any]:
    """Write the distilled model."""
    from agent.compress.nets.distil import distil
    from agent.compress.nets.files import load, save

    asked: Distillation = step.parameters
    model, teacher = load(step.source), load(step.others["teacher"])
    reached = distil(
        model, teacher, step.samples, asked.training, step.seed,
        temperature=asked.temperature, logits=asked.logits, features=asked.features,
    )  # fmt: skip
    save(model, step.target)
    return reached


TECHNIQUES = (
    Technique(
        name="distillation",
        summary="train a model on a teacher's outputs and features",
        source="Hinton et al. 2015, arXiv:1503.02531; Romero et al. 2015, arXiv:1412.6550",
        kinds=("torch",),
        parameters=Distillation,
        apply=apply,
        models=("teacher",),
        libraries=("torch",),
    ),
)
