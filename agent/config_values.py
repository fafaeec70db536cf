"""Single values of agent.yaml: what a name, a quantity, a path and a key may be. Which keys there are is for others."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agent.core.units import Dimension, parse_quantity
from agent.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def positive(value: object, dimension: Dimension, where: str) -> float:
    """Return a quantity above zero in SI units. Raises: ConfigError."""
    number = parse_quantity(value, dimension, where=where)
    if number <= 0:
        raise ConfigError(f"{where}: {value!r} must be above zero")
    return number


def usable_name(value: str, where: str) -> str:
    """Return a name that may stand in topics and paths. Raises: ConfigError."""
    if not _NAME.fullmatch(value):
        fix = "use lower-case letters, digits and dashes, starting with a letter or digit, at most 63"
        raise ConfigError(f"{where}: {value!r} is not a usable name", fix=fix)
    return value


def beside(config: Path | None, value: str) -> Path:
    """Return a path of the configuration; a relative one starts at the configuration's folder."""
    path = Path(os.path.expanduser(value))  # noqa: PTH111 - expands ~ and leaves the rest alone
    return path if path.is_absolute() or config is None else config.parent / path


def optional_path(config: Path | None, value: str | None) -> Path | None:
    """Return a path as ``beside`` does, None for none."""
    return None if value is None else beside(config, value)


def check_keys(value: object, kind: msgspec.inspect.Type, path: str) -> None:
    """Walk the document beside its type; raise ConfigError at the first key the type does not know."""
    if isinstance(kind, msgspec.inspect.UnionType):
        for member in kind.types:
            check_keys(value, member, path)
    elif isinstance(kind, msgspec.inspect.StructType) and isinstance(value, Mapping):
        known = {field.encode_name: field.type for field in kind.fields}
        for key, item in value.items():
            here = f"{path}.{key}" if path else str(key)
            if key not in known:
                import difflib  # for this sentence only

                near = difflib.get_close_matches(str(key), known, n=1)
                fix = f"did you mean `{near[0]}`" if near else "known keys here: " + ", ".join(sorted(known))
                raise ConfigError(f"unknown key `{here}` in the configuration", fix=fix)
            check_keys(item, known[key], here)
    elif isinstance(kind, msgspec.inspect.DictType) and isinstance(value, Mapping):
        for key, item in value.items():
            check_keys(item, kind.value_type, f"{path}.{key}")
    elif isinstance(kind, msgspec.inspect.ListType) and isinstance(value, list):
        for number, item in enumerate(value):
            check_keys(item, kind.item_type, f"{path}[{number}]")
