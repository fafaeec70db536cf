"""A board with a SIMULATED accelerator, as a user runs it: an engine option like threads, from doctor to deployment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent import pipeline
from agent.config import load_config
from agent.core.decision import Choice
from agent.site import Site
from tests.runtimes.delegates import ADDS, build_delegate, save_model
from tests.scenarios.conftest import QUICK, Installation, run


def test_an_accelerator_is_an_option_from_doctor_to_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_delegate(tmp_path / "lib", "libarmnnDelegate.so")))
    registry, keys = tmp_path / "models", tmp_path / "models.keys"
    model = save_model(tmp_path / "adds.tflite", ADDS)
    assert run("registry", "init", registry, "--keys", keys).code == 0
    added = run("registry", "add", registry, model, "--task", "sum", "--name", "adds", "--keys", keys)
    assert added.code == 0, added.err
    tasks = {"sum": {"budgets": {"latency_p95": "500 ms"}, "objective": ["minimize latency_p95"]}}
    board = Installation(tmp_path, str(registry), registry / "root.json", tasks=tasks)
    board.more = {"measure": {**QUICK, "processes": 1}}
    board.write()

    findings = [one for one in board("doctor", "--json").document["findings"] if one["subject"] == "accelerators"]
    assert any("ai-edge-litert with armnn-CpuAcc is proven (libarmnnDelegate.so" in one["text"] for one in findings)

    done = board("bench", "--exhaustive", "--json")
    assert done.code == 0, done.err
    found = {m["point"]["provider"]: m for m in done.document["measurements"] if m["verdict"] == "ok"}
    assert {"XNNPACK", "armnn-CpuAcc", "armnn-GpuAcc"} <= set(found)
    ours = found["armnn-CpuAcc"]
    assert ours["golden"]["passed"] is True and ours["placement"]["share"] == 1.0
    assert (ours["engine_build_s"], "keeps nothing" in ours["engine_build_reason"]) == (None, True)
    assert (found["XNNPACK"]["engine_build_s"], found["XNNPACK"]["engine_build_reason"]) == (None, None)

    decided = board("select", "--json")
    assert decided.code == 0, decided.err
    options = {one["point"]["provider"] for one in decided.document["decisions"][0]["options"]}
    assert {"XNNPACK", "armnn-CpuAcc", "armnn-GpuAcc"} <= options

    with Site(load_config(board.config), board.state) as site:
        (one,) = [m for m in site.records.measurements("sum", site.facts().class_fingerprint) if m.id == ours["id"]]
        choice = Choice(candidate="adds", artifact_sha256=one.artifact_sha256, point=one.point)
        status = pipeline.deploy(site, "sum", choice, site.facts())
    assert status.outcome == "deployed"
    document = json.loads((board.state / "deploy" / "sum" / "current" / "deployment.json").read_text())
    assert document["point"]["provider"] == "armnn-CpuAcc"
