"""A Keras model file as a torch module: Keras 3 on its torch backend makes every model one.

Keras lays images out with channels last; the module is given channels first and turns them itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from agent.errors import ConfigError, ModelError


class ChannelsFirst(nn.Module):
    """A module for channels-last images, called with channels-first ones."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inner module's output."""
        result: Tensor = self.inner(inputs.permute(0, 2, 3, 1) if inputs.ndim == 4 else inputs)
        return result


def load_keras(path: Path, *, channels_first: bool) -> nn.Module:
    """Return the model, for channels-first images if so asked.

    Raises: ConfigError: Keras is set to another backend. ModelError: the file is not readable.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    if keras.backend.backend() != "torch":
        raise ConfigError("Keras runs on another backend here", fix="set KERAS_BACKEND=torch")
    try:
        model: Any = keras.saving.load_model(path, compile=False)
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"{path.name} is not a Keras model: {text}", fix="save it as .keras") from error
    made: nn.Module = ChannelsFirst(model) if channels_first else model
    return made
