"""A real dynamic-range model on a runtime that computes garbage from it without a word: the golden check catches it.

How the model was made, and what each runtime gives for it: ``models/README.md``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.zoo.files import evaluation_pack
from tests.scenarios.conftest import Installation, run

NAME = "mobilenet_v1-w025-tflite-dynamic-int8"
MODEL = Path(__file__).parent / "models" / f"{NAME}.tflite"
STEPS = [
    {"op": "resize", "height": 32, "width": 32, "method": "bilinear"},
    {"op": "scale", "factor": 0.00784313725490196, "offset": -1.0},
    {"op": "layout", "to": "nhwc"},
]
WRONG = "golden outputs differ by "

pytestmark = pytest.mark.skipif(
    find_spec("tflite_runtime") is None, reason="tflite-runtime has no wheel for Python 3.12 and later"
)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with that model; its golden data are made as always, by the publisher's LiteRT."""
    folder = tmp_path_factory.mktemp("dynamic")
    directory, keys = folder / "models", folder / "models.keys"
    (folder / "manifest.yaml").write_text(yaml.safe_dump({"preprocessing": STEPS}))
    assert run("registry", "init", directory, "--keys", keys).code == 0
    added = run(
        "registry", "add", directory, MODEL, "--task", "digits", "--name", NAME,
        "--eval", evaluation_pack(), "--manifest", folder / "manifest.yaml", "--keys", keys,
    )  # fmt: skip
    assert added.code == 0, added.err
    return directory


@pytest.fixture
def board(dynamic: Path, tmp_path: Path) -> Installation:
    return Installation(tmp_path, str(dynamic), dynamic / "root.json").write()


@pytest.fixture
def without_litert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take ai-edge-litert away from the board, as on one that never had it."""
    absent = tmp_path / "absent" / "ai_edge_litert"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ImportError('taken away by the test')")
    monkeypatch.setenv("PYTHONPATH", str(absent.parent), prepend=":")


def by_engine(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["point"]["engine"]: row for row in rows}


def test_one_runtime_is_right_and_chosen_the_other_wrong_and_never(board: Installation) -> None:
    board.tasks["digits"] = {"objective": ["minimize size"]}  # neither accuracy nor latency stands in the way
    done = board.write()("once", "--exhaustive", "--json")
    assert done.code == 0, done.err
    measured = by_engine(done.document["measured"])
    right, wrong = measured["ai-edge-litert"], measured["tflite-runtime"]
    assert (right["verdict"], right["golden"]["passed"]) == ("ok", True)
    assert right["accuracy"]["top1"]["value"] > 0.95
    assert (wrong["verdict"], wrong["golden"]["passed"]) == ("wrong_output", False)
    assert wrong["golden"]["max_abs_error"] > wrong["golden"]["tolerance"] > 0
    assert wrong["accuracy"]["top1"]["value"] < 0.3
    (decision,) = done.document["decisions"]
    options = by_engine(decision["options"])
    assert options["ai-edge-litert"]["standing"] == "fits"
    assert (options["tflite-runtime"]["standing"], options["tflite-runtime"]["rank"]) == ("failed", None)
    assert decision["winner"]["point"]["engine"] == "ai-edge-litert"
    told = board("explain", "--task", "digits").out
    assert f"Failed:\n  {NAME} (tflite-runtime/XNNPACK x1): wrong output: {WRONG}" in told


@pytest.mark.usefixtures("without_litert")
def test_a_board_with_that_runtime_alone_says_wrong_output_and_deploys_nothing(board: Installation) -> None:
    done = board("once", "--json")  # its budget is missed after a few samples: the golden check still comes first
    assert done.code == 3, done.err
    (measured,) = done.document["result"]["measured"]
    assert (measured["point"]["engine"], measured["verdict"]) == ("tflite-runtime", "wrong_output")
    assert f"wrong output: {WRONG}" in board("explain", "--task", "digits").out
    refused = board("deploy", "--task", "digits", "--candidate", NAME)
    assert refused.code != 0
    assert f"{NAME} does not run on this board: wrong output: {WRONG}" in refused.err
    assert not board.current.exists()


@pytest.mark.usefixtures("without_litert")
def test_what_was_given_up_before_its_golden_check_is_caught_by_the_proof_of_its_deployment(
    board: Installation,
) -> None:
    board.tasks["digits"] = {"budgets": {"latency_p95": "1 us"}}
    done = board.write()("once", "--json")
    assert done.code == 3, done.err
    (measured,) = done.document["result"]["measured"]
    assert (measured["verdict"], measured["golden"]) == ("ok", None)
    assert measured["stopped"].startswith("latency_p95 is over 1 ")
    refused = board("deploy", "--task", "digits", "--candidate", NAME)
    assert refused.code != 0
    assert f"was not deployed: the proof failed: {WRONG}" in refused.err
    assert not board.current.exists()
