"""The page: complete, self-contained, readable without colour or sight, and safe against what it is given to show.

Looked at by hand in light and dark; see ``synthetic_report`` for where the figures come from.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.decision import Decision
from agent.report.html import ReportInput, TaskReport, render
from agent.report.html.pareto import energy_colour
from agent.report.html.rows import pareto_front, rows_of, show_interval
from agent.report.html.svg import Box, Label, make_scale, place_labels
from tests.report.synthetic_report import FACTS, synthetic_report

VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """Checks nesting, and collects what the tests ask for."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.data_json = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data_json = self.data_json or data
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def report() -> ReportInput:
    return synthetic_report()


@pytest.fixture(scope="module")
def source(report: ReportInput) -> str:
    return render(report)


def svgs(source: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg xmlns=.*?</svg>", source, flags=re.DOTALL)]


def test_the_page_is_well_formed_and_names_every_option_with_its_reason(report, source) -> None:
    page = Page(source)
    rows = rows_of(report.tasks[0])
    assert len(rows) == 54
    for row in rows:
        assert row.option.candidate in page.text
        assert row.option.reason in page.text
    assert page.text.count("4 threads") >= 36
    assert source.count("<tr") == 54 + 1 + 9  # options, their head, and the conditions


def test_the_page_refers_to_nothing_outside_itself(source) -> None:
    page = Page(source)
    assert {value for tag, name, value in page.attributes if name == "src"} == set()
    links = {value for _, name, value in page.attributes if name in ("href", "action", "poster", "srcset")}
    assert all(link.startswith(("#", "data:text/csv;base64,")) for link in links)
    assert set(re.findall(r"https?://[^\"'\s<]+", source)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)", source)
    targets = set(page.values("id"))
    assert all(link[1:] in targets for link in links if link.startswith("#"))


def test_ids_are_unique_and_references_hold(source) -> None:
    page = Page(source)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for name in ("for", "aria-labelledby"):
        for value in page.values(name):
            assert set(value.split()) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", source)) <= set(ids)


def test_every_plot_has_title_and_description_and_a_table_beside_it(source) -> None:
    plots = svgs(source)
    assert len(plots) == 4
    space = "{http://www.w3.org/2000/svg}"
    for plot in plots:
        assert plot.get("role") == "img"
        title, description = plot.find(f"{space}title"), plot.find(f"{space}desc")
        assert title is not None and title.text
        assert description is not None and description.text
    assert source.count("<table") == 2


def test_standing_is_told_by_sign_and_shape_not_by_colour_alone(source) -> None:
    page = Page(source)
    for sign, word in (("✓", "fits"), ("✕", "over budget"), ("?", "unknown"), ("!", "failed")):
        assert sign in page.words
        assert word in page.words
    classes = [value for _, name, value in page.attributes if name == "class"]
    assert "mark fits" in classes and "mark over_budget" in classes
    assert any(tag == "path" and value == "mark unknown" for tag, name, value in page.attributes if name == "class")


def test_the_decision_is_told_in_words_with_its_budgets(report, source) -> None:
    page = Page(source)
    winner = report.tasks[0].decision.winner
    text = re.sub(r"\s+", " ", page.text)
    assert f"Run {winner.candidate} on {winner.point.engine} (CPU, {winner.point.threads} threads)." in text
    assert "budget ≤ 20 ms" in text
    assert "budget ≥ 94.0 %" in text
    assert "throttled ×1" in text


def test_all_data_is_embedded_and_can_be_read_back(report, source) -> None:
    document = json.loads(Page(source).data_json)
    assert document["generated_at"] == report.generated_at
    assert [option["candidate"] for option in document["tasks"][0]["decision"]["options"]] == [
        option.candidate for option in report.tasks[0].decision.options
    ]
    again = msgspec.convert(document, ReportInput)
    assert again.tasks[0].decision == report.tasks[0].decision
    assert again.facts == report.facts
    assert len(again.tasks[0].measurements[0].latencies_s) == 240


def test_very_many_raw_values_are_left_out_of_the_embedded_data(report, monkeypatch) -> None:
    monkeypatch.setattr("agent.report.html.page.MAX_RAW_LATENCIES", 100)
    document = json.loads(Page(render(report)).data_json)
    assert document["tasks"][0]["measurements"][0]["latencies_s"] is None
    assert document["tasks"][0]["measurements"][0]["latency"]["n"] == 240


def test_the_csv_holds_every_option_in_si_units(source) -> None:
    link = next(value for value in Page(source).values("href") if value.startswith("data:"))
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(link.partition(",")[2]).decode())))
    assert len(rows) == 54
    assert float(rows[0]["latency_p95_s"]) == pytest.approx(0.00897, rel=0.01)
    assert (
        float(rows[0]["latency_p95_low_s"]) <= float(rows[0]["latency_p95_s"]) <= float(rows[0]["latency_p95_high_s"])
    )
    failed = [row for row in rows if row["standing"] == "failed"]
    assert [row["latency_p95_s"] for row in failed] == ["", ""]


