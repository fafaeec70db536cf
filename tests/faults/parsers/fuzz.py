"""Feeds a parser for so many seconds: ``python -m tests.faults.parsers.fuzz NAME SECONDS SEED [--guided]``.

Plain: spoiled documents one after the other. Guided: what reaches code that nothing reached before is kept and spoiled
further, by atheris (libFuzzer) where it is installed (``pip install atheris``), else by a tracer of lines in this file,
which is slower. Each input must end in a value or a typed error, within ``MOST_S``, and the process must not grow by
more than ``MOST_GROWTH_BYTES`` after its first tenth. Prints one JSON document; what was found is in it, in base64.
"""

from __future__ import annotations

import json
import logging
import random
import signal
import sys
import time
import traceback
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

MOST_S = 10  # chosen: the slowest sound input takes a twentieth of it on two busy cores
MOST_GROWTH_BYTES = 48 << 20  # chosen: a few of the longest inputs, and what Python keeps of them
_AGENT = str(Path(__file__).resolve().parents[3] / "agent")


class Hang(BaseException):
    """An input took longer than ``MOST_S``."""


class Driver:
    """Runs inputs and keeps what went wrong, once for each place."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.inputs = 0
        self.slowest_s = 0.0
        self.found: dict[str, dict[str, str]] = {}

    def feed(self, data: bytes) -> None:
        """Run one input."""
        self.inputs += 1
        before = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, MOST_S)
        try:
            self.target.run(data)
        except (Exception, Hang) as error:  # noqa: BLE001 - whatever it is, it is a finding
            frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename.startswith(_AGENT)]
            place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "outside the agent"
            shown = {"input": b64encode(data[:100_000]).decode(), "error": ascii(error)[:300], "place": place}
            self.found.setdefault(f"{type(error).__name__} {place}", shown)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.slowest_s = max(self.slowest_s, time.monotonic() - before)


def _hangs(_number: int, _frame: FrameType | None) -> None:
    raise Hang


def resident_bytes() -> int:
    """Return what of this process is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def plainly(driver: Driver, seconds: float, chance: random.Random) -> None:
    """Feed spoiled documents."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        driver.feed(driver.target.spoiled(chance))


def by_lines(driver: Driver, seconds: float, chance: random.Random) -> None:
    """Keep what reaches a line of the agent that was not reached before, and spoil it further."""
    seen: set[tuple[str, int]] = set()
    new = False

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal new
        if not frame.f_code.co_filename.startswith(_AGENT):
            return None
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and place not in seen:
            seen.add(place)
            new = True
        return trace

    corpus = list(driver.target.corpus())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seed = chance.choice(corpus)
        data = driver.target.spoiled_from(chance, seed)
        new = False
        sys.settrace(trace)
        try:
            driver.feed(data)
        finally:
            sys.settrace(None)
        if new and len(corpus) < 5000 and len(data) < 50_000:
            corpus.append(data)


def by_atheris(seconds: float, seed: int, name: str) -> None:
    """Let libFuzzer do it; it ends the process itself, with 77 and the input in a file where it found something."""
    import atheris  # type: ignore[import-not-found,unused-ignore]

    with atheris.instrument_imports(include=["agent"]):
        from tests.faults.parsers.targets import TARGETS

        target = TARGETS[name]
        for data in target.corpus():
            target.run(data)  # imports all that it needs here, where it is instrumented

    def mutate(data: bytes, most: int, number: int) -> bytes:
        chance = random.Random(number)
        if chance.random() < 0.5 and data:
            return target.spoiled_from(chance, data)[:most]
        return bytes(atheris.Mutate(data, most))

    folder = Path(sys.argv[-1])
    for number, data in enumerate(target.corpus()):
        (folder / f"seed-{number}").write_bytes(data)
    arguments = [
        sys.argv[0], str(folder), f"-max_total_time={int(seconds)}", f"-seed={seed % 2**31 or 1}", f"-timeout={MOST_S}",
        "-rss_limit_mb=2048", "-max_len=262144", f"-artifact_prefix={folder}/found-", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup(arguments, target.run, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """Do what the command line says."""
    name, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    guided = "--guided" in sys.argv
    logging.disable()
    if guided and find_spec("atheris") is not None:
        by_atheris(seconds, seed, name)
    from tests.faults.parsers.targets import TARGETS

    driver, chance = Driver(TARGETS[name]), random.Random(f"{seed}-{name}-{guided}")
    signal.signal(signal.SIGALRM, _hangs)
    feed = by_lines if guided else plainly
    feed(driver, seconds / 10, chance)
    before = resident_bytes()
    feed(driver, seconds * 9 / 10, chance)
    grown = resident_bytes() - before
    if grown > MOST_GROWTH_BYTES:
        driver.found["memory"] = {"error": f"grew by {grown} bytes", "place": name, "input": ""}
    said = {
        "inputs": driver.inputs,
        "slowest_s": round(driver.slowest_s, 3),
        "grown_bytes": grown,
        "found": driver.found,
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
