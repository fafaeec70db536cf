"""Puts one defect at a time into a copy of the source tree and sees whether its suite turns red, and for that reason.

Rules:
- A suite must be green on the copy as it is, with at least one test that ran: what is red or skipped catches nothing.
- A defect counts as caught by a test that failed in its own body, in whose words stands what ``Defect.says``; a suite
  that cannot be collected, whose fixtures fail, or that ends otherwise, has caught nothing.
- A replacement that no longer fits the source is an error of the list.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults.defects.listed import Defect

ROOT = Path(__file__).resolve().parents[3]
LONGEST_S = 1800
_LEFT_OUT = ("__pycache__", "*.pyc", "build", "dist", "*.egg-info")


class UnfitError(Exception):
    """A defect does not fit the source any more."""


class Ran(NamedTuple):
    """One run of a suite. ``failed``: name and words of each test that failed; ``odd``: what else went wrong."""

    passed: int
    failed: tuple[tuple[str, str], ...]
    odd: str | None
    took_s: float


class Found(NamedTuple):
    """How a defect fared. ``by``: the test that caught it, None for none; ``said``: what it said, or why not."""

    defect: Defect
    by: str | None
    said: str
    took_s: float


def put_in(source: str, defect: Defect) -> str:
    """Return a file's text with the defect. Raises: UnfitError."""
    if (count := source.count(defect.old)) != 1:
        raise UnfitError(f"{defect.name}: what it replaces stands {count} times in {defect.file}")
    return source.replace(defect.old, defect.new)


class Copy:
    """A copy of a source tree, with one defect at a time. Args: root: of the tree; place: made."""

    def __init__(self, root: Path, place: Path, seed: int) -> None:
        self.place, self._seed, self._changes = place, seed, 0
        hidden = [path.name for path in root.iterdir() if path.name.startswith(".")]
        shutil.copytree(root, place, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT, *hidden))

    def run(self, suite: Sequence[str]) -> Ran:
        """Run a suite until its first failure."""
        report = self.place.with_name(f"{self.place.name}.xml")
        report.unlink(missing_ok=True)
        place = self.place.with_name(f"{self.place.name}-tests")
        command = [
            sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "pytest_timeout",
            "--timeout", "300", "--basetemp", str(place), f"--junitxml={report}",
            "--faults-seed", str(self._seed), *suite,
        ]  # fmt: skip
        # Other plugins take longer to load than many a suite to run.
        environment = {**os.environ, "PYTHONPATH": str(self.place), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        begun = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=self.place, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
            )
        except subprocess.TimeoutExpired:
            return Ran(0, (), f"it took longer than {LONGEST_S} s", LONGEST_S)
        took_s = time.monotonic() - begun
        if done.returncode not in (0, 1) or not report.exists():
            return Ran(0, (), f"pytest ended with {done.returncode}: {done.stdout.strip()[-500:]}", took_s)
        return _read(report, took_s)

    def with_defect(self, defect: Defect) -> Ran:
        """Run a defect's suite with it, and take it out again. Raises: UnfitError."""
        path = self.place / defect.file
        source = path.read_text()
        self._write(path, put_in(source, defect))
        try:
            return self.run(defect.suite)
        finally:
            self._write(path, source)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        self._changes += 1  # bytecode is kept by the second and the size, which two of these may share
        seconds = path.stat().st_mtime + self._changes
        os.utime(path, (seconds, seconds))


def _read(report: Path, took_s: float) -> Ran:
    passed, failed, odd = 0, [], None
    for case in ET.parse(report).getroot().iter("testcase"):
        name = str(case.get("name"))
        if (failure := case.find("failure")) is not None:
            failed.append((name, f"{failure.get('message') or ''}\n{failure.text or ''}"))
        elif (error := case.find("error")) is not None:
            odd = f"{name}: {error.get('message')}"
        elif case.find("skipped") is None:
            passed += 1
    return Ran(passed, tuple(failed), odd, took_s)


def without(copy: Copy, suites: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Run suites as they are. Returns: of each that is of no use here, why."""
    useless = {}
    for suite in dict.fromkeys(suites):
        ran = copy.run(suite)
        if ran.failed or ran.odd is not None:
            useless[suite] = f"red without a defect: {ran.odd or ran.failed[0][1].splitlines()[0]}"
        elif not ran.passed:
            useless[suite] = "nothing of it ran here: no test, or all were skipped"
    return useless


def judge(defect: Defect, ran: Ran) -> Found:
    """Say whether a suite has caught a defect. Pure."""
    for name, words in ran.failed:
        if defect.says in words:
            return Found(defect, name, words.splitlines()[0], ran.took_s)
    if ran.failed:
        said = f"red for another reason: {ran.failed[0][1].splitlines()[0]}"
    else:
        said = ran.odd or f"{ran.passed} tests passed"
    return Found(defect, None, said, ran.took_s)


def try_all(
    defects: Sequence[Defect],
    place: Path,
    *,
    seed: int,
    root: Path = ROOT,
    tell: Callable[[str], object] = sys.stderr.write,
) -> list[Found]:
    """Try defects one after the other. Raises: UnfitError: before anything is run."""
    for defect in defects:
        put_in((root / defect.file).read_text(), defect)
    copy = Copy(root, place / "tree", seed)
    useless = without(copy, (defect.suite for defect in defects))
    found = []
    for number, defect in enumerate(defects, 1):
        if defect.suite in useless:
            found.append(Found(defect, None, useless[defect.suite], 0.0))
        else:
            found.append(judge(defect, copy.with_defect(defect)))
        one = found[-1]
        tell(f"{number} of {len(defects)}, {one.took_s:.0f} s: {defect.name}: {one.by or 'NOT CAUGHT'}: {one.said}\n")
    return found
