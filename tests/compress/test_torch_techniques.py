"""Each technique on torch models against its definition: sparsity, N:M, ranks, channels, shared values, teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'boardfit[compress]'")

from torch import nn  # noqa: E402

from agent.compress.nets import channels, distil, fake, families, low_rank, sparse  # noqa: E402
from agent.compress.nets.files import load, save, settle  # noqa: E402
from agent.compress.nets.holding import holds_of  # noqa: E402
from agent.compress.nets.surgery import macs, parameter_count, weighted  # noqa: E402
from agent.compress.nets.train import tensors, train  # noqa: E402
from agent.compress.samples import Samples  # noqa: E402
from agent.compress.technique import Step  # noqa: E402
from agent.compress.techniques import technique  # noqa: E402
from agent.compress.training import Training  # noqa: E402
from tests.compress.conftest import CLASSES, quarters  # noqa: E402

QUICK = {"epochs": 2, "batch": 64, "learning_rate": 5e-3}
LONGER = {**QUICK, "epochs": 10}
Apply = Callable[..., tuple[Any, dict[str, Any]]]


@pytest.fixture
def net(samples: Samples) -> nn.Module:
    """A network that has learned the task."""
    settle(3, 1)
    made = families.mobilenet_v1(0.25, classes=CLASSES)
    train(made, samples, Training(**{**QUICK, "epochs": 4}), 3)
    return made


@pytest.fixture
def apply(samples: Samples, tmp_path: Path) -> Apply:
    """Apply a technique to a network by files, as a step does."""

    def run(
        name: str, network: nn.Module, *, teacher_file: nn.Module | None = None, **given: Any
    ) -> tuple[Any, dict[str, Any]]:
        settle(3, 1)
        found = technique(name, "test")
        save(network, tmp_path / "before.pt")
        others = {}
        if teacher_file is not None:
            save(teacher_file, tmp_path / "teacher.pt")
            others["teacher"] = tmp_path / "teacher.pt"
        parameters = found.read(given, "test")
        step = Step("torch", tmp_path / "before.pt", tmp_path / "after.pt", parameters, samples, 3, others)
        reached = found.apply(step)
        return load(tmp_path / "after.pt"), reached

    return run


def accuracy(network: nn.Module) -> float:
    inputs, labels = quarters(400, 2)
    with torch.no_grad():
        found = network(torch.from_numpy(inputs)).argmax(dim=1).numpy()
    return float((found == labels).mean())


@pytest.mark.parametrize("gradual", [True, False])
@pytest.mark.parametrize("scope", ["overall", "layer"])
def test_pruning_reaches_its_share_exactly_and_fine_tuning_keeps_it(
    net: nn.Module, apply: Apply, scope: str, gradual: bool
) -> None:
    pruned, reached = apply("magnitude_pruning", net, share=0.6, scope=scope, gradual=gradual, fine_tune=LONGER)
    weights = sparse.prunable(pruned)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    if scope == "layer":
        assert zeros == {name: int(0.6 * size + 1e-9) for name, size in sizes.items()}
    assert (
        sum(zeros.values())
        == reached["zeros"]
        == (int(0.6 * sum(sizes.values()) + 1e-9) if scope == "overall" else sum(zeros.values()))
    )
    assert accuracy(pruned) > 0.8


def test_what_was_pruned_stays_zero_through_later_training(net: nn.Module, apply: Apply, samples: Samples) -> None:
    pruned, reached = apply("magnitude_pruning", net, share=0.5, fine_tune={"epochs": 0})
    train(pruned, samples, Training(**QUICK), 1)
    assert sum(int((weight == 0).sum()) for weight in sparse.prunable(pruned).values()) == reached["zeros"]


def test_n_m_keeps_the_n_largest_of_every_m(net: nn.Module, apply: Apply) -> None:
    before = {name: weight.detach().clone() for name, weight in sparse.prunable(net).items()}
    pruned, reached = apply("n_m_sparsity", net, fine_tune={"epochs": 0})
    counted = 0
    for name, weight in sparse.prunable(pruned).items():
        rows, old = (tensor.detach().reshape(tensor.shape[0], -1) for tensor in (weight, before[name]))
        if rows.shape[1] % 4:
            assert torch.equal(rows, old)
            continue
        counted += 1
        groups, were = rows.view(-1, 4), old.view(-1, 4)
        assert bool(((groups != 0).sum(dim=1) <= 2).all())
        kept = torch.where(groups != 0, were.abs(), torch.inf).min(dim=1).values
        lost = torch.where(groups == 0, were.abs(), 0.0).max(dim=1).values
        assert bool((kept >= lost).all())
    assert counted == reached["layers"] > 5


def test_svd_keeps_the_asked_energy_at_the_least_rank() -> None:
    settle(1, 1)
    layer = nn.Linear(24, 40)
    found = low_rank.factor(layer, 0.7)
    assert found is not None
    (rank,) = found.ranks
    s = torch.linalg.svdvals(layer.weight.detach().double())
    shares = torch.cumsum(s**2, 0) / (s**2).sum()
    assert shares[rank - 1] >= 0.7 > shares[rank - 2]
    product = found.layer[1].weight @ found.layer[0].weight
    error = ((product - layer.weight) ** 2).sum() / (layer.weight**2).sum()
    assert float(error) == pytest.approx(1 - float(shares[rank - 1]), abs=1e-5)  # Eckart & Young
    assert torch.equal(found.layer[1].bias, layer.bias)


def test_tucker_of_a_low_rank_convolution_is_exact() -> None:
    settle(1, 1)
    narrow, middle, wide = (
        nn.Conv2d(16, 4, 1, bias=False),
        nn.Conv2d(4, 5, 3, padding=1, bias=False),
        nn.Conv2d(5, 20, 1),
    )
    whole = nn.Conv2d(16, 20, 3, padding=1, stride=2)
    with torch.no_grad():
        whole.weight.copy_(
            torch.einsum("or,rshw,si->oihw", wide.weight[..., 0, 0], middle.weight, narrow.weight[..., 0, 0])
        )
    found = low_rank.factor(whole, 0.999999)
    assert found is not None and found.ranks == (5, 4)
    inputs = torch.randn(2, 16, 8, 8)
    assert torch.allclose(found.layer(inputs), whole(inputs), atol=1e-5)


def test_a_depthwise_convolution_is_not_factored() -> None:
    assert low_rank.factor(nn.Conv2d(16, 16, 3, groups=16), 0.5) is None


def test_low_rank_reaches_its_ratio_of_parameters(net: nn.Module, apply: Apply) -> None:
    made, reached = apply("low_rank", net, ratio=0.6, fine_tune=LONGER)
    assert 0.55 < parameter_count(made) / parameter_count(net) <= 0.6
    assert reached["parameters_ratio"] == parameter_count(made) / parameter_count(net)
    assert all(len(ranks) == 1 for name, ranks in reached["ranks"].items() if name != "0.0")
    assert accuracy(made) > 0.9


@pytest.mark.parametrize("importance", ["l1", "activation", "taylor"])
def test_channel_pruning_rebuilds_smaller_layers(net: nn.Module, apply: Apply, importance: str) -> None:
    pytest.importorskip("torch_pruning")
    before = {name: layer.weight.shape for name, layer in weighted(net)}
    made, reached = apply("channel_pruning", net, macs=0.5, importance=importance, fine_tune=LONGER)
    after = {name: layer.weight.shape for name, layer in weighted(made)}
    example = torch.zeros(1, 1, 8, 8)
    assert macs(made, example) <= 0.5 * macs(net, example)
    assert reached["channels"] == {name: shape[0] for name, shape in after.items()}
    assert after[list(after)[-1]][0] == CLASSES
    assert any(after[name][0] < before[name][0] for name in before)
    assert accuracy(made) > 0.8


def test_importance_by_l1_removes_the_smallest_filters(samples: Samples) -> None:
    pytest.importorskip("torch_pruning")
    settle(1, 1)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        for number in range(8):
            made[0].weight[number] = 0.1 * (number + 1)
    channels.prune_channels(made, tensors(samples), share_of_macs=0.55, importance="l1", round_to=1)
    assert [round(float(one[0, 0, 0]), 1) for one in made[0].weight] == [0.5, 0.6, 0.7, 0.8]


def test_clustered_weights_keep_few_values_through_training(net: nn.Module, apply: Apply) -> None:
    pruned, _ = apply("magnitude_pruning", net, share=0.5, fine_tune=QUICK)
    made, reached = apply("weight_clustering", pruned, clusters=16, fine_tune=QUICK)
    for name, weight in sparse.prunable(made).items():
        zeros = int((sparse.prunable(pruned)[name] == 0).sum())
        assert len(weight.detach().unique()) <= 16 + (zeros > 0)
        assert int((weight == 0).sum()) >= zeros
    assert reached["most_values"] <= 17
    assert {type(rule).__name__ for rule in holds_of(made)} == {"Zeros", "Shared"}
    assert accuracy(made) > 0.9


def test_a_student_learns_from_its_teacher_and_the_teacher_gets_no_gradient(net: nn.Module, samples: Samples) -> None:
    teacher = net
    teacher.zero_grad(set_to_none=True)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    settle(5, 1)
    student = families.mobilenet_v1(0.125, classes=CLASSES)
    names = list(dict(student.named_parameters()))
    distil.distil(
        student, teacher, samples, Training(**{**QUICK, "epochs": 8}), 1, temperature=4.0, logits=0.7, features=0.5
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(tensor.grad is None for tensor in teacher.parameters())
    assert list(dict(student.named_parameters())) == names  # the map between features is gone
    assert accuracy(student) > 0.5


def test_distillation_as_a_step_takes_its_teacher_from_a_file(net: nn.Module, apply: Apply) -> None:
    settle(5, 1)
    student = families.mobilenet_v1(0.125, classes=CLASSES)
    made, reached = apply("distillation", student, teacher_file=net, teacher="big", training={**QUICK, "epochs": 8})
    assert reached["epochs"] == 8
    assert accuracy(made) > 0.5


def test_the_softened_loss_is_hintons(samples: Samples) -> None:
    settle(1, 1)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)) for _ in range(2))
    seen: list[float] = []
    inputs, labels = (torch.from_numpy(part[:600]) for part in quarters(600, 1))
    with torch.no_grad():
        p = torch.softmax(teacher(inputs) / 2.0, dim=1)
        q = torch.log_softmax(student(inputs) / 2.0, dim=1)
        wanted = 0.25 * float(nn.functional.cross_entropy(student(inputs), labels)) + 0.75 * 4.0 * float(
            (p * (p.log() - q)).sum(dim=1).mean()
        )
    levers = Training(epochs=1, batch=600, learning_rate=1e-9, label_smoothing=0.0, schedule="constant")
    reached = distil.distil(student, teacher, samples, levers, 1, temperature=2.0, logits=0.75, features=0.0)
    seen.append(reached["loss"])
    assert seen == [pytest.approx(wanted, rel=1e-4)]


def test_quantization_aware_training_leaves_weights_on_the_grid(net: nn.Module, apply: Apply) -> None:
    made, _ = apply("qat_int8", net, fine_tune=QUICK)
    for _, layer in weighted(made):
        rows = layer.weight.detach().flatten(1)
        steps = rows / (rows.abs().max(dim=1, keepdim=True).values / 63.0)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert accuracy(made) > 0.9
    assert not [name for name in made.state_dict() if "parametrizations" in name]


def test_a_rounded_input_covers_its_range() -> None:
    rounding = fake._RoundedInput()
    layer = nn.Linear(4, 2).train()
    (rounded,) = rounding(layer, (torch.tensor([[0.0, 1.0, 2.55, 0.5]]),))
    assert rounded.tolist()[0] == pytest.approx([0.0, 1.0, 2.55, 0.5], abs=0.006)


@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        (families.mobilenet_v1, {"width": 0.25}),
        (families.mobilenet_v1, {"width": 0.25, "small": False}),
        (families.mobilenet_v2, {"width": 0.35, "small": False}),
        (families.mobilenet_v3_small, {"width": 0.5}),
        (families.densenet_bc, {"growth": 8, "blocks": (4, 4)}),
        (families.squeezenet, {"width": 0.5}),
        (families.efficientnet_lite, {"compound": 1.0}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or "-".join(map(str, value.values())),
)
def test_families_give_logits_and_grow_with_their_settings(
    factory: Callable[..., nn.Module], settings: dict[str, Any]
) -> None:
    made = factory(classes=7, in_channels=3, **settings)
    assert made.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    larger = {
        key: value * 2 if isinstance(value, float | int) and not isinstance(value, bool) else value
        for key, value in settings.items()
    }
    assert parameter_count(factory(classes=7, in_channels=3, **larger)) > parameter_count(made)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "one_cycle"])
def test_every_optimizer_and_schedule_lowers_the_loss(samples: Samples, optimizer: str, schedule: str) -> None:
    settle(1, 1)
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    levers = Training(
        epochs=4, optimizer=optimizer, schedule=schedule, label_smoothing=0.0, l2=0.0,
        learning_rate=0.05 if optimizer in ("sgd", "momentum") else 5e-3,
    )  # fmt: skip
    reached = train(made, samples, levers, 1)
    assert reached["loss"] < np.log(CLASSES)


def test_l1_shrinks_weights_and_patience_keeps_the_best(samples: Samples) -> None:
    sizes = []
    for l1 in (0.0, 0.05):
        settle(1, 1)
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
        train(made, samples, Training(epochs=6, l1=l1, l2=0.0), 1)
        sizes.append(float(made[1].weight.detach().abs().sum()))
    assert sizes[1] < 0.7 * sizes[0]
    settle(1, 1)
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    reached = train(made, samples, Training(epochs=200, patience=2, learning_rate=0.05), 1)
    assert reached["epochs"] < 200
    assert reached["training_samples"] == 540


def test_the_same_seed_gives_the_same_model(samples: Samples) -> None:
    made = []
    for _ in range(2):
        settle(9, 1)
        network = families.mobilenet_v1(0.125, classes=CLASSES)
        train(network, samples, Training(**QUICK, shift=1), 9)
        made.append(torch.cat([tensor.flatten().float() for tensor in network.state_dict().values()]))
    assert torch.equal(*made)
