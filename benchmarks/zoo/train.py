"""Short, seeded training of one network on the training split. The test split is never looked at here.

One-cycle AdamW with label smoothing; the weights after the last epoch are kept, so nothing is selected by a score.
Augmentation shifts each image by up to two of its 32 pixels. Seeds: ``catalog.SEED`` for weights, order and shifts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from agent.compress.nets import families
from agent.runtimes.preprocess import apply_steps
from benchmarks.zoo.catalog import ONNX, SEED, Network
from benchmarks.zoo.data import Split, preprocessing_steps

BATCH = 64
SHIFT_PIXELS = 2
BLACK = -1.0  # what 0 becomes under data.preprocessing_steps


def _build(network: Network) -> nn.Module:
    factory: Callable[..., nn.Module] = getattr(families, network.family)
    return factory(**network.settings)


def _shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, _, height, width = images.shape
    padded = functional.pad(images, (SHIFT_PIXELS,) * 4, value=BLACK)
    corners = torch.randint(0, 2 * SHIFT_PIXELS + 1, (count, 2), generator=generator).tolist()
    return torch.stack(
        [padded[number, :, top : top + height, left : left + width] for number, (top, left) in enumerate(corners)]
    )


def train_network(network: Network, train: Split, directory: Path, *, threads: int = 2) -> nn.Module:
    """Train, save the float weights as ``<name>.pt`` under ``directory``, and return the network in eval mode.

    The result repeats on one machine with one number of threads; float sums differ in order between machines.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(SEED)
    shifts = torch.Generator().manual_seed(SEED)
    model = _build(network)
    images = torch.from_numpy(apply_steps(preprocessing_steps(ONNX), train.images))
    labels = torch.from_numpy(train.labels)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(SEED),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=network.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=network.learning_rate, total_steps=network.epochs * len(loader)
    )
    started = time.monotonic()
    model.train()
    for epoch in range(network.epochs):
        total = 0.0
        for inputs, wanted in loader:
            loss = functional.cross_entropy(model(_shifted(inputs, shifts)), wanted, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if (epoch + 1) % 10 == 0 or epoch + 1 == network.epochs:
            print(f"  epoch {epoch + 1}/{network.epochs}: loss {total / len(loader):.4f}", flush=True)
    print(f"  trained in {time.monotonic() - started:.1f} s")
    model.eval()
    torch.save(model.state_dict(), directory / f"{network.name}.pt")
    return model


def load_network(network: Network, directory: Path) -> nn.Module:
    """Return the network with weights that ``train_network`` saved under ``directory``, in eval mode."""
    model = _build(network)
    model.load_state_dict(torch.load(directory / f"{network.name}.pt", weights_only=True))
    return model.eval()
