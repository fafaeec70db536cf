"""From a board's nearest miss to variants: ratios of measured pairs, chances by Student's distribution."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.compress.changes import written
from agent.compress.made import Judged, Made
from agent.compress.plan import plan
from agent.compress.recipe import Recipe, read_recipe
from agent.compress.search import plain
from agent.compress.techniques import NAMES, technique
from agent.compress.told import Miss, Told, misses_of, read_told, told_by
from agent.compress.toward import Proposal, chosen, extended, proposals
from agent.compress.training import FINE_TUNING
from agent.core.budget import METRICS, Budget, BudgetCheck, Estimate
from agent.core.conversions import message_for_decision
from agent.core.decision import Choice, Decision, NearestMiss, Option
from agent.core.measurement import AccuracyFigures, Figure, OperatingPoint
from agent.core.payloads import Origin
from agent.errors import ConfigError

POINT = OperatingPoint(engine="onnxruntime", engine_version="1", provider="CPUExecutionProvider", threads=1)
METRICS_AND = [*METRICS, "unheard_of"]
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


def decision(
    *options: Option, nearest: str = "w50", miss_ratio: float | None = 0.5, board: str = "board", **more: Any
) -> Decision:
    fields: dict[str, Any] = {
        "id": "d", "task": "t", "decided_at": "2026-01-01T00:00:00Z", "class_fingerprint": board,
        "outcome": "nothing_fits", "reason": "none fits", "budgets": (), "objectives": (), "options": options,
        "nearest_miss": NearestMiss(
            candidate=nearest, point=POINT, metric="latency_p95", state="missed", miss_ratio=miss_ratio, reason="why"
        ),
    }  # fmt: skip
    return Decision(**{**fields, **more})


def found(*decisions: Decision, family: dict[str, Made] = FAMILY) -> list[Proposal]:
    told = [told_by(one) for one in decisions]
    return list(proposals(misses_of(told)[0], told, family, recipe(), KNOWN))


def named(made: list[Proposal], technique_name: str) -> Proposal:
    return next(one for one in made if one.chain and technique_name in one.chain[-1])


def test_the_factor_is_that_which_meets_the_limit() -> None:
    (miss,) = misses_of([told_by(decision(option("w50", 0.015)))])
    assert miss == Miss(candidate="w50", metric="latency_p95", factor=pytest.approx(1 / 1.5), boards=("board",))
    fits = decision(nearest_miss=None, winner=Choice(candidate="w50", artifact_sha256="a", point=POINT))
    with pytest.raises(ConfigError, match="something fits in every one"):
        misses_of([told_by(fits)])
    with pytest.raises(ConfigError, match="of which there is no figure: why"):
        misses_of([told_by(decision(miss_ratio=None))])
    with pytest.raises(ConfigError, match="none was measured"):
        misses_of([told_by(decision(nearest_miss=None, outcome="nothing_measured", reason="none was measured"))])


def test_a_value_inside_its_limit_must_take_its_interval_along() -> None:
    check = BudgetCheck(
        metric="latency_p95", state="unknown", limit=0.01, value=0.009, low=0.008, high=0.02, miss_ratio=-0.1, reason=""
    )
    spanning = msgspec.structs.replace(option("w50", 0.009), checks=(check,))
    (miss,) = misses_of([told_by(decision(spanning, miss_ratio=-0.1))])
    assert miss.factor == pytest.approx(0.5)


def test_pairs_that_share_a_candidate_are_no_more_than_the_candidates_tell() -> None:
    """Three widths: three pairs, two of them independent, one degree of freedom, by the regression's definition."""
    widths = {"w25": (0.25, 0.011), "w50": (0.5, 0.02), "w100": (1.0, 0.046)}
    rows = [option(name, value) for name, (_, value) in widths.items()]
    (first, *_) = [one for one in found(decision(*rows)) if one.width is not None]
    xs, ys = ([math.log(pair[n]) for pair in widths.values()] for n in (0, 1))
    slope, level = statistics.linear_regression(xs, ys)
    rest = sum((y - slope * x - level) ** 2 for x, y in zip(xs, ys, strict=True))
    assert first.width is not None
    x, mean = math.log(first.width), statistics.fmean(xs)
    at = level + slope * x
    error = math.sqrt(rest / 1 * (1 + 1 / 3 + (x - mean) ** 2 / sum((one - mean) ** 2 for one in xs)))
    t = (math.log(0.02 / 1.5) - at) / error
    assert first.seen == 2
    assert first.expected == pytest.approx(math.exp(at) / 0.02)
    assert first.chance == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-6)  # Cauchy
    int8 = [option(f"{name}-static_int8", value / 3) for name, (_, value) in widths.items()]
    again = next(one for one in found(decision(*rows, *int8)) if one.width is not None)
    assert (again.seen, again.chance) == (first.seen, pytest.approx(first.chance))  # the same networks once more


