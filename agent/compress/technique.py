"""What every technique has in common: its name, its parameters, what it takes and gives, and how it is asked to work.

Leaves the work to ``techniques`` and the order of steps to ``plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from agent.compress.samples import Samples
from agent.errors import ConfigError

Kind = Literal["torch", "onnx", "tflite"]


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a technique's parameters: frozen, strict, each with a default where there is a sensible one."""


class Step(NamedTuple):
    """One application of a technique, as its function gets it.

    ``source`` and ``target`` are model files of ``kind`` (torch: a pickled module, read only from our own work folder);
    ``others`` are further models that parameters name, such as a teacher, always torch.
    """

    kind: Kind
    source: Path
    target: Path
    parameters: Any  # the technique's own ``Parameters``
    samples: Samples
    seed: int
    others: Mapping[str, Path]


Apply = Callable[[Step], dict[str, Any]]


class Technique(NamedTuple):
    """One technique.

    ``kinds``: what it works on; what it gives is of the same kind. ``apply`` writes ``step.target`` and returns what
    was reached (sparsity, ranks, samples used), in JSON's types. ``models``: parameters that name a recipe's model.
    ``libraries``: distributions whose version changes its result. ``revision`` grows when the same parameters give
    another result.
    """

    name: str
    summary: str
    source: str
    kinds: tuple[Kind, ...]
    parameters: type[Parameters]
    apply: Apply
    models: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    revision: int = 1

    def read(self, given: object, where: str) -> Any:
        """Return parameters from plain values. Raises: ConfigError: unknown, missing or out of range."""
        try:
            return msgspec.convert({} if given is None else given, self.parameters)
        except msgspec.ValidationError as error:
            known = ", ".join(self.parameters.__struct_fields__) or "none"
            raise ConfigError(f"{where}: {self.name}: {error}", fix=f"its parameters are: {known}") from error
