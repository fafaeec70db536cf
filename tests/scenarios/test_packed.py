"""Candidates that travel packed, through the command line: published, fetched, measured for real, deployed, told of."""

from __future__ import annotations

import hashlib
import json
import lzma
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import TargetFile

from agent.registry.layout import target_file
from agent.registry.signing import load_state, publish
from tests.scenarios.conftest import QUICK, Installation, manifest_file, model_file, run

ONNX = "mobilenet_v2-w025-onnx-static-int8"
TFLITE, SPOILT = "mobilenet_v2-w025-tflite-static-int8", "mobilenet_v1-w025-onnx-float16"


def add_packed(directory: Path, name: str) -> Any:
    keys = directory.with_name(f"{directory.name}.keys")
    added = run(
        "registry", "add", directory, model_file(name), "--task", "digits", "--name", name,
        "--manifest", manifest_file(directory.parent, name), "--keys", keys, "--pack", "--json",
    )  # fmt: skip
    assert added.code == 0, added.err
    return added.document


def spoil(directory: Path, name: str) -> None:
    """Sign, in the place of a packed candidate's file, one that unpacks to something else."""
    state = load_state(directory)
    targets = state.targets.signed.targets
    (path,) = [path for path in targets if path.startswith(f"digits/{name}/")]
    data = lzma.compress(b"something else" * 1000)
    digest = hashlib.sha256(data).hexdigest()
    (directory / target_file(path, digest)).write_bytes(data)
    targets[path] = TargetFile(len(data), {"sha256": digest}, path, {"custom": targets[path].custom})
    publish(state, directory.with_name(f"{directory.name}.keys"), ("targets",), now=datetime.now(timezone.utc))


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("packed") / "models"
    keys = directory.with_name("models.keys")
    assert run("registry", "init", directory, "--keys", keys).code == 0
    documents = {name: add_packed(directory, name) for name in (ONNX, TFLITE, SPOILT)}
    spoil(directory, SPOILT)
    return directory, documents


def test_packed_candidates_go_the_whole_way_and_a_spoilt_one_stays_out(
    added: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    registry, documents = added
    wanted = {"budgets": {"size": "60 KiB"}, "objective": ["minimize size"]}
    board = Installation(tmp_path, str(registry), registry / "root.json", tasks={"digits": wanted})
    board.write(measure={**QUICK, "processes": 1})
    checked = run("registry", "check", registry)
    assert checked.code == 4 and f"{SPOILT} cannot be unpacked" in checked.out

    result = board("once", "--exhaustive")
    assert result.code == 1  # the spoilt one: reported, and no reason to stop
    assert f"{SPOILT} cannot be unpacked: 14000 bytes come out" in result.err, result.err
    measured = {m["candidate"]: m for m in board("select", "--json").document["decisions"][0]["options"]}
    assert set(measured) == {ONNX, TFLITE}
    for name, option in measured.items():
        model = model_file(name)
        assert option["verdict"] == "ok"
        assert option["artifact_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
        assert option["size_unpacked_bytes"] == model.stat().st_size > 60 * 1024
        assert option["size_bytes"] == documents[name]["target"]["length"] < 60 * 1024  # what the budget is held to
        assert option["standing"] == "fits"
    assert "packed" in board("explain").out

    document = json.loads((board.current / "deployment.json").read_text())
    served = (board.current / document["model"]["path"]).read_bytes()
    assert served == model_file(document["candidate"]).read_bytes()
    assert document["model"]["sha256"] == hashlib.sha256(served).hexdigest()
    assert document["model"]["length"] == len(served)
    blobs = {path.name for path in (board.state / "cache" / "blobs").rglob("*") if path.is_file()}
    assert {measured[name]["artifact_sha256"] for name in measured} <= blobs
    assert not blobs & {documents[name]["target"]["sha256"] for name in measured}