def without(*names: str) -> dict[str, Made]:
    return {name: one for name, one in FAMILY.items() if name not in names}


def test_what_a_technique_did_elsewhere_is_expected_of_it_with_its_spread() -> None:
    ratios = {"w25": 0.5, "w100": 0.6}
    options = [option("w50", 0.015), *(option(name, 0.01) for name in ratios)]
    options += [option(f"{name}-static_int8", 0.01 * ratio, 0.94) for name, ratio in ratios.items()]
    first = named(found(decision(*options), family=without("w50-static_int8")), "static_int8")
    assert first.chain == ({"static_int8": {}},)  # what it does by itself is not written
    assert first.expected == pytest.approx(math.sqrt(0.5 * 0.6))
    assert (first.seen, first.source, first.against) == (2, "boards", None)
    logs = [math.log(ratio) for ratio in ratios.values()]
    spread = abs(logs[0] - logs[1]) / math.sqrt(2) * math.sqrt(1 + 1 / 2)
    t = (math.log(1 / 1.5) - sum(logs) / 2) / spread
    assert first.chance == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-6)  # one degree: Cauchy, closed form


def test_a_pair_seen_on_many_boards_and_points_is_one_pair() -> None:
    boards = [
        decision(option("w50", 0.02), option("w50-channel_pruning", 0.02 * ratio), board=f"b{number}")
        for number, ratio in enumerate((0.5, 0.6))
    ]
    stronger = named(found(*boards), "channel_pruning")
    assert (stronger.seen, stronger.chance) == (1, None)


def test_one_pair_gives_an_expectation_and_no_chance_and_a_strength_that_reaches() -> None:
    made = found(decision(option("w50", 0.02), option("w50-channel_pruning", 0.02 * 0.8)))
    cut = named(made, "channel_pruning")
    power = math.log(0.8) / math.log(0.5)  # of the share of operations left
    assert cut.chain == ({"channel_pruning": {"macs": 0.2, "fine_tune": {"epochs": 8}}},)  # 0.3 would not reach it
    assert (cut.expected, cut.chance, cut.seen) == (pytest.approx(0.2**power), None, 1)
    unseen = [one for one in made if one.seen == 0]
    names = {next(iter(one.chain[-1])) for one in unseen if one.chain}
    assert {"low_rank", "float16"} <= names
    assert not names & {"magnitude_pruning", "weight_clustering", "n_m_sparsity"}  # zeroes are no faster
    assert all(one.expected is None and one.chance is None for one in unseen)
    assert made.index(cut) < made.index(unseen[0])


def test_what_stands_on_torch_goes_before_what_works_on_files_and_numbers_are_stored_in_one_way() -> None:
    made = found(decision(option("w50-static_int8", 0.02), nearest="w50-static_int8"))
    names = {tuple(next(iter(step)) for step in one.chain) for one in made}
    assert ("low_rank", "static_int8") in names
    assert ("dynamic_int8",) in names
    assert not [chain for chain in names if len(set(chain)) < len(chain) or {"static_int8", "float16"} <= set(chain)]


