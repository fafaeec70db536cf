"""YAML text to plain values, read by a short-lived copy of this process, so that the parser's memory goes with it.

Rules:
- A key written twice is an error: YAML would silently keep the last. So is what has no end or unfolds without bound:
  an alias within its own anchor, aliases of aliases.
- 1e-3 is a number, as in YAML 1.2 (section 10.3.2): the parser's YAML 1.1 wants a point and a sign, 1.0e-3,
  and reads text otherwise. ``written_yaml`` quotes a text that looks so, for the same reason.
- The copy (``agent.apart``) is made only where it pays: the parser is not loaded yet. Otherwise, and whenever no answer
  comes from the copy, the text is read here; the result is the same.

What the values mean is for the caller.
"""

from __future__ import annotations

import marshal
import re
import sys
from collections.abc import Hashable, Sequence
from typing import Any

from agent.apart import done_apart

Outcome = tuple[bool, Any]  # True and the values, or False with the number of the text and what is wrong with it

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z")


# What the parser's constructors let out: of `!!int x`, of 2001-99-99, of a key that is a list, of 5,000 brackets.
_NO_VALUE = (ValueError, TypeError, OverflowError, RecursionError)
_MOST_LEVELS, _MOST_VALUES = 100, 100_000  # chosen: a board's profile has 6 and 300


class YamlProblemError(Exception):
    """A text is not valid YAML. ``number`` counts from 0; ``problem`` is one line with its place."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number = number
        self.problem = problem


def parser_is_loaded() -> bool:
    """Return whether this process carries the parser already, so that a copy would save nothing."""
    return "yaml" in sys.modules


def parse_yaml(texts: Sequence[str]) -> list[Any]:
    """Return the value of each text. Raises: YamlProblemError: the first that is not valid."""
    outcome = None if parser_is_loaded() else _parse_apart(texts)
    good, answer = _parse(texts) if outcome is None else outcome
    if not good:
        raise YamlProblemError(*answer)
    values: list[Any] = answer
    return values


def written_yaml(document: object) -> str:
    """Return plain values as YAML that ``parse_yaml`` reads as the same, keys in their order."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    _with_exponents(Dumper)
    return yaml.dump(document, Dumper=Dumper, sort_keys=False)


def _with_exponents(kind: Any) -> None:
    """Let a loader or dumper of ours take a number with an exponent for one."""
    kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def _parse_apart(texts: Sequence[str]) -> Outcome | None:
    """Return the outcome had from a copy of this process, None where it has none to give (a date has no plain form)."""
    answer = done_apart(lambda: marshal.dumps(_parse(texts)))
    if answer is None:
        return None
    outcome: Outcome = marshal.loads(answer)  # noqa: S302 - written by ourselves
    return outcome


def _parse(texts: Sequence[str]) -> Outcome:
    import yaml

    fast, values = _strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)), []
    for number, text in enumerate(texts):
        try:
            values.append(yaml.load(text, Loader=fast))  # noqa: S506 - a safe loader
        except RecursionError as error:
            return False, (number, _problem(error))
        except (yaml.YAMLError, *_NO_VALUE):
            try:  # the slow one names the better place
                values.append(yaml.load(text, Loader=_strict(yaml.SafeLoader)))  # noqa: S506
            except (yaml.YAMLError, *_NO_VALUE) as error:
                return False, (number, _problem(error))
        if not _is_small(values[-1]):
            return False, (number, "it is nested too deep, refers to itself, or repeats itself too often")
    return True, values


def _is_small(value: Any) -> bool:
    """Return whether a value ends, at a size that a person has written; aliases count as often as they are used."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        one, depth = waiting.pop()
        seen += 1
        if depth > _MOST_LEVELS or seen > _MOST_VALUES:
            return False
        if isinstance(one, dict):
            waiting.extend((inner, depth + 1) for inner in one.values())
        elif isinstance(one, (list, tuple, set)):
            waiting.extend((inner, depth + 1) for inner in one)
    return True


def _strict(base: Any) -> Any:
    import yaml

    class Strict(base):  # type: ignore[misc]
        levels = 0

        def descend_resolver(self, node: Any, index: Any) -> None:
            """Count what the composer goes into: the one in C knows no end, and overflows the stack."""
            self.levels += 1
            if self.levels > _MOST_LEVELS + 1:
                raise RecursionError
            super().descend_resolver(node, index)

        def ascend_resolver(self) -> None:
            self.levels -= 1
            super().ascend_resolver()

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            seen = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=deep)
                if isinstance(key, Hashable) and key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} is written twice", key_node.start_mark
                    )
                seen.add(key)
            found: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
            return found

        def construct_scalar(self, node: yaml.ScalarNode) -> Any:
            value = super().construct_scalar(node)
            try:
                value.encode()
            except UnicodeEncodeError as error:
                problem = "half a surrogate pair is no character"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error
            return value

    _with_exponents(Strict)
    return Strict


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else str(problem)
