"""The page of one run: accuracy against size, the family tree from parent to child, and the table. One HTML file.

It opens offline and works without scripts; with them its table sorts. Every candidate is in tree and table, made or
not. Leaves the plot to ``plot``, scales and the look to ``agent.report.html``, whose pages this one resembles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from agent.compress.made import Made
from agent.compress.plot import legend, percent, scatter, told, top1
from agent.core.units import format_quantity
from agent.report.html.style import SCRIPT, STYLE

_TREE_STYLE = """
ul.family,ul.family ul{list-style:none;margin:0;padding:0 0 0 22px}ul.family{padding-left:0}
ul.family li{position:relative;padding:3px 0}
ul.family ul>li::before{content:"";position:absolute;left:-14px;top:0;width:10px;height:15px;
border-left:1px solid var(--line);border-bottom:1px solid var(--line)}
ul.family ul>li:not(:last-child)::after{content:"";position:absolute;left:-14px;top:0;bottom:0;
border-left:1px solid var(--line)}
ul.family a{font-weight:600;text-decoration:none;color:var(--ink)}ul.family a:hover{text-decoration:underline}
ul.family span{color:var(--soft);font-size:13px;margin-left:10px}
caption{caption-side:top;text-align:left;color:var(--soft);font-size:14px;padding-bottom:10px}
tbody th[scope=row]{color:var(--ink);font-size:13.5px;text-align:left;white-space:nowrap}
tr:target{background:var(--wash)}
"""


def render(task: str, made: Sequence[Made], version: str) -> str:
    """Return the page."""
    whole = [one for one in made if one.accuracy is not None and one.size_bytes]
    left = [one for one in made if one not in whole]
    plot = f'<div class="scroll">{scatter(whole)}</div>{legend(whole)}' if whole else "<p>None has an accuracy.</p>"
    missing = "".join(f"<li>{escape(one.name)}: {escape(told(one))}</li>" for one in left)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(task)}: compressed candidates</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}{_TREE_STYLE}</style></head>
<body><main><section class="task"><h1>{escape(task)}: {len(whole)} of {len(made)} candidates</h1>
<div class="card"><h2>Accuracy against size</h2><p class="note">Top-1 with its 95 % interval, on samples never trained
or calibrated on. Up and left is better; both axes are logarithmic, the upright one in wrong answers.</p>{plot}</div>
<div class="card"><h2>Family</h2><p class="note">What was made of what; size and accuracy against the one above.</p>
{_tree(made)}</div>
<div class="card"><h2>Table</h2><div class="scroll">{_table(made)}</div></div>
{f'<div class="card"><h2>Without an accuracy</h2><ul>{missing}</ul></div>' if missing else ""}
</section></main><footer>boardfit {escape(version)}</footer><script>{SCRIPT}</script></body></html>
"""


def _tree(made: Sequence[Made]) -> str:
    """Return nested lists, children below their parent; whoever's parent is not there stands at the top."""
    by_name = {one.name: one for one in made}
    numbers = {one.name: number for number, one in enumerate(made)}
    shown: set[str] = set()

    def branch(one: Made, above: Made | None) -> str:
        shown.add(one.name)
        against = "" if above is None else _against(one, above)
        below = "".join(branch(child, one) for child in made if child.parent == one.name and child.name not in shown)
        inner = f"<ul>{below}</ul>" if below else ""
        link = f'<a href="#candidate-{numbers[one.name]}">{escape(one.name)}</a>'
        return f"<li>{link}<span>{escape(told(one))}{against}</span>{inner}</li>"

    parts = [branch(one, None) for one in made if one.parent not in by_name]
    parts += [branch(one, None) for one in made if one.name not in shown]  # of a circle, which no run makes
    return f'<ul class="family">{"".join(parts)}</ul>'


def _against(one: Made, above: Made) -> str:
    if not one.transfer_bytes or not above.transfer_bytes or one.accuracy is None or above.accuracy is None:
        return ""
    points = 100.0 * (top1(one) - top1(above))
    return f"; {one.transfer_bytes / above.transfer_bytes:.3g} of the size, {points:+.1f} points"


def _table(made: Sequence[Made]) -> str:
    engines = list(dict.fromkeys(found.engine for one in made for found in one.judged))
    heads = [
        ("candidate", ""), ("made from", ""), ("techniques", ""), ("size", "n"), ("top-1", "n"),
        *((f"p50 {engine}", "n") for engine in engines), ("left out because", ""),
    ]  # fmt: skip
    head = "".join(
        f'<th scope="col"{" class=n" if kind else ""}><button type="button">{escape(name)}</button></th>'
        for name, kind in heads
    )
    body = "".join(_row(number, one, engines) for number, one in enumerate(made))
    caption = "Every candidate; p50 is one inference on this machine. A column's head sorts by it."
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(number: int, one: Made, engines: Sequence[str]) -> str:
    accuracy = one.accuracy
    steps = list(one.chain)
    if one.search is not None:
        steps.insert(0, {"technique": "training", "parameters": {}, "reached": {"search": one.search}})
    cells = [
        f'<th scope="row">{escape(one.name)}</th>',
        f"<td>{escape(one.parent or '–')}</td>",
        f"<td>{'<br>'.join(map(_step, steps)) or 'none'}</td>",
        _figure(one.transfer_bytes, one.size_text),
    ]
    if accuracy is None:
        cells.append(_figure(None, "–"))
    else:
        low, high = accuracy.top1.low, accuracy.top1.high
        interval = "" if low is None or high is None else f"{percent(low)} to {percent(high)} of {accuracy.n}"
        cells.append(_figure(top1(one), percent(top1(one)), interval))
    judged = {found.engine: found for found in one.judged}
    for engine in engines:
        found = judged.get(engine)
        latency = None if found is None else found.latency_p50_s
        cells.append(_figure(latency, "–" if latency is None else format_quantity(latency, "time")))
    cells.append(f"<td>{escape(one.reason or '')}</td>")
    return f'<tr id="candidate-{number}">{"".join(cells)}</tr>'


def _figure(value: float | None, said: str, note: str = "") -> str:
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<td class="n" data-v="{"" if value is None else f"{value:.9g}"}">{escape(said)}{small}</td>'


def _step(step: Mapping[str, Any]) -> str:
    """Return a technique with its own parameters, and what a search found for it."""
    given = [
        f"{key} {value}" for key, value in step["parameters"].items()
        if isinstance(value, str | int | float) and key != "seed"
    ]  # fmt: skip
    search = (step.get("reached") or {}).get("search")
    note = ""
    if search is not None:
        values = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in search["values"].items()
        )
        note = f"<small>best of {search['trials']} trials: {escape(values)}</small>"
    return f"<b>{escape(step['technique'])}</b> {escape(', '.join(given))}{note}"
