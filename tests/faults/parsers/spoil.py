"""Spoils documents: trees of JSON and YAML value by value, texts piece by piece, bytes byte by byte.

Every choice comes from the ``chance`` it is given, so that hypothesis can shrink what it found and a seed repeats it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

MOST_BYTES = 256 * 1024
WEIRD_TEXTS = (
    "", "\u0000", "\ud800", "\u202e", "²", "٣", "１２", " 1 ", "1_000", "0x1g", "-", "+", "--1", "1e5", "1e999999999",
    "-1e-999999999", "inf", "-Infinity", "nan", "NaN", "../..", "/", "/proc/self/mem", "a\nb", "x" * 70_000,
    "9" * 5000, "9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00Z", "2026-13-45T99:99:99Z", "{}", "%s%n", "0", "-0",
    "18446744073709551616", "mqtt://[::", "http://\u0130/", "1 MiB MiB", "99999999999999999999 GiB", "-1 ms", "0 s",
    "<= 1e400 ms", "* * * * *", "99 99 99 99 99", "*/0 * * * *", "0-0-0 * * * *", "é" * 300,
)  # fmt: skip
WEIRD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 2**2000, 10**400, -(2**63) - 1, 0.0, -0.0, 1e308, 5e-324,
    float("inf"), float("nan"), [], {}, [[]], [None], {"": None}, {"a": {"a": {}}}, [1] * 5000,
)  # fmt: skip
WEIRD_PIECES = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"\n", b"\r", b"\t", b" ", b",", b":", b"-", b"\"", b"'", b"{", b"[", b"}", b"]",
    b"0", b"-1", b"1e999", b"99999999999999999999", b"0x", b"NaN", b"\xc2\xb2", b"\xd9\xa3", b"=", b"|", b"&a", b"*a",
    b"!!int ", b"!!binary ", b"<<: ", b"? ", b"2001-99-99", b"0o9", b"1:99:99", b"%", b"\xef\xbb\xbf", b"\x1b[0m",
)  # fmt: skip
_LAUGHS = b"\ny: &l0 [x]\n" + b"".join(
    b"y%d: &l%d [%s]\n" % (n, n, b", ".join([b"*l%d" % (n - 1)] * 9)) for n in range(1, 12)
)
_ONLY_YAML: tuple[bytes, ...] = (
    b"\na: &a [*a]\n", b"\nmqtt: &m\n  url: *m\n", b"\n? [a, b]\n: c\n", b"\n<<: 1\n", b"\n" + b"- " * 3000, _LAUGHS,
    b"\nx: !!python/object:os.system\n", b"\nday: 2001-99-99\n", b"\nat: 2001-01-01 99:99:99 +99:99\n", b"\nn: 0b2\n",
    b"\ntasks: !!set {a, b}\n", b"\ntasks: !!binary aGk=\n", b"\nn: !!int x\n", b"\nn: !!float x\n", b"\n=: =\n",
    b"\nn: 0x\n", b"\nn: 1__:60\n", b"\n" + b"[" * 1500, b"\n---\n---\n", b"\n%YAML 9.9\n---\n", b"\n\x85",
)  # fmt: skip


def spoiled_value(chance: random.Random, value: Any) -> Any:
    """Return something else in place of a value, of its own kind more often than not."""
    way = chance.randrange(6)
    if way == 0:
        return deepcopy(chance.choice(WEIRD))  # it may be spoiled further
    if way == 1:
        return chance.choice(WEIRD_TEXTS)
    if way == 2 and isinstance(value, str):
        return spoiled_bytes(chance, value.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogateescape")
    if way == 3:
        return _deep(chance.choice((10, 100, 3000)), value, chance.random() < 0.5)
    if way == 4 and isinstance(value, (int, float)) and not isinstance(value, bool):
        return value * chance.choice((-1, 0, 10**9, 10**30)) if isinstance(value, int) or math.isfinite(value) else 0
    return chance.choice(
        ({"a": value}, [value], [value, value], str(value)[:5000] if isinstance(value, float) else "text")
    )


def _deep(levels: int, value: Any, lists: bool) -> Any:
    for _ in range(levels):
        value = [value] if lists else {"a": value}
    return value


def spoiled(chance: random.Random, document: Any) -> Any:
    """Change a tree, which is returned, one to three places: changed, dropped, doubled or added."""
    made = [document]
    for _ in range(chance.randint(1, 3)):
        _one(chance, made)
    return made[0]


def _one(chance: random.Random, root: list[Any]) -> None:
    owner: Any = root
    key: Any = 0
    while isinstance(owner[key], (dict, list)) and owner[key] and chance.random() < 0.85:
        owner = owner[key]
        key = chance.choice(list(owner)) if isinstance(owner, dict) else chance.randrange(len(owner))
    way = chance.random()
    if way < 0.15 and owner is not root:
        del owner[key]
    elif way < 0.25 and isinstance(owner, dict):
        owner[chance.choice(WEIRD_TEXTS)] = owner[key]
    elif way < 0.3 and isinstance(owner, list) and owner is not root:
        owner.extend([owner[key]] * chance.choice((1, 100)))
    else:
        owner[key] = spoiled_value(chance, owner[key])


#: One of each kind, and the edges of numbers: what a reader may take for something else.
FEW: tuple[Any, ...] = (None, True, -1, 2**64, 0.5, 1e308, "", "x", "9" * 5000, [], [None], {}, {"a": {}})


def each_place(document: Any) -> Iterator[bytes]:
    """Yield a tree with one place changed, for every place in it: to every one of ``FEW``, and taken out."""
    for way in _places(document, ()):
        *above, last = way
        for value in FEW:
            made = deepcopy(document)
            _at(made, above)[last] = value
            yield json.dumps(made).encode()
        made = deepcopy(document)
        del _at(made, above)[last]
        yield json.dumps(made).encode()


def _places(document: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inner:
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from _places(value, (*above, key))


def _at(document: Any, way: list[Any]) -> Any:
    for key in way:
        document = document[key]
    return document


def as_json(chance: random.Random, document: Any) -> bytes:
    """Write a tree, now and then in a way that JSON does not allow."""
    try:
        text = json.dumps(document, ensure_ascii=chance.random() < 0.7)
    except (RecursionError, ValueError):
        text = "[" * chance.choice((900, 100_000))
    data = text.encode("utf-8", "surrogatepass")
    way = chance.randrange(12)
    if way == 0:
        return spoiled_bytes(chance, data)
    if way == 1 and data[:1] == b"{":
        return b'{"zzz":' + b"[" * 50_000 + b"]" * 50_000 + b"," + data[1:]
    if way == 2 and data[:1] == b"{":
        return data[:-1] + b"," + data[1:]  # every key twice
    if way == 3:
        return b"\xef\xbb\xbf" + data
    return data[:MOST_BYTES]


def spoiled_bytes(chance: random.Random, data: bytes) -> bytes:
    """Return bytes with one to four pieces changed, cut, doubled or put in."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        length = min(len(data) - place, chance.choice((0, 1, 2, 8, 64, 1000)))
        way = chance.randrange(5)
        if way == 0:
            data = data[:place] + data[place + length :]
        elif way == 1:
            data = (
                data[: place + length]
                + data[place : place + length] * chance.choice((1, 2, 50))
                + data[place + length :]
            )
        elif way == 2:
            data = data[:place] + chance.choice(WEIRD_PIECES) + data[place + length :]
        elif way == 3:
            data = data[:place] + bytes(chance.randrange(256) for _ in range(min(length, 8))) + data[place + length :]
        else:
            data = data[:place] + chance.choice(WEIRD_TEXTS).encode("utf-8", "surrogatepass")[:5000] + data[place:]
    return data[:MOST_BYTES]


def spoiled_json(chance: random.Random, data: bytes) -> bytes:
    """Spoil a JSON document as a tree; what is none, as bytes."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return spoiled_bytes(chance, data)
    return as_json(chance, spoiled(chance, document)) if chance.random() < 0.9 else spoiled_bytes(chance, data)


def spoiled_yaml(chance: random.Random, data: bytes) -> bytes:
    """Spoil a YAML document as a tree or as text, now and then with what only YAML has."""
    import yaml

    way = chance.random()
    if way < 0.35:
        return spoiled_bytes(chance, data)
    if way < 0.45:
        return data + chance.choice(_ONLY_YAML)
    try:
        made = spoiled(chance, yaml.safe_load(data))
        return yaml.safe_dump(made).encode("utf-8", "surrogatepass")[:MOST_BYTES]
    except (yaml.YAMLError, RecursionError, ValueError):
        return spoiled_bytes(chance, data)


Spoiler = Callable[[random.Random, bytes], bytes]
