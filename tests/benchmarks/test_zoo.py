"""The committed candidates: whole, readable, within their size, honestly split. Needs neither torch nor a converter."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.core.manifest import parse_manifest
from agent.runtimes.preprocess import apply_steps

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "benchmarks" / "zoo" / "built"
MANIFESTS = sorted(BUILT.glob("*.yaml"))
RESULTS = json.loads((BUILT / "results.json").read_text(encoding="utf-8"))
SIZE_LIMIT_BYTES = 6_000_000  # chosen: the repository carries these files twice, here and in the registry


@pytest.fixture(autouse=True)
def _repository_root(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def pack():
    with np.load(BUILT / "digits-test.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_every_candidate_of_the_catalog_is_built_and_no_other():
    from benchmarks.zoo.catalog import NETWORKS, entries

    wanted = {entry.name for network in NETWORKS for entry in entries(network)}
    assert {path.stem for path in MANIFESTS} == wanted
    assert {path.stem for path in BUILT.iterdir() if path.suffix in (".onnx", ".tflite")} == wanted
    assert set(RESULTS["candidates"]) == wanted


def test_the_files_stay_within_their_size():
    assert sum(path.stat().st_size for path in BUILT.iterdir()) <= SIZE_LIMIT_BYTES


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_has_known_fields_only_and_agrees_with_the_results(path, pack):
    result = RESULTS["candidates"][path.stem]
    model = path.with_suffix(f".{result['format']}")
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    read_from_file = {"task": "digits", "name": path.stem, "format": result["format"], "inputs": [], "outputs": []}
    assert not set(fields) & {*read_from_file, "needs", "golden", "evaluation"}
    manifest = parse_manifest({**fields, **read_from_file})

    assert manifest.extra == {}
    assert model.stat().st_size == result["size_bytes"]
    assert manifest.labels == tuple("0123456789")
    assert manifest.licence == "Apache-2.0"
    reference = manifest.reference
    measured = result["engines"]["onnxruntime" if result["format"] == "onnx" else "ai-edge-litert"]
    assert (reference.metric, reference.value, reference.n) == ("top1", measured["top1"], len(pack["labels"]))
    assert "Kaynak" in reference.data
    assert [step.technique for step in manifest.compression] == {
        "f32": [], "f16": ["float16"], "int8": ["static_int8"], "int8-full-range": ["static_int8"]
    }[result["precision"]]  # fmt: skip
    assert (manifest.parent is None) == (result["precision"] == "f32")
    assert manifest.parent is None or manifest.parent in RESULTS["candidates"]
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


@pytest.mark.parametrize(
    ("name", "engine", "module"),
    [
        ("mobilenet_v1-w025-onnx-f32", "onnxruntime", "onnxruntime"),
        ("mobilenet_v1-w025-onnx-int8", "onnxruntime", "onnxruntime"),
        ("mobilenet_v1-w025-tflite-int8", "ai-edge-litert", "ai_edge_litert"),
    ],
)
def test_a_candidate_reaches_its_reference_accuracy_here(name, engine, module):
    pytest.importorskip(module, reason=f"{engine} is not installed")
    from benchmarks.zoo.evaluate import top1_correct

    fields = yaml.safe_load((BUILT / f"{name}.yaml").read_text(encoding="utf-8"))
    (model,) = (BUILT / f"{name}.{suffix}" for suffix in ("onnx", "tflite") if (BUILT / f"{name}.{suffix}").exists())
    correct, count = top1_correct(engine, model, BUILT / "digits-test.npz", fields["preprocessing"])
    # 3 images: chosen; another machine may order float sums otherwise and turn a close call.
    assert abs(correct - round(fields["reference"]["value"] * count)) <= 3


def test_the_readme_table_is_the_one_the_results_give():
    from benchmarks.zoo.table import render_table

    assert render_table(RESULTS) in (ROOT / "benchmarks" / "zoo" / "README.md").read_text(encoding="utf-8")
