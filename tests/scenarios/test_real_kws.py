"""MLPerf Tiny keyword spotting, float and int8, TFLite and ONNX: real models nobody here wrote, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.conftest import Installation, run

MODELS = {
    "float-tflite": ("kws_dscnn_float.tflite", "eval_float32.npz"),
    "int8-tflite": ("kws_dscnn_int8.tflite", "eval_int8.npz"),
    "float-onnx": ("kws_float.onnx", "eval_float32.npz"),
    "int8-onnx": ("kws_int8.onnx", "eval_int8.npz"),
}


@pytest.mark.real
def test_keyword_spotting_is_measured_judged_by_its_interval_and_explained(real_models: Path, tmp_path: Path) -> None:
    directory, keys = tmp_path / "models", tmp_path / "keys"
    assert run("registry", "init", directory, "--keys", keys).code == 0
    for name, (model, pack) in MODELS.items():
        folder = real_models / "kws"
        added = run(
            "registry", "add", directory, folder / model, "--task", "kws", "--name", name,
            "--eval", folder / pack, "--keys", keys,
        )  # fmt: skip
        assert added.code == 0, added.err
    tasks = {"kws": {"budgets": {"accuracy_top1": ">= 90 %"}, "objective": ["minimize latency_p95"]}}
    board = Installation(tmp_path, str(directory), directory / "root.json", tasks=tasks).write()
    result = board("once", "--json")
    # 0.900 and 0.902 of 1,000: the interval spans 90 %, so the budget is unknown, and unknown never passes.
    assert result.code == 3, result.err
    done = result.document["result"]
    accuracy = {
        (m["candidate"], m["point"]["engine"]): m["accuracy"]["correct"] for m in done["measured"] if m["accuracy"]
    }
    assert accuracy["float-tflite", "ai-edge-litert"] == 900
    assert accuracy["int8-tflite", "ai-edge-litert"] == 902
    (decision,) = done["decisions"]
    for option in decision["options"]:
        if option["standing"] != "failed":
            (check,) = option["checks"]
            assert (check["state"], option["standing"]) == ("unknown", "unknown")
            assert check["low"] < 0.9 < check["high"]
    told = board("explain", "--task", "kws")
    assert told.code == 0
    assert "spans" in told.out
    assert all(name in told.out for name in MODELS)
    # With a limit below the interval it is met, decided and deployed.
    board.tasks["kws"]["budgets"]["accuracy_top1"] = ">= 0.85"
    board.write()
    result = board("once", "--json")
    assert result.code == 0, result.err
    assert result.document["decisions"][0]["outcome"] == "chosen"
    assert (board.state / "deploy" / "kws" / "current" / "deployment.json").is_file()
