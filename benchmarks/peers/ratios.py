"""What peers report over a tight loop in their own runtime, round by round: the rows beside boardfit's fidelity."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from agent.core.statistics import percentile
from benchmarks.peers.ask import PeerAbsentError, ask
from benchmarks.table import render

TOOLS = {"loadgen": "MLPerf loadgen, SingleStream", "benchmark_app": "OpenVINO benchmark_app"}


class Ratios(NamedTuple):
    """Per round: the tool over the mean of its two loops, and one loop over the other. None: it reports no such."""

    p50: list[float]
    p90: list[float | None]
    noise: list[float]


class Peers:
    """Asks every tool of every model once a round, until one is absent or fails; then says so and goes on without."""

    def __init__(self, models: Sequence[Path], *, least_runs: int, least_s: float) -> None:
        self._models = models
        self._least = {"least_runs": least_runs, "least_s": least_s}
        self.seen: dict[tuple[str, str], Ratios] = {}
        self.absent: dict[str, str] = {}

    def round(self) -> None:
        """Take one round."""
        for tool in TOOLS:
            for model in self._models:
                if tool in self.absent:
                    continue
                try:
                    said = ask(tool, model, **self._least)  # type: ignore[arg-type]
                except PeerAbsentError as error:
                    self.absent[tool] = str(error)
                    continue
                except RuntimeError as error:
                    print(error, file=sys.stderr)
                    self.absent[tool] = "failed"
                    continue
                first, second = said["loops"]
                ratios = self.seen.setdefault((tool, model.stem), Ratios([], [], []))
                ratios.p50.append(said["p50_s"] / ((first["p50_s"] + second["p50_s"]) / 2))
                p90 = said["p90_s"]
                ratios.p90.append(None if p90 is None else p90 / ((first["p90_s"] + second["p90_s"]) / 2))
                ratios.noise.append(first["p50_s"] / second["p50_s"])

    def table(self, *, markdown: bool) -> str:
        """Return one line per tool and model; a tool that was not there says so."""
        body = []
        for tool, title in TOOLS.items():
            for model in self._models:
                found = self.seen.get((tool, model.stem))
                if tool in self.absent or found is None:
                    body.append([title, model.stem, self.absent.get(tool, "not asked"), "-", "-"])
                    continue
                p90 = [value for value in found.p90 if value is not None]
                shown = [spread(found.p50), spread(p90) if p90 else "not reported", spread(found.noise)]
                body.append([title, model.stem, *shown])
        return render(("tool", "model", "p50 ratio", "p90 ratio", "loop / loop"), body, markdown=markdown, left=2)


def spread(values: Sequence[float]) -> str:
    """Show a median and the distance of the quartiles."""
    return f"{median(values):.3f} ± {percentile(values, 0.75) - percentile(values, 0.25):.3f}"
