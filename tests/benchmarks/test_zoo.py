"""The bundled candidates: all of the recipe's, within their size, of every kind, honestly split. Needs no torch."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.compress.recipe import load_recipe
from agent.compress.techniques import NAMES
from agent.core.manifest import parse_manifest
from agent.runtimes.preprocess import apply_steps
from benchmarks.zoo.files import REGISTRY, bundled, evaluation_pack
from benchmarks.zoo.table import read_results, render_table, sent_bytes

ZOO = REGISTRY.parent
RESULTS = read_results(ZOO / "results.json")
CANDIDATES = {one["name"]: one for one in RESULTS["candidates"]}
SIZE_LIMIT_BYTES = 8_000_000


@pytest.fixture
def pack():
    with np.load(evaluation_pack(), allow_pickle=False) as arrays:
        return dict(arrays)


def top1(one):
    return next(found["accuracy"]["top1"]["value"] for found in one["judged"] if found["accuracy"])


def test_what_is_published_is_what_the_recipe_asks_for():
    recipe = load_recipe(ZOO / "recipe.yaml")
    assert set(bundled()) == set(CANDIDATES)
    assert {one["model"] for one in CANDIDATES.values()} == set(recipe.models)
    assert len(CANDIDATES) >= 24


def test_the_files_stay_within_their_size():
    assert sum(one.model.stat().st_size for one in bundled().values()) <= SIZE_LIMIT_BYTES


def test_there_is_one_by_every_technique_and_of_every_family():
    used = {step["technique"] for one in CANDIDATES.values() for step in one["chain"]}
    assert used == set(NAMES)
    assert {one["format"] for one in CANDIDATES.values()} == {"onnx", "tflite"}
    assert {one.manifest["family"] for one in bundled().values()} == {
        "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "densenet_bc", "squeezenet", "efficientnet_lite",
    }  # fmt: skip


def test_choosing_by_size_or_by_format_would_be_wrong():
    sizes = [sent_bytes(one) for one in CANDIDATES.values()]
    assert max(sizes) >= 100 * min(sizes)
    accuracies = [top1(one) for one in CANDIDATES.values()]
    assert max(accuracies) >= 0.98
    assert min(accuracies) <= 0.9

    def slower_than_its_parent(one, engine):
        times = [
            next((found["latency_p50_s"] for found in each["judged"] if found["engine"] == engine), None)
            for each in (one, CANDIDATES.get(one["parent"], {"judged": ()}))
        ]
        return None not in times and times[0] > times[1]

    assert any(
        step["technique"] == "static_int8" and slower_than_its_parent(one, "onnxruntime")
        for one in CANDIDATES.values() for step in one["chain"][-1:]
    )  # fmt: skip
    # As recorded on the machine that made them; docs/figures/compression.md has the ratios taken side by side.
    assert any("pruning" in step["technique"] and slower_than_its_parent(one, "onnxruntime")
               for one in CANDIDATES.values() for step in one["chain"][-1:])  # fmt: skip


@pytest.mark.parametrize("name", sorted(bundled()))
def test_a_manifest_agrees_with_the_results(name, pack):
    one, result = bundled()[name], CANDIDATES[name]
    manifest = parse_manifest(one.manifest)
    assert one.target["length"] == one.model.stat().st_size == sent_bytes(result)
    assert manifest.labels == tuple("0123456789")
    assert manifest.licence == "Apache-2.0"
    reference = manifest.reference
    assert (reference.metric, reference.value, reference.n) == ("top1", top1(result), len(pack["labels"]))
    assert "Kaynak" in reference.data
    assert [step.technique for step in manifest.compression] == [step["technique"] for step in result["chain"]]
    assert all("seed" in step.parameters for step in manifest.compression)
    assert manifest.parent == result["parent"]
    assert manifest.parent is None or manifest.parent in CANDIDATES
    shape = (1, 1, 32, 32) if result["format"] == "onnx" else (1, 32, 32, 1)
    assert apply_steps(manifest.preprocessing, pack["inputs"][:1]).shape == shape


def test_the_evaluation_pack_has_the_stated_shape_and_is_stratified(pack):
    assert sorted(pack) == ["inputs", "labels"]
    assert (pack["inputs"].dtype, pack["inputs"].shape) == (np.uint8, (540, 8, 8, 1))
    assert (pack["labels"].dtype, pack["labels"].shape) == (np.int64, (540,))
    per_class = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])  # Source: scikit-learn's digits
    assert (np.abs(np.bincount(pack["labels"]) - 0.3 * per_class) < 1).all()


def test_the_pack_is_the_test_split_and_disjoint_from_training(pack):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: the split cannot be made again")
    from benchmarks.zoo.data import load_digits_splits

    train, test = load_digits_splits()
    np.testing.assert_array_equal(test.images, pack["inputs"])
    np.testing.assert_array_equal(test.labels, pack["labels"])
    assert not set(train.indices) & set(test.indices)
    assert len(train.indices) + len(test.indices) == 1797


def test_candidates_reach_their_reference_accuracy_here(tmp_path: Path):
    """By the command line, on the registry that the demo uses; its root is trusted in a demo's folder only."""
    names = ["mobilenet_v1-w025-onnx-f32", "mobilenet_v1-w025-onnx-static-int8", "mobilenet_v1-w006-onnx-f32"]
    state = tmp_path / "state"
    state.mkdir()
    (state / "made-by-boardfit-demo").touch()
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"registry: {{url: {REGISTRY}, root: {REGISTRY}/root.json}}\n"
        "measure: {min_runs: 100, min_time: 0.05 s, max_time: 3 s, threads: [1], contended: flag, processes: 1}\n"
    )
    # fmt: off
    done = subprocess.run(
        [sys.executable, "-m", "agent", "bench", "--task", "digits", "--json", "--config", config, "--state-dir", state,
         *(part for name in names for part in ("--candidate", name))],
        capture_output=True, text=True, check=False, cwd=ZOO.parents[1],
    )
    # fmt: on
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measurements"]
    assert {one["candidate"] for one in measured} == set(names)
    for one in measured:
        accuracy, wanted = one["accuracy"], bundled()[one["candidate"]].manifest["reference"]
        # 3 images: chosen; another machine may order float sums otherwise and turn a close call.
        assert abs(accuracy["top1"]["value"] - wanted["value"]) * wanted["n"] <= 3.5


def test_the_readme_table_is_the_one_the_results_give():
    assert render_table(RESULTS) in (ZOO / "README.md").read_text(encoding="utf-8")


def test_the_results_are_what_compress_run_prints():
    from agent.compress.made import Made

    made = msgspec.convert(RESULTS["candidates"], tuple[Made, ...])
    assert [one.name for one in made] == list(CANDIDATES)
    assert all(one.path is None and one.reason is None for one in made)
