"""What a person sees: tables that fit the terminal, whole numbers, the winner first, a reason for the others."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from agent.cli import plain_run
from agent.console import Column, Console, fit_columns, line_width
from agent.core.budget import Estimate, parse_objective
from agent.core.decision import Choice, Decision, Option
from agent.core.measurement import OperatingPoint
from agent.tables import show_decision

POINT = OperatingPoint(engine="ai-edge-litert", engine_version="2", provider="XNNPACK", threads=2)
LONG = "contended: 2092 of 2092 runs waited for a core, run-queue wait 84% of the time: too few clean ones for a figure"


def option(name: str, standing: str, rank: int | None, reason: str = "meets all budgets") -> Option:
    estimates = {
        "latency_p50": Estimate(value=8.93e-5),
        "latency_p95": Estimate(value=9.45e-5),
        "memory_peak": Estimate(value=58.1 * 2**20),
        "accuracy_top1": Estimate(value=0.987, low=0.973, high=0.995),
    }
    return Option(
        candidate=name, artifact_sha256=name, measurement_id=name, verdict="ok", point=POINT, standing=standing,
        reason=reason, rank=rank, size_bytes=84_000, estimates=estimates if standing == "fits" else {}, checks=(),
    )  # fmt: skip


@pytest.fixture
def decision() -> Decision:
    fitting = [option(f"mobilenet_v1-w050-onnx-int8-full-range-{n:02}", "fits", n) for n in range(1, 21)]
    options = (option("slow", "failed", None, LONG), *fitting)
    return Decision(
        id="1", task="digits", outcome="chosen", reason="it is best", options=options, budgets=(),
        objectives=(parse_objective("minimize latency_p95", where="x"),), decided_at="2026-01-01T00:00:00Z",
        class_fingerprint="c",
        winner=Choice(candidate=fitting[0].candidate, artifact_sha256=fitting[0].artifact_sha256, point=POINT),
    )  # fmt: skip


def printed(decision: Decision, monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    """Print on a terminal of that width and return its lines."""
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    show_decision(Console(), decision)
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [100, 120, 160])
def test_a_decision_fits_the_terminal_one_line_per_option(decision, monkeypatch, width) -> None:
    lines = printed(decision, monkeypatch, width)
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if "full-range" in line]
    assert len(rows) == 20
    assert "▶" in rows[0]
    assert all("94.5 µs" in row and "98.7 %" in row and "82 KiB" in row for row in rows)
    assert next(line for line in lines if "slow" in line).rstrip().endswith("…") == (width < 160)


def test_piped_output_says_everything(decision, capsys) -> None:
    show_decision(Console(), decision)
    assert LONG in capsys.readouterr().out


def test_prose_is_folded_between_words_and_keeps_its_lines(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    Console().line("one two three four five six seven\n  - a point that is longer than a line\n/" + "p" * 40)
    assert terminal.getvalue().splitlines() == [
        "one two three four five six", "seven", "  - a point that is longer", "  than a line", "/" + "p" * 40,
    ]  # fmt: skip


def test_a_picture_counts_what_it_leaves_out(decision, capsys, tmp_path) -> None:
    console = Console(record=True)
    show_decision(console, decision)
    assert "… 10 more fit as well" in capsys.readouterr().out
    console.save_svg(tmp_path / "p.svg", "x")
    drawn = (tmp_path / "p.svg").read_text()
    assert "url(http" not in drawn and "@font-face" not in drawn


def test_columns_yield_in_order() -> None:
    columns = [
        Column("name", ["x" * 20]),
        Column("long", ["y" * 20], narrow=("short", ["y" * 5])),
        Column("a", ["1" * 10], leave_out=2),
        Column("b", ["2" * 10], leave_out=1),
    ]
    assert line_width(columns) == 66
    assert [c.name for c in fit_columns(columns, 66)] == ["name", "long", "a", "b"]
    assert [c.name for c in fit_columns(columns, 65)] == ["name", "short", "a", "b"]
    assert [c.name for c in fit_columns(columns, 50)] == ["name", "short", "a"]
    assert [c.name for c in fit_columns(columns, 10)] == ["name", "short"]


def test_a_long_table_is_written_as_rich_would_draw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [
        Column("board", ["pi-1", "pi-10"]),
        Column("status", [("online", "green"), "offline"]),
        Column("ram", ["8 GiB", "16 GiB"], right=True),
        Column("wide", ["日本", "→ x"]),
        Column("", ["", ""]),
        Column("why", ["short", "long " * 60], flexible=True),
    ]
    written, drawn = io.StringIO(), io.StringIO()
    for out, draw in ((written, False), (drawn, True)):
        monkeypatch.setattr(sys, "stdout", out)
        console = Console()
        if draw:
            console.rich.width = 500
            console._print_table([column for column in columns if column.name], cut=True)
        else:
            console.columns(columns)
    lines = [[line.rstrip() for line in text.getvalue().splitlines()] for text in (written, drawn)]
    assert lines[0][0] == lines[1][0]
    assert lines[0][2:] == lines[1][2:]
    assert set(lines[0][1]) == {"─"}


def test_a_long_table_on_a_terminal_is_as_wide_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "60")
    console = Console()
    monkeypatch.setattr(type(console.rich), "is_terminal", True)
    console.columns([Column("n", [str(n) for n in range(600)]), Column("why", ["x" * 300] * 600, flexible=True)])
    lines = out.getvalue().splitlines()
    assert len(lines) == 602
    assert max(map(len, lines)) <= console.rich.width
    assert all(line.endswith("…") for line in lines[2:])


def test_run_is_read_without_a_parser_where_it_is_plain() -> None:
    parsed = plain_run(["run", "--config", "a.yaml", "--state-dir", "/s", "-v", "-v"])
    assert parsed is not None
    assert (parsed.config, parsed.state_dir, parsed.verbose, parsed.json) == (Path("a.yaml"), Path("/s"), 2, False)
    assert plain_run(["run"]) is not None
    for other in (["run", "--help"], ["run", "--config"], ["run", "--config=x"], ["run", "x"], ["once"], [],
                  ["run", "--config", "--state-dir"], ["--json", "run"]):  # fmt: skip
        assert plain_run(other) is None, other
