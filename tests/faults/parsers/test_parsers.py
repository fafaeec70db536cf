"""Parsers fed with spoiled documents: each ends in a value or a typed error, soon, and in bounded memory.

Each target is given what none may be spared, whatever the seed: noise, and sound documents with one place changed.
Then the slice lets hypothesis choose (and shrink) what is spoiled; at length and in full each target is fed in a
process of its own, half the time plainly and half guided by what code was reached (``fuzz.py`` says by what means).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.faults.extent import Extent
from tests.faults.parsers import board_readers
from tests.faults.parsers.target import ROOT
from tests.faults.parsers.targets import TARGETS
from tests.faults.table import show

SLICE_INPUTS = {"sensors": 6, "capture": 20, "registry": 20, "config": 20, "manifest": 50, "command": 50, "intake": 50}
QUICK_S, FULL_S = 180, 3600
BRIEFLY, BRIEFLY_S = ("registry", "intake", "capture"), 30  # python-tuf's, a collector's and a person's own files
pytestmark = pytest.mark.timeout(2 * FULL_S)


@pytest.mark.parametrize("name", TARGETS)
def test_a_spoiled_document_ends_typed(
    name: str, extent: Extent, tmp_path: Path, record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _one_by_one(name)
    if extent.part == "slice":
        boards = extent.chance("boards").sample(board_readers._boards(), 3)
        monkeypatch.setattr(board_readers, "SAMPLED", boards)
        _by_hypothesis(name, extent)
        return
    seconds = extent.count(0, BRIEFLY_S if name in BRIEFLY else QUICK_S, FULL_S)
    plain = _fed(name, seconds / 2, extent.seed, tmp_path)
    guided = _fed(name, seconds / 2, extent.seed, tmp_path, "--guided")
    heads = ("parser", "how", "inputs", "slowest, s", "grown, MiB", "found")
    rows = [_row(name, "plain", plain), _row(name, guided["by"], guided)]
    show(record_property, f"Spoiled documents of seed {extent.seed}, {seconds} s", heads, rows)
    assert not plain["found"] and not guided["found"], json.dumps({**plain["found"], **guided["found"]}, indent=1)


def _one_by_one(name: str) -> None:
    logging.disable()
    try:
        for data in TARGETS[name].always():
            try:
                TARGETS[name].run(data)
            except Exception as error:  # whatever is not typed
                raise AssertionError(f"{name}: {type(error).__name__} by {data[:2000]!r}") from error
    finally:
        logging.disable(logging.NOTSET)


def _by_hypothesis(name: str, extent: Extent) -> None:
    target = TARGETS[name]
    logging.disable()

    @seeded(extent.seed)
    @settings(
        max_examples=SLICE_INPUTS.get(name, 100), deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.randoms(use_true_random=False))
    def one(chance: Any) -> None:
        target.run(target.spoiled(chance))

    try:
        one()
    finally:
        logging.disable(logging.NOTSET)


def _fed(name: str, seconds: float, seed: int, folder: Path, *how: str) -> dict[str, Any]:
    corpus = folder / f"corpus{len(how)}"
    corpus.mkdir()
    command = [sys.executable, "-m", "tests.faults.parsers.fuzz", name, str(seconds), str(seed), *how, str(corpus)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=seconds * 2 + 300, check=False
    )
    if how and find_spec("atheris") is not None:
        return _of_atheris(done, corpus)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "by": "guided by lines"}


def _of_atheris(done: subprocess.CompletedProcess[bytes], corpus: Path) -> dict[str, Any]:
    said = done.stderr.decode(errors="replace")
    found = {one.name: {"input": one.read_bytes()[:2000].hex()} for one in corpus.glob("found-*")}
    if done.returncode and not found:
        found["ended"] = {"error": said[-2000:]}
    if found:
        lines = [*done.stdout.decode(errors="replace").splitlines(), *said.splitlines()]
        found["said"] = {"error": "\n".join(one for one in lines if "Error" in one or "File" in one)[-2000:]}
    numbers = {line.split()[0].removeprefix("stat::").rstrip(":"): line.split()[-1] for line in said.splitlines()
               if line.startswith("stat::")}  # fmt: skip
    return {
        "by": "guided by atheris", "found": found, "inputs": numbers.get("number_of_executed_units", "?"),
        "slowest_s": numbers.get("slowest_unit_time_sec", "?"), "grown_bytes": None,
    }  # fmt: skip


def _row(name: str, how: str, told: dict[str, Any]) -> tuple[str, ...]:
    grown = "-" if told["grown_bytes"] is None else f"{told['grown_bytes'] / 2**20:.1f}"
    return name, how, str(told["inputs"]), str(told["slowest_s"]), grown, str(len(told["found"]))
