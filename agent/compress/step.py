"""One step in a process of its own: started with a deadline, its output kept, its failure a sentence.

``run_step`` is the parent's half; ``python -m agent.compress.step`` is the child's. A converter may crash, hang or eat
the memory: that ends the step, never the run. What an action does is its technique's, ``nets``' or ``exporting``'s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agent.compress.samples import Samples
from agent.compress.search import place_of
from agent.compress.technique import Kind, Step
from agent.compress.techniques import NAMES, technique
from agent.confinement import die_with_parent, kill_group
from agent.errors import BoardfitError, ConfigError

_LOG = "output.log"
PROGRESS = "progress.txt"  # what a long step says of itself, beside its target
TRIALS = "trials.json"  # a search's result file
_running: set[subprocess.Popen[bytes]] = set()
_LOOK_S = 0.5
_SENTENCE = 300  # characters of a library's error that are shown


class Searching(msgspec.Struct, frozen=True, kw_only=True):
    """What a search is told beside its step's parameters.

    ``action``: of the step it searches for. ``keep``: a folder that outlives a killed search. ``time_s``: for all its
    trials; ``left_s``: until the recipe's time is over, None where that has no end.
    """

    action: str
    keep: str
    time_s: float
    left_s: float | None


class StepJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told. Paths as text; ``model`` is the recipe's, for ``take`` and ``train``."""

    action: str
    kind: Kind
    source: str | None
    target: str
    parameters: dict[str, Any]
    others: dict[str, str]
    training: str
    preprocessing: tuple[dict[str, Any], ...]
    calibration: int
    input_shape: tuple[int, ...] | None
    seed: int
    threads: int
    folder: str
    model: dict[str, Any]
    searching: Searching | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended: what was reached, or the reason why nothing was; seconds it took."""

    reached: dict[str, Any] | None
    reason: str | None
    seconds: float


def run_step(job: StepJob, deadline_s: float, unwanted: Callable[[], bool] | None = None) -> Outcome:
    """Run a step to its end in a child; the model file is then at ``job.target``.

    Args: unwanted: asked every half second; once true, the child is ended.
    """
    begin = time.monotonic()
    folder = Path(job.target).parent
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONHASHSEED": "0"}
    with (folder / _LOG).open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "agent.compress.step"], stdin=subprocess.PIPE, stdout=log, stderr=log,
            env=environment, start_new_session=True,
        )  # fmt: skip
        _running.add(child)
        try:
            if not _ended(child, msgspec.json.encode(job), begin + deadline_s, unwanted):
                return Outcome(reached=None, reason="it was stopped", seconds=time.monotonic() - begin)
        except subprocess.TimeoutExpired:
            return Outcome(reached=None, reason=f"it took longer than {deadline_s:.0f} s", seconds=deadline_s)
        finally:
            kill_group(child)
            _running.discard(child)
    seconds = time.monotonic() - begin
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        return Outcome(reached=None, reason=f"it was killed by {name}", seconds=seconds)
    try:
        answer = msgspec.json.decode((folder / "answer.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return Outcome(
            reached=None, reason=f"it ended with status {child.returncode}: {_last(folder)}", seconds=seconds
        )
    if "reason" in answer:
        return Outcome(reached=None, reason=answer["reason"], seconds=seconds)
    if not Path(job.target).is_file():
        return Outcome(reached=None, reason="it wrote no model", seconds=seconds)
    return Outcome(reached=answer, reason=None, seconds=seconds)


def _ended(child: subprocess.Popen[bytes], job: bytes, end: float, unwanted: Callable[[], bool] | None) -> bool:
    """Give a child its job and wait. Returns: False where it is not wanted. Raises: TimeoutExpired: ``end`` came."""
    told: bytes | None = job
    while True:
        left_s = max(0.0, end - time.monotonic())
        try:
            child.communicate(told, timeout=left_s if unwanted is None else min(_LOOK_S, left_s))
        except subprocess.TimeoutExpired:
            told = None
            if time.monotonic() >= end:
                raise
            if unwanted is not None and unwanted():
                return False
        else:
            return True


def end_all() -> None:
    """End every step that this process runs; each then reports that it was killed."""
    for child in tuple(_running):
        kill_group(child)


def _last(folder: Path) -> str:
    lines = (folder / _LOG).read_text(errors="replace").strip().splitlines()
    return lines[-1][:_SENTENCE] if lines else "it said nothing"


def main() -> int:
    """The child: read the job, do it, write ``answer.json`` beside the target."""
    die_with_parent()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=StepJob)
    sys.path.insert(0, job.folder)  # the user's own module:factory lies beside the recipe
    answer: dict[str, Any]
    try:
        answer = _do(job)
    except BoardfitError as error:
        answer = {"reason": str(error)}
    except ImportError as error:
        extra = "keras" if error.name == "keras" else "compress"
        answer = {
            "reason": f"{error.name or error} is not installed. Install the extra: pip install 'boardfit[{extra}]'"
        }
    except MemoryError:
        answer = {"reason": "memory ran out"}
    except Exception as error:  # noqa: BLE001 - a library's error is the step's reason, and its traceback is in the log
        import traceback

        traceback.print_exc()
        text = " ".join(str(error).split())
        answer = {"reason": f"{type(error).__name__}: {text[:_SENTENCE]}"}
    (Path(job.target).parent / "answer.json").write_bytes(msgspec.json.encode(answer))
    return 1 if "reason" in answer else 0


def _do(job: StepJob) -> dict[str, Any]:
    samples = Samples(Path(job.training), job.preprocessing, job.calibration)
    if job.action == "search":
        from agent.compress.nets.search import search

        return search(job, samples, _apply)
    if place_of(job.parameters) is not None:
        raise ConfigError("a search is a recipe's", fix="write a recipe, or give the values")
    return _apply(job, samples)


def _apply(job: StepJob, samples: Samples) -> dict[str, Any]:
    """Do one step that writes a model."""
    target = Path(job.target)
    source = Path(job.source) if job.source is not None else None
    if job.action in ("take", "train"):
        from agent.compress import taking

        return taking.first_model(
            job.action, job.model, Path(job.folder), target, samples=samples, seed=job.seed, threads=job.threads
        )
    assert source is not None
    if job.action == "export":
        from agent.compress import exporting

        return exporting.export(source, target, job.kind, samples, job.input_shape)
    if job.action == "finish":
        from agent.compress import exporting

        return exporting.finish(source, target, job.kind)
    assert job.action in NAMES
    found = technique(job.action, "step")
    others = {name: Path(path) for name, path in job.others.items()}
    if job.kind == "torch":
        from agent.compress.nets.files import settle

        settle(job.seed, job.threads)
    step = Step(job.kind, source, target, found.read(job.parameters, "step"), samples, job.seed, others)
    return found.apply(step)


if __name__ == "__main__":
    raise SystemExit(main())
