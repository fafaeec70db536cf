"""For applications: open the model that serves a task, have newer ones swapped in between two calls, tell how it fares.

::

    from agent.client import open_model

    with open_model("digits") as model:
        y = model(x)

Rules:
- Light: the chosen engine, numpy, msgspec and a dozen small modules of ours; no configuration, database or network.
- Nothing here depends on the agent running: without it the model serves on, and what could not be told is counted.
- Raises ``agent.errors`` only: ``DeploymentError`` and ``ModelError`` at opening, ``InputError`` for what an
  application feeds, ``InferenceError`` where the engine fails.

``docs/client.md`` has the contract for applications in other languages.
"""

from __future__ import annotations

from agent.client.model import Model, open_model
from agent.client.telling import Telling
from agent.errors import DeploymentError, InferenceError, InputError, ModelError

__all__ = ["DeploymentError", "InferenceError", "InputError", "Model", "ModelError", "Telling", "open_model"]
