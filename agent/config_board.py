"""What several tasks share on one board: the ``board`` part of agent.yaml. What is done with it is for others.

Rules:
- Only what adds up over tasks can be shared: memory and power. Latency is each task's own budget, and is judged with
  all of them running.
- The tasks share in the order in which they are written: what comes first has priority.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from agent.core.budget import Budget, parse_budgets
from agent.core.units import parse_quantity
from agent.errors import ConfigError

SHARED = ("memory_peak", "power_mean")


class RawBoard(msgspec.Struct, kw_only=True):
    """The part as it is written."""

    budgets: dict[str, Any] | None = None
    tasks: list[str] | None = None
    tries: int = 5
    window: Any = "3 s"


class BoardConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets over the sum of tasks. ``tasks`` None: all that are configured.

    ``tries``: how many combinations one pass runs together at most. ``window_s``: for how long each, at least.
    """

    budgets: tuple[Budget, ...] = ()
    tasks: tuple[str, ...] | None = None
    tries: int = 5
    window_s: float = 3.0

    def sharing(self, configured: Collection[str]) -> tuple[str, ...]:
        """Return the tasks that share, by priority; none without a shared budget."""
        if not self.budgets:
            return ()
        return tuple(configured) if self.tasks is None else self.tasks


def board_config(raw: RawBoard, configured: Collection[str]) -> BoardConfig:
    """Read the part. Raises: ConfigError."""
    budgets = parse_budgets(raw.budgets or {}, where="board.budgets")
    for budget in budgets:
        if budget.metric not in SHARED:
            problem = f"board.budgets: {budget.metric} does not add up over tasks"
            raise ConfigError(problem, fix=f"share {' and '.join(SHARED)}; any other is a task's own budget")
    tasks = None if raw.tasks is None else tuple(raw.tasks)
    for name in tasks or ():
        if name not in configured:
            known = ", ".join(configured) or "none"
            raise ConfigError(f"board.tasks: {name!r} is not a configured task", fix=f"configured are: {known}")
    if tasks is not None and (not tasks or len(set(tasks)) != len(tasks)):
        raise ConfigError("board.tasks must name each task that shares once", fix="leave it out to have all share")
    if not 1 <= raw.tries <= 50:
        raise ConfigError(f"board: tries is {raw.tries}, which must be 1 to 50")
    window_s = parse_quantity(raw.window, "time", where="board.window")
    if not 0 < window_s <= 600:
        raise ConfigError(f"board: window is {raw.window}, which must be above 0 s and at most 10 min")
    return BoardConfig(budgets=budgets, tasks=tasks, tries=raw.tries, window_s=window_s)
