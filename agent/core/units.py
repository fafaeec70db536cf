"""Quantities with units: text to SI on the way in, SI to text on the way out. Pure.

Rules:
- Inside boardfit every number is SI (seconds, bytes, watts, joules, degrees Celsius, ratios 0..1).
- A bare number for a physical quantity is an error: "20" could be 20 ms or 20 s, and boards hang on it.
- Decimal and binary prefixes are different things: 1 MB = 10^6 bytes, 1 MiB = 2^20 bytes.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from agent.errors import ConfigError

Dimension = Literal["time", "bytes", "power", "energy", "temperature", "ratio", "frequency", "rate"]

_UNITS: dict[str, dict[str, float]] = {
    "time": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "bytes": {
        "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3, "TiB": 1024.0**4,
    },
    "power": {"uW": 1e-6, "µW": 1e-6, "mW": 1e-3, "W": 1.0},
    "energy": {"uJ": 1e-6, "µJ": 1e-6, "mJ": 1e-3, "J": 1.0, "Wh": 3600.0},
    "temperature": {"C": 1.0, "°C": 1.0},
    "frequency": {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9},
    "rate": {"/s": 1.0, "1/s": 1.0, "inferences/s": 1.0},
}  # fmt: skip
_EXAMPLE = {
    "time": "20 ms", "bytes": "64 MiB", "power": "4 W", "energy": "30 mJ", "temperature": "60 C",
    "ratio": "0.95 or 95 %", "frequency": "1.5 GHz", "rate": "50 /s",
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*((?:1/)?[^\s\d].*?)?\s*")


def parse_quantity(value: object, dimension: Dimension, *, where: str) -> float:
    """Read one quantity and return it in SI.

    Args:
        value: text such as "20 ms"; a bare number is accepted for ratios only.
        dimension: what kind of quantity is asked for.
        where: configuration path or option, named in errors.

    Returns: seconds, bytes, watts, joules, degrees Celsius, hertz, per second, or a ratio (``95 %`` is 0.95).
    Raises: ConfigError: not a quantity, no unit, or a unit of another dimension.
    """
    example = _EXAMPLE[dimension]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigError(f"{where}: {value!r} is not a quantity", fix=f"write it like {example}")
    try:
        match = _QUANTITY.fullmatch(value if isinstance(value, str) else repr(float(value)))
    except OverflowError:
        match = None
    if match is None:
        raise ConfigError(f"{where}: {value!r} is not a quantity", fix=f"write it like {example}")
    number, unit = float(match[1]), match[2]
    factor = _factor(unit, dimension, value, where)
    if not math.isfinite(number * factor):
        raise ConfigError(f"{where}: {value!r} is not a finite quantity", fix=f"write it like {example}")
    return number / 100.0 if unit == "%" else number * factor


def _factor(unit: str | None, dimension: Dimension, value: object, where: str) -> float:
    example = _EXAMPLE[dimension]
    if dimension == "ratio":
        if unit in (None, "%"):
            return 1.0
        raise ConfigError(f"{where}: {value!r} has a unit where a ratio is meant", fix=f"write it like {example}")
    if unit is None:
        raise ConfigError(f"{where}: {value!r} has no unit", fix=f"write it with its unit, like {example}")
    factor = _UNITS[dimension].get(unit)
    if factor is None:
        known = ", ".join(_UNITS[dimension])
        raise ConfigError(f"{where}: {unit!r} is not a unit of {dimension}", fix=f"use one of {known}, like {example}")
    return factor


def _digits(value: float, digits: int) -> str:
    """Write with significant digits, but never in powers of ten where plain digits are as short."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e15 else text


def _scaled(value: float, steps: tuple[tuple[float, str], ...], digits: int) -> str:
    factor, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return f"{_digits(value / factor, digits)} {unit}"


def format_quantity(value: float | None, dimension: Dimension, *, digits: int = 3) -> str:
    """Write an SI value for a person, with ``digits`` significant ones; ``unknown`` for None.

    Ratios and temperatures have a fixed number of decimals (3 and 1), and more where ``digits`` asks for more.
    """
    if value is None:
        return "unknown"
    if dimension == "time":
        steps = ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
        return _scaled(value, steps, digits) if value else "0 s"
    if dimension == "bytes":
        return _scaled(value, ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"), (1, "B")), digits)
    if dimension == "power":
        return _scaled(value, ((1, "W"), (1e-3, "mW"), (1e-6, "µW")), digits) if value else "0 W"
    if dimension == "energy":
        return _scaled(value, ((1, "J"), (1e-3, "mJ"), (1e-6, "µJ")), digits) if value else "0 J"
    if dimension == "temperature":
        return f"{value:.{digits - 2}f} °C"
    if dimension == "frequency":
        return _scaled(value, ((1e9, "GHz"), (1e6, "MHz"), (1e3, "kHz"), (1, "Hz")), digits)
    if dimension == "rate":
        return f"{_digits(value, digits)} /s"
    return f"{value:.{digits}f}"


def format_sizes(transferred_bytes: float, unpacked_bytes: float | None) -> str:
    """Write the size of a model file, both sizes of one that travels packed: ``150 KiB packed, 563 KiB unpacked``."""
    text = format_quantity(transferred_bytes, "bytes")
    return text if unpacked_bytes is None else f"{text} packed, {format_quantity(unpacked_bytes, 'bytes')} unpacked"
