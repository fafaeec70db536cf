"""Making what a plan asks for: which step when, on what, what is kept, and what became of each candidate.

Rules:
- A step is made when what it needs is made; what was made before is not made again. A failed step takes the candidates
  below it with it, each with the reason, and nothing else.
- A stop ends the steps at hand, the recipe's time limit waits for them; what is finished is kept, and the next run goes
  on.
- Where steps run is the executor's: threads that each wait for one child, or a Dask cluster that shares the folder.

How good a candidate is, is asked of ``judge``; publishing is left to others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import msgspec
import psutil

from agent.compress.made import Judged, Made
from agent.compress.plan import Node, Plan, Wanted, plan
from agent.compress.recipe import Model, Recipe
from agent.compress.samples import pack_digest, read_pack, shared_samples
from agent.compress.search import place_of, with_values
from agent.compress.step import PROGRESS, TRIALS, Outcome, Searching, StepJob, end_all, run_step
from agent.compress.work import Work
from agent.core.ports import Progress, ProgressEvent, StopRequested
from agent.errors import ConfigError, Interrupted
from agent.registry.packing import packed

STEP_BYTES = 1 << 30  # chosen: what a step with torch and a converter takes, by which the number at a time is bounded


Judge = Callable[[Wanted, Path], tuple[Judged, ...]]  # the reference engine first


class Making(NamedTuple):
    """How a run is done: at most ``jobs`` steps at a time, by ``executor`` where it is not this machine's threads.

    ``end`` ends the steps at hand.
    """

    jobs: int
    executor: Executor | None
    progress: Progress
    stop: StopRequested
    end: Callable[[], None] = end_all


def prepare(recipe: Recipe) -> Plan:
    """Return the plan, with every file looked at that it depends on.

    Raises: ConfigError: a file is absent, or samples to be judged on are among those to train on.
    """
    training, evaluation = read_pack(recipe.training), read_pack(recipe.evaluation)
    shared = shared_samples(training, evaluation)
    if shared:
        raise ConfigError(
            f"{shared} of {len(evaluation.labels)} evaluation samples are training samples too",
            fix="keep them apart: what a model was trained or calibrated on says nothing of its accuracy",
        )
    digests = {name: _digest(model, recipe.folder) for name, model in recipe.models.items()}
    digests["data:training"] = pack_digest(training)
    return plan(recipe, digests, _version)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _digest(model: Model, folder: Path) -> str:
    """Return the digest of a model's file, or of the source that makes it and of its weights."""
    parts: list[bytes] = []
    if model.torch is not None:
        module = model.torch.partition(":")[0]
        sys.path.insert(0, str(folder))
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        finally:
            sys.path.remove(str(folder))
        if spec is None or spec.origin is None:
            raise ConfigError(f"there is no module {module}", fix="correct torch: module:factory")
        parts += [model.torch.encode(), Path(spec.origin).read_bytes()]
    for name in (model.onnx, model.keras, model.weights):
        if name is not None:
            try:
                parts.append((folder / name).read_bytes())
            except OSError as error:
                raise ConfigError(
                    f"{folder / name} cannot be read: {error.strerror}", fix="correct the path"
                ) from error
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def make(recipe: Recipe, wanted: Plan, work: Work, judge: Judge, making: Making) -> tuple[Made, ...]:
    """Make and judge every candidate; each that cannot be made says why. Raises: Interrupted: a stop was asked for."""
    work.sweep()
    failed = _Run(recipe, wanted, work, making).steps()
    made: list[Made] = []
    for number, one in enumerate(wanted.candidates):
        if making.stop():
            raise Interrupted("stopped on request", fix="run again: finished steps are kept")
        making.progress(ProgressEvent(stage="judge", text=one.name, done=number, total=len(wanted.candidates)))
        made.append(_judged(wanted, one, work, judge, failed))
    making.progress(ProgressEvent(stage="judge", text="done", done=len(made), total=len(made) or 1))
    return _kept(recipe, made)


def _judged(wanted: Plan, one: Wanted, work: Work, judge: Judge, failed: Mapping[str, str]) -> Made:
    node = wanted.nodes[one.key]
    made = Made(
        name=one.name, format=one.format, model=one.model, parent=one.parent,
        chain=tuple(_with_reached(wanted, node, work)),
    )  # fmt: skip
    reasons = [failed[key] for key in wanted.needs(one.key) if key in failed]
    if reasons:
        return msgspec.structs.replace(made, reason=reasons[0])
    path = work.model(one.key, one.format)
    noted = work.noted(one.key, "judged")
    judged = None if noted is None else msgspec.convert(noted, tuple[Judged, ...])
    if judged is None:
        judged = judge(one, path)
        work.note(one.key, "judged", judged)
    reason, first = None, _reached(work, wanted.first(one.key))
    if all(found.accuracy is None for found in judged):
        reason = "; ".join(f"{found.engine}: {found.reason}" for found in judged) or "no engine here runs it"
    return msgspec.structs.replace(
        made, path=str(path), size_bytes=path.stat().st_size, judged=judged, reason=reason,
        parameters=first.get("parameters"), search=first.get("search"),
        packed_bytes=_packed_bytes(one, path, work) if one.pack else None,
    )  # fmt: skip


