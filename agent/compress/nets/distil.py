"""A student trained by a teacher: its softened outputs (Hinton et al. 2015) and its last features (Romero et al. 2015).

The teacher is in eval mode and gets no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.compress.nets.surgery import last_layer
from agent.compress.nets.train import train
from agent.compress.samples import Samples
from agent.compress.training import Training


class _Features:
    """What goes into a model's last layer, averaged over positions."""

    def __init__(self, model: nn.Module) -> None:
        self.last: Tensor | None = None
        self._hook = last_layer(model)[1].register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0]
        self.last = features.mean(dim=(2, 3)) if features.ndim == 4 else features

    def close(self) -> None:
        """Take the hook off."""
        self._hook.remove()


def distil(
    student: nn.Module,
    teacher: nn.Module,
    samples: Samples,
    levers: Training,
    seed: int,
    *,
    temperature: float,
    logits: float,
    features: float,
) -> dict[str, Any]:
    """Train the student in place.

    The loss is (1 - logits) * cross entropy + logits * T^2 * KL(teacher || student) of outputs softened by T, plus
    features * mean squared error; T^2 keeps the gradients' size (Hinton et al., section 2).
    """
    teacher = teacher.eval().requires_grad_(requires_grad=False)
    theirs, own = _Features(teacher), _Features(student)
    widths = [last_layer(model)[1].weight.shape[1] for model in (student, teacher)]
    to_theirs = nn.Linear(*widths)

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            taught = teacher(inputs)
        said = model(inputs)
        soft = functional.kl_div(
            functional.log_softmax(said / temperature, dim=1),
            functional.log_softmax(taught / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        hard = functional.cross_entropy(said, labels, label_smoothing=levers.label_smoothing)
        total = (1.0 - logits) * hard + logits * temperature**2 * soft
        if features > 0:
            assert own.last is not None
            assert theirs.last is not None
            total = total + features * functional.mse_loss(to_theirs(own.last), theirs.last)
        return total

    try:
        return train(student, samples, levers, seed, loss=loss, beside=[to_theirs] if features > 0 else [])
    finally:
        theirs.close()
        own.close()