def test_files_get_techniques_on_files_alone() -> None:
    document = {**DOCUMENT, "models": {"w50": {"onnx": "net.onnx"}}, "candidates": [{"of": "w50"}]}
    told = [told_by(decision(option("w50", 0.02)))]
    family = {"w50": FAMILY["w50"]}
    made = proposals(misses_of(told)[0], told, family, read_recipe(document, Path()), KNOWN)
    assert {next(iter(one.chain[-1])) for one in made} == {"float16", "dynamic_int8", "static_int8", "int8_int16"}


def test_a_narrower_network_by_the_slope_over_widths() -> None:
    widths = {"w25": 0.25, "w50": 0.5, "w100": 1.0}
    exact = decision(*(option(name, 0.04 * width**1.5) for name, width in widths.items()))
    narrow = [one for one in found(exact) if one.width is not None]
    assert narrow[0].width == pytest.approx(0.375)  # 0.5 * 0.75: 0.9 would not reach it
    assert narrow[0].expected == pytest.approx(0.75**1.5)
    assert narrow[0].chance == pytest.approx(1.0)
    two = decision(*(option(name, 0.04 * widths[name] ** 1.5) for name in ("w25", "w50")))
    assert next(one for one in found(two) if one.width is not None).chance is None


def test_what_makes_it_worse_or_breaks_the_accuracy_budget_is_shown_and_not_chosen() -> None:
    def judged(name: str, correct: int) -> Made:
        top1 = AccuracyFigures(top1=Figure(value=correct / 100), correct=correct, n=100, pack_sha256="p")
        return msgspec.structs.replace(FAMILY[name], judged=(Judged(engine="e", accuracy=top1),))

    family = {
        **{name: judged(name, 95) for name in ("w25", "w50", "w100")},
        "w25-static_int8": judged("w25-static_int8", 80),
    }
    floor = (Budget(metric="accuracy_top1", limit=0.9, text="accuracy_top1 >= 0.9"),)
    options = [option("w50", 0.015), option("w25", 0.01)]
    lossy = decision(*options, option("w25-static_int8", 0.004), budgets=floor)
    assert named(found(lossy, family=family), "static_int8").against == "accuracy 0.800 is below 0.900"
    slower = found(decision(*options, option("w25-static_int8", 0.02)), family=family)
    assert named(slower, "static_int8").against == "no nearer"
    assert named(slower, "static_int8") not in chosen(slower, 100)


PRUNED = {"technique": "magnitude_pruning", "parameters": {"share": 0.8}}


def sized(made: Made, size_bytes: int, packed_bytes: int | None = None) -> Made:
    return msgspec.structs.replace(made, size_bytes=size_bytes, packed_bytes=packed_bytes)


def by_size(nearest: str, *made: Made) -> list[Proposal]:
    """What is proposed where a candidate may be half as large."""
    miss = Miss(candidate=nearest, metric="size", factor=0.5, boards=("b",))
    return list(proposals(miss, [], {one.name: one for one in made}, recipe(), KNOWN))


def test_a_size_is_what_is_transferred_and_zeros_are_proposed_packed() -> None:
    floats = [sized(relative(model), 1000) for model in ("w25", "w50", "w100")]
    pruned = [sized(relative(model, PRUNED), 1000, packed) for model, packed in (("w25", 400), ("w100", 300))]
    first = named(by_size("w50", *floats, *pruned), "magnitude_pruning")
    assert (first.pack, first.seen) == (True, 2)
    assert first.expected == pytest.approx(math.sqrt(0.4 * 0.3))
    unpacked = [sized(relative(model, PRUNED), 1000) for model in ("w25", "w100")]
    untold = named(by_size("w50", *floats, *unpacked), "magnitude_pruning")
    assert (untold.pack, untold.expected) == (True, None)  # what it is unpacked says nothing of it packed
    packed = [sized(one, 1000, 900) for one in floats]
    assert named(by_size("w50", *packed, *pruned), "magnitude_pruning").expected == pytest.approx(
        math.sqrt(0.4 * 0.3) / 0.9
    )
    assert all(one.pack for one in by_size("w50", *packed, *pruned))  # what travels packed stays so


