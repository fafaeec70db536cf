"""Which boards are meant: names, groups, classes, and expressions over what boards have told of themselves. Pure.

::

    all   pi5-kitchen   group:line-2   class:3fa9
    soc=bcm2712 and ram>=4GiB and status=online
    group:line-2 and not (cores < 4 or model ~ "*Zero*")

Rules:
- ``=``, ``!=`` compare, without regard to case in texts; ``~`` takes ``*``, ``?`` and ``[...]``; ``<``, ``<=``, ``>``,
  ``>=`` are for quantities, which carry their unit. ``not`` binds most, then ``and``, then ``or``.
- A field with several values (``status``, ``engine``, ``task`` ...) equals a text when one of them does; a busy board
  is online too.
- What a board has not told is unknown, and unknown matches neither a comparison nor its opposite.
- Words with blanks or signs stand in double quotes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from agent.core.topics import check_id
from agent.core.units import Dimension, parse_quantity
from agent.errors import ConfigError
from agent.fleet.view import BoardView

Test = Callable[[BoardView], bool | None]
MAX_TEXT = 4000
MAX_DEPTH = 40
_TOKEN = re.compile(r'\s*(?:(?P<text>"[^"]*")|(?P<sign>!=|<=|>=|[()=<>~])|(?P<word>[^\s()=<>~!"]+))')
_CLASS = re.compile(r"[0-9a-f]{4,64}")


class Field(NamedTuple):
    """What may be compared: how it is read off a board (several values, none when unknown), and in which dimension."""

    read: Callable[[BoardView], tuple[object, ...]]
    dimension: Dimension | Literal["text", "count"]
    meaning: str


def _one(value: object) -> tuple[object, ...]:
    return () if value is None else (value,)


def _told(board: BoardView, words: tuple[str, ...]) -> tuple[object, ...]:
    """Return a list off the profile: none where there is no profile, and one that equals nothing where it is empty."""
    return () if board.class_fingerprint is None else words or ("",)


def _of_tasks(board: BoardView, name: str) -> tuple[object, ...]:
    return tuple(value for task in board.tasks.values() if (value := getattr(task, name)) is not None)


FIELDS: dict[str, Field] = {
    "name": Field(lambda b: (b.name,), "text", "the board's name"),
    "status": Field(lambda b: b.states, "text", "online, busy or offline"),
    "group": Field(lambda b: () if b.groups is None else b.groups or ("",), "text", "a group it is in"),
    "class": Field(lambda b: _one(b.class_fingerprint), "text", "class fingerprint"),
    "profile": Field(lambda b: _one(b.profile), "text", "the board profile it matched"),
    "model": Field(lambda b: _one(b.model), "text", "the board's model"),
    "soc": Field(lambda b: _one(b.soc), "text", "system on chip"),
    "arch": Field(lambda b: _one(b.architecture), "text", "processor architecture"),
    "cores": Field(lambda b: _one(b.cores), "count", "usable cores"),
    "ram": Field(lambda b: _one(b.memory_bytes), "bytes", "total memory"),
    "power_mode": Field(lambda b: _one(b.power_mode), "text", "nvpmodel mode"),
    "engine": Field(lambda b: _told(b, b.engines), "text", "proven engine, or engine/provider"),
    "accelerator": Field(lambda b: _told(b, b.accelerators), "text", "kind or name"),
    "os": Field(lambda b: _one(b.os), "text", "operating system"),
    "python": Field(lambda b: _one(b.python), "text", "Python version"),
    "agent": Field(lambda b: _one(b.agent_version), "text", "boardfit version"),
    "task": Field(lambda b: tuple(b.tasks), "text", "a task it has told of"),
    "candidate": Field(lambda b: _of_tasks(b, "candidate"), "text", "a candidate that serves"),
    "decided": Field(lambda b: _of_tasks(b, "decided"), "text", "a candidate last chosen"),
    "phase": Field(lambda b: _of_tasks(b, "phase"), "text", "a deployment's phase"),
    "p95": Field(
        lambda b: _of_tasks(b, "p95_s"), "time", "95th percentile of latency of what serves, as measured there"
    ),
    "energy": Field(lambda b: _of_tasks(b, "energy_j"), "energy", "of one inference, as the last decision has it"),
    "outbox": Field(lambda b: _one(b.outbox_messages), "count", "messages that wait there"),
    "temperature": Field(lambda b: _one(b.temperature_celsius), "temperature", "last heard; only while watching"),
}


class Selection(NamedTuple):
    """An address, read. ``test`` gives None for unknown. ``names``: boards named outright. ``fields``: compared.

    ``whole``: the fleet (``all``) or one group (``group:NAME``) and nothing else, so that one broadcast reaches it.
    """

    text: str
    test: Test
    names: tuple[str, ...]
    whole: str | None
    fields: frozenset[str] = frozenset()

    def of(self, boards: Iterable[BoardView]) -> list[BoardView]:
        """Return the boards that are meant, in the order given."""
        return [board for board in boards if self.test(board)]


def parse_selection(words: Iterable[str]) -> Selection:
    """Read addresses; several are joined by ``or``.

    Raises: ConfigError: no address, a sign or word where none may be, an unknown field, or a value that is none.
    """
    texts = [text for text in words if text.strip()]
    if not texts:
        raise ConfigError("no board is addressed", fix="name boards, group:NAME, class:FINGERPRINT, or all")
    parts = [_Parser(text) for text in texts]
    tests = [part.parse() for part in parts]
    names = tuple(name for part in parts for name in part.names)
    whole = parts[0].whole() if len(parts) == 1 else None
    fields = frozenset(name for part in parts for name in part.fields)
    return Selection(" or ".join(texts), _either(tests), names, whole, fields)


class _Token(NamedTuple):
    kind: str  # text, sign, word
    text: str

    @property
    def keyword(self) -> str | None:
        lower = self.text.lower()
        return lower if self.kind == "word" and lower in ("and", "or", "not") else None


class _Parser:
    """Recursive descent over one address."""

    def __init__(self, text: str) -> None:
        self.names: list[str] = []
        self.fields: list[str] = []
        self._text = text
        self._tokens = _tokens(text)
        self._place = 0
        self._depth = 0

    def parse(self) -> Test:
        test = self._or()
        if self._next is not None:
            raise self._wrong(f"{self._next.text!r} is not expected")
        return test

    def whole(self) -> str | None:
        """Return the text when it is ``all`` or one ``group:NAME``."""
        (only, *more) = self._tokens
        fits = not more and only.kind == "word" and (only.text == "all" or only.text.startswith("group:"))
        return only.text if fits else None

    @property
    def _next(self) -> _Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self, what: str) -> _Token:
        token = self._next
        if token is None:
            raise self._wrong(f"{what} is missing at the end")
        self._place += 1
        return token

    def _accept(self, kind: str, text: str) -> bool:
        token = self._next
        found = token is not None and ((token.kind == kind and token.text == text) or token.keyword == text)
        self._place += found
        return found

    def _or(self) -> Test:
        tests = [self._and()]
        while self._accept("word", "or"):
            tests.append(self._and())
        return _either(tests)

    def _and(self) -> Test:
        tests = [self._not()]
        while self._accept("word", "and"):
            tests.append(self._not())
        return tests[0] if len(tests) == 1 else lambda board: _all(test(board) for test in tests)

    def _not(self) -> Test:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong("it is nested too deeply")
        if self._accept("word", "not"):
            denied = self._not()
            made: Test = lambda board: None if (found := denied(board)) is None else not found  # noqa: E731
        elif self._accept("sign", "("):
            made = self._or()
            if not self._accept("sign", ")"):
                raise self._wrong("a closing parenthesis is missing")
        else:
            made = self._atom()
        self._depth -= 1
        return made

    def _atom(self) -> Test:
        token = self._take("a board, a group or a comparison")
        if token.kind == "sign" or token.keyword:
            raise self._wrong(f"{token.text!r} is not expected")
        following = self._next
        if following is not None and following.kind == "sign" and following.text not in "()":
            return self._comparison(token.text)
        return self._address(token.text)

    def _address(self, word: str) -> Test:
        if word == "all":
            return lambda _: True
        kind, colon, value = word.partition(":")
        if not colon:
            name = check_id(word, where="address")
            self.names.append(name)
            return lambda board: board.name == name
        if kind == "group":
            group = check_id(value, where="group")
            return lambda board: None if board.groups is None else group in board.groups
        if kind == "class":
            start = value.lower()
            if not _CLASS.fullmatch(start):
                raise self._wrong(f"{value!r} is not the beginning of a class fingerprint (4 to 64 hex digits)")
            return lambda board: None if (c := board.class_fingerprint) is None else c.startswith(start)
        raise self._wrong(f"{kind!r} is not a kind of address", "write group:NAME or class:FINGERPRINT")

    def _comparison(self, name: str) -> Test:
        field = FIELDS.get(name.lower())
        if field is None:
            near = difflib.get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.5)
            fix = f"did you mean `{near[0]}`" if near else "fields are: " + ", ".join(FIELDS)
            raise ConfigError(f"boards have no field `{name}`", fix=fix)
        self.fields.append(name.lower())
        sign = self._take("a sign").text
        value = self._take(f"a value for {name}")
        if value.kind == "sign" or value.keyword:
            raise self._wrong(f"a value for {name} is missing")
        if field.dimension == "text":
            return _text_test(field, name, sign, value.text)
        text = value.text
        unit = self._next  # "4 GiB" is one value
        if unit is not None and unit.kind == "word" and unit.keyword is None:
            text += f" {self._take('a unit').text}"
        return _number_test(field, name, sign, text)

    def _wrong(self, problem: str, fix: str | None = None) -> ConfigError:
        return ConfigError(
            f"the address {self._text!r} cannot be read: {problem}",
            fix=fix or "write it like: soc=bcm2712 and ram>=4GiB and status=online",
        )


def _tokens(text: str) -> list[_Token]:
    if len(text) > MAX_TEXT:
        raise ConfigError(f"an address of {len(text)} characters is too long", fix="put the boards into a group")
    found, place = [], 0
    end = len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise ConfigError(f"the address {text!r} cannot be read at {text[place:].strip()[:20]!r}", fix="see --help")
        found.append(_Token(match.lastgroup, match[match.lastgroup].strip('"')))
        place = match.end()
    return found


def _text_test(field: Field, name: str, sign: str, text: str) -> Test:
    wanted = text.casefold()

    def compare(matches: Callable[[str], bool]) -> Test:
        return lambda board: any(matches(str(v).casefold()) for v in values) if (values := field.read(board)) else None

    if sign == "=":
        return compare(lambda value: value == wanted)
    if sign == "~":
        return compare(lambda value: fnmatchcase(value, wanted))
    if sign == "!=":
        return lambda board: None if not (v := field.read(board)) else wanted not in [str(x).casefold() for x in v]
    raise ConfigError(f"{name} is a text: {sign} does not compare it", fix="use =, != or ~")


def _number_test(field: Field, name: str, sign: str, text: str) -> Test:
    if sign == "~":
        raise ConfigError(f"{name} is a quantity: ~ does not compare it", fix="use =, !=, <, <=, > or >=")
    wanted = _number(field, name, text)
    order = _ORDERS[sign]
    if sign == "!=":
        return lambda board: None if not (v := field.read(board)) else all(order(float(x), wanted) for x in v)  # type: ignore[arg-type]
    return lambda board: None if not (v := field.read(board)) else any(order(float(x), wanted) for x in v)  # type: ignore[arg-type]


def _number(field: Field, name: str, text: str) -> float:
    if field.dimension != "count":
        return parse_quantity(text, field.dimension, where=name)  # type: ignore[arg-type]
    try:
        return float(int(text))
    except ValueError as error:
        raise ConfigError(f"{name}: {text!r} is not a number", fix="write it like 4") from error


_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _either(tests: list[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda board: _any(test(board) for test in tests)


def _any(found: Iterable[bool | None]) -> bool | None:
    """Return True when one is true, None when none is and one is unknown."""
    seen = list(found)
    return True if True in seen else None if None in seen else False


def _all(found: Iterable[bool | None]) -> bool | None:
    """Return False when one is false, None when none is and one is unknown."""
    seen = list(found)
    return False if False in seen else None if None in seen else True
