"""Torch models as files between steps, and what makes a step repeat.

A module is pickled whole, as pruning and factorization change its layers: such files are read from our own work folder
only, never from a user or a registry. Results repeat on one machine with one number of threads.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch import nn


def settle(seed: int, threads: int) -> None:
    """Seed every generator and choose deterministic kernels."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def save(model: nn.Module, path: Path) -> None:
    """Write a whole module, in eval mode."""
    torch.save(model.eval(), path)


def load(path: Path) -> nn.Module:
    """Return a module that ``save`` wrote, in eval mode."""
    model: nn.Module = torch.load(path, weights_only=False)
    return model.eval()
