"""A search from the recipe: what is refused, how samples are held out, and real trials in a real child, killed and
gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.compress.made import Judged, Made
from agent.compress.plan import Plan, plan
from agent.compress.recipe import read_recipe
from agent.compress.run import Making, make
from agent.compress.samples import Pack, Samples, Validation, held_out_samples, pack_digest
from agent.compress.search import with_values
from agent.compress.step import PROGRESS, TRIALS, Outcome, Searching, StepJob, run_step
from agent.compress.training import Training
from agent.compress.work import Work
from agent.core.manifest import Manifest, manifest_document, parse_manifest
from agent.core.measurement import AccuracyFigures, Figure
from agent.errors import ConfigError, ModelError
from agent.verbs.candidates import manifest_of
from tests.compress.conftest import CLASSES, quarters

OVER = {"learning_rate": {"low": 1e-4, "high": 0.3, "log": True}, "optimizer": {"among": ["sgd", "adam"]}}
NET = f"""
from pathlib import Path
import signal
from torch import nn

def net(**settings):
    here = Path(__file__).parent
    calls = here / "calls"
    count = calls.stat().st_size + 1 if calls.exists() else 1
    with calls.open("a") as file:
        file.write(".")
    if (here / "hold-at").exists() and count == int((here / "hold-at").read_text()):
        (here / "reached").write_text("reached")  # a pipe: whoever waits for this reads it
        signal.pause()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {CLASSES}))
