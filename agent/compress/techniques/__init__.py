"""The table of techniques: which module has which. Each module stands alone, and loads its libraries when it works."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import msgspec

from agent.compress.technique import Technique
from agent.compress.training import Training
from agent.errors import ConfigError

_MODULES = {
    "float16": "float16",
    "dynamic_int8": "int8",
    "static_int8": "int8",
    "int8_int16": "int8",
    "magnitude_pruning": "sparsity",
    "n_m_sparsity": "sparsity",
    "channel_pruning": "channels",
    "weight_clustering": "clustering",
    "low_rank": "low_rank",
    "distillation": "distillation",
    "qat_int8": "qat",
}
NAMES = tuple(_MODULES)


def technique(name: str, where: str) -> Technique:
    """Return a technique. Raises: ConfigError: there is none of that name."""
    if name not in _MODULES:
        near = difflib.get_close_matches(name, _MODULES, n=1)
        fix = f"did you mean `{near[0]}`" if near else f"techniques are {', '.join(_MODULES)}"
        raise ConfigError(f"{where}: there is no technique {name!r}", fix=fix)
    module = import_module(f"agent.compress.techniques.{_MODULES[name]}")
    found: Technique = next(one for one in module.TECHNIQUES if one.name == name)
    return found


def reading(action: str, where: str) -> Callable[[Mapping[str, Any]], object]:
    """Return what checks a step's plain parameters: of a technique, or of ``train``. It raises ConfigError."""
    if action != "train":
        found = technique(action, where)
        return lambda parameters: found.read(parameters, where)

    def read(parameters: Mapping[str, Any]) -> object:
        try:
            return msgspec.convert(parameters["train"], Training)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {error}", fix="correct that value") from error

    return read
