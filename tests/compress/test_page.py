"""The page of a run: whole, self-contained, readable without colour or sight, and safe against names it shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from agent.compress.made import Judged, Made
from agent.compress.page import render
from agent.compress.plot import _error_scale, best_trade_offs, percent, top1
from agent.core.measurement import AccuracyFigures, Figure

VOID = {"meta", "br"}
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


class Element:
    def __init__(self, name: str, attributes: dict[str, str], above: Element | None) -> None:
        self.name, self.attributes, self.above = name, attributes, above
        self.children: list[Element] = []
        self.words: list[str] = []

    def all(self, name: str) -> list[Element]:
        found = [self] if self.name == name else []
        return found + [one for child in self.children for one in child.all(name)]

    @property
    def text(self) -> str:
        return "".join(self.words) + "".join(child.text for child in self.children)


class Page(HTMLParser):
    """The tree of a page; a tag that is not closed in its order fails."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("root", {}, None)
        self.feed(source)
        self.close()
        assert self.at is self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(made)
        if tag not in VOID:
            self.at = made

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.at.name == tag
        assert self.at.above is not None
        self.at = self.at.above

    def handle_data(self, data: str) -> None:
        self.at.words.append(data)


def made_up(name: str, size: int, correct: int, **more: Any) -> Made:
    """Return a made-up candidate judged on 1,000 samples that are not there."""
    share = correct / 1000
    figure = Figure(value=share, low=max(0.0, share - 0.01), high=min(1.0, share + 0.01))
    judged = Judged(
        engine="onnxruntime",
        latency_p50_s=size * 1e-9,
        accuracy=AccuracyFigures(top1=figure, correct=correct, n=1000, pack_sha256="0" * 64),
    )
    return Made(**{
        "name": name, "format": "onnx", "model": "net", "parent": None, "chain": (), "path": name,
        "size_bytes": size, "judged": (judged,), **more,
    })  # fmt: skip


