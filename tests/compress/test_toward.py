"""From a board's nearest miss to variants: ratios of measured pairs, chances by Student's distribution."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.compress.made import Made
from agent.compress.plan import plan
from agent.compress.recipe import Recipe, read_recipe
from agent.compress.techniques import NAMES, technique
from agent.compress.toward import Miss, Proposal, extended, miss_of, proposals
from agent.core.budget import Estimate
from agent.core.decision import Decision, NearestMiss, Option
from agent.core.measurement import OperatingPoint
from agent.errors import ConfigError

POINT = OperatingPoint(engine="onnxruntime", engine_version="1", provider="CPUExecutionProvider", threads=1)
KNOWN = [technique(name, "test") for name in NAMES]
INT8 = {"technique": "static_int8", "parameters": {"calibration": "min_max", "per_channel": True, "weight_bits": 7}}
CUT = {"technique": "channel_pruning", "parameters": {"macs": 0.5, "fine_tune": {"epochs": 8}}}
DOCUMENT: dict[str, Any] = {
    "task": "t",
    "data": {"training": "a.npz", "evaluation": "b.npz"},
    "models": {
        f"w{width}": {"torch": "m:net", "settings": {"width": width / 100}, "train": {"epochs": 1}}
        for width in (25, 50, 100)
    },
    "candidates": [{"of": ["w25", "w50", "w100"]}],
}


def recipe() -> Recipe:
    return read_recipe(DOCUMENT, Path())


def relative(model: str, *chain: dict[str, Any], parent: str | None = None) -> Made:
    name = "-".join([model, *(step["technique"] for step in chain)])
    return Made(name=name, model=model, format="onnx", parent=parent, chain=chain)


FAMILY = {
    one.name: one
    for one in (
        *(relative(model) for model in ("w25", "w50", "w100")),
        *(relative(model, INT8, parent=model) for model in ("w25", "w50", "w100")),
        relative("w50", CUT, parent="w50"),
    )
}


def option(name: str, p95_s: float, top1: float = 0.95) -> Option:
    return Option(
        candidate=name, artifact_sha256=name, point=POINT, measurement_id=name, verdict="ok", standing="over_budget",
        reason="", size_bytes=1000,
        estimates={"latency_p95": Estimate(value=p95_s), "accuracy_top1": Estimate.exact(top1)},
    )  # fmt: skip


def decision(*options: Option, nearest: str = "w50", miss_ratio: float | None = 0.5) -> Decision:
    return Decision(
        id="d", task="t", decided_at="2026-01-01T00:00:00Z", class_fingerprint="board",
        outcome="nothing_fits", reason="", budgets=(), objectives=(), options=options,
        nearest_miss=NearestMiss(
            candidate=nearest, point=POINT, metric="latency_p95", state="missed", miss_ratio=miss_ratio, reason="why"
        ),
    )  # fmt: skip


def found(*decisions: Decision) -> list[Proposal]:
    miss = miss_of(decisions[0])
    assert miss is not None
    return list(proposals(miss, decisions, FAMILY, recipe(), KNOWN))


def test_the_factor_is_that_which_meets_the_limit() -> None:
    assert miss_of(decision(option("w50", 0.015))) == Miss(
        candidate="w50", metric="latency_p95", factor=pytest.approx(1 / 1.5), board="board"
    )
    assert miss_of(msgspec.structs.replace(decision(), nearest_miss=None)) is None
    with pytest.raises(ConfigError, match="of which there is no figure: why"):
        miss_of(decision(miss_ratio=None))


def test_what_a_technique_did_elsewhere_is_expected_of_it_with_its_spread() -> None:
    ratios = {"w25": 0.5, "w50": 0.6, "w100": 0.55}
    options = [option(name, 0.01 * (number + 1)) for number, name in enumerate(ratios)]
    options += [option(f"{name}-static_int8", 0.01 * (n + 1) * ratios[name], 0.94) for n, name in enumerate(ratios)]
    first = found(decision(*options))[0]
    assert first.step == {"static_int8": {"calibration": "min_max", "per_channel": True, "weight_bits": 7}}
    assert first.expected == pytest.approx((0.5 * 0.6 * 0.55) ** (1 / 3))
    assert first.accuracy == pytest.approx(-0.01)
    assert first.seen == 3
    logs = [math.log(ratio) for ratio in ratios.values()]
    mean = sum(logs) / 3
    spread = math.sqrt(sum((one - mean) ** 2 for one in logs) / 2) * math.sqrt(4 / 3)
    t = (math.log(1 / 1.5) - mean) / spread
    assert first.chance == pytest.approx(
        0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-6
    )  # t with two degrees, closed form


def test_one_pair_gives_an_expectation_and_no_chance() -> None:
    made = found(decision(option("w50", 0.02), option("w50-channel_pruning", 0.011)))
    cut = next(one for one in made if one.step and "channel_pruning" in one.step)
    assert (cut.expected, cut.chance, cut.seen) == (pytest.approx(0.55), None, 1)
    assert cut.step == {"channel_pruning": {"macs": 0.5}}  # how to fine-tune is left to its defaults
    unseen = [one for one in made if one.seen == 0]
    assert {"low_rank", "float16"} <= {next(iter(one.step)) for one in unseen if one.step}
    assert all(one.expected is None and one.chance is None for one in unseen)
    assert made.index(cut) < made.index(unseen[0])


def test_nothing_on_torch_stands_behind_a_technique_on_files_and_nothing_twice() -> None:
    made = found(decision(option("w50-static_int8", 0.02), nearest="w50-static_int8"))
    names = {next(iter(one.step)) for one in made if one.step}
    assert not names & {"low_rank", "channel_pruning", "qat_int8", "static_int8", "distillation"}


def test_a_narrower_network_by_the_slope_over_widths() -> None:
    widths = {"w25": 0.25, "w50": 0.5, "w100": 1.0}
    exact = decision(*(option(name, 0.04 * width**1.5) for name, width in widths.items()))
    narrow = [one for one in found(exact) if one.width is not None]
    assert narrow[0].width == pytest.approx(0.375)  # 0.5 * 0.75: 0.9 would not reach it
    assert narrow[0].expected == pytest.approx(0.75**1.5)
    assert narrow[0].chance == pytest.approx(1.0)
    two = decision(*(option(name, 0.04 * widths[name] ** 1.5) for name in ("w25", "w50")))
    assert next(one for one in found(two) if one.width is not None).chance is None


def test_the_recipe_with_proposals_is_valid_and_makes_them() -> None:
    miss = Miss(candidate="w50-channel_pruning", metric="latency_p95", factor=0.7, board="b")
    chosen = [
        Proposal(step={"static_int8": {}}, width=None, expected=None, chance=None, accuracy=None, seen=0),
        Proposal(step=None, width=0.4, expected=None, chance=None, accuracy=None, seen=3),
    ]
    made = read_recipe(extended(DOCUMENT, FAMILY, miss, chosen), Path())
    names = [
        one.name
        for one in plan(made, {**dict.fromkeys(made.models, "a"), "data:training": "b"}, lambda name: "1").candidates
    ]
    assert names[-2:] == ["w50-onnx-channel-pruning-0.5-static-int8", "w50-w0400-onnx-channel-pruning-0.5"]


def test_a_candidate_of_another_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="stranger is not among what this recipe made"):
        found(decision(option("stranger", 0.1), nearest="stranger"))