def test_what_was_made_unpacked_is_told_and_not_made_under_another_name() -> None:
    pruned, plain = sized(relative("w50", PRUNED), 1000), sized(relative("w50"), 1000)
    told = "w50-magnitude_pruning is made: publish it with pack: true"
    for nearest in ("w50-magnitude_pruning", "w50"):
        (again,) = [one for one in by_size(nearest, pruned, plain) if one.against == told]
        assert again.pack
        assert again.chain == ({"magnitude_pruning": {"share": 0.8}},)
        assert again not in chosen(by_size(nearest, pruned, plain), 100)
    packed = sized(pruned, 1000, 400)
    assert not [one for one in by_size("w50", packed, plain) if one.chain == again.chain]


def test_a_chain_is_written_without_what_is_usual() -> None:
    own = {"magnitude_pruning": {"share": 0.8}}
    given = plain(technique("magnitude_pruning", "test").read(own["magnitude_pruning"], "test"))
    assert given["fine_tune"]["epochs"] == FINE_TUNING.epochs
    assert written([{"technique": "magnitude_pruning", "parameters": given}], {one.name: one for one in KNOWN}) == (
        own,
    )


def test_what_is_proposed_packed_is_written_so() -> None:
    untried = named(by_size("w50", sized(relative("w50"), 1000)), "magnitude_pruning")
    miss = Miss(candidate="w50", metric="size", factor=0.5, boards=("b",))
    wish = read_recipe(extended(DOCUMENT, FAMILY, [(miss, untried)]), Path()).candidates[-1]
    assert (wish.pack, wish.formats) == (True, ["onnx"])


def by_accuracy(nearest: str, values: dict[str, float], *made: Made) -> list[Proposal]:
    """What is proposed where a candidate must be a tenth more accurate."""
    rows = decision(
        *(option(name, 0.01, top1) for name, top1 in values.items()), nearest=nearest,
        nearest_miss=NearestMiss(
            candidate=nearest, point=POINT, metric="accuracy_top1", state="missed", miss_ratio=1 - 1 / 1.1, reason="why"
        ),
    )  # fmt: skip
    return found(rows, family={one.name: one for one in made})


def test_a_missed_accuracy_is_sought_in_wider_networks_and_milder_chains() -> None:
    made = [relative("w50"), relative("w25"), relative("w50", CUT), relative("w50", CUT, INT8)]
    values = {"w50": 0.9, "w25": 0.8, "w50-channel_pruning": 0.85, "w50-channel_pruning-static_int8": 0.7}
    got = by_accuracy("w50-channel_pruning-static_int8", values, *made)
    closer = [one for one in got if one.against is None]
    power = math.log(0.9 / 0.8) / math.log(2)
    width = next(one for one in closer if one.width is not None)
    assert width.width == pytest.approx(1.0)  # 0.5 * 2: 1.5 would not reach it
    assert width.expected == pytest.approx(2.0**power)
    without_it = next(one for one in closer if one.text == "without channel_pruning macs 0.5")
    assert without_it.chain == ({"static_int8": {}},)
    assert without_it.expected == pytest.approx(0.9 / 0.85)
    milder = [one for one in closer if "channel_pruning" in one.text and one is not without_it]
    assert milder and all(one.chain[0]["channel_pruning"]["macs"] > 0.5 for one in milder)
    assert not [one for one in got if one.text.startswith("without static_int8")]  # that is made already
    names = {name for one in got if one.seen == 0 for name in one.text.split()[:1]}
    assert not names & {"low_rank", "magnitude_pruning", "dynamic_int8"}  # untried, they only lose