"""


def planned(train: dict[str, Any], *candidates: dict[str, Any]) -> Plan:
    document = {
        "task": "t", "data": {"training": "train.npz", "evaluation": "test.npz"},
        "models": {"net": {"torch": "m:net", "train": train}, "big": {"torch": "m:big", "train": {"epochs": 1}}},
        "candidates": list(candidates) or [{"of": "net", "formats": ["onnx"]}],
    }  # fmt: skip
    digests = {"net": "a" * 64, "big": "b" * 64, "data:training": "d" * 64}
    return plan(read_recipe(document, Path()), digests, lambda name: "1")


def test_a_search_is_a_step_before_the_one_that_uses_it() -> None:
    tuned = {"low_rank": {"ratio": 0.6, "fine_tune": {"search": {"trials": 3, "over": OVER}}}}
    made = planned(
        {"search": {"over": OVER}},
        {"of": "net", "formats": ["onnx"]},
        {"of": "net", "chain": [tuned], "formats": ["onnx", "tflite"]},
    )
    searches = [node for node in made.nodes.values() if node.action == "search"]
    assert [node.searched for node in searches] == ["train", "low_rank"]
    order = list(made.nodes)
    for one in searches:
        (user,) = (node for node in made.nodes.values() if node.search == one.key)
        assert (user.action, user.parent) == (one.searched, one.parent)
        assert order.index(one.key) < order.index(user.key)
        assert one.key in made.needs(user.key)
    assert [one.name for one in made.candidates] == [
        "net-onnx-f32", "net-onnx-low-rank-0.6", "net-tflite-low-rank-0.6",
    ]  # fmt: skip


def test_a_key_changes_with_the_search_and_is_the_plain_one_without() -> None:
    def key(train: dict[str, Any]) -> str:
        return planned(train).candidates[0].key

    keys = [
        key({}), key({"search": {"over": OVER}}), key({"search": {"over": OVER, "trials": 21}}),
        key({"search": {"over": {"optimizer": OVER["optimizer"]}}}), key({"search": {"over": OVER, "validation": 0.3}}),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    (train,) = (node for node in planned({}).nodes.values() if node.action == "train")
    assert train.search is None
    assert "search" not in train.parameters["train"]


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ({"over": {}}, "search.over is empty"),
        ({"over": {"learning_rat": {"low": 1, "high": 2}}}, "there is no learning_rat"),
        ({"over": {"search": {"low": 1, "high": 2}}}, "there is no search"),
        ({"over": {"learning_rate": {"low": -1, "high": 2}}}, "Expected `float` > 0.0"),
        ({"over": {"learning_rate": {"low": 2, "high": 1}}}, "low must be below high"),
        ({"over": {"l2": {"low": 0, "high": 1, "log": True}}}, "above zero with log"),
        ({"over": {"learning_rate": {"low": "little", "high": 1}}}, "Expected `float | null`, got `str`"),
        ({"over": {"learning_rate": {"low": 0.1}}}, "low and high must be numbers"),
        ({"over": {"optimizer": {"among": ["sgd", "adamm"]}}}, "Invalid enum value 'adamm'"),
        ({"over": {"optimizer": {"among": ["sgd"]}}}, "two values or more"),
        ({"over": {"optimizer": {"among": ["sgd", "adam"], "low": 1}}}, "give low and high, or two values"),
        ({"over": {"optimizer": {"amongst": []}}}, "unknown key `models.net.train.search.over.optimizer.amongst`"),
        ({"over": OVER, "trials": 1}, "Expected `int` >= 2"),
        ({"over": OVER, "time": "soon"}, "search.time"),
        ({"over": OVER, "validation": 1.0}, "Expected `float` < 1.0"),
    ],
)
def test_a_search_that_cannot_be_is_one_sentence(search: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned({"search": search})
    assert sentence in str(caught.value)


def test_two_searches_in_one_step_are_refused_and_a_dot_leads_below() -> None:
    def chain(parameters: dict[str, Any]) -> Plan:
        return planned({}, {"of": "net", "chain": [{"distillation": {"teacher": "big", **parameters}}]})

    both = {"temperature": {"low": 1, "high": 10}, "training.epochs": {"low": 5, "high": 9}}
    made = chain({"search": {"over": both}})
    (student,) = (node for node in made.nodes.values() if node.action == "distillation")
    chosen = with_values(student.parameters, {"temperature": 2.5, "training.epochs": 7})
    assert (chosen["temperature"], chosen["training"]["epochs"], "search" in chosen) == (2.5, 7, False)
    with pytest.raises(ConfigError, match="two searches in one step"):
        chain({"search": {"over": both}, "training": {"search": {"over": OVER}}})


def test_the_part_held_out_is_of_every_class_by_seed_and_equal_inputs_stay_together() -> None:
    inputs, labels = quarters(200, 1)
    labels = np.where(np.arange(200) < 3, 9, labels)  # a class of three samples
    pack = Pack(np.concatenate([inputs, inputs[:50]]), np.concatenate([labels, labels[:50]]))
    held_out = held_out_samples(pack, 0.25, 7)
    assert np.array_equal(held_out, held_out_samples(pack, 0.25, 7))
    assert not np.array_equal(held_out, held_out_samples(pack, 0.25, 8))
    assert np.array_equal(held_out[:50], held_out[200:])
    for label in np.unique(labels):
        own = labels == label
        assert held_out[:200][own].sum() == max(1, round(0.25 * own.sum()))
    with pytest.raises(ConfigError, match="no class has two samples"):
        held_out_samples(Pack(inputs[:2], np.array([0, 1])), 0.5, 0)


def test_what_is_held_out_is_neither_trained_nor_calibrated_on(samples: Samples) -> None:
    with_validation = samples._replace(validation=Validation(0.3, 1, lambda _: None))
    apart = with_validation.validation_pack()
    own = {one.tobytes() for one in apart.inputs}
    assert len(own) + len(with_validation.training_pack().labels) == 600
    assert not own & {one.tobytes() for one in with_validation.training_pack().inputs}
    assert not own & {one.tobytes() for one in with_validation.calibration_inputs("onnx", 0)}


def test_a_pack_is_known_by_its_content(tmp_path: Path) -> None:
    inputs, labels = quarters(20, 1)
    assert pack_digest(Pack(inputs, labels)) == pack_digest(Pack(inputs.copy(), labels.copy()))
    for other in (Pack(inputs + 1, labels), Pack(inputs, labels[::-1]), Pack(inputs.reshape(20, 64), labels)):
        assert pack_digest(other) != pack_digest(Pack(inputs, labels))


@pytest.fixture
def job(tmp_path: Path) -> StepJob:
    """A search of four trials for the levers of a linear model."""
    (tmp_path / "made_up_net.py").write_text(NET)
    inputs, labels = quarters(300, 1)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=labels)
    (tmp_path / "kept").mkdir()
    train = msgspec.to_builtins(Training(epochs=4))
    train["search"] = {"over": {**OVER, "batch": {"low": 16, "high": 64}}, "trials": 4, "validation": 0.25}
    return StepJob(
        action="search", kind="torch", source=None, target=str(tmp_path / "out" / TRIALS), parameters={"train": train},
        others={}, training=str(tmp_path / "train.npz"), preprocessing=(), calibration=10, input_shape=None, seed=3,
        threads=1, folder=str(tmp_path), model={"torch": "made_up_net:net", "train": train},
        searching=Searching(action="train", keep=str(tmp_path / "kept"), time_s=600.0, left_s=None),
    )  # fmt: skip


def run(job: StepJob) -> tuple[Outcome, list[dict[str, Any]]]:
    target = Path(job.target)
    target.parent.mkdir(exist_ok=True)
    outcome = run_step(job, 250.0)
    return outcome, json.loads(target.read_text()) if target.exists() else []


def without_times(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != "seconds"} for one in trials]


def test_without_optuna_it_is_one_sentence(job: StepJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['optuna'] = None\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    outcome, _ = run(job)
    assert outcome.reason == "optuna is not installed. Install the extra: pip install 'boardfit[compress]'"


@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_as_one_that_was_not(job: StepJob, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("optuna")
    outcome, whole = run(job)
    assert outcome.reason is None
    assert outcome.reached is not None
    complete = [one for one in whole if one["state"] == "complete"]
    best = max(complete, key=lambda one: one["validation_accuracy"])
    assert outcome.reached["values"] == best["values"]
    assert outcome.reached["validation_accuracy"] == best["validation_accuracy"] > 0.8
    assert min(one["validation_accuracy"] for one in complete) < best["validation_accuracy"]
    assert (outcome.reached["trials"], outcome.reached["ended_by"], len(whole)) == (4, "trials", 4)
    inputs, labels = quarters(300, 1)
    assert outcome.reached["validation_samples"] == held_out_samples(Pack(inputs, labels), 0.25, 3).sum()
    assert len({json.dumps(one["values"]) for one in whole}) == 4
    assert all(isinstance(one["values"]["batch"], int) and 16 <= one["values"]["batch"] <= 64 for one in whole)
    assert (Path(job.target).with_name(PROGRESS)).read_text().startswith("trial 4 of 4, best ")

    for file in (tmp_path / "kept").iterdir():
        file.unlink()
    (tmp_path / "calls").unlink()
    Path(job.target).unlink()
    (tmp_path / "hold-at").write_text("3")
    os.mkfifo(tmp_path / "reached")
    child = subprocess.Popen([sys.executable, "-m", "agent.compress.step"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(job))
    child.stdin.close()
    assert (tmp_path / "reached").read_text() == "reached"  # in its third trial, and stays there
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not Path(job.target).exists()
    (tmp_path / "hold-at").unlink()
    again, resumed = run(job)
    assert again.reached is not None
    assert (tmp_path / "calls").read_text() == "....."  # two whole, the one killed, and the two that were left
    assert without_times(resumed) == without_times(whole)
    assert {**again.reached, "search_s": 0} == {**outcome.reached, "search_s": 0}


def test_a_search_whose_time_is_over_says_so(job: StepJob) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("optuna")
    from agent.compress.nets.search import search

    Path(job.target).parent.mkdir()

    def never(job: StepJob, samples: Samples) -> dict[str, Any]:
        raise AssertionError("there is no time for a trial")

    for change, sentence in (
        ({"time_s": 0.0}, "no trial of the search was whole: its time was over"),
        ({"left_s": 0.0}, "the recipe's time was over after 0 of 4 trials"),
    ):
        told = msgspec.structs.replace(job.searching, **change)  # type: ignore[type-var]
        with pytest.raises(ModelError, match=sentence):
            search(msgspec.structs.replace(job, searching=told), Samples(Path(job.training)), never)


def test_the_manifest_says_how_a_model_was_trained_and_what_a_search_found(tmp_path: Path) -> None:
    inputs, labels = quarters(8, 1)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=labels)
    document = {
        "task": "quarters", "data": {"training": "train.npz", "evaluation": "test.npz"}, "seed": 7,
        "models": {
            "searched": {"torch": "m:net", "train": {"epochs": 3, "search": {"over": OVER}}},
            "plain": {"torch": "m:net", "train": {"l2": 0.5}},
            "given": {"torch": "m:net", "weights": "net.pt"},
        },
        "candidates": [],
    }  # fmt: skip
    recipe = read_recipe(document, tmp_path)
    found = {"values": {"learning_rate": 0.02, "optimizer": "sgd"}, "trials": 20}
    top1 = AccuracyFigures(top1=Figure(value=0.9), correct=9, n=10, pack_sha256="p")

    def manifest(model: str, search: dict[str, Any] | None = None) -> Manifest:
        judged = (Judged(engine="e", accuracy=top1),)
        made = Made(name=model, format="onnx", model=model, parent=None, chain=(), judged=judged, search=search)
        own = {"task": "quarters", "name": model, "format": "onnx", "inputs": [], "outputs": []}
        read = parse_manifest({**own, **manifest_of(recipe, made)})
        assert parse_manifest(manifest_document(read)) == read
        return read

    usual = msgspec.to_builtins(Training(epochs=3))
    del usual["search"]
    assert manifest("searched", found).extra["training"] == {
        "parameters": {**usual, "learning_rate": 0.02, "optimizer": "sgd", "seed": 7}, "search": found,
    }  # fmt: skip
    assert manifest("plain").extra["training"]["parameters"]["l2"] == 0.5
    assert "search" not in manifest("plain").extra["training"]
    assert "training" not in manifest("given").extra


@pytest.mark.slow
def test_a_run_trains_with_what_the_search_chose_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("optuna")
    pytest.importorskip("onnxscript")
    (tmp_path / "made_up_net.py").write_text(NET)
    inputs, labels = quarters(200, 1)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=labels)
    over = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    shared = {"clusters": 8, "fine_tune": {"epochs": 1, "search": {"trials": 2, "over": over}}}
    document = {
        "task": "quarters", "data": {"training": "train.npz", "evaluation": "there-is-none.npz", "calibration": 10},
        "models": {"net": {"torch": "made_up_net:net", "train": {"epochs": 1, "search": {"trials": 2, "over": over}}}},
        "candidates": [{"of": "net", "chain": [{"weight_clustering": shared}], "formats": ["onnx"]}],
    }  # fmt: skip
    recipe = read_recipe(document, tmp_path)
    said: list[str] = []
    making = Making(1, None, lambda event: said.append(event.text), lambda: False)
    work = Work(tmp_path / "work")
    wanted = plan(recipe, {"net": "a" * 64, "data:training": "d" * 64}, lambda name: "1")
    (made,) = make(recipe, wanted, work, lambda one, path: (Judged(engine="nobody", reason="a test"),), making)
    assert made.reason == "nobody: a test"
    assert made.search is not None
    (step,) = made.chain
    found = step["reached"]["search"]
    assert found["trials"] == made.search["trials"] == 2
    assert step["parameters"]["fine_tune"]["learning_rate"] == found["values"]["learning_rate"]
    assert "search" not in step["parameters"]["fine_tune"]
    assert step["reached"]["training_samples"] == 200  # all, and the trials fewer
    assert any("search of net (trial " in text for text in said)
    assert not list((tmp_path / "work").glob(".*"))
    assert (tmp_path / "calls").read_text() == "..."  # two trials and the training; the rest begins with files
    assert make(recipe, wanted, work, lambda one, path: (), making) == (made,)
    assert (tmp_path / "calls").read_text() == "..."
