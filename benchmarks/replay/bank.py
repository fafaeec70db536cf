"""The bank's file format: what was recorded of every point, and every dump of runs. Reads and writes, decides nothing.

``bank.json`` lists points and dumps; ``bank.xz`` holds the runs of all dumps one after the other. A latency is kept as
the nearest of steps of 0.2 % (error at most 0.1 %), waits and gaps in whole microseconds.
"""

from __future__ import annotations

import json
import lzma
import math
import sys
from array import array
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.core.manifest import Candidate
from agent.core.measurement import AccuracyFigures, GoldenResult, MemoryFigures, OperatingPoint, Placement, Verdict

SCHEMA = "boardfit.replay-bank/1"
FOLDER = Path(__file__).with_name("recorded")
_STEPS = 500.0  # per unit of the natural logarithm


class Piece(NamedTuple):
    """Runs one after the other, at least 10 ms of them: their latencies, their threads' queue wait, their wall time."""

    latencies_ns: tuple[int, ...]
    waited_ns: int
    wall_ns: int


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate at an operating point as the real worker left it, runs apart. Times in seconds.

    ``spawn_s`` is from the fork to an imported engine; ``ending_s`` from the last event to a reaped child; ``died_s``
    stands where the worker did not come to its end, from the fork to its death.
    """

    candidate: Candidate
    point: OperatingPoint
    verdict: Verdict
    reason: str | None = None
    spawn_s: float | None = None
    load_s: float | None = None
    first_s: float | None = None
    evaluation_s: float | None = None
    golden_s: float | None = None
    ending_s: float = 0.0
    died_s: float | None = None
    memory: MemoryFigures | None = None
    accuracy: AccuracyFigures | None = None
    golden: GoldenResult | None = None
    placement: Placement | None = None
    note: str | None = None  # of a fault that was made on purpose

    @property
    def key(self) -> str:
        """Name of this point within the bank."""
        return f"{self.candidate.name}@{self.point.label}"


class DumpHead(msgspec.Struct, frozen=True, kw_only=True):
    """One dump without its runs. ``runs`` and ``pieces`` say how many of both follow in the other file."""

    point: str
    condition: str
    spawn_s: float
    load_s: float
    first_s: float
    runs: int
    pieces: int
    wait_ratio: float  # over all of it
    load_1min: float  # of the machine, before
    recorded_at: str


class Dump:
    """All runs after the first, in order."""

    def __init__(self, head: DumpHead, columns: Sequence[array[int]]) -> None:
        self.head = head
        self._codes, self._counts, self._waits, self._gaps = columns

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """What was recorded, decoded."""
        table = {code: round(math.exp(code / _STEPS)) for code in set(self._codes)}
        found, begin = [], 0
        for count, wait, gap in zip(self._counts, self._waits, self._gaps, strict=True):
            latencies = tuple(table[code] for code in self._codes[begin : begin + count])
            found.append(Piece(latencies, wait * 1000, sum(latencies) + gap * 1000))
            begin += count
        return tuple(found)


class Bank(NamedTuple):
    """All of it. ``about`` says machine, versions, date and command."""

    about: dict[str, Any]
    points: dict[str, Point]
    dumps: tuple[Dump, ...]

    def dumps_of(self, key: str, condition: str) -> list[Dump]:
        """Return the dumps of a point under a condition, in the order they were recorded."""
        return [dump for dump in self.dumps if dump.head.point == key and dump.head.condition == condition]


class Recording(NamedTuple):
    """A dump as it comes from the recording child."""

    head: DumpHead
    latencies_ns: Sequence[int]
    pieces: Sequence[tuple[int, int, int]]  # runs, waited ns, wall ns


def save(
    folder: Path, about: dict[str, Any], points: Sequence[Point], recordings: Sequence[Recording], preset: int = 9
) -> None:
    """Write both files; a low ``preset`` is quick and large."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = []
    for recording in recordings:
        codes = array("H", (round(math.log(ns) * _STEPS) for ns in recording.latencies_ns))
        counts = array("H", (count for count, _, _ in recording.pieces))
        waits = array("I", (round(wait / 1000) for _, wait, _ in recording.pieces))
        gaps, begin = array("I"), 0
        for count, _, wall in recording.pieces:
            gaps.append(max(0, round((wall - sum(recording.latencies_ns[begin : begin + count])) / 1000)))
            begin += count
        blocks += [codes, counts, waits, gaps]
    if sys.byteorder != "little":
        for block in blocks:
            block.byteswap()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "lc": 0, "lp": 1, "pb": 1}]
    data = b"".join(block.tobytes() for block in blocks)
    (folder / "bank.xz").write_bytes(lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters))
    document = {
        "schema": SCHEMA,
        "about": about,
        "points": [msgspec.to_builtins(point) for point in points],
        "dumps": [msgspec.to_builtins(recording.head) for recording in recordings],
    }
    (folder / "bank.json").write_text(_lines(document), encoding="utf-8")


def _lines(document: dict[str, Any]) -> str:
    """Return JSON with one line for each point and dump, so that a change can be read."""
    parts = []
    for name, value in document.items():
        if isinstance(value, list):
            body = ",\n".join(json.dumps(entry, sort_keys=True, separators=(",", ":")) for entry in value)
            parts.append(f'"{name}": [\n{body}\n]')
        else:
            parts.append(f'"{name}": {json.dumps(value, indent=1, sort_keys=True)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load(folder: Path = FOLDER) -> Bank:
    """Read the bank. Raises: OSError, ValueError, msgspec.ValidationError: it is not one of this version."""
    document = json.loads((folder / "bank.json").read_text(encoding="utf-8"))
    if document["schema"] != SCHEMA:
        raise ValueError(f"{document['schema']} is not {SCHEMA}")
    data = memoryview(lzma.decompress((folder / "bank.xz").read_bytes()))
    points = [msgspec.convert(entry, Point) for entry in document["points"]]
    heads = [msgspec.convert(entry, DumpHead) for entry in document["dumps"]]
    dumps, place = [], 0

    def take(kind: str, count: int) -> array[int]:
        nonlocal place
        found: array[int] = array(kind)
        size = count * found.itemsize
        found.frombytes(data[place : place + size])
        place += size
        if sys.byteorder != "little":
            found.byteswap()
        return found

    for head in heads:
        wanted = (("H", head.runs), ("H", head.pieces), ("I", head.pieces), ("I", head.pieces))
        dumps.append(Dump(head, [take(kind, count) for kind, count in wanted]))
    if place != len(data):
        raise ValueError(f"bank.xz holds {len(data)} bytes and its dumps {place}")
    return Bank(document["about"], {point.key: point for point in points}, tuple(dumps))
