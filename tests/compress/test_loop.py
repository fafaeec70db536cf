"""The loop from boards back to the workstation, whole: make, publish, measure on this board, miss, make more, fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

onnx = pytest.importorskip("onnx")
pytest.importorskip("sympy")  # of onnxruntime's quantizer
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.compress.conftest import CLASSES, quarters  # noqa: E402

WIDTHS = {"wide": 1024, "middle": 512, "narrow": 128}


def boardfit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def write_net(path: Path, width: int) -> None:
    """Write two dense layers that solve the quarters: the first four of the hidden ones add up a quarter each."""
    draw = np.random.default_rng(width)
    hidden = draw.normal(0, 0.01, (64, width)).astype(np.float32)
    rows, columns = np.divmod(np.arange(64), 8)
    hidden[:, :4] = (rows // 4 * 2 + columns // 4)[:, None] == np.arange(4)
    dense = draw.normal(0, 0.01, (width, CLASSES)).astype(np.float32)
    dense[:4] = np.eye(4)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "hidden"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["alive"]),
        helper.make_node("Gemm", ["alive", "dense"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "quarters",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(hidden, "hidden"), numpy_helper.from_array(dense, "dense")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A recipe of three float nets, the two larger also as int8, and a board that has room for none of them."""
    for name, count, seed in (("train", 120, 1), ("test", 80, 2)):
        inputs, labels = quarters(count, seed)
        np.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=labels)
    for name, width in WIDTHS.items():
        write_net(tmp_path / f"{name}.onnx", width)
    recipe = {
        "task": "quarters",
        "data": {"training": "train.npz", "evaluation": "test.npz", "calibration": 40},
        "models": {name: {"onnx": f"{name}.onnx"} for name in WIDTHS},
        "candidates": [{"of": list(WIDTHS)}, {"of": ["wide", "middle"], "chain": ["dynamic_int8"]}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.mark.timeout(1200)  # seven processes, of which a busy machine makes minutes
def test_what_a_board_missed_is_made_and_fits(job: Path) -> None:
    recipe, registry = job / "recipe.yaml", job / "models"
    made = boardfit("compress", "run", recipe, "--registry", registry, "--json")
    assert made.returncode == 0, made.stderr
    sizes = {one["name"]: one["size_bytes"] for one in json.loads(made.stdout)["candidates"]}
    limit = int(sizes["narrow-onnx-f32"] * 0.6)
    assert limit < min(sizes.values())
    agent = {
        "registry": {"url": str(registry), "root": str(registry / "root.json")},
        "tasks": {"quarters": {"budgets": {"size": f"{limit} B", "accuracy_top1": ">= 0.8"}}},
        "measure": {"min_runs": 50, "min_time": "0.02 s", "max_time": "1 s", "threads": [1], "contended": "flag"},
    }
    (job / "agent.yaml").write_text(yaml.safe_dump(agent))
    board = ("--config", job / "agent.yaml", "--state-dir", job / "state", "--json")
    first = boardfit("once", *board)
    assert first.returncode == 3, first.stderr
    (job / "decision.json").write_text(first.stdout)

    toward = ("compress", "toward", job / "decision.json", "--recipe", recipe, "--most", "1")
    done = boardfit(*toward, "--make", "--registry", registry, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (plan,) = document["misses"]
    assert (plan["miss"]["candidate"], plan["miss"]["metric"]) == ("narrow-onnx-f32", "size")
    assert plan["miss"]["factor"] == pytest.approx(0.6, rel=0.01)
    best = plan["proposals"][0]
    assert (best["chain"], best["seen"], best["source"]) == ([{"dynamic_int8": {}}], 2, "files")
    ratios = [sizes[f"{name}-onnx-dynamic-int8"] / sizes[f"{name}-onnx-f32"] for name in ("wide", "middle")]
    assert best["expected"] == pytest.approx(float(np.sqrt(np.prod(ratios))))
    assert 0.5 < best["chance"] < 1.0
    new = document["made"]["candidates"][-1]
    assert (new["name"], new["reason"]) == ("narrow-onnx-dynamic-int8", None)
    assert new["name"] in document["made"]["published"]
    assert new["size_bytes"] / sizes["narrow-onnx-f32"] == pytest.approx(best["expected"], rel=0.3)

    second = boardfit("once", *board)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["decisions"][0]["winner"]["candidate"] == new["name"]
    (job / "decision.json").write_text(second.stdout)
    closed = boardfit(*toward)
    assert closed.returncode == 2
    assert "something fits in every one of these decisions" in closed.stderr