def test_the_recipe_with_proposals_is_valid_and_makes_them() -> None:
    miss = Miss(candidate="w50-channel_pruning", metric="latency_p95", factor=0.7, boards=("b",))
    cut = {"channel_pruning": {"macs": 0.5}}
    wanted = [
        (miss, Proposal(text="", chain=(cut, {"static_int8": {}}))),
        (miss, Proposal(text="", chain=(cut,), width=0.4)),
    ]
    made = read_recipe(extended(DOCUMENT, FAMILY, [*wanted, wanted[0]]), Path())
    names = [
        one.name
        for one in plan(made, {**dict.fromkeys(made.models, "a"), "data:training": "b"}, lambda name: "1").candidates
    ]
    assert names[-2:] == ["w50-onnx-channel-pruning-0.5-static-int8", "w50-w0400-onnx-channel-pruning-0.5"]


def test_a_candidate_of_another_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="'stranger' is not among what this recipe made"):
        found(decision(option("stranger", 0.1), nearest="stranger"))


def read(*documents: object, lines: bool = False) -> list[Told]:
    data = b"\n".join(map(msgspec.json.encode, documents)) if lines else msgspec.json.encode(documents[0])
    return read_told(data, "file")


def test_a_published_message_says_the_same_as_the_decision() -> None:
    whole = decision(option("w50", 0.015), option("w25", 0.02))
    message = message_for_decision(whole, Origin(fleet="f", device="board"))
    (got,), (wanted,) = read(message), read(whole)
    assert got.miss == wanted.miss
    assert [(row.candidate, row.point, row.values["latency_p95"]) for row in got.rows] == [
        (row.candidate, row.point, row.values["latency_p95"]) for row in wanted.rows
    ]
    assert {row.values["accuracy_top1"] for row in got.rows} == {0.95}


def test_a_fleet_is_one_miss_for_each_candidate_and_metric_as_hard_as_the_hardest_latest_one() -> None:
    origin = Origin(fleet="f", device="a")
    boards = [
        message_for_decision(decision(option("w50", 0.01), miss_ratio=9.0), origin),  # superseded below
        message_for_decision(decision(option("w50", 0.01), decided_at="2026-01-02T00:00:00Z"), origin),
        decision(option("w50", 0.01), miss_ratio=1.0, board="b"),
        {"schema": "boardfit.select/1", "decisions": [decision(nearest="w25", miss_ratio=0.1, board="c")]},
        {"schema": "boardfit.error/1", "result": {"decisions": [decision(nearest="w25", miss_ratio=None, board="d")]}},
    ]
    misses = misses_of(read(*boards, lines=True))
    assert [(one.candidate, one.boards, one.factor) for one in misses] == [
        ("w50", ("a", "b"), pytest.approx(0.5)), ("w25", ("c",), pytest.approx(1 / 1.1)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"[]", b"null", b"7", b"{}", b"\xff\xfe", b"[" * 5000, b'{"result": ' * 3000, b'{"schema": 3}',
        b'{"schema": "boardfit.decision-message/2"}', b'{"decisions": 5}', b'{"decisions": [[[[[[1]]]]]]}', b"{}\n{",
    ],
)  # fmt: skip
def test_what_is_no_decision_is_one_sentence(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^file holds no decision: "):
        read_told(data, "file")


@given(
    ratio=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), metric=st.sampled_from(METRICS_AND)
)
def test_any_figure_gives_a_miss_that_can_be_closed_or_a_reason(ratio: float | None, metric: str) -> None:
    miss = NearestMiss(candidate="w50", point=POINT, metric=metric, state="missed", miss_ratio=ratio, reason="why")
    (got,) = read(decision(option("w50", 0.01), nearest_miss=miss))
    if got.miss is None:
        assert got.why is not None and got.why.startswith(f"w50 is kept out by {metric}, ")
    else:
        assert ratio is not None and ratio > 0
        assert (got.miss.factor > 1) is METRICS[metric].higher_is_better
        assert math.isfinite(got.miss.factor)
