"""Addresses: what they mean, by a table; what they refuse, with what to do next; unknown never matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.fleet.addressing import FIELDS, parse_selection
from agent.fleet.view import BoardView, TaskView


def board(name: str, **facts: object) -> BoardView:
    made = BoardView(name)
    for fact, value in facts.items():
        setattr(made, fact, value)
    return made


def task(candidate: str, p95_s: float | None) -> TaskView:
    made = TaskView()
    made.candidate, made.expected_p95_s = candidate, p95_s
    return made


PI5 = board(
    "pi5", status="online", soc="bcm2712", memory_bytes=8 * 1024**3, cores=4, class_fingerprint="3fa9" + "0" * 60,
    model="Raspberry Pi 5", groups=("line-2", "lab"), engines=("onnxruntime", "onnxruntime/CPU"),
    tasks={"digits": task("net-int8", 0.004), "words": task("kws", None)},
)  # fmt: skip
ZERO = board(
    "zero", status="offline", soc="bcm2710", memory_bytes=512 * 1024**2, cores=4, class_fingerprint="77aa" + "0" * 60,
    model="Raspberry Pi Zero 2 W", groups=(), accelerators=("gpu",),
)  # fmt: skip
ORIN = board("orin", status="busy", soc="tegra234", memory_bytes=8 * 10**9, cores=6, class_fingerprint="c" * 64)
NEW = board("new", status="online")  # has told nothing else yet
ALL = (PI5, ZERO, ORIN, NEW)

MEANT = {
    "all": "pi5 zero orin new",
    "pi5": "pi5",
    "pi5 or orin": "pi5 orin",
    "group:line-2": "pi5",
    "not group:line-2": "zero",  # the groups of the others are not known
    "class:3FA9": "pi5",
    "class:3fa9 or class:77aa": "pi5 zero",
    "soc=bcm2712": "pi5",
    "soc=BCM2712": "pi5",
    "soc!=bcm2712": "zero orin",  # not new: its soc is unknown
    "not soc=bcm2712": "zero orin",
    "soc~bcm*": "pi5 zero",
    'model~"*zero*"': "zero",
    'model = "Raspberry Pi 5"': "pi5",
    "ram>=4GiB": "pi5 orin",
    "ram >= 8 GiB": "pi5",
    "ram<1GB": "zero",
    "ram=512 MiB": "zero",
    "ram>=8GB and cores<5": "pi5",
    "cores!=4": "orin",
    "status=online": "pi5 orin new",
    "status=busy": "orin",
    "status!=online": "zero",
    "not status=busy": "pi5 zero new",
    "soc=bcm2712 and ram>=4GiB and status=online": "pi5",
    "soc=bcm2710 or soc=bcm2712 and status=online": "pi5 zero",  # and binds more
    "(soc=bcm2710 or soc=bcm2712) and status=online": "pi5",
    "not (cores=4 or status=offline)": "orin",  # new: its cores are not known
    "not not pi5": "pi5",
    "NOT cores=4 AND status=busy": "orin",
    "engine=onnxruntime": "pi5",
    "engine=onnxruntime/cpu": "pi5",
    "engine!=onnxruntime": "zero orin",
    "accelerator=gpu": "zero",
    "candidate=net-int8": "pi5",
    "task=words": "pi5",
    "p95<=4ms": "pi5",
    "p95 > 4 ms": "",
    "temperature>60 C": "",
    "soc=bcm2712 or soc=bcm2712": "pi5",
    "(((pi5)))": "pi5",
    'name="pi5"': "pi5",
}


@pytest.mark.parametrize("text", MEANT)
def test_an_address_means(text: str) -> None:
    assert " ".join(one.name for one in parse_selection([text]).of(ALL)) == MEANT[text]


def test_several_addresses_are_joined() -> None:
    selection = parse_selection(["zero", "cores=6"])
    assert [one.name for one in selection.of(ALL)] == ["zero", "orin"]
    assert (selection.names, selection.whole) == (("zero",), None)


@pytest.mark.parametrize(
    ("words", "whole"),
    [(["all"], "all"), (["group:lab"], "group:lab"), (["all", "pi5"], None), (["(all)"], None), (["not all"], None)],
)
def test_only_a_whole_group_or_fleet_may_be_a_broadcast(words: list[str], whole: str | None) -> None:
    assert parse_selection(words).whole == whole


REFUSED = {
    "": "no board is addressed",
    "socs=bcm2712": "Did you mean `soc`",
    "xyzzy=red": "Fields are: name, status",
    "ram>=4": "has no unit",
    "ram>=4 C": "not a unit of bytes",
    "ram>=": "is missing at the end",
    "ram~4GiB": "is a quantity",
    "soc<bcm": "is a text",
    "cores=many": "is not a number",
    "(soc=a": "closing parenthesis is missing",
    "soc=a)": "is not expected",
    "soc=a soc=b": "is not expected",
    "and soc=a": "is not expected",
    "soc=a and": "missing at the end",
    "not": "missing at the end",
    "soc==a": "a value for soc is missing",
    "soc=and": "a value for soc is missing",
    "class:xyz": "not the beginning of a class",
    "class:3f": "not the beginning of a class",
    "groop:line": "not a kind of address",
    "group:LINE": "cannot stand in an MQTT topic",
    "Pi5!": "cannot be read at",
    "soc=a | soc=b": "is not expected",
    '"': "cannot be read at",
    "(" * 200: "nested too deeply",
    "not " * 200 + "all": "nested too deeply",
    "x" * 5000: "too long",
    "\x1b]0;title\x07": "cannot stand",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_read_says_what_to_do(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_selection([text])
    assert REFUSED[text] in str(error.value)
    assert "\x1b" not in str(error.value)


@given(st.text(alphabet='ab =<>!~()"andotr:4GiB', max_size=60))
def test_whatever_is_typed_is_read_or_refused(text: str) -> None:
    try:
        selection = parse_selection([text])
    except ConfigError:
        return
    chosen = list(selection.of(ALL))
    assert all(board in ALL for board in chosen)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_unknown_on_a_board_that_has_told_nothing(name: str) -> None:
    silent = BoardView("x")
    assert FIELDS[name].read(silent) == (("x",) if name == "name" else ())
