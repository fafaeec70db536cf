"""The card of the tasks that share the board: what each got, and how the shared budgets stand. Pure.

Decides only what is shown; every word of why is in the document.
"""

from __future__ import annotations

from html import escape

from agent.core.budget import BudgetCheck
from agent.core.combination import Combination, TaskShare
from agent.core.decision import Choice
from agent.report.html.rows import metric_name, show


def combination_card(combination: Combination | None) -> str:
    """Return the card as markup; nothing where no board is shared."""
    if combination is None:
        return ""
    shares = "".join(_share_row(share) for share in combination.shares)
    sums = "".join(
        _sum_row(heading, check)
        for heading, checks in (
            ("if each had what it would get alone", combination.alone),
            ("summed up from runs alone", combination.planned),
            ("with all of them running", combination.together),
        )
        for check in checks
    )
    return (
        '<section class="task" id="combination"><div class="card"><h2>Tasks that share this board</h2>'
        f'<p class="note">{escape(combination.reason)}.</p>'
        '<div class="scroll"><table><thead><tr><th>Task, by priority</th><th>Gets</th><th>Alone</th><th>Why</th></tr>'
        f"</thead><tbody>{shares}</tbody></table></div>"
        '<div class="scroll"><table><thead><tr><th>Shared budget</th><th>Of all tasks</th><th>Limit</th><th>State</th>'
        f"<th>As</th></tr></thead><tbody>{sums}</tbody></table></div></div></section>"
    )


def _share_row(share: TaskShare) -> str:
    cells = (share.task, _name(share.choice), _name(share.alone), share.reason)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _sum_row(heading: str, check: BudgetCheck) -> str:
    cells = (metric_name(check.metric), show(check.value, check.metric), show(check.limit, check.metric), check.state)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in (*cells, heading))}</tr>"


def _name(choice: Choice | None) -> str:
    return "–" if choice is None else f"{choice.candidate} ({choice.point.label})"
