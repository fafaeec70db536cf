"""Each training lever against its definition, by hand in numpy or by torch's gradients."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'boardfit[compress]'")

from torch import nn  # noqa: E402

from agent.compress.nets.files import settle  # noqa: E402
from agent.compress.nets.train import make_optimizer, tensors, train  # noqa: E402
from agent.compress.samples import Samples  # noqa: E402
from agent.compress.training import Training  # noqa: E402
from agent.errors import ModelError  # noqa: E402
from tests.compress.conftest import CLASSES  # noqa: E402

RATE, DECAY, MOMENTUM = 0.1, 0.05, 0.8
GRADIENTS = (0.7, -0.2, 0.4, 0.9)


def by_hand(optimizer: str) -> float:
    """Return where a weight of 2 gets to by the gradients: see each optimizer's paper."""
    w, velocity, square, first, second = 2.0, 0.0, 0.0, 0.0, 0.0
    for step, loss_gradient in enumerate(GRADIENTS, start=1):
        g = loss_gradient if optimizer == "adamw" else loss_gradient + DECAY * w
        if optimizer == "sgd":
            w -= RATE * g
        elif optimizer == "momentum":
            velocity = g if step == 1 else MOMENTUM * velocity + g
            w -= RATE * (g + MOMENTUM * velocity)
        elif optimizer == "rmsprop":
            square = 0.99 * square + 0.01 * g * g
            velocity = MOMENTUM * velocity + g / (math.sqrt(square) + 1e-8)
            w -= RATE * velocity
        else:
            if optimizer == "adamw":
                w -= RATE * DECAY * w
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            w -= RATE * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return w


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adam", "adamw"])
def test_an_optimizer_is_its_definition(optimizer: str) -> None:
    levers = Training(
        optimizer=optimizer, learning_rate=RATE, l2=DECAY, momentum=MOMENTUM, schedule="constant"
    )  # fmt: skip
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    made, schedule = make_optimizer([weight], levers, len(GRADIENTS))
    for gradient in GRADIENTS:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        made.step()
        schedule.step()
    assert float(weight) == pytest.approx(by_hand(optimizer), rel=1e-9)


def rates(schedule: str, optimizer: str = "sgd") -> tuple[list[float], list[float]]:
    """Return the rate and the momentum of each of 100 steps."""
    weight = nn.Parameter(torch.zeros(1))
    levers = Training(optimizer=optimizer, schedule=schedule, learning_rate=RATE, momentum=MOMENTUM)
    made, plan = make_optimizer([weight], levers, 100)
    seen: tuple[list[float], list[float]] = [], []
    for _ in range(100):
        seen[0].append(made.param_groups[0]["lr"])
        seen[1].append(made.param_groups[0].get("momentum", math.nan))
        weight.grad = torch.zeros(1)
        made.step()
        plan.step()
    return seen


def test_a_schedule_is_its_definition() -> None:
    steps = np.arange(100)
    assert rates("constant")[0] == [RATE] * 100
    assert rates("cosine")[0] == pytest.approx(RATE * (1 + np.cos(np.pi * steps / 100)) / 2)
    assert rates("step")[0] == pytest.approx(RATE * 0.1 ** (steps // 33))
    one_cycle = rates("one_cycle")[0]
    assert one_cycle[0] == pytest.approx(RATE / 25)
    assert int(np.argmax(one_cycle)) == 29
    assert one_cycle[29] == pytest.approx(RATE)
    assert one_cycle[-1] == pytest.approx(RATE / 25e4)
    assert np.all(np.diff(one_cycle[:30]) > 0)
    assert np.all(np.diff(one_cycle[29:]) < 0)


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("momentum", MOMENTUM), ("rmsprop", MOMENTUM)])
def test_momentum_is_what_the_lever_says_whatever_the_schedule(optimizer: str, momentum: float) -> None:
    for schedule in ("constant", "cosine", "step", "one_cycle"):
        assert rates(schedule, optimizer)[1] == [momentum] * 100


@pytest.mark.parametrize(
    ("l1", "l2", "smoothing"), [(0.0, 0.0, 0.0), (0.03, 0.0, 0.0), (0.0, 0.2, 0.0), (0.0, 0.0, 0.3), (0.03, 0.2, 0.3)]
)
def test_a_step_of_descent_is_that_of_the_loss_with_its_penalties(
    samples: Samples, l1: float, l2: float, smoothing: float
) -> None:
    settle(1, 1)
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    weights = [tensor.detach().clone().requires_grad_() for tensor in made.parameters()]
    data = tensors(samples)
    said = torch.log_softmax(data.inputs.flatten(1) @ weights[0].T + weights[1], dim=1)
    right = -said[torch.arange(600), data.labels].mean()
    # Szegedy et al. 2016, section 7: the label is right with 1 - e, and any of K classes with e / K.
    loss = (1 - smoothing) * right + smoothing * -said.mean()
    loss = loss + l1 * sum(weight.abs().sum() for weight in weights)
    loss = loss + l2 * sum((weight**2).sum() / 2 for weight in weights)
    loss.backward()
    levers = Training(
        epochs=1, batch=600, optimizer="sgd", schedule="constant", learning_rate=RATE, l1=l1, l2=l2,
        label_smoothing=smoothing,
    )  # fmt: skip
    train(made, samples, levers, 1)
    for weight, after in zip(weights, made.parameters(), strict=True):
        assert torch.allclose(weight - RATE * weight.grad, after, atol=1e-6)


def test_dropout_replaces_every_rate_and_wants_a_layer(samples: Samples) -> None:
    settle(1, 1)
    made = nn.Sequential(nn.Dropout2d(0.5), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, CLASSES))
    train(made, samples, Training(epochs=1, dropout=0.25), 1)
    assert (made[0].p, made[2].p) == (0.25, 0.25)
    with pytest.raises(ModelError, match="no dropout layer"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)), samples, Training(epochs=1, dropout=0.25), 1)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "one_cycle"])
def test_a_single_step_and_none_are_possible(samples: Samples, tmp_path: Path, schedule: str) -> None:
    settle(1, 1)
    for epochs in (0, 1):
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
        assert train(made, samples, Training(epochs=epochs, batch=600, schedule=schedule), 1)["epochs"] == epochs
