"""A search for training levers: what a recipe may ask for, where it stands in parameters, and what it chose. Pure.

Rules:
- ``search`` stands among a model's ``train`` or a technique's ``fine_tune`` or ``training``, or among distillation's
  own parameters. ``over`` names what is beside it; a dot leads into what is below (``training.learning_rate``).
- Every end of a range and every value must be one that the parameter takes: checked before anything is made.
- A search is judged on a part of the training pack that its trials do not train on; the evaluation pack is not looked
  at. Chosen values take the search's place, and training with them uses the whole training pack.

Leaves trials to ``nets.search`` and the split to ``samples``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from agent.config_values import positive
from agent.errors import ConfigError

KEY = "search"


class Range(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one value may be: from ``low`` to ``high``, drawn evenly or with ``log`` by ratio; or one ``among`` some."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    among: list[Any] | None = None

    def bounds(self, where: str) -> tuple[float, float]:
        """Return low and high. Raises: ConfigError: they are no numbers in that order."""
        low, high = self.low, self.high
        if low is None or high is None:
            raise ConfigError(f"{where}: low and high must be numbers", fix="or say among: [...]")
        if not low < high or (self.log and low <= 0):
            raise ConfigError(f"{where}: low must be below high, and above zero with log", fix="correct the range")
        return low, high

    def samples(self, where: str) -> list[Any]:
        """Return values that stand for all: the ends of a range, or each choice. Raises: ConfigError."""
        if self.among is None:
            return list(self.bounds(where))
        if self.low is not None or self.high is not None or self.log or len(self.among) < 2:
            raise ConfigError(f"{where}: give low and high, or two values or more among", fix="leave one out")
        if not all(one is None or isinstance(one, str | int | float) for one in self.among):
            raise ConfigError(f"{where}: values among must be plain", fix="write numbers, words, true, false or null")
        return list(self.among)


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search. ``time``: for all trials together; default is the recipe's step_time. ``validation``: share."""

    over: dict[str, Range]
    trials: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 20
    time: str | None = None
    validation: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2

    def time_s(self) -> float | None:
        """Return the time for all trials together in seconds, None where it is the recipe's."""
        return None if self.time is None else positive(self.time, "time", "search.time")


class Place(NamedTuple):
    """A search and where it stands: keys from the parameters down to what holds it."""

    path: tuple[str, ...]
    search: Search


def place_of(parameters: Mapping[str, Any], where: str = "the step") -> Place | None:
    """Return the search in plain parameters. Raises: ConfigError: there are two, or it is not valid."""
    found = [(path, holder[KEY]) for path, holder in _holders(parameters) if holder.get(KEY) is not None]
    if len(found) > 1:
        raise ConfigError(f"{where}: two searches in one step", fix="put all in one: over: {training.momentum: ...}")
    if not found:
        return None
    try:
        return Place(found[0][0], msgspec.convert(found[0][1], Search))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: search: {error}", fix="see the README's recipe") from error


def plain(parameters: msgspec.Struct) -> dict[str, Any]:
    """Return parameters as plain values, without the key of a search that was not asked for."""
    values: dict[str, Any] = msgspec.to_builtins(parameters)
    for _, holder in _holders(values):
        if holder.get(KEY, ...) is None:
            del holder[KEY]
    return values


def with_values(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with a search's values in its place; without a search they are as they were."""
    result: dict[str, Any] = copy.deepcopy(dict(parameters))
    for _, holder in _holders(result):
        if holder.pop(KEY, None) is not None:
            for name, value in values.items():
                _put(holder, name, value)
    return result


def check(parameters: Mapping[str, Any], read: Callable[[dict[str, Any]], object], where: str) -> Search | None:
    """Return the search in parameters, after trying the ends of every range.

    Args: read: raises ConfigError for parameters that are not possible.
    Raises: ConfigError: a name is not known, or a value not possible.
    """
    place = place_of(parameters, where)
    if place is None:
        return None
    if not place.search.over:
        raise ConfigError(f"{where}: search.over is empty", fix="name what to search: over: {learning_rate: ...}")
    place.search.time_s()
    for name, one in place.search.over.items():
        for value in one.samples(f"{where}: search.over.{name}"):
            try:
                read(with_values(parameters, {name: whole(value)}))
            except KeyError:
                raise ConfigError(f"{where}: search.over: there is no {name}", fix="name what is beside it") from None
    return place.search


def whole_only(parameters: Mapping[str, Any], name: str, one: Range, read: Callable[[dict[str, Any]], object]) -> bool:
    """Tell whether a ranged parameter takes whole numbers alone: one between low and high is not possible."""
    low, high = one.bounds(name)
    between = low + (high - low) / 3.0
    try:
        read(with_values(parameters, {name: between if not between.is_integer() else between + 1e-3 * (high - low)}))
    except ConfigError:
        return True
    return False


def whole(value: Any) -> Any:
    """Return a float that is a whole number as int, as parameters such as epochs want; others as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _holders(parameters: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield what may hold a search: the parameters, and each mapping among them."""
    assert isinstance(parameters, dict)
    yield (), parameters
    for key, value in parameters.items():
        if key != KEY and isinstance(value, dict):
            yield (key,), value


def _put(holder: dict[str, Any], name: str, value: Any) -> None:
    *above, last = name.split(".")
    for key in above:
        holder = holder[key]
    if last not in holder or last == KEY:
        raise KeyError(name)
    holder[last] = value
