"""Draw the README's pictures from one real run of the demo on this machine, and of the console.

    python benchmarks/pictures.py [--out docs/pictures] [--state-dir DIR] [--no-console]

``demo.svg`` is the terminal as ``boardfit demo`` prints it; ``pareto.svg`` is the trade-off plot of the report of the
same run. Each is whole in itself, as a picture in a Markdown page reaches no style sheet; the plot follows the reader's
choice of light or dark and brings its own ground, so that it is right on a page that does not.
``console-*.png`` show the console over a simulated fleet (``benchmarks/console_pictures.py``).
``--state-dir`` names the state of an earlier demo, whose plot is drawn again without running one.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.config import load_config  # noqa: E402
from agent.report.html.pareto import HEIGHT, WIDTH, energy_colour, energy_range, pareto_plot  # noqa: E402
from agent.report.html.rows import Row, TaskReport, rows_of, show  # noqa: E402
from agent.report.html.style import STYLE  # noqa: E402
from agent.report.html.svg import element, text  # noqa: E402
from agent.site import Site  # noqa: E402

X_METRIC = "latency_p95"
HEAD, FOOT = 58, 44
MAX_BYTES = 300_000
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif"
LAYOUT = """
svg{{font:12px/1 {font};fill:var(--ink)}}.paper{{fill:var(--card);stroke:var(--line)}}
.headline{{font-size:19px;font-weight:650;letter-spacing:-.012em}}.key{{fill:var(--soft);font-size:12.5px}}
"""


def style() -> str:
    """Return what the plot needs of the report's style sheet: both sets of colours, and how marks look."""
    light, dark = (
        re.sub(r"color-scheme:[^;]*;", "", block)
        for block in re.findall(r":root\{([^}]*)\}", STYLE)
        if "--card" in block
    )
    colours = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    marks = "".join(re.findall(r"svg \.[^{}]+\{[^}]*\}", STYLE))
    return (colours + LAYOUT.format(font=FONT) + marks).replace("\n", "")


def key(rows: list[Row]) -> str:
    """Explain the marks in one line below the plot."""
    parts: list[str] = []
    x, y = 78.0, HEAD + HEIGHT + 18.0
    entries: list[tuple[str, str]] = [("mark fits", "fits every budget"), ("mark over_budget", "over a budget")]
    if any(row.option.standing == "unknown" for row in rows):
        entries.append(("mark unknown", "a budget is unknown"))
    for class_, says in entries:
        parts += [element("circle", cx=x, cy=y - 4, r=6.0, class_=class_), text(says, x + 13, y, class_="key")]
        x += 13 + 6.6 * len(says) + 26
    parts += [
        element("line", x1=x - 6, x2=x + 14, y1=y - 4, y2=y - 4, class_="front"),
        text("best trade-offs", x + 21, y, class_="key"),
    ]
    x += 21 + 6.6 * 15 + 26
    parts.append(text("area: size of the model", x, y, class_="key"))
    x += 6.6 * 23 + 26
    energy = energy_range(rows)
    if energy is not None:
        for share in (0.0, 0.5, 1.0):
            parts.append(element("circle", cx=x + 12 * share * 2, cy=y - 4, r=5.0, fill=energy_colour(share)))
        says = f"energy {show(energy[0], 'energy_per_inference')} to {show(energy[1], 'energy_per_inference')}"
        parts.append(text(says, x + 36, y, class_="key"))
    return element("g", *parts)


def standalone(plot: str, rows: list[Row], headline: str) -> str:
    """Return the plot as a picture of its own."""
    height = HEAD + HEIGHT + FOOT
    inner = plot.replace("<svg ", f'<svg y="{HEAD}" width="{WIDTH}" height="{HEIGHT}" ', 1)
    return element(
        "svg",
        element("title", escape(headline)),
        element("style", style()),
        element("rect", x=0.5, y=0.5, width=WIDTH - 1.0, height=height - 1.0, rx=12, class_="paper"),
        text(headline, 26.0, 38.0, class_="headline"),
        inner,
        key(rows),
        xmlns="http://www.w3.org/2000/svg",
        width=WIDTH,
        height=height,
        viewBox=f"0 0 {WIDTH} {height}",
    )


def draw_pareto(state: Path, path: Path) -> None:
    """Draw the plot of the demo's task. Raises: SystemExit: the state holds no decision to draw."""
    with Site(load_config(state / "agent.yaml"), state) as site:
        facts, task = site.facts(), site.records.tasks()[0]
        decision = site.records.last_decision(task)
        measurements = site.records.measurements(task, facts.class_fingerprint)
    rows = [] if decision is None else list(rows_of(TaskReport(decision=decision, measurements=measurements)))
    plot = None if decision is None else pareto_plot("task", rows, decision.budgets, X_METRIC)
    if plot is None:
        raise SystemExit(f"{state} holds nothing to draw")
    candidates = len({row.option.candidate for row in rows})
    points = sum(row.value(X_METRIC) is not None for row in rows)
    headline = f"{candidates} candidates for “{task}”, {points} ways to run them, measured on this machine"
    path.write_text(standalone(plot, rows, headline), encoding="utf-8")


def run_demo(state: Path, picture: Path) -> None:
    """Run the demo and keep what it prints as a picture. Raises: SystemExit: it failed."""
    command = [sys.executable, "-m", "agent", "demo", "--state-dir", str(state), "--svg", str(picture)]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code != 0:
        raise SystemExit(f"boardfit demo ended with exit code {code}")


def main() -> int:
    parser = argparse.ArgumentParser(description="the README's pictures, from a run of the demo")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="default: %(default)s")
    parser.add_argument("--state-dir", type=Path, help="draw the plot of this earlier demo and run none")
    parser.add_argument("--no-console", action="store_true", help="leave the console's pictures as they are")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [options.out / "pareto.svg"]
    if options.state_dir is not None:
        draw_pareto(options.state_dir, paths[0])
    else:
        state = Path(tempfile.gettempdir()) / "boardfit-demo"  # a short name, as the picture shows it
        paths.append(options.out / "demo.svg")
        run_demo(state, paths[1])
        draw_pareto(state, paths[0])
        shutil.rmtree(state)
    if not options.no_console:
        from benchmarks.console_pictures import draw  # needs a browser

        paths += draw(options.out)
    for path in paths:
        size = path.stat().st_size
        print(f"{path}  {size / 1e3:.0f} kB")
        if size > MAX_BYTES:
            raise SystemExit(f"{path} is larger than {MAX_BYTES / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
