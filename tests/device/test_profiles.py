"""Every profile is whole, says where it has each fact from, and is what its board's tree shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.core.facts import CpuCluster, CpuFacts, EngineFacts, MemoryFacts, OsFacts
from agent.device import case, profiles
from agent.device.profile_check import contradictions, issues_here
from agent.device.root import SysRoot
from agent.device.throttle import ThrottleSources
from agent.device.traps import CHECKS
from tests.device.test_boards import BOARDS, CASES, PROFILES

ALL = {profile.name: profile for profile in profiles.load_all(PROFILES)}
# a source: a document, a driver, an issue; or that the value was chosen here, which is no fact about the board
SOURCE = re.compile(
    r"/|\bsame\b|\bchosen\b|\bissue|\.dtsi?\b|hardware report|captures?\b|L4T|codes? \d|datasheet|of mesa"
)
NO_FACTS = {"schema", "name", "title", "not_stated"}  # a gap has a reason
NO_FACT = {("power", "sources")}  # which readers are tried


def stated(profile: profiles.Profile, item: str) -> bool:
    filled = {
        "recognition": profile.recognition != profiles.Recognition(),
        "thermal": bool(profile.thermal.board_zone_types),
        "power": bool(profile.power.sources or profile.power.absent_reason),
        "throttle_sources": bool(profile.throttle_sources),
        "power_modes": bool(profile.power_modes),
        "traps": bool(profile.traps or profile.known_issues),
        "default_budgets": {"latency_p95", "memory_peak"} <= set(profile.default_budgets),
    }
    return filled[item]


@pytest.mark.parametrize("name", ALL)
def test_a_profile_states_every_item_or_says_why_not(name: str) -> None:
    profile = ALL[name]
    for item in profiles.Item.__args__:  # type: ignore[attr-defined]
        assert stated(profile, item) != (item in profile.not_stated), item
    assert set(profile.traps) <= set(CHECKS)
    assert not profile.power.total_rail or profile.power.total_scope
    assert profile.power.sources or profile.power.absent_reason


def entries(node: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], int, int]]:
    """Return (name, first line, last line) of each fact: members of a section, and of cpu's lists."""
    found = []
    if isinstance(node, yaml.MappingNode):
        parts = [(str(key.value), key.start_mark.line, value) for key, value in node.value]
    else:
        parts = [(str(number), value.start_mark.line, value) for number, value in enumerate(node.value)]
    for key, first, value in parts:
        deeper = len(path) == 0 or (path[:1] == ("cpu",) and key == "clusters")
        if deeper and not isinstance(value, yaml.ScalarNode) and key not in {"memory_sizes_mib", "throttle_sources"}:
            found += entries(value, (*path, key))
        else:
            last = value.end_mark.line - (value.end_mark.column == 0 and value.end_mark.line > first)
            found.append(((*path, key), first, last))
    return found


@pytest.mark.parametrize("name", ALL)
def test_every_fact_has_its_source(name: str) -> None:
    text = (PROFILES / f"{name}.yaml").read_text()
    lines = text.splitlines()
    comments = {number: line.partition("#")[2] for number, line in enumerate(lines) if re.search(r"(^|\s)#", line)}
    heads = {line.partition(":")[0]: number for number, line in enumerate(lines) if re.match(r"[a-z_]+:", line)}
    facts = [fact for fact in entries(yaml.compose(text)) if fact[0][0] not in NO_FACTS and fact[0][:2] not in NO_FACT]
    firsts = sorted({first for _, first, _ in facts} | set(heads.values()))
    lasts = sorted({last for _, _, last in facts} | set(heads.values()))
    bare = []
    for path, first, last in facts:
        if path[:2] == ("power", "absent_reason") and ALL[name].power.sources:
            continue  # what to say when a sensor that should be there is not
        above = max((line for line in lasts if line < first), default=-1)
        below = min((line for line in firsts if line > last), default=len(lines))
        near = [comments[line] for line in range(above + 1, below) if line in comments]
        if path[0] == "default_budgets":
            near.append(comments.get(heads[path[0]], ""))  # one choice
        if not any(SOURCE.search(comment) for comment in near):
            bare.append(".".join(path))
    assert bare == []


def test_every_profile_of_a_board_has_a_tree() -> None:
    shown = {case.open_case(BOARDS / name, PROFILES).facts().board.profile for name in CASES}
    assert shown == set(ALL)


@pytest.mark.parametrize("name", CASES)
def test_no_tree_contradicts_its_profile(name: str) -> None:
    assert case.open_case(BOARDS / name, PROFILES).facts().unlike_profile == ()


def test_what_contradicts_a_profile_is_said() -> None:
    cluster = CpuCluster(cores=(0, 1, 2, 3, 4), part="0x41/0xd0b", max_freq_hz=3.0e9)
    cpu = CpuFacts(
        architecture="aarch64",
        present=(0, 1, 2, 3, 4, 5),
        usable=(0,),
        clusters=(cluster, CpuCluster(cores=(5,), part="0x41/0xd05")),
        features=("fp", "i8mm"),
    )
    said = contradictions(ALL["raspberry-pi-5"], cpu, MemoryFacts(total_bytes=40 << 30))
    assert [text.partition(",")[0] for text in said] == [
        "the cores list i8mm",
        "a core is 0x41/0xd05",
        "6 cores",
        "a clock of up to 3 GHz",
        "40 GiB of memory",
    ]


def test_an_issue_is_told_unless_it_is_known_not_to_concern_us() -> None:
    pi = ALL["raspberry-pi-4b"]

    def engine(version: str | None) -> tuple[EngineFacts, ...]:
        return (EngineFacts(name="onnxruntime", formats=("onnx",), version=version),)

    (text,) = issues_here(pi, (), OsFacts())
    assert issues_here(pi, engine("1.21.0"), OsFacts()) == (text,)
    assert issues_here(pi, engine(None), OsFacts()) == (text,)
    assert issues_here(pi, engine("1.22.0"), OsFacts()) == ()
    nano = ALL["jetson-nano"]
    assert len(issues_here(nano, (), OsFacts(l4t="R32.7.1"))) == 2
    assert issues_here(nano, (), OsFacts(l4t="R35.1.0")) == ()


def test_the_profile_decides_whether_silence_means_full_speed(tmp_path: Path) -> None:
    cooling = tmp_path / "sys/class/thermal/cooling_device0"
    cooling.mkdir(parents=True)
    (cooling / "type").write_text("cpufreq-cpu0\n")
    (cooling / "cur_state").write_text("0\n")
    root = SysRoot(tmp_path)
    unnamed = ThrottleSources(root, None, True)
    assert unnamed.read().now == ()
    pi = ThrottleSources(root, None, True, ALL["raspberry-pi-5"])
    seen = pi.read()
    assert seen.now is None  # the firmware slows a Pi down, and a cooling device knows nothing of it
    assert seen.notes == (
        "throttle: whether the board slows itself down is not known: get_throttled would tell, and does not answer",
    )
    stated = {fact.name: fact.status for fact in pi.describe()}
    assert stated == {"cooling:cpufreq-cpu0": "ok", "get_throttled": "absent", "rpi_volt": "absent"}
    (cooling / "cur_state").write_text("2\n")
    assert pi.read().now == ("cpufreq-cpu0",)


def test_where_no_source_is_known_the_profile_says_why(tmp_path: Path) -> None:
    (fact,) = ThrottleSources(SysRoot(tmp_path), None, False, ALL["jetson-tx2"]).describe()
    assert fact.reason == ALL["jetson-tx2"].not_stated["throttle_sources"]
