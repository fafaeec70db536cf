"""One class of boards and one task: what it measured, what of that is worth having, and what serves.

Rules:
- A class has no budgets of its own: those that most of its boards go by are drawn, and it is said how many they are.
- Equal boards differ: figures are medians over boards, and the spread of the latency is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from agent.collector.reading import ClassRow, OptionFigures
from agent.core.budget import METRICS, Budget
from agent.fleet.view import BoardView
from agent.report.html.rows import show
from agent.web.board_page import Markup, plain_texts
from agent.web.plots import class_plot, class_rows


def class_list(classes: Iterable[ClassRow]) -> dict[str, Any]:
    """Return the list of classes."""
    return plain_texts({"classes": list(classes)})


def class_page(
    row: ClassRow, task: str | None, options: list[OptionFigures], boards: Iterable[BoardView]
) -> dict[str, Any]:
    """Return what the page of a class shows for one task."""
    members = [board for board in boards if board.class_fingerprint == row.class_fingerprint]
    budgets, having, counted = _budgets(members, task)
    rows = class_rows(options, budgets)
    plot, front = class_plot("plot-class", rows, budgets)
    by_key = {(one.candidate, one.engine, one.provider, one.threads, one.batch): one for one in options}
    table = []
    for drawn in rows:
        point = drawn.option.point
        one = by_key[(drawn.option.candidate, point.engine, point.provider, point.threads, point.batch)]
        table.append(
            {"figures": one, "standing": drawn.option.standing, "reason": drawn.option.reason,
             "front": drawn.number in front}
        )  # fmt: skip
    return plain_texts(
        {
            "class": row, "task": task, "rows": table, "plot": Markup(plot) if plot else None,
            "budgets": [{"metric": b.metric, "text": b.text} for b in budgets], "having": having, "counted": counted,
            "serving": _serving(members, task), "traps": sorted({trap for board in members for trap in board.traps}),
        }
    )  # fmt: skip


def _budgets(boards: list[BoardView], task: str | None) -> tuple[list[Budget], int, int]:
    """Return the budgets that most boards go by, how many do, and of how many boards budgets are known."""
    known = Counter(view.budgets for board in boards if (view := board.tasks.get(task or "")) and view.budgets)
    if not known:
        return [], 0, 0
    ((most, having),) = known.most_common(1)
    made = [
        Budget(metric=name, limit=limit, text=f"{'≥' if METRICS[name].higher_is_better else '≤'} {show(limit, name)}")
        for name, limit in most
        if name in METRICS
    ]
    return made, having, sum(known.values())


def _serving(boards: list[BoardView], task: str | None) -> list[dict[str, Any]]:
    counts = Counter(view.candidate for board in boards if (view := board.tasks.get(task or "")))
    return [{"candidate": name, "boards": count} for name, count in counts.most_common()]
