"""Steps on a Dask cluster: who may take part, what a step does there, and what is said when the cluster fails.

Rules:
- Every worker shares the folders of recipe and work, and has our libraries in our versions: a step is kept by them.
  Each is asked before anything is made.
- A step runs in a child there as it does here. Each attempt fills a folder of its own, and only a whole one is taken,
  so that a worker believed dead spoils nothing.
- A dead worker's step goes to another, as often as the scheduler allows (Dask's ``allowed-failures``, 3).
- Where nobody waits for a step any more (a stop, a client or scheduler that is gone) its child is ended soon.

Dask lets everybody who reaches its scheduler run programs: the network is the user's to close.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import threading
import time
import uuid
from concurrent.futures import Executor, Future, InvalidStateError
from pathlib import Path
from typing import Any, cast

import msgspec

from agent import __version__
from agent.compress.step import Outcome, StepJob, run_step
from agent.errors import BoardfitError, ConfigError, DownloadError

LIBRARIES = (
    "numpy", "onnx", "onnxruntime", "onnxslim", "onnxconverter-common", "torch", "torch-pruning", "litert-torch",
    "ai-edge-litert", "ai-edge-quantizer", "optuna", "keras",
)  # fmt: skip
_ADDRESS = re.compile(r"((tcp|tls)://)?(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")
_LONGEST_S = 30.0  # chosen: without a scheduler, or a worker, before the run is given up
_LOOK_S = 2.0
_AGAIN = "start it and run again: finished steps are kept"


def versions() -> dict[str, str]:
    """Return the versions here of all that decides a step's result, without those that are not installed."""
    found = {"boardfit": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def probe(token: str) -> tuple[dict[str, str], bool]:
    """On a worker: return its versions, and whether it may write beside a file of ours."""
    path = Path(token)
    try:
        (path.parent / f"{path.name}-{uuid.uuid4().hex}").touch()
    except OSError:
        return versions(), False
    return versions(), path.is_file()


def attempt(job: StepJob, deadline_s: float) -> Outcome:
    """On a worker: run a step in a folder of its own, and put what it made in its place when it is whole."""
    from distributed import get_worker
    from distributed.worker import thread_state

    worker, key = get_worker(), thread_state.key

    def unwanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    target = Path(job.target)
    folder = target.parent / f"attempt-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        threads = max(1, (os.cpu_count() or 1) // worker.state.nthreads)
        own = msgspec.structs.replace(job, target=str(folder / target.name), threads=threads)
        outcome = run_step(own, deadline_s, unwanted)
        if outcome.reached is not None:
            for made in folder.iterdir():
                made.replace(target.parent / made.name)
    except OSError as error:
        reason = f"the worker cannot write {target.parent}: {error.strerror}"
        return Outcome(reached=None, reason=reason, seconds=0.0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def open_cluster(address: str, work: Path) -> Cluster:
    """Return a cluster whose workers can all take part.

    Raises: ConfigError: Dask is not installed, the address is none, or a worker lacks the folder or has other versions.
    DownloadError: nobody answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("Dask is not installed", fix="pip install 'boardfit[dask]'") from error
    for name in [*logging.root.manager.loggerDict, "asyncio"]:
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # our sentence, not their traceback; each has a level
    if not _ADDRESS.fullmatch(address):
        raise ConfigError(f"--dask {address} is no scheduler's address", fix="write for instance tcp://10.0.0.1:8786")
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise DownloadError(
            f"no Dask scheduler answers at {address}: {text}", fix="start one, or correct --dask"
        ) from error
    try:
        return Cluster(client, address, _checked(client, address, work.resolve()))
    except BaseException:
        client.close(timeout=5)
        raise


def _checked(client: Any, address: str, work: Path) -> int:
    """Return how many steps the workers take at a time. Raises: ConfigError."""
    token = work / f".shared-{uuid.uuid4().hex}"
    token.touch()
    try:
        answers = client.run(probe, str(token), on_error="return")
    except Exception as error:
        raise DownloadError(f"the Dask cluster at {address} does not answer: {error}", fix=_AGAIN) from error
    finally:
        for one in work.glob(f"{token.name}*"):
            one.unlink(missing_ok=True)
    if not answers:
        raise ConfigError(f"the Dask cluster at {address} has no workers", fix=f"start some: dask worker {address}")
    ours = versions()
    for worker, answer in answers.items():
        if isinstance(answer, BaseException):
            raise ConfigError(
                f"the Dask worker {worker} cannot run boardfit: {' '.join(str(answer).split())[:200]}",
                fix="install this version of boardfit there",
            )
        theirs, shares = answer
        other = [name for name, version in ours.items() if theirs.get(name, "none") != version]
        if other:
            said = ", ".join(f"{name} {theirs.get(name, 'none')} instead of {ours[name]}" for name in other)
            raise ConfigError(f"the Dask worker {worker} has {said}", fix="install the same versions there")
        if not shares:
            raise ConfigError(f"the Dask worker {worker} cannot write {work}", fix="put --work on a shared folder")
    return sum(client.nthreads().values())


class Cluster(Executor):
    """An executor of steps. ``width``: how many the workers take at a time. Every future ends."""

    def __init__(self, client: Any, address: str, width: int) -> None:
        self.width = width
        self._client, self._address = client, address
        self._open: dict[Future[Outcome], Any] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._watch, name="dask", daemon=True).start()

    def submit(self, _fn: Any, /, *args: Any, **_: Any) -> Future[Any]:
        """Have a step made: ``run_step``'s arguments. Raises: DownloadError: the scheduler is gone."""
        job, deadline_s = args
        ours: Future[Outcome] = Future()
        try:
            theirs = self._client.submit(attempt, job, deadline_s, pure=False)
        except Exception as error:
            raise self._gone() from error
        with self._lock:
            self._open[ours] = theirs
        theirs.add_done_callback(lambda done: self._settle(ours, done))
        return ours

    def end(self) -> None:
        """End every step; each then says that it was stopped."""
        with self._lock:
            waiting = dict(self._open)
        if waiting and self._client.status == "running":
            with contextlib.suppress(Exception):
                self._client.cancel(list(waiting.values()), force=True)
        for ours in waiting:
            self._give(ours, Outcome(reached=None, reason="it was stopped", seconds=0.0))

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Leave the cluster; steps at hand are ended."""
        self._closed.set()
        self.end()
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)

    def _settle(self, ours: Future[Outcome], theirs: Any) -> None:
        try:
            outcome = cast("Outcome", theirs.result(timeout=_LONGEST_S))
        except BaseException as error:  # noqa: BLE001 - Dask's CancelledError is none of Exception's; all are told
            if theirs.status in ("cancelled", "lost"):
                self._give(ours, self._gone())
                return
            kind = type(error).__name__
            text = "its Dask worker died, and so did others that took it over" if kind == "KilledWorker" else (
                f"on the Dask worker: {kind}: {' '.join(str(error).split())[:200]}")  # fmt: skip
            outcome = Outcome(reached=None, reason=text, seconds=0.0)
        self._give(ours, outcome)

    def _give(self, ours: Future[Outcome], result: Outcome | BoardfitError) -> None:
        with self._lock:
            self._open.pop(ours, None)
        with contextlib.suppress(InvalidStateError):  # whoever came first was right
            if isinstance(result, Outcome):
                ours.set_result(result)
            else:
                ours.set_exception(result)

    def _gone(self) -> DownloadError:
        return DownloadError(f"the Dask scheduler at {self._address} is gone", fix=_AGAIN)

    def _watch(self) -> None:
        """Give up what is open when scheduler or workers stay away."""
        seen = time.monotonic()
        while not self._closed.wait(_LOOK_S):
            alone = self._client.status == "running"
            if alone:
                with contextlib.suppress(Exception):
                    alone = not self._client.nthreads()
                    if not alone:
                        seen = time.monotonic()
            if time.monotonic() - seen > _LONGEST_S:
                error = self._gone()
                if alone:
                    error = DownloadError(f"the Dask cluster at {self._address} has no worker left", fix=_AGAIN)
                with self._lock:
                    waiting = list(self._open)
                for ours in waiting:
                    self._give(ours, error)
