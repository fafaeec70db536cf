"""Lays the lower rungs of a ladder: each is staged and proven like a release that is switched in, and then named.

Rules:
- What is being laid is named first, so that nobody collects it; a cut leaves the ladder that was, and no half a rung is
  ever stepped to. What lies there already, whole, is not proven again.
- A rung that cannot be staged or is not proven is left out and told: a shorter ladder is one.
- The ladder is of what was chosen when this began: where something else serves by the end, nothing is named.

Leaves stepping, and the lock that is held while a ladder is named, to ``agent.deploy.executor``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from agent.core.deployment import Deployment, StagedLadder, StagedRung
from agent.core.ports import Probe
from agent.deploy.document import is_same_model
from agent.deploy.store import CURRENT, ReleaseStore
from agent.errors import BoardfitError, Interrupted


class RungSource(NamedTuple):
    """What a rung is made of: its document, and verified files of the registry's cache, which are copied."""

    document: Deployment
    model: Path
    golden: Path | None


class LeftOut(NamedTuple):
    """A rung that was not laid, and why."""

    candidate: str
    reason: str


class Rungs:
    """The ladders of one release store. Args: alone: holds the lock of whoever switches."""

    def __init__(self, store: ReleaseStore, probe: Probe, alone: Callable[[], AbstractContextManager[None]]) -> None:
        self._store, self._probe, self._alone = store, probe, alone

    def lay(self, task: str, sources: Sequence[RungSource]) -> tuple[LeftOut, ...]:
        """Make the ladder of what was chosen for a task; without sources it has none. Returns: what was left out.

        Raises: StorageError, BusyError: the ladder that was stays. Interrupted: a stop was asked for.
        """
        store = self._store
        with self._alone():
            chosen = store.read(task, store.chosen(task))
            before = store.ladder(task)
            if chosen is None or not sources:
                store.keep_ladder(task, None)
                store.collect(task, ())
                return ()
            kept = self._kept(task, before, sources)
            documents = [one or source.document for one, source in zip(kept, sources, strict=True)]
            rungs = (_rung(chosen),) if before is None else before.rungs
            laying = tuple(one.release for one in documents)
            store.keep_ladder(task, StagedLadder(task=task, rungs=rungs, laying=laying))
        left_out: list[LeftOut] = []
        laid: list[StagedRung] = [_rung(chosen)]
        for document, old, source in zip(documents, kept, sources, strict=True):
            problem = None if old is not None else self._prove(task, source)
            if problem is None:
                laid.append(_rung(document))
            else:
                left_out.append(LeftOut(document.candidate, problem))
        ladder = StagedLadder(task=task, rungs=tuple(laid))
        with self._alone():
            same = store.chosen(task) == chosen.release and ladder.index(store.linked(task, CURRENT)) is not None
            if same:
                store.keep_ladder(task, ladder if len(laid) > 1 else None)
                store.collect(task, ())
        return tuple(left_out) if same else (*left_out, LeftOut(chosen.candidate, "something else was switched in"))

    def forget_unlaid(self, task: str) -> None:
        """Collect what a cut left of a ladder that was being laid; the lock is the caller's. Raises: StorageError."""
        ladder = self._store.ladder(task)
        if ladder is not None and ladder.laying:
            whole = StagedLadder(task=task, rungs=ladder.rungs)
            self._store.keep_ladder(task, whole if len(whole.rungs) > 1 else None)
        self._store.collect(task, ())

    def _kept(self, task: str, before: StagedLadder | None, sources: Sequence[RungSource]) -> list[Deployment | None]:
        """Return, for each source, the document of the rung that is the same and lies there whole."""
        store = self._store
        known = [store.read(task, rung.release) for rung in (before.rungs[1:] if before else ())]
        found = (
            next((one for one in known if one is not None and is_same_model(one, source.document)), None)
            for source in sources
        )
        return [None if one is None or store.find_damage(task, one.release) else one for one in found]

    def _prove(self, task: str, source: RungSource) -> str | None:
        document = source.document
        try:
            self._store.check_space(document)
            self._store.stage(document, source.model, source.golden)
            result = self._probe(self._store.release_folder(task, document.release), document)
        except Interrupted:
            raise
        except BoardfitError as error:
            return error.problem
        return None if result.passed else f"the proof failed: {result.reason}"


def _rung(document: Deployment) -> StagedRung:
    return StagedRung(
        release=document.release, candidate=document.candidate, point=document.point.label,
        latency_p95_s=document.expected.get("latency_p95_s"),
    )  # fmt: skip
