"""Does what serves still give the outputs it was proven with? What one golden replay says, and several of them. Pure.

Rules:
- A replay compares under the tolerances of the release's own golden file, those it was proven under (``core.golden``).
- The files are looked at first: a file that is not the one that was proven is ``damaged``, and says nothing of the
  engine. Only whole files whose outputs ``differ``, or that no longer run (``fails``), tell of a change around them.
- One disagreement is told and replayed soon; ``TIMES`` in a row, ``AGAIN_S`` apart at least, are a drift: ``changed``.
  A run that memory or time was too short for is ``not_judged``, and counts neither way.
- Who acts: a damaged file is replaced by the next pass, which is asked for. With a changed engine the measurements of
  the task on it are of another engine: they are forgotten and a pass is asked for, which measures and chooses anew. One
  that agrees again after that is treated likewise: what was measured in between is forgotten. Nothing is rolled back:
  the previous release runs on the same engine.

Leaves running to ``agent.measure``, keeping and acting to ``agent.replay``.

History: ``boardfit.replay/1`` first version.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.core.measurement import GoldenResult

Outcome = Literal["agrees", "differs", "fails", "damaged", "not_judged", "no_golden"]
Change = Literal["damaged", "suspect", "changed", "agrees_again"]

TIMES = 3  # chosen: a bit that flipped in memory is gone with the process; what is there three times stays
AGAIN_S = 600.0  # chosen: between two replays of one that disagreed
NOT_JUDGED_S = 3600.0  # chosen: memory was short, or the board busy
BAD: frozenset[Outcome] = frozenset({"differs", "fails"})


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """The newest replay of one task's release, and how it stands with those before it.

    ``max_rel_error``: the largest difference over the largest magnitude of that golden output. ``since``: of the first
    of ``in_a_row``. ``good_*``: what the last replay that agreed ran on, or what the release was measured on.
    """

    task: str
    release: str
    candidate: str
    at: str  # UTC, ISO 8601 with Z
    outcome: Outcome
    schema: str = "boardfit.replay/1"
    reason: str | None = None
    samples: int | None = None
    samples_off: int | None = None
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    tolerance: float | None = None
    duration_s: float | None = None
    engine_version: str | None = None
    kernel: str | None = None
    good_engine_version: str | None = None
    good_kernel: str | None = None
    in_a_row: int = 0  # that disagreed
    since: str | None = None
    changed: bool = False  # a drift, and not told to be over
    cause: str | None = None
    asks: str | None = None  # why a pass is wanted; None: none is, or it was begun

    def again_s(self, every_s: float) -> float:
        """Return after how long it is replayed again. Args: every_s: what is usual."""
        if self.outcome in BAD and self.in_a_row < TIMES:
            return min(every_s, AGAIN_S)
        return min(every_s, NOT_JUDGED_S) if self.outcome == "not_judged" else every_s


def outcome_of(golden: GoldenResult | None, verdict: str, reason: str) -> tuple[Outcome, str | None]:
    """Return what the worker's end says. Args: verdict, reason: of the proof; ``ok`` where it came to its end."""
    if golden is not None and golden.checked:
        return ("agrees", None) if golden.passed else ("differs", golden.reason)
    if golden is not None:
        return "not_judged", golden.reason
    if verdict in ("load_failed", "crashed", "engine_missing"):
        return "fails", reason
    return "not_judged", reason


def settled(before: Replay | None, found: Replay) -> tuple[Replay, Change | None]:
    """Join a replay with the one before it. Returns: what is kept, and what changed with it."""
    if before is not None and before.release != found.release:
        before = None
    versions = {"good_engine_version": found.good_engine_version, "good_kernel": found.good_kernel}
    if before is not None:
        versions = {"good_engine_version": before.good_engine_version, "good_kernel": before.good_kernel}
    was_changed = before is not None and before.changed
    if found.outcome == "damaged":
        known = before is not None and before.outcome == "damaged"
        text = f"a file of {found.candidate}, which serves {found.task}, is damaged"
        kept = msgspec.structs.replace(found, **versions, changed=was_changed, asks=text)
        return kept, None if known else "damaged"
    if found.outcome in BAD:
        return _disagrees(before, msgspec.structs.replace(found, **versions))
    if found.outcome != "agrees":
        since = {} if before is None else {"in_a_row": before.in_a_row, "since": before.since, "cause": before.cause}
        return msgspec.structs.replace(found, **versions, **since, changed=was_changed), None
    kept = msgspec.structs.replace(found, good_engine_version=found.engine_version, good_kernel=found.kernel)
    if was_changed:
        text = f"{found.candidate}, which serves {found.task}, gives the outputs again that it was proven with"
        kept = msgspec.structs.replace(kept, asks=text)
    told = before is not None and (was_changed or before.in_a_row > 0 or before.outcome == "damaged")
    return kept, "agrees_again" if told else None


def _disagrees(before: Replay | None, found: Replay) -> tuple[Replay, Change | None]:
    row = 1 if before is None else before.in_a_row + 1
    since = found.at if before is None or before.since is None else before.since
    kept = msgspec.structs.replace(found, in_a_row=row, since=since, cause=suspected(found))
    if before is not None and before.changed:
        return msgspec.structs.replace(kept, changed=True), None
    if row < TIMES:
        return kept, "suspect" if row == 1 else None
    text = f"{found.candidate}, which serves {found.task}, gives other outputs than it was proven with"
    return msgspec.structs.replace(kept, changed=True, asks=text), "changed"


def suspected(found: Replay) -> str:
    """Return what may have changed the outputs of files that are whole, as a phrase."""
    for what, was, now in (
        ("engine", found.good_engine_version, found.engine_version),
        ("kernel", found.good_kernel, found.kernel),
    ):
        if was and now and was != now:
            return f"the {what} is {now}, and was {was}"
    return "engine and kernel have the versions they had: the engine's own files, a driver, or the memory"


def figures_text(found: Replay) -> str:
    """Return the figures of a replay as a phrase."""
    if found.outcome != "differs":
        return found.reason or f"{found.samples or 0} samples agree"
    off = f"{found.samples_off} of {found.samples} golden samples are off" if found.samples else "its outputs are off"
    if found.max_abs_error is None:
        return f"{off} ({found.reason})"
    share = "" if found.max_rel_error is None else f" ({found.max_rel_error:.2%} of the largest output)"
    return f"{off} by up to {found.max_abs_error:.4g}{share} where {found.tolerance:.4g} is allowed"


def line(found: Replay) -> str:
    """Return a replay as one sentence for ``status``."""
    words: dict[Outcome, str] = {
        "agrees": f"agrees with what was proven ({found.samples} samples)", "differs": figures_text(found),
        "fails": f"does not run: {found.reason}", "damaged": f"is damaged: {found.reason}",
        "not_judged": f"could not be judged: {found.reason}",
        "no_golden": "was published without golden outputs; its files are whole",
    }  # fmt: skip
    text = f"{found.task}: {found.candidate} {words[found.outcome]}, replayed at {found.at}"
    if found.changed:
        return f"{text}; outputs changed since {found.since}: {found.cause}"
    return f"{text}; {found.in_a_row} in a row, {TIMES} are a change" if found.in_a_row else text
