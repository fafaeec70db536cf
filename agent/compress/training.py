"""How a network is trained or fine-tuned: every lever with its default. Pure; ``nets.train`` does it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from agent.compress.search import Search

REVISION = 2  # grows when the same levers give another network
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training levers.

    ``optimizer``: ``momentum`` is descent with Nesterov's (Sutskever et al. 2013); ``rmsprop`` takes ``momentum`` too;
    ``adam`` Kingma & Ba 2015. ``schedule`` of the rate over all steps: ``step`` is a tenth after each third, ``cosine``
    falls to zero (Loshchilov & Hutter 2017), ``one_cycle`` rises from a 25th for 30 % and falls to nearly nothing
    (Smith & Topin 2018). ``l1`` and ``l2`` weigh the sum of absolute values and of half squares of all trained numbers
    in the loss; for ``adamw`` ``l2`` is its decoupled decay (Loshchilov & Hutter 2019). ``dropout`` replaces the rate
    of every dropout layer; a model must have one.
    ``label_smoothing``: Szegedy et al. 2016, section 7. ``shift``: images are moved by up to so many pixels at random.
    ``patience``: epochs without a better loss on ``held_out`` of the training data before training ends; the best
    weights are kept. Without it nothing is held out and the last weights are kept. ``search``: find levers by trials.
    """

    epochs: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 25
    batch: Annotated[int, msgspec.Meta(ge=1)] = 64
    optimizer: Literal["sgd", "momentum", "rmsprop", "adam", "adamw"] = "adamw"
    learning_rate: Positive = 4e-3
    momentum: Share = 0.9
    schedule: Literal["constant", "cosine", "step", "one_cycle"] = "one_cycle"
    l1: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    l2: Annotated[float, msgspec.Meta(ge=0)] = 0.01
    dropout: Share | None = None
    label_smoothing: Share = 0.05
    shift: Annotated[int, msgspec.Meta(ge=0)] = 0
    patience: Annotated[int, msgspec.Meta(ge=1)] | None = None
    held_out: Share = 0.1
    search: Search | None = None


FINE_TUNING = Training(epochs=8, learning_rate=1e-3, label_smoothing=0.0)