def family() -> list[Made]:
    """Thirty between 98 and 99 %, one at 60 %, one left out, one that failed, and one with a name that bites."""
    searched = {
        "technique": "low_rank", "parameters": {"ratio": 0.6, "fine_tune": {"epochs": 3}, "seed": 4},
        "reached": {"search": {"values": {"learning_rate": 0.00123456, "optimizer": "sgd"}, "trials": 20}},
    }  # fmt: skip
    good = [made_up(f"net-{number:02d}", 40_000 + 30_000 * number, 980 + number // 3) for number in range(30)]
    return [
        *good,
        made_up("child", 9_000, 985, parent="net-00", format="tflite", chain=(searched,)),
        made_up("grandchild", 3_000, 600, parent="child", reason="it loses 39 %, the recipe allows 2 %"),
        made_up(HOSTILE, 70_000, 991, parent="nobody", chain=({"technique": HOSTILE, "parameters": {HOSTILE: 1}},)),
        Made(name="failed", format="onnx", model="net", parent=HOSTILE, chain=(), reason=f"it ended: {HOSTILE}"),
    ]


@pytest.fixture(scope="module")
def page() -> Element:
    return Page(render(HOSTILE, family(), "1.0")).root


def test_every_candidate_is_in_table_and_tree_under_its_parent(page: Element) -> None:
    (table,), (tree,) = page.all("table"), [one for one in page.all("ul") if one.attributes.get("class") == "family"]
    names = [one.name for one in family()]
    rows = table.all("tbody")[0].children
    assert [row.children[0].text for row in rows] == names
    assert all(row.children[0].name == "th" and row.children[0].attributes["scope"] == "row" for row in rows)
    entries = {one.children[0].text: one for one in tree.all("li")}
    assert sorted(entries) == sorted(names)
    for child, parent in (("child", "net-00"), ("grandchild", "child"), ("failed", HOSTILE)):
        above = entries[child].above
        assert above is not None
        assert above.above is entries[parent]
    for name in ("net-00", HOSTILE):
        assert entries[name].above is tree
    assert "0.333 of the size, -38.5 points" in entries["grandchild"].text
    ids = {one.attributes["id"] for row in rows for one in [row]}
    assert {one.children[0].attributes["href"] for one in entries.values()} == {f"#{one}" for one in ids}
    assert "best of 20 trials: learning_rate 0.00123, optimizer sgd" in table.text
    assert "it loses 39 %, the recipe allows 2 %" in table.text


def test_candidates_that_are_each_others_parents_are_still_shown() -> None:
    circle = [made_up("a", 1000, 900, parent="b"), made_up("b", 2000, 950, parent="a")]
    (tree,) = [one for one in Page(render("t", circle, "1")).root.all("ul") if one.attributes.get("class") == "family"]
    assert sorted(one.children[0].text for one in tree.all("li")) == ["a", "b"]


def test_names_do_not_become_markup_and_nothing_is_fetched(page: Element) -> None:
    assert page.all("img") == []
    assert len(page.all("script")) == 1
    assert HOSTILE in page.all("h1")[0].text
    assert HOSTILE in page.all("title")[0].text
    source = render(HOSTILE, family(), "1.0")
    assert set(re.findall(r"https?://[^\"'\s<]+", source)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(", source)
    assert not any(name.startswith("on") for one in walk(page) for name in one.attributes)
    assert all(one.attributes["href"].startswith("#") for one in walk(page) if "href" in one.attributes)


def walk(element: Element) -> list[Element]:
    return [element, *(one for child in element.children for one in walk(child))]


def test_the_plot_and_the_table_speak_to_those_who_cannot_see_them(page: Element) -> None:
    plot = next(one for one in page.all("svg") if one.attributes.get("role") == "img")
    said = {one.attributes["id"]: one.text for one in plot.children if "id" in one.attributes}
    assert list(said) == plot.attributes["aria-labelledby"].split()
    assert "33 candidates from 2.93 KiB to" in list(said.values())[1]
    marks = [one for one in plot.all("g") if one.attributes.get("class") == "option"]
    assert len(marks) == 33
    assert all(one.attributes["tabindex"] == "0" and one.children[0].name == "title" for one in marks)
    assert sum(bool(one.all("rect")) for one in marks) == 1
    assert all(len(one.all("line")) == 1 for one in marks)
    (table,) = page.all("table")
    assert table.children[0].name == "caption"
    heads = table.all("thead")[0].all("th")
    assert all(one.attributes["scope"] == "col" and one.children[0].name == "button" for one in heads)
    assert all(len(row.children) == len(heads) for row in table.all("tbody")[0].children)
    assert "prefers-color-scheme:dark" in page.all("style")[0].text


def test_one_bad_candidate_leaves_the_good_ones_room() -> None:
    whole = [one for one in family() if one.accuracy is not None]
    y = _error_scale(whole)
    good = sorted(y(1 - top1(one)) for one in whole if top1(one) > 0.9)
    assert good[-1] - good[0] > 50  # of 368 pixels; on an axis of accuracy it would be 10
    assert max(y(1 - top1(one)) for one in whole) > good[-1] + 100


@pytest.mark.parametrize("correct", [[1000], [1000, 1000], [0], [1000, 0], [999, 1000]])
def test_all_right_and_all_wrong_have_a_place(correct: list[int]) -> None:
    whole = [made_up(f"net-{number}", 5000, count) for number, count in enumerate(correct)]
    page = Page(render("t", whole, "1")).root
    heights = [float(one.attributes["cy"]) for one in page.all("circle") if one.attributes.get("cy") != "8"]
    assert len(heights) == len(correct)
    assert all(18 <= height <= 386 for height in heights)
    for one, other in zip(range(len(correct)), range(1, len(correct)), strict=False):
        assert (heights[one] > heights[other]) == (correct[one] < correct[other])


def test_a_run_that_made_nothing_has_a_page_too() -> None:
    failed = Made(name="failed", format="onnx", model="net", parent=None, chain=(), reason="it ended")
    page = Page(render("t", [failed], "1")).root
    assert "None has an accuracy." in page.text
    assert page.text.count("failed") >= 3


def test_trade_offs_and_percents() -> None:
    whole = [made_up("a", 10, 900), made_up("b", 20, 890), made_up("c", 20, 950), made_up("d", 30, 950)]
    assert [one.name for one in best_trade_offs(whole)] == ["a", "c"]
    assert [percent(share) for share in (0.5, 0.9766, 0.999, 0.9995, 1.0)] == [
        "50%",
        "97.7%",
        "99.9%",
        "99.95%",
        "100%",
    ]