def _packed_bytes(one: Wanted, path: Path, work: Work) -> int | None:
    """Return the size under which a candidate is published packed, None where packing does not make it smaller."""
    size: int | None = work.noted(one.key, "packed")
    if size is None:
        data = packed(path)
        size = path.stat().st_size if data is None else len(data)
        work.note(one.key, "packed", size)
    return size if size < path.stat().st_size else None


def _with_reached(wanted: Plan, node: Node, work: Work) -> list[dict[str, Any]]:
    """Return the manifest's steps: technique, parameters, and what each reached."""
    steps: list[dict[str, Any]] = []
    at: Node | None = node
    while at is not None:
        if at.chain and at.action == at.chain[-1].technique:
            parameters = with_values(at.parameters, _chosen(work, at))
            steps.append({"technique": at.action, "parameters": parameters, "reached": _reached(work, at.key)})
        at = wanted.nodes[at.parent] if at.parent is not None else None
    return steps[::-1]


def _reached(work: Work, key: str) -> dict[str, Any]:
    record = work.record(key)
    return record["reached"] if record is not None else {}


def _chosen(work: Work, node: Node) -> dict[str, Any]:
    """Return what a finished search chose for a node's parameters; nothing where nothing was searched."""
    return {} if node.search is None else _reached(work, node.search).get("values", {})


def _kept(recipe: Recipe, made: list[Made]) -> tuple[Made, ...]:
    """Mark those over the recipe's limits, and dominated ones where it asks for that."""
    best = max((one.accuracy.top1.value for one in made if one.accuracy is not None), default=0.0)
    limits = recipe.limits
    marked: list[Made] = []
    for one in made:
        reason = one.reason
        if reason is None and limits.size_bytes is not None and (one.transfer_bytes or 0) > limits.size_bytes:
            reason = f"{one.transfer_bytes} bytes are over the recipe's limit of {limits.size_bytes}"
        accuracy = one.accuracy
        if reason is None and limits.accuracy_drop is not None and accuracy is not None:
            drop = best - accuracy.top1.value
            if drop > limits.accuracy_drop:
                reason = f"it loses {drop:.1%} against the best, the recipe allows {limits.accuracy_drop:.1%}"
        marked.append(msgspec.structs.replace(one, reason=reason))
    if recipe.keep == "all":
        return tuple(marked)
    whole = [one for one in marked if one.reason is None]
    return tuple(
        msgspec.structs.replace(one, reason=f"{better.name} is no larger, as accurate and as fast")
        if one.reason is None and (better := next((o for o in whole if _dominates(o, one)), None)) is not None
        else one
        for one in marked
    )


def _dominates(one: Made, other: Made) -> bool:
    """Tell whether one of the same format is no larger, less accurate or slower, and better in size or accuracy."""
    if one.format != other.format or one.name == other.name or one.accuracy is None or other.accuracy is None:
        return False
    pairs = [(one.transfer_bytes or 0, other.transfer_bytes or 0), (-one.accuracy.correct, -other.accuracy.correct)]
    theirs = {found.engine: found.latency_p50_s for found in other.judged}
    for found in one.judged:
        own, its = found.latency_p50_s, theirs.get(found.engine)
        if own is None or its is None:
            return False
        pairs.append((round(own * 0.95 * 1e9), round(its * 1e9)))  # 5 %: what latency cannot be told apart by
    return all(own <= its for own, its in pairs) and any(own < its for own, its in pairs[:2])


