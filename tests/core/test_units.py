from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.units import Dimension, format_quantity, parse_quantity
from agent.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("20 ms", "time", 0.02), ("20ms", "time", 0.02), (" 1.5 h ", "time", 5400.0), ("3 µs", "time", 3e-6),
        ("64 MiB", "bytes", 64 * 2**20), ("64 MB", "bytes", 64e6), ("1 TB", "bytes", 1e12), ("1e3 B", "bytes", 1000.0),
        ("4 W", "power", 4.0), ("350 mW", "power", 0.35), ("30 mJ", "energy", 0.03), ("1 Wh", "energy", 3600.0),
        ("60 C", "temperature", 60.0), ("-5 °C", "temperature", -5.0), ("1.5 GHz", "frequency", 1.5e9),
        ("50 /s", "rate", 50.0), ("50 1/s", "rate", 50.0), ("11/s", "rate", 11.0), ("9 inferences/s", "rate", 9.0),
        (0.02, "ratio", 0.02), (1, "ratio", 1.0), ("0.95", "ratio", 0.95), ("95 %", "ratio", 0.95),
    ],
)  # fmt: skip
def test_parse(text: object, dimension: Dimension, value: float) -> None:
    assert parse_quantity(text, dimension, where="x") == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "dimension", "problem"),
    [
        (20, "time", "x: 20 has no unit"),
        ("20", "time", "x: '20' has no unit"),
        ("20 W", "time", "x: 'W' is not a unit of time"),
        ("20 MS", "time", "x: 'MS' is not a unit of time"),
        ("0.9 ms", "ratio", "x: '0.9 ms' has a unit where a ratio is meant"),
        ("5 %", "time", "x: '%' is not a unit of time"),
        ("fast", "time", "x: 'fast' is not a quantity"),
        ("", "time", "x: '' is not a quantity"),
        ("1 2 ms", "time", "x: '1 2 ms' is not a quantity"),
        ("nan ms", "time", "x: 'nan ms' is not a quantity"),
        (True, "ratio", "x: True is not a quantity"),
        (None, "time", "x: None is not a quantity"),
        (["20 ms"], "time", "x: ['20 ms'] is not a quantity"),
        (math.nan, "ratio", "x: nan is not a quantity"),
        (math.inf, "ratio", "x: inf is not a quantity"),
        ("1e400 ms", "time", "x: '1e400 ms' is not a finite quantity"),
        ("1e308 GB", "bytes", "x: '1e308 GB' is not a finite quantity"),
    ],
)
def test_refused(text: object, dimension: Dimension, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_quantity(text, dimension, where="x")
    assert caught.value.problem == problem
    assert caught.value.fix


def test_a_number_beyond_floating_point_is_refused() -> None:
    with pytest.raises(ConfigError):
        parse_quantity(10**400, "ratio", where="x")


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (None, "time", "unknown"), (0.0, "time", "0 s"), (0.02, "time", "20 ms"), (0.0009996, "time", "1000 µs"),
        (5e-9, "time", "0.005 µs"), (90, "time", "1.5 min"), (7200, "time", "2 h"), (-0.02, "time", "-20 ms"),
        (0, "bytes", "0 B"), (999.9, "bytes", "1000 B"), (1023, "bytes", "1023 B"), (64 * 2**20, "bytes", "64 MiB"),
        (4.0, "power", "4 W"), (0.35, "power", "350 mW"), (0.0, "power", "0 W"), (0.0305, "energy", "30.5 mJ"),
        (60.04, "temperature", "60.0 °C"), (1.5e9, "frequency", "1.5 GHz"), (12345.0, "rate", "12345 /s"),
        (0.5, "rate", "0.5 /s"), (0.9496, "ratio", "0.950"),
    ],
)  # fmt: skip
def test_format(value: float | None, dimension: Dimension, text: str) -> None:
    assert format_quantity(value, dimension) == text


def test_more_digits() -> None:
    assert format_quantity(0.9496, "ratio", digits=4) == "0.9496"
    assert format_quantity(0.020004, "time", digits=5) == "20.004 ms"


DIMENSIONS: list[Dimension] = ["time", "bytes", "power", "energy", "frequency", "rate"]


@given(st.floats(1e-6, 1e12), st.sampled_from(DIMENSIONS))
def test_what_is_written_can_be_read_again(value: float, dimension: Dimension) -> None:
    written = format_quantity(value, dimension, digits=6)
    assert parse_quantity(written, dimension, where="x") == pytest.approx(value, rel=1e-5, abs=1e-11)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert math.isfinite(parse_quantity(text, "time", where="x"))
    except ConfigError as error:
        assert error.fix
