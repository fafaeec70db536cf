"""The table of techniques: which module has which. Each module stands alone, and loads its libraries when it works."""

from __future__ import annotations

import difflib
from importlib import import_module

from agent.compress.technique import Technique
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
