"""Structure-aware mutants of small models: whatever a mutant does, it ends typed and the agent goes on.

How many, and from which seed, is tests/faults/extent.py's.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from agent.core.measurement import Measurement, Verdict
from tests.faults.extent import Extent
from tests.faults.hostile import onnx_models, tflite_models
from tests.faults.table import show
from tests.measure import models

SLICE, QUICK, FULL = 8, 500, 10_000  # of each format
_NUMBERS = (-(1 << 31), -2, -1, 0, 1, 2, 3, 127, 128, 255, 65535, (1 << 31) - 1)


def mutate_onnx(chance: random.Random) -> bytes:
    """Change one to four fields, anywhere in the message, to an extreme or another value, or drop or double parts."""
    made = onnx_models.good()
    if chance.random() < 0.5:
        made.CopyFrom(onnx_models._loop(3, [onnx_models.node("Identity", ["go"], ["go_on"]),
                                            onnx_models.node("Add", ["s", "s"], ["t"])]))  # fmt: skip
    for _ in range(chance.randint(1, 4)):
        message: Any = made
        while True:
            fields = [(field, value) for field, value in message.ListFields() if field.name != "ir_version"]
            if not fields:
                break
            field, value = chance.choice(fields)
            if hasattr(value, "ListFields"):
                message = value
                continue
            if hasattr(value, "append") or hasattr(value, "add"):
                place = chance.randrange(len(value))
                if hasattr(value[place], "ListFields"):
                    way = chance.random()
                    if way < 0.15:
                        del value[place]
                        break
                    if way < 0.3:
                        value.add().CopyFrom(value[place])
                        break
                    message = value[place]
                    continue
                value[place] = _other(chance, value[place])
                break
            setattr(message, field.name, _other(chance, value))
            break
    return bytes(made.SerializeToString())


def _other(chance: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice((*[one for one in _NUMBERS if one >= 0], value + 1))
    if isinstance(value, float):
        return chance.choice((0.0, -1.0, 3e38, float("nan"), float("inf")))
    if isinstance(value, str):
        return chance.choice(("", "x", "y", "y" * 5000, value + "?"))
    return chance.choice((b"", value[:-1], value + b"\xff" * 9, bytes(len(value))))


def mutate_tflite(chance: random.Random) -> bytes:
    """Change one to four attributes anywhere in the model's tree of objects."""
    made = tflite_models.unpacked()
    changed = 0
    wanted = chance.randint(1, 4)
    while changed < wanted:
        owner: Any = made
        while True:
            names = sorted(name for name, value in vars(owner).items() if value is not None and name != "version")
            if not names:
                break
            name = chance.choice(names)
            value = getattr(owner, name)
            if hasattr(value, "__dict__"):
                owner = value
                continue
            if hasattr(value, "__len__") and len(value) and hasattr(value[0], "__dict__"):
                if chance.random() < 0.1:
                    value.append(chance.choice(value))
                    break
                owner = chance.choice(value)
                continue
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                setattr(owner, name, chance.choice((0, 1, 2, 3, 99, 127)))
            elif not isinstance(value, (bytes, str, bool)) and hasattr(value, "__len__") and len(value):
                numbers = [int(one) for one in value]
                numbers[chance.randrange(len(numbers))] = chance.choice(_NUMBERS)
                setattr(owner, name, [one % 256 for one in numbers] if name == "data" else numbers)
            break
        changed += 1
    return tflite_models.packed(made)


MAKERS = {"onnx": mutate_onnx, "tflite": mutate_tflite}


@pytest.mark.parametrize("form", sorted(MAKERS))
def test_mutants_end_typed(
    measure: Callable[..., Measurement], tmp_path: Path, form: str, extent: Extent,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    count = extent.count(SLICE, QUICK, FULL)
    ends: Counter[str] = Counter()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(count):
        chance = extent.chance(form, number)
        path = tmp_path / f"mutant-{number}.{form}"
        try:
            path.write_bytes(MAKERS[form](chance))
        except (ValueError, TypeError, OverflowError, AttributeError):
            ends["not writable as a file"] += 1
            continue
        result = measure(path, settings={"memory_growth_bytes": 512 << 20, "deadline_s": 20.0})
        name = f"{form} mutant {number} of seed {extent.seed}"
        assert result.verdict in get_args(Verdict), name
        assert (result.verdict == "ok") == (result.reason is None), f"{name}: {result.verdict} {result.reason}"
        assert result.reason is None or "\n" not in result.reason, name
        ends[result.verdict] += 1
        path.unlink()
    assert len(os.listdir("/proc/self/fd")) == before, "every descriptor is given back"
    title = f"Mutants of seed {extent.seed}: {form}"
    show(record_property, title, ("end", "mutants"), [(end, str(number)) for end, number in ends.items()])
    assert measure(models.identity_classifier(tmp_path / "good.onnx")).verdict == "ok"
