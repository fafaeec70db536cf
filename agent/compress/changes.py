"""Chains as a recipe writes them: which single change makes one into another, and how much of it. Pure.

What a change is worth is ``toward``'s; how steps follow each other, ``plan``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from agent.compress.search import plain
from agent.compress.technique import Technique

STRENGTH = {"channel_pruning": "macs", "low_rank": "ratio"}  # share left: 1 is unchanged
NUMBERS = frozenset({"float16", "dynamic_int8", "static_int8", "int8_int16"})  # one of them in a chain
ZEROS = frozenset({"magnitude_pruning", "n_m_sparsity", "weight_clustering"})  # smaller only once they are packed

Steps = tuple[dict[str, Any], ...]  # as a recipe writes a chain


class Change(NamedTuple):
    """What was changed, and how much of it: pairs of one ``kind`` are on one line."""

    kind: str
    x: float


def change_of(old: dict[str, Any] | None, new: dict[str, Any]) -> Change:
    """Return how a step counts that is added, or put in place of another: above 0 where a strength is given up."""
    ((name, given),) = new.items()
    strength = STRENGTH.get(name)
    share = given.get(strength) if strength else None
    if old is None or next(iter(old)) != name:
        place = "" if old is None else f"in place of {text(old)}: "
        if share is None:
            return Change(place + text(new), 1.0)
        return Change(place + text(new, without=strength), math.log(share))
    had = next(iter(old.values())).get(strength) if strength else None
    if share is None or had is None:
        return Change(f"in place of {text(old)}: {text(new)}", 1.0)
    return Change(text(new, without=strength), math.log(share / had))


def text(step: Mapping[str, Any], *, without: str | None = None) -> str:
    """Return a step in words; how it fine-tunes is left out, so that steps that differ in that alone are alike."""
    ((name, given),) = step.items()
    told = {key: value for key, value in given.items() if key != without and not isinstance(value, Mapping)}
    return name + "".join(f" {key} {value}" for key, value in sorted(told.items()))


def alike(chain: Steps) -> tuple[str, ...]:
    """Return what chains have in common that differ in fine-tuning alone."""
    return tuple(map(text, chain))


def written(chain: Sequence[Mapping[str, Any]], known: Mapping[str, Technique]) -> Steps:
    """Return a manifest's chain as a recipe writes it: strengths, and what differs from a technique's defaults."""
    steps = []
    for step in chain:
        name, usual = step["technique"], {"seed": step["parameters"].get("seed")}
        for field in msgspec.structs.fields(known[name].parameters) if name in known else ():
            if field.name != STRENGTH.get(name) and field.default is not msgspec.NODEFAULT:
                own = field.default
                usual[field.name] = plain(own) if isinstance(own, msgspec.Struct) else msgspec.to_builtins(own)
        given = step["parameters"].items()
        steps.append({name: {key: value for key, value in given if value is not None and value != usual.get(key)}})
    return tuple(steps)
