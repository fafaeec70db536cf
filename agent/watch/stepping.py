"""Steps one task along its ladder, by the rule of ``agent.core.ladder``, and says so.

Rules:
- It is looked at with every report of the task: who tells nothing is not stepped. What is told moves a task among the
  rungs that its decision staged, each proven and within all budgets, and does nothing else.
- ``current`` moves first, then the board is looked at for the event's causes. A hook is run by a child (``finishing``).
- Something else that is being switched goes first: the step is tried again with the next report. One that failed is
  told, and its ladder rests for ``REST_S``.
- Up again needs the board's word where the causes were heat, supply or a neighbour: a lighter model's latency does not
  show them as a heavier one's would, which warms the board, and loses a core that it needs for longer more often.
  A neighbour is gone when others use less than half of what they used at the step down, or too little to be named.
- After a restart a task that stands on a lower rung goes on from there; why it does is not known any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from agent.core.ladder import Ask, Ladder, Seen, Step
from agent.core.watch import MARGIN, CauseKind
from agent.errors import BoardfitError, BusyError

if TYPE_CHECKING:
    from agent.core.deployment import StagedLadder
    from agent.core.watch import Cause, Conditions
    from agent.site import Site
    from agent.watch.judging import Ticks

log = logging.getLogger("boardfit")

REST_S = 60.0  # chosen: of a ladder after a step that failed
LOOK_EVERY_S = 5.0  # chosen: at the board, while a task waits to step up
_BOARD_SAYS: frozenset[CauseKind] = frozenset({"heat", "supply", "neighbour"})  # of others the latency itself does
_FEWER = 0.5  # chosen: of what others used of the processors at the step down


class Explained(NamedTuple):
    """What explains a degradation, and what the board was like when the model was measured, and is."""

    causes: tuple[Cause, ...]
    then: Conditions
    now: Conditions


class Stepper:
    """One task's ladder. Args: budget_p95_s: None without one. ask: hears why a pass is wanted."""

    def __init__(
        self, site: Site, ladder: StagedLadder, budget_p95_s: float | None, ask: Callable[[str, str], None]
    ) -> None:
        wanted = site.config.task(ladder.task).ladder
        assert wanted is not None
        self._site, self.ladder, self._ask, self.budget_p95_s = site, ladder, ask, budget_p95_s
        p95_s = [rung.latency_p95_s for rung in ladder.rungs]
        self._machine = Ladder(
            p95_s, promise_of(ladder, budget_p95_s), dwell_s=wanted.dwell_s, ask_after_s=wanted.ask_after_s
        )
        self._kinds: frozenset[CauseKind] = frozenset()
        self._found: Explained | None = None  # at the last step down
        self._ticks: Ticks | None = None  # at the last look
        self._gone: bool | None = None
        self._looked_s = self._rests_until_s = float("-inf")
        self.hook_waits = False

    def look(
        self, rung: int, *, broken: bool, p95_s: float | None, told: tuple[int, float], explain: Explain
    ) -> bool:  # fmt: skip
        """Take the step that is due, if there is one. Returns: whether another rung serves now.

        Args: rung: the one that serves. p95_s: live, of the newest requests. told: by which process, and when.
            explain: looks at the board.
        """
        sender, now_s = told
        if now_s < self._rests_until_s:
            return False
        measured = self.ladder.rungs[rung].latency_p95_s
        slowdown = p95_s / measured if p95_s is not None and measured else None
        seen = Seen(now_s=now_s, rung=rung, broken=broken, slowdown=slowdown, gone=self._is_gone(rung, sender, now_s))
        due = self._machine.look(seen)
        if isinstance(due, Ask):
            self._ask(self.ladder.task, due.reason)
        return isinstance(due, Step) and self._step(rung, due, now_s, explain)

    def _step(self, rung: int, step: Step, now_s: float, explain: Explain) -> bool:
        task, (before, after) = self.ladder.task, (self.ladder.rungs[rung], self.ladder.rungs[step.to])
        down = step.to > rung
        place = f"rung {step.to + 1} of {len(self.ladder.rungs)}"
        text = f"{task} steps {'down' if down else 'up'} from {before.candidate} to {after.candidate} ({place})"
        deployer = self._site.deployer(self._site.config.task(task))
        try:
            status = deployer.step(task, after.release, f"{text}: {step.reason}")
        except BusyError:
            return False
        except BoardfitError as error:
            self._rests_until_s = now_s + REST_S
            self._site.report.failure("ladder_step_failed", error, task=task)
            return False
        self.hook_waits = status.phase == "stepped_over"
        self._machine.stepped(now_s, rung, step.to)
        facts: dict[str, str | int | float | bool | None] = {"rung": step.to, "rungs": len(self.ladder.rungs)}
        facts |= {"from": before.release, "to": after.release}
        why = ""
        if down:
            found = explain()
            self._kinds, self._found, self._ticks = frozenset(one.kind for one in found.causes), found, None
            self._gone, self._looked_s = None, float("-inf")
            self._machine.explained(self._kinds)
            why = f". Likely {'; '.join(one.text for one in found.causes)}"
            facts["causes"] = ",".join(one.kind for one in found.causes)
        self._site.report.event(
            f"ladder_stepped_{'down' if down else 'up'}", f"{text}: {step.reason}{why}",
            level="warning" if down else "info", task=task, facts=facts,
        )  # fmt: skip
        self._site.report.deployment(status)
        return True

    def _is_gone(self, rung: int, sender: int, now_s: float) -> bool | None:
        """Return whether the board no longer shows what it showed at the step down; None: it need not, or cannot."""
        watched, found = self._kinds & _BOARD_SAYS, self._found
        if rung == 0 or found is None or not watched:
            return None
        if now_s - self._looked_s >= LOOK_EVERY_S:
            from agent.core.watch import causes
            from agent.watch.judging import conditions_now, read_ticks

            self._looked_s = now_s
            before, self._ticks = self._ticks, read_ticks(self._site, {sender})
            now = conditions_now(self._site, None, before, self._ticks)
            left = watched & {one.kind for one in causes(found.then, now)}
            if before is None and self._ticks is not None and "neighbour" in watched:
                left |= {"neighbour"}  # who uses the processors is known from the second look on
            elif now.others_share is not None and now.others_share < _FEWER * (found.now.others_share or 0.0):
                left -= {"neighbour"}
            self._gone = not left
        return self._gone


Explain = Callable[[], Explained]


def promise_of(ladder: StagedLadder, budget_p95_s: float | None) -> float | None:
    """Return what calls may take at most, in seconds: the budget, else what was measured of what was chosen."""
    chosen = ladder.rungs[0].latency_p95_s
    return budget_p95_s if budget_p95_s is not None else None if chosen is None else MARGIN * chosen
