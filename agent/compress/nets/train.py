"""Training and fine-tuning of one network on the training pack; the evaluation pack is never looked at here.

Rules:
- Every lever is ``agent.compress.training.Training``'s. The last weights are kept, or with ``patience`` the best on a
  held-out part of the training pack.
- What a technique must hold during training (a mask, shared weights) it does in ``after_step``; what it adds to the
  loss (a teacher) in ``loss``.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.compress.nets.holding import apply_holds
from agent.compress.samples import Samples
from agent.compress.training import Training
from agent.errors import ModelError

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of model, inputs, labels
AfterStep = Callable[[float], None]  # gets the share of training that is done, 0..1


class Tensors(NamedTuple):
    """The training pack as the network sees it: float32 inputs and int64 labels."""

    inputs: Tensor
    labels: Tensor


def tensors(samples: Samples) -> Tensors:
    """Return the prepared training pack."""
    pack = samples.training_pack()
    inputs = np.ascontiguousarray(samples.inputs(pack, "torch"))
    return Tensors(torch.from_numpy(inputs), torch.from_numpy(pack.labels))


def plain_loss(levers: Training) -> Loss:
    """Return cross entropy with the levers' label smoothing."""

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs), labels, label_smoothing=levers.label_smoothing)

    return loss


def train(
    model: nn.Module,
    samples: Samples,
    levers: Training,
    seed: int,
    *,
    loss: Loss | None = None,
    after_step: AfterStep | None = None,
    beside: Sequence[nn.Module] = (),
) -> dict[str, Any]:
    """Train in place, and leave the model in eval mode.

    Args:
        loss: what is minimized; None is ``plain_loss``.
        after_step: called after every step of the optimizer.
        beside: further modules whose parameters are trained with the model's.
    Returns: what was done: epochs, the last epoch's loss, seconds. Raises: ModelError: dropout, and no layer for it.
    """
    begin = time.monotonic()
    if levers.dropout is not None:
        _set_dropout(model, levers.dropout)
    data = tensors(samples)
    held_out = int(len(data.labels) * levers.held_out) if levers.patience is not None else 0
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))
    own, rest = order[held_out:], order[:held_out]
    chosen = [tensor for one in (model, *beside) for tensor in one.parameters() if tensor.requires_grad]
    wanted = loss or plain_loss(levers)
    steps = levers.epochs * max(1, len(own) // levers.batch)
    optimizer, schedule = make_optimizer(chosen, levers, max(1, steps))
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, dict[str, Tensor], int] | None = None
    done, total, epoch = 0, math.nan, 0
    for epoch in range(1, levers.epochs + 1):
        model.train()
        total = 0.0
        batches = own[torch.randperm(len(own), generator=generator)].split(levers.batch)
        for batch in batches[: max(1, len(own) // levers.batch)]:
            inputs = _shifted(data.inputs[batch], levers.shift, generator)
            value = wanted(model, inputs, data.labels[batch])
            if levers.l1 > 0:
                value = value + levers.l1 * sum(tensor.abs().sum() for tensor in chosen)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            apply_holds(model)
            done += 1
            if after_step is not None:
                after_step(done / steps)
            total += float(value.item())
        total /= max(1, len(own) // levers.batch)
        if samples.validation is not None:
            samples.validation.after_epoch(model)
        if levers.patience is not None and held_out:
            here = _loss_on(model, data, rest)
            if best is None or here < best[0]:
                best = here, copy.deepcopy(model.state_dict()), epoch
            elif epoch - best[2] >= levers.patience:
                break
    if best is not None:
        model.load_state_dict(best[1])
    model.eval()
    return {
        "epochs": epoch if levers.epochs else 0,
        "loss": None if math.isnan(total) else total,
        "held_out_loss": None if best is None else best[0],
        "training_s": time.monotonic() - begin,
        "training_samples": len(own),
    }


def _set_dropout(model: nn.Module, rate: float) -> None:
    found = [module for module in model.modules() if isinstance(module, _DROPOUTS)]
    if not found:
        raise ModelError("the model has no dropout layer to set", fix="leave dropout out, or add a layer")
    for module in found:
        module.p = rate


def _loss_on(model: nn.Module, data: Tensors, chosen: Tensor) -> float:
    """Return the cross entropy of some samples, and leave the model in eval mode."""
    model.eval()
    with torch.no_grad():
        return float(functional.cross_entropy(model(data.inputs[chosen]), data.labels[chosen]))


def make_optimizer(chosen: list[Any], levers: Training, steps: int) -> tuple[Any, Any]:
    """Return the optimizer of some parameters, and the schedule of its rate over all steps."""
    rate, decay = levers.learning_rate, levers.l2
    made: torch.optim.Optimizer
    if levers.optimizer == "sgd":
        made = torch.optim.SGD(chosen, lr=rate, weight_decay=decay)
    elif levers.optimizer == "momentum":
        made = torch.optim.SGD(chosen, lr=rate, momentum=levers.momentum, nesterov=True, weight_decay=decay)
    elif levers.optimizer == "rmsprop":
        made = torch.optim.RMSprop(chosen, lr=rate, momentum=levers.momentum, weight_decay=decay)
    elif levers.optimizer == "adam":
        made = torch.optim.Adam(chosen, lr=rate, weight_decay=decay)
    else:
        made = torch.optim.AdamW(chosen, lr=rate, weight_decay=decay)
    schedules = torch.optim.lr_scheduler
    if levers.schedule == "one_cycle":
        # torch would move momentum too, and give it to plain descent; Adam's first moment has no lever and moves.
        moments = levers.optimizer in ("adam", "adamw")
        return made, schedules.OneCycleLR(made, max_lr=rate, total_steps=steps, cycle_momentum=moments)
    if levers.schedule == "cosine":
        return made, schedules.CosineAnnealingLR(made, T_max=steps)
    if levers.schedule == "step":
        return made, schedules.StepLR(made, step_size=max(1, steps // 3), gamma=0.1)
    return made, schedules.ConstantLR(made, factor=1.0, total_iters=1)


def _shifted(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Move each image of [N, C, H, W] by up to ``shift`` pixels; what comes in from the side repeats the edge."""
    if shift == 0 or images.ndim != 4:
        return images
    count, _, height, width = images.shape
    padded = functional.pad(images, (shift,) * 4, mode="replicate")
    corners = torch.randint(0, 2 * shift + 1, (count, 2), generator=generator).tolist()
    return torch.stack(
        [padded[number, :, top : top + height, left : left + width] for number, (top, left) in enumerate(corners)]
    )
