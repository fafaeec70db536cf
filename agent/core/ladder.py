"""When a task steps down its ladder, up again, and asks for a new choice. Pure.

Rules:
- The promise is the latency budget, or where there is none what was measured of the chosen model, with the watch's
  margin. Slower than measured within a budget is no reason: nothing that was asked for is broken, and accuracy is.
- Down: as soon as the watch says that calls break the promise, to the first rung that would keep it at the slowdown
  seen now, else to the lowest. Failing calls are no reason: a lighter model is no cure for an engine that fails.
- Up: to the highest rung that would keep the promise at the slowdown seen now, once that has held without a break for
  the dwell time, with requests in it, and the causes named at the step down are gone as far as the board can say. A
  slowdown within the watch's margin never holds a task down.
- A cause that the board still shows, while calls have left room for ``MOST_DWELL_S``, is there to stay and may no
  longer matter: one step up is tried all the same.
- A step up has failed when the promise is broken again within ``TRIAL_S`` of it: the dwell time is doubled, up to
  ``MOST_DWELL_S``. Heat and a poor supply are of the model's own making, gone while a lighter one runs and back with
  the heavier: there it has failed within ``LASTING_TRIAL_S``. One that has outlived its trial sets the dwell time back.
- So there is no oscillation: of a cause that stays, steps up come at intervals that double, to one an hour; every other
  step up was followed by a good time of two minutes at least.
- A new choice is asked for when the promise stays broken for ``BREACH_S`` with nothing lighter left, or a lower rung
  has served for ``ask_after_s``; again every ``ASK_AGAIN_S`` while that lasts.

Leaves what is measured to ``agent.core.watch``, and carrying out a step to whoever takes it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from agent.core.units import format_quantity
from agent.core.watch import MARGIN, CauseKind

DWELL_S = 30.0  # chosen: five times what the watch needs to see a breach at one request a second or more
MOST_DWELL_S = 3600.0
TRIAL_S = 120.0
LASTING_TRIAL_S = 3600.0
BREACH_S = 600.0
ASK_AFTER_S = 3600.0
ASK_AGAIN_S = 86400.0
_LASTING: frozenset[CauseKind] = frozenset({"heat", "supply"})


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of a task at one moment.

    ``slowdown``: live p95 over the measured p95 of the rung that serves, None without enough requests. ``gone``:
    whether the causes named at the last step down are gone; None: the board does not say.
    """

    now_s: float
    rung: int
    broken: bool  # the watch says that calls break the promise
    slowdown: float | None = None
    gone: bool | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Serve this rung, for this reason."""

    to: int
    reason: str


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Choose anew, for this reason."""

    reason: str


class Ladder:
    """The steps of one task.

    Args: p95_s: of each rung when measured, what was chosen first. promise_s: the limit, None where there is none.
        dwell_s: the shortest wait before a step up.
    """

    def __init__(
        self, p95_s: Sequence[float | None], promise_s: float | None, *, dwell_s: float = DWELL_S,
        ask_after_s: float = ASK_AFTER_S,
    ) -> None:  # fmt: skip
        self._p95_s, self._promise_s = tuple(p95_s), promise_s
        self._least_dwell_s = self.dwell_s = dwell_s
        self._ask_after_s = ask_after_s
        self._calm_s: float | None = None  # since when a step up has been allowed
        self._room_s: float | None = None  # since when calls have left room, whatever the board says
        self._up_s: float | None = None  # the last step up, while it is on trial
        self._lasting = False  # the causes of the last step down come back with the heavier model
        self._broken_s: float | None = None  # since when the promise has been broken on the lowest rung
        self._below_s: float | None = None  # since when a lower rung has served
        self._asked_s: float | None = None

    def look(self, seen: Seen) -> Step | Ask | None:
        """Return what is to be done now. A step that could not be taken is asked for again."""
        self._judge_trial(seen)
        self._below_s = None if seen.rung == 0 else seen.now_s if self._below_s is None else self._below_s
        if seen.broken:
            self._calm_s = self._room_s = None
            if seen.rung < len(self._p95_s) - 1:
                self._broken_s = None
                return self._down(seen)
            self._broken_s = seen.now_s if self._broken_s is None else self._broken_s
            return self._ask(seen)
        self._broken_s = None
        return self._up(seen) or self._ask(seen)

    def stepped(self, now_s: float, came_from: int, to: int, kinds: Collection[CauseKind] = ()) -> None:
        """Note that a step was taken. Args: kinds: of the causes of a step down, as far as they are known yet."""
        self._calm_s = self._room_s = None
        if to < came_from:
            self._up_s = now_s
        else:
            if self._up_s is not None:
                self.dwell_s = min(self.dwell_s * 2.0, max(MOST_DWELL_S, self._least_dwell_s))
            self._up_s = None
            self.explained(kinds)

    def explained(self, kinds: Collection[CauseKind]) -> None:
        """Note what explains the last step down."""
        self._lasting = bool(_LASTING & set(kinds))

    def _judge_trial(self, seen: Seen) -> None:
        trial_s = LASTING_TRIAL_S if self._lasting else TRIAL_S
        if self._up_s is not None and seen.now_s - self._up_s > trial_s and not seen.broken:
            self._up_s, self.dwell_s = None, self._least_dwell_s

    def _down(self, seen: Seen) -> Step:
        lowest = len(self._p95_s) - 1
        to = next((one for one in range(seen.rung + 1, lowest) if self._keeps(one, seen.slowdown)), lowest)
        slow = "" if seen.slowdown is None else f", {seen.slowdown:.2f} times as slow as measured"
        return Step(to=to, reason=f"calls are over {format_quantity(self._promise_s, 'time')}{slow}")

    def _up(self, seen: Seen) -> Step | None:
        if seen.rung == 0:
            return None
        fits = (one for one in range(seen.rung) if seen.slowdown is not None and self._keeps(one, seen.slowdown))
        to = next(fits, None)
        if to is None:
            self._calm_s = self._room_s = None
            return None
        self._room_s = seen.now_s if self._room_s is None else self._room_s
        self._calm_s = None if seen.gone is False else seen.now_s if self._calm_s is None else self._calm_s
        calm_s = 0.0 if self._calm_s is None else seen.now_s - self._calm_s
        room_s = seen.now_s - self._room_s
        if calm_s < self.dwell_s and room_s < max(MOST_DWELL_S, self.dwell_s):
            return None
        return Step(to=to, reason=f"calls have left room for it for {format_quantity(room_s, 'time')}")

    def _keeps(self, rung: int, slowdown: float | None) -> bool:
        """Return whether a rung would keep the promise at a slowdown; unknown of a rung that was not timed."""
        p95_s = self._p95_s[rung]
        if p95_s is None or slowdown is None or self._promise_s is None:
            return False
        return slowdown <= MARGIN or slowdown * p95_s <= self._promise_s

    def _ask(self, seen: Seen) -> Ask | None:
        if self._asked_s is not None and seen.now_s - self._asked_s < ASK_AGAIN_S:
            return None
        reason = None
        if self._broken_s is not None and seen.now_s - self._broken_s >= BREACH_S:
            reason = f"calls have been too slow for {format_quantity(BREACH_S, 'time')}, and nothing lighter is left"
        elif self._below_s is not None and seen.now_s - self._below_s >= self._ask_after_s:
            reason = f"a lower rung has served for {format_quantity(self._ask_after_s, 'time')}"
        if reason is None:
            return None
        self._asked_s = seen.now_s
        return Ask(reason=reason)
