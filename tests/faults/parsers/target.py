"""One reader of foreign bytes, or a family of them, and what a suite asks of it.

A target returns, or raises one of its ``typed`` errors; anything else is a finding. The first byte of an input chooses
among the readers of a target.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from agent.errors import BoardfitError
from tests.faults.parsers import spoil

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
KEYID = "a" * 64
DEEP = b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
JSON, YAML, BYTES = spoil.spoiled_json, spoil.spoiled_yaml, spoil.spoiled_bytes


@dataclass(frozen=True)
class Target:
    """One parser or a family of them. Args: kinds: reader number to (seeds, how they are spoiled)."""

    name: str
    readers: tuple[Callable[[bytes], object], ...]
    seeds: Callable[[], tuple[tuple[int, bytes], ...]]
    spoilers: tuple[spoil.Spoiler, ...]
    typed: tuple[type[Exception], ...] = field(default=(BoardfitError,))

    def run(self, data: bytes) -> None:
        """Read an input. Raises: a finding."""
        if data:
            with suppress(*self.typed):
                self.readers[data[0] % len(self.readers)](data[1:])

    @lru_cache(maxsize=8)  # noqa: B019 - there are eight
    def corpus(self) -> tuple[bytes, ...]:
        """Return sound inputs."""
        return tuple(bytes([number]) + data for number, data in self.seeds())

    def spoiled(self, chance: Any) -> bytes:
        """Return a spoiled input."""
        return self.spoiled_from(chance, chance.choice(self.corpus()))

    def spoiled_from(self, chance: Any, data: bytes) -> bytes:
        """Return an input spoiled (further)."""
        return data[:1] + self.spoilers[data[0] % len(self.readers)](chance, data[1:])

    def always(self) -> Iterator[bytes]:
        """Yield what every reader is given whatever the seed: noise, and each sound document with one place changed."""
        for number in range(len(self.readers)):
            for data in (b"", b"\xff\xfe", b"null", b"[]", b'{"\\ud800":1}', b"9" * 5000, DEEP):
                yield bytes([number]) + data
        for data in self.corpus():
            with suppress(ValueError):
                document = json.loads(data[1:])
                if isinstance(document, dict):
                    yield from (data[:1] + changed for changed in spoil.each_place(document))


def encode(document: Any) -> bytes:
    return json.dumps(document).encode()


def decoded(data: bytes) -> Any:
    """Return plain values, for what is handed values and not bytes."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BoardfitError("no JSON") from error


@lru_cache(maxsize=1)
def own_folder() -> str:
    """Return a folder of this process for what must be a file."""
    return tempfile.mkdtemp()
