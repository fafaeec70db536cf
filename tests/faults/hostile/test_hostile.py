"""Hostile models, each given to a real worker: a typed end in one sentence, and the next candidate is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.measurement import Measurement
from tests.faults.hostile import onnx_models, tflite_models
from tests.faults.hostile.fixture import Hostile
from tests.faults.table import show
from tests.measure import models

_TAKEN = (
    "import agent.measure.confine as stage\n"
    "whole = stage.confine\n"
    "def confine(job, parent):\n"
    "    import os, threading\n"
    "    names = whole(job, parent)\n"
    "    {code}\n"
    "    return names\n"
    "stage.confine = confine"
)
_CRASHED = frozenset({"crashed"})
# A model that took the worker over: what it would then do, in Python and in the worker.
TAKEN_OVER = (
    Hostile("disk fill", "a file in the temporary folder", ".onnx", b"", _CRASHED,
            "open('/tmp/boardfit-fill', 'wb').write(b'x' * (64 << 20))", "exited"),
    Hostile("disk fill", "the agent's output pipe", ".onnx", b"", frozenset({"timeout"}),
            "\n    while True: os.write(1, b'x' * 65536)", "when"),
    Hostile("disk fill", "an event of 64 MiB", ".onnx", b"", _CRASHED,
            "os.set_blocking(int(sys.argv[1]), True); os.write(int(sys.argv[1]), b'x' * (64 << 20))", "a line of over"),
    Hostile("fork bomb", "processes", ".onnx", b"", _CRASHED, "\n    while True: os.fork()", "exited"),
    Hostile("fork bomb", "vfork by another program", ".onnx", b"", _CRASHED,
            "os.posix_spawn('/bin/sh', ['sh', '-c', ':(){ :|:& };:'], {})", "exited"),
    Hostile("hang", "it stops itself", ".onnx", b"", frozenset({"timeout"}), "os.kill(os.getpid(), 19)", "when"),
    Hostile("crash", "it ends by itself", ".onnx", b"", _CRASHED, "os._exit(0)", "exited with 0"),
    Hostile("crash", "it aborts", ".onnx", b"", _CRASHED, "os.abort()", "SIGABRT"),
    Hostile("memory bomb", "it touches what it asks for", ".onnx", b"", frozenset({"crashed"}),
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); b'x' * (4 << 30)", "exited"),
)  # fmt: skip
FILES = [*onnx_models.fixtures(), *tflite_models.fixtures()]
KINDS = sorted({one.kind for one in FILES})
_ENDLESS = {"spin", "hang"}
_SETTINGS = {"memory_growth_bytes": 512 << 20}


def judge(hostile: Hostile, result: Measurement) -> str | None:
    """Return what is wrong with how a hostile candidate ended."""
    if result.verdict not in hostile.verdicts:
        return f"{hostile.label} ended as {result.verdict}: {result.reason}"
    if not result.reason or "\n" in result.reason or len(result.reason) > 600:
        return f"{hostile.label} has no one-sentence reason: {result.reason!r}"
    if hostile.says not in result.reason:
        return f"{hostile.label} does not say {hostile.says!r}: {result.reason}"
    if result.latency is not None or result.accuracy is not None:
        return f"{hostile.label} has figures"
    return None


def test_there_are_fourteen_classes_and_sixty_fixtures() -> None:
    kinds = {one.kind for one in (*FILES, *TAKEN_OVER)}
    assert len(kinds - {"polyglot"}) >= 14 and len(FILES) + len(TAKEN_OVER) >= 60
    labels = [one.label for one in (*FILES, *TAKEN_OVER)]
    assert len(set(labels)) == len(labels)
    digests = [hashlib.sha256(one.data).digest() for one in FILES]
    assert len(set(digests)) == len(digests), "no fixture is another one again"


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_models_end_as_typed_refusals(
    measure: Callable[..., Measurement], tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    (tmp_path / "hard-link").hardlink_to(tmp_path / "secret")
    (tmp_path / "symbolic-link").symlink_to(tmp_path / "secret")
    rows, wrong = [], []
    for number, hostile in enumerate(one for one in FILES if one.kind == kind):
        path = tmp_path / f"{number}{hostile.suffix}"
        path.write_bytes(hostile.data)
        settings = {**_SETTINGS, "deadline_s": 3.0 if kind in _ENDLESS else 60.0}
        result = measure(path, settings=settings)
        rows.append((hostile.label, result.verdict, result.reason or ""))
        wrong.append(judge(hostile, result))
    show(record_property, f"Hostile models: {kind}", ("model", "verdict", "reason"), rows)
    assert [one for one in wrong if one is not None] == []
    after = measure(models.identity_classifier(tmp_path / "good.onnx"))
    assert (after.verdict, after.reason) == ("ok", None), "the next candidate is measured"


@pytest.mark.parametrize("hostile", TAKEN_OVER, ids=lambda one: f"{one.kind}-{one.name}")
def test_a_worker_that_was_taken_over_ends_alone(
    measure: Callable[..., Measurement], in_worker: Callable[[str], None], tmp_path: Path, hostile: Hostile,
) -> None:  # fmt: skip
    path = models.identity_classifier(tmp_path / "model.onnx")
    in_worker(_TAKEN.format(code=hostile.code))
    result = measure(path, settings={**_SETTINGS, "deadline_s": 3.0 if "timeout" in hostile.verdicts else 60.0})
    assert judge(hostile, result) is None
    assert not Path("/tmp/boardfit-fill").exists()
