"""Recipes: what is read, what is refused with which sentence, and what they are planned into. No library is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.compress.plan import Plan, plan
from agent.compress.recipe import load_recipe, read_recipe
from agent.compress.starting import recipe_text
from agent.documents import parse_yaml
from agent.errors import ConfigError

DIGESTS = {"net": "a" * 64, "big": "b" * 64, "file": "c" * 64, "data:training": "d" * 64}


def document(*candidates: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "task": "t",
        "data": {"training": "train.npz", "evaluation": "test.npz"},
        "models": {
            "net": {"torch": "m:net", "train": {"epochs": 1}},
            "big": {"torch": "m:big", "train": {"epochs": 1}},
            "file": {"onnx": "file.onnx"},
        },
        "candidates": list(candidates),
        **more,
    }


def planned(*candidates: dict[str, Any], version: str = "1", **more: Any) -> Plan:
    return plan(read_recipe(document(*candidates, **more), Path()), DIGESTS, lambda name: version)


def test_common_beginnings_are_made_once() -> None:
    made = planned(
        {"of": "net"},
        {"of": "net", "chain": [{"low_rank": {"ratio": 0.6}}]},
        {"of": "net", "chain": [{"low_rank": {"ratio": 0.6}}, "static_int8"], "formats": ["onnx"]},
    )
    actions = sorted((node.action, node.kind) for node in made.nodes.values())
    assert actions.count(("train", "torch")) == 1
    assert actions.count(("low_rank", "torch")) == 1
    assert actions.count(("export", "onnx")) == 2  # of the plain and of the factored model
    assert {one.name: one.parent for one in made.candidates} == {
        "net-onnx-f32": None,
        "net-tflite-f32": None,
        "net-onnx-low-rank-0.6": "net-onnx-f32",
        "net-tflite-low-rank-0.6": "net-tflite-f32",
        "net-onnx-low-rank-0.6-static-int8": "net-onnx-low-rank-0.6",
    }


def test_a_sweep_makes_one_candidate_for_each_value() -> None:
    sweep = {"static_int8": {"calibration": {"each": ["min_max", "entropy"]}, "weight_bits": {"each": [7, 8]}}}
    made = planned({"of": "file", "chain": [sweep]})
    assert [one.name for one in made.candidates] == [
        "file-onnx-static-int8-min-max-7",
        "file-onnx-static-int8-min-max-8",
        "file-onnx-static-int8-entropy-7",
        "file-onnx-static-int8-entropy-8",
    ]


def test_a_key_changes_with_what_decides_the_result_and_with_nothing_else() -> None:
    chain = {"of": "net", "chain": ["static_int8"], "formats": ["onnx"]}
    (one,) = planned(chain).candidates
    assert planned(chain).candidates[0].key == one.key
    assert planned({"of": "net"}, chain).candidates[-1].key == one.key
    for other in (
        planned(chain, seed=1),
        planned(chain, version="2"),
        planned({**chain, "chain": [{"static_int8": {"weight_bits": 8}}]}),
        planned(chain, data={"training": "train.npz", "evaluation": "test.npz", "calibration": 7}),
    ):
        assert other.candidates[0].key != one.key


def test_a_teacher_is_made_before_its_student() -> None:
    made = planned({"of": "net", "chain": [{"distillation": {"teacher": "big"}}], "formats": ["onnx"]})
    (student,) = (node for node in made.nodes.values() if node.action == "distillation")
    teacher = made.nodes[student.others["teacher"]]
    assert (teacher.action, teacher.model) == ("train", "big")
    order = list(made.nodes)
    assert order.index(teacher.key) < order.index(student.key)
    assert teacher.key in made.needs(made.candidates[0].key)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"candidates": [{"of": "nett"}]}, "there is no model 'nett'"),
        ({"candidates": [{"of": "net", "chain": ["static_int"]}]}, "Did you mean `static_int8`"),
        ({"candidates": [{"of": "net", "chain": [{"low_rank": {"rank": 3}}]}]}, "contains unknown field `rank`"),
        ({"candidates": [{"of": "net", "chain": [{"low_rank": {"ratio": 1.5}}]}]}, "Expected `float` < 1.0"),
        ({"candidates": [{"of": "file", "chain": ["low_rank"]}]}, "low_rank works on torch and the model is onnx"),
        (
            {"candidates": [{"of": "net", "chain": ["static_int8", "low_rank"]}]},
            "Put techniques on torch models before",
        ),
        ({"candidates": [{"of": "file", "formats": ["tflite"]}]}, "an ONNX model cannot become tflite"),
        ({"candidates": [{"of": "net"}, {"of": "net"}]}, "two candidates would be called net-onnx-f32"),
        ({"candidates": [{"of": ["net", "big"], "name": "x"}]}, "name is for a single candidate"),
        (
            {"candidates": [{"of": "net", "chain": [{"distillation": {"teacher": "file"}}]}]},
            "there is no torch model 'file'",
        ),
        ({"models": {"net": {"torch": "m:net"}}, "candidates": []}, "with either train or weights"),
        (
            {"models": {"net": {"torch": "m:n", "onnx": "f"}}, "candidates": []},
            "give one of torch, onnx and keras, not 2",
        ),
        ({"models": {}, "candidates": []}, "the recipe has no models"),
        ({"modles": {}}, "unknown key `modles`"),
        ({"preprocessing": [{"op": "layout", "to": "nchw"}]}, "leave the layout out"),
        ({"limits": {"size": 5}}, "limits.size: 5 has no unit"),
        ({"task": "a b"}, "'a b' is not a usable name"),
        ({"data": {"training": "t.npz"}}, "missing required field `evaluation`"),
    ],
)
def test_what_cannot_be_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(read_recipe({**document({"of": "net"}), **change}, Path()), DIGESTS, lambda name: "1")
    assert sentence in str(caught.value)


def test_a_rate_may_be_written_as_people_write_it(tmp_path: Path) -> None:
    models = "{net: {torch: 'm:n', train: {learning_rate: 1e-3, search: {over: {l2: {low: 1e-5, high: 0.1}}}}}}"
    text = f"task: t\ndata: {{training: a.npz, evaluation: b.npz}}\nmodels: {models}\ncandidates: []\n"
    (tmp_path / "recipe.yaml").write_text(text)
    train = load_recipe(tmp_path / "recipe.yaml").models["net"].train
    assert train is not None and train.search is not None
    assert (train.learning_rate, train.search.over["l2"].low) == (1e-3, 1e-5)


@pytest.mark.parametrize("model", ["net.onnx", "my net.keras", "package.module:factory"])
def test_the_recipe_that_init_prints_is_valid(model: str) -> None:
    (text,) = parse_yaml([recipe_text(model, "digits", "train.npz", "test.npz")])
    recipe = read_recipe(text, Path())
    (name,) = recipe.models
    assert plan(recipe, {name: "a", "data:training": "b"}, lambda name: "1").candidates