class _Run:
    """The steps of one run."""

    def __init__(self, recipe: Recipe, wanted: Plan, work: Work, making: Making) -> None:
        self._recipe, self._plan, self._work, self._making = recipe, wanted, work, making
        self._seconds: dict[str, list[float]] = {}
        self._begin = time.monotonic()

    def steps(self) -> dict[str, str]:
        """Make every step. Returns: why each failed one did, by key. Raises: Interrupted."""
        left = {key: node for key, node in self._plan.nodes.items() if self._work.record(key) is None}
        total, failed = len(left), dict[str, str]()
        running: dict[Future[Outcome], tuple[Node, Path]] = {}
        own: AbstractContextManager[Executor]
        own = nullcontext(self._making.executor) if self._making.executor else ThreadPoolExecutor(self._making.jobs)
        with own as executor:
            while left or running:
                over = self._over()
                if over is not None:
                    failed |= dict.fromkeys(left, over)
                    left = {}
                if self._making.stop():
                    left = {}
                    self._making.end()
                self._start(left, failed, running, executor)
                if not running:
                    break
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    node, folder = running.pop(future)
                    self._take(node, folder, future.result(), failed)
                self._say(total, left, running, failed)
        if self._making.stop():
            raise Interrupted("stopped on request", fix="run again: finished steps are kept")
        return failed

    def _start(
        self, left: dict[str, Node], failed: dict[str, str], running: dict[Future[Outcome], tuple[Node, Path]],
        executor: Executor,
    ) -> None:  # fmt: skip
        for key, node in list(left.items()):
            lost = next((one for one in node.needed if one in failed), None)
            if lost is not None:
                failed[key] = failed[lost]
                del left[key]
            elif len(running) < self._making.jobs and all(self._work.record(one) is not None for one in node.needed):
                folder = self._work.begin(key)
                job, deadline_s = self._job(node, folder), self._recipe.limits.step_s
                if job.searching is not None:
                    deadline_s += job.searching.time_s  # it ends itself in time, and its last trial is a step like any
                running[executor.submit(run_step, job, deadline_s)] = node, folder
                del left[key]

    def _take(self, node: Node, folder: Path, outcome: Outcome, failed: dict[str, str]) -> None:
        self._seconds.setdefault(node.action, []).append(outcome.seconds)
        if outcome.reached is None:
            failed[node.key] = f"{node.action} of {node.model}: {outcome.reason}"
            return
        reached = outcome.reached
        if node.search is not None:
            reached = {**reached, "search": _reached(self._work, node.search)}
        record = {"action": node.action, "reached": reached, "seconds": outcome.seconds}
        self._work.finish(node.key, folder, record)

    def _job(self, node: Node, folder: Path) -> StepJob:
        recipe, plan_ = self._recipe, self._plan
        source = None if node.parent is None else self._work.model(node.parent, plan_.nodes[node.parent].kind)
        parameters, model = node.parameters, msgspec.to_builtins(recipe.models[node.model])
        if node.searched is None:
            parameters = with_values(parameters, _chosen(self._work, node))
        if "train" in parameters:
            model["train"] = parameters["train"]
        name = TRIALS if node.searched is not None else self._work.model(node.key, node.kind).name
        return StepJob(
            action=node.action,
            kind=node.kind,
            source=None if source is None else str(source.resolve()),
            target=str((folder / name).resolve()),
            parameters=parameters,
            others={name: str(self._work.model(key, "torch").resolve()) for name, key in node.others.items()},
            training=str(recipe.training.resolve()),
            preprocessing=recipe.preprocessing,
            calibration=recipe.calibration,
            input_shape=recipe.input_shape,
            seed=recipe.seed,
            threads=max(1, (os.cpu_count() or 1) // self._making.jobs),
            folder=str(recipe.folder),
            model=model,
            searching=self._searching(node),
        )

    def _searching(self, node: Node) -> Searching | None:
        place = place_of(node.parameters) if node.searched is not None else None
        if place is None or node.searched is None:
            return None
        limits = self._recipe.limits
        return Searching(
            action=node.searched,
            keep=str(self._work.kept(node.key).resolve()),
            time_s=place.search.time_s() or limits.step_s,
            left_s=None if limits.time_s is None else limits.time_s - (time.monotonic() - self._begin),
        )

    def _over(self) -> str | None:
        limit = self._recipe.limits.time_s
        if limit is not None and time.monotonic() - self._begin > limit:
            return f"the recipe's time of {limit:.0f} s was over; run again to go on"
        return None

    def _say(
        self, total: int, left: Mapping[str, Node], running: Mapping[Any, tuple[Node, Path]], failed: Mapping[str, str]
    ) -> None:
        waiting = [*left.values(), *(node for node, _ in running.values())]
        known = {action: fmean(values) for action, values in self._seconds.items()}
        usual = median(known.values()) if len(known) > 2 else None
        now = ", ".join(f"{node.action} of {node.model}{_told(folder)}" for node, folder in running.values())
        if usual is not None:
            ahead_s = sum(known.get(node.action, usual) for node in waiting) / self._making.jobs
            now += f"; about {max(1.0, ahead_s / 60.0):.0f} min left"
        lost = f", {len(failed)} failed" if failed else ""
        self._making.progress(
            ProgressEvent(stage="make", text=f"{now}{lost}", done=total - len(waiting), total=total or 1, unit="steps")
        )


def _told(folder: Path) -> str:
    """Return how far a running step says it is."""
    try:
        return f" ({(folder / PROGRESS).read_text(encoding='utf-8')})"
    except OSError:
        return ""


def jobs_here() -> int:
    """Return how many steps this machine takes at a time: one for two cores, as far as memory goes."""
    return max(1, min((os.cpu_count() or 1) // 2, psutil.virtual_memory().available // STEP_BYTES))