def test_hostile_text_stays_text(report) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(1)">&'
    options = tuple(
        msgspec.structs.replace(option, candidate=evil, reason=evil) for option in report.tasks[0].decision.options
    )
    decision = msgspec.structs.replace(report.tasks[0].decision, options=options, reason=evil, task=evil)
    hostile = msgspec.structs.replace(
        report,
        device=evil,
        tasks=(msgspec.structs.replace(report.tasks[0], decision=decision),),
        facts=msgspec.structs.replace(FACTS, power_mode=evil, traps=(evil,)),
    )
    source = render(hostile)
    page = Page(source)
    assert not [tag for tag, _, _ in page.attributes if tag == "img"]
    assert source.count("<script") == 2
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert json.loads(page.data_json)["device"] == evil
    assert len(svgs(source)) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"energy": False}, "no power meter on this board"),
        ({"accuracy": False}, "memory peak against latency p95"),
        ({"budgets": {"latency_p95": "0.1 ms"}}, "No candidate fits the budgets on this board."),
        ({"budgets": {}}, "no budget"),
        ({"runs": 2}, "?"),
    ],
)
def test_what_is_missing_is_said_and_breaks_nothing(changes, said) -> None:
    page = Page(render(synthetic_report(**changes)))
    assert said.lower() in re.sub(r"\s+", " ", page.text).lower()


def test_nothing_measured_nothing_decided_and_no_task_at_all() -> None:
    empty = Decision(
        id="d", task="digits", decided_at="now", class_fingerprint="f", outcome="nothing_measured",
        reason="No candidate could be fetched.", budgets=(), objectives=(), options=(),
    )  # fmt: skip
    for tasks, said in (
        ((TaskReport(decision=empty),), "Nothing was measured, so nothing was chosen."),
        ((TaskReport(decision=empty), TaskReport(decision=empty)), "No candidate could be fetched."),
        ((), "Nothing was decided yet."),
    ):
        page = Page(render(ReportInput(facts=FACTS, tasks=tasks, generated_at="now", agent_version="0")))
        assert said in page.text


def test_one_option_alone_is_drawn(report) -> None:
    decision = report.tasks[0].decision
    first = next(option for option in decision.options if option.standing == "fits")
    alone = msgspec.structs.replace(report.tasks[0], decision=msgspec.structs.replace(decision, options=(first,)))
    assert len(svgs(render(msgspec.structs.replace(report, tasks=(alone,))))) == 4


def test_a_kept_incumbent_is_said_to_be_kept(report) -> None:
    decision = msgspec.structs.replace(report.tasks[0].decision, outcome="kept_incumbent")
    task = msgspec.structs.replace(report.tasks[0], decision=decision)
    assert "Keep" in Page(render(msgspec.structs.replace(report, tasks=(task,)))).text


def test_the_front_holds_what_nothing_beats(report) -> None:
    rows = rows_of(report.tasks[0])
    front = {row.number for row in pareto_front(rows, "latency_p95", "accuracy_top1")}
    known = [row for row in rows if row.value("latency_p95") is not None and row.value("accuracy_top1") is not None]
    for row in known:
        x, y = row.value("latency_p95"), row.value("accuracy_top1")
        beaten = any(
            other.value("latency_p95") <= x and other.value("accuracy_top1") >= y
            and (other.value("latency_p95") < x or other.value("accuracy_top1") > y)
            for other in known
        )  # fmt: skip
        assert (row.number in front) is not beaten


@given(
    st.lists(st.tuples(st.floats(60, 980), st.floats(40, 480), st.integers(1, 40)), min_size=1, max_size=16),
)
def test_labels_never_overlap_and_stay_inside(points) -> None:
    area = Box(40.0, 20.0, 1000.0, 500.0)
    labels = [Label(text="x" * length, x=x, y=y, radius=6.0) for x, y, length in points]
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points]
    placed = place_labels(labels, marks, area)
    assert placed
    for index, one in enumerate(placed):
        assert one.box.left >= area.left and one.box.right <= area.right
        assert one.box.top >= area.top and one.box.bottom <= area.bottom
        assert all(one.box.overlap(other.box) == 0 for other in placed[index + 1 :])


@given(st.lists(st.floats(1e-9, 1e12), min_size=1, max_size=20))
def test_a_scale_keeps_order_and_its_ticks_lie_on_it(values) -> None:
    scale = make_scale(values, 0.0, 1000.0, floor=0.0)
    assert scale.logarithmic == (max(values) / min(values) > 10)
    pixels = [scale(value) for value in sorted(values)]
    assert pixels == sorted(pixels)
    assert 0 <= pixels[0] <= pixels[-1] <= 1000
    assert all(scale.low * (1 - 1e-9) <= tick <= scale.high * (1 + 1e-9) for tick in scale.ticks())


def test_ticks_of_bytes_are_round_in_their_own_unit() -> None:
    scale = make_scale([40 * 2.0**20, 95 * 2.0**20], 0.0, 100.0)
    assert [tick / 2**20 for tick in scale.ticks(6, 2.0**20)] == [40, 60, 80]


def test_energy_colours_run_from_one_end_to_the_other() -> None:
    assert [energy_colour(share) for share in (-1, 0, 0.5, 1, 2)] == [
        "#3a63cc", "#3a63cc", "#26a098", "#e89326", "#e89326",
    ]  # fmt: skip


def test_intervals_are_written_with_their_unit_once_where_it_is_one(report) -> None:
    row = rows_of(report.tasks[0])[0]
    assert re.fullmatch(r"[\d.]+ – [\d.]+ ms", show_interval(row.estimate("latency_p95"), "latency_p95"))
    assert re.fullmatch(r"[\d.]+ – [\d.]+ %", show_interval(row.estimate("accuracy_top1"), "accuracy_top1"))
    assert show_interval(row.estimate("size"), "size") == ""
