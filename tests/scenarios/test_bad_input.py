"""What goes wrong in the field: one clear sentence, the right exit code, no traceback, nothing stored lost."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import yaml
from tuf.api.metadata import TargetFile

from agent.registry.signing import load_state
from agent.registry.signing import publish as publish_state
from benchmarks.zoo.files import bundled
from tests.scenarios.conftest import CANDIDATES, Installation, Result, add, model_file, run

SMALL = CANDIDATES[0]


def sentence(result: Result) -> str:
    """The one line an error is, told on standard error."""
    lines = [line for line in result.err.splitlines() if line.startswith("boardfit: ")]
    assert len(lines) == 1, result.err
    return lines[0]


def stored(installation: Installation) -> int:
    with sqlite3.connect(installation.state / "boardfit.db") as database:
        return int(database.execute("SELECT COUNT(*) FROM measurement").fetchone()[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"taks": {}}, "unknown key `taks`"),
        ({"tasks": {"digits": {"budgets": {"latency_p95": 20}}}}, "has no unit"),
    ],
)
def test_a_mistake_in_the_configuration_is_exit_code_2(
    installation: Installation, change: dict[str, object], says: str
) -> None:
    installation.write(**change)
    result = installation("once")
    assert (result.code, says in sentence(result)) == (2, True)


def test_an_error_under_json_is_one_document_too(installation: Installation) -> None:
    installation.write(taks={})
    result = installation("once", "--json")
    assert result.code == 2
    assert result.document["kind"] == "ConfigError"
    assert result.document["exit_code"] == 2


def test_an_unreachable_registry_fails_first_and_later_leaves_the_board_working(installation: Installation) -> None:
    installation.registry = "http://127.0.0.1:9/models"
    installation.write()
    result = installation("once")
    assert result.code == 1
    assert "127.0.0.1:9" in sentence(result)
    installation.registry = str(installation.root.parent)
    installation.write()
    assert installation("once").code == 0
    before = os.readlink(installation.current)
    moved = installation.root.parent.with_name("away")
    root = installation.folder / "root.json"
    shutil.copy(installation.root, root)
    installation.root.parent.rename(moved)
    installation.root = root
    installation.write()
    result = installation("once", "--json")
    assert result.code == 0, result.err
    assert result.document["registry"]["reachable"] is False
    assert os.readlink(installation.current) == before


def test_an_expired_registry_is_exit_code_4_and_what_runs_keeps_running(installation: Installation) -> None:
    assert installation("once").code == 0
    before, count = os.readlink(installation.current), stored(installation)
    directory = installation.root.parent
    keys = directory.with_name("models.keys")
    assert run("registry", "refresh", directory, "--keys", keys, "--expires-days", "0.0000001").code == 0
    result = installation("once")
    assert result.code == 4, result.err
    assert "expired" in sentence(result).lower()
    assert (os.readlink(installation.current), stored(installation)) == (before, count)


def test_a_tampered_model_is_exit_code_4_and_never_runs(installation: Installation) -> None:
    (target,) = installation.root.parent.glob(f"targets/digits/{SMALL}/*.onnx")
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    result = installation("once", "--json")
    assert result.code == 4, result.err
    assert SMALL in sentence(result)
    done = result.document["result"]
    assert {m["candidate"] for m in done["measured"]} == set(CANDIDATES[1:])
    assert done["deployments"][0]["current"]["candidate"] in CANDIDATES[1:]


def test_a_model_that_does_not_load_is_one_row_and_the_others_go_on(installation: Installation) -> None:
    """A publisher with the keys signs a file that ``registry add`` would refuse; the board finds it out."""
    import onnx

    model = onnx.load(model_file(SMALL))
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    node.attribute.append(onnx.helper.make_attribute("no_such_attribute", 1))
    bad = model.SerializeToString()
    directory = installation.root.parent
    state = load_state(directory)
    (path,) = [path for path in state.targets.signed.targets if path.startswith(f"digits/{SMALL}/")]
    target = TargetFile.from_data(path, bad)
    target.unrecognized_fields = state.targets.signed.targets[path].unrecognized_fields
    state.targets.signed.targets[path] = target
    folder, name = path.rsplit("/", 1)
    (directory / "targets" / folder / f"{target.hashes['sha256']}.{name}").write_bytes(bad)
    publish_state(state, directory.with_name("models.keys"), ("targets",), now=datetime.now(timezone.utc))
    result = installation("once", "--json")
    assert result.code == 0, result.err
    (row,) = [m for m in result.document["measured"] if m["candidate"] == SMALL]
    assert row["verdict"] == "load_failed"
    assert "INVALID_GRAPH" in row["reason"]
    assert "/cache/" not in row["reason"]
    (option,) = [o for o in result.document["decisions"][0]["options"] if o["candidate"] == SMALL]
    assert option["standing"] == "failed"
    assert {m["candidate"] for m in result.document["measured"] if m["verdict"] == "ok"} == set(CANDIDATES[1:])


def test_an_evaluation_pack_of_the_wrong_shape_is_refused_at_publishing(
    installation: Installation, tmp_path: Path
) -> None:
    pack = tmp_path / "wrong.npz"
    np.savez(pack, inputs=np.zeros((4, 5, 5), np.float32), labels=np.zeros(4, np.int64))
    document = dict(bundled()[SMALL].extra)
    document.pop("preprocessing")
    extra = tmp_path / "extra.yaml"
    extra.write_text(yaml.safe_dump(document))
    directory = installation.root.parent
    result = run(
        "registry", "add", directory, model_file(SMALL), "--task", "digits", "--name", "wrong-pack",
        "--eval", pack, "--manifest", extra, "--keys", directory.with_name("models.keys"),
    )  # fmt: skip
    assert result.code == 1
    assert "5" in sentence(result)


def test_a_full_disk_is_one_sentence_and_nothing_stored_is_lost(installation: Installation, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("full disk: needs root to mount a small tmpfs")
    small = tmp_path / "state"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192M", "tmpfs", small], check=False).returncode != 0:
        pytest.skip("full disk: tmpfs cannot be mounted here")
    try:
        assert installation("bench", "--candidate", SMALL).code == 0
        count = stored(installation)
        free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        (small / "ballast").write_bytes(b"\0" * (free - 8192))
        result = installation("once")
        assert result.code == 1, result.err
        assert "space" in sentence(result)
        (small / "ballast").unlink()
        assert stored(installation) == count
        assert installation("once").code == 0
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_broker_that_is_down_costs_nothing_but_the_sending(installation: Installation) -> None:
    installation.write(mqtt={"url": "mqtt://127.0.0.1:9", "fleet": "test"}, device={"id": "board"})
    result = installation("once")
    assert result.code == 0, result.err
    assert "outbox" in result.out
    status = json.loads(installation("status", "--json").out)
    assert status["outbox"]["messages"] > len(CANDIDATES)


def test_two_passes_at_once_are_refused(installation: Installation) -> None:
    from agent.locks import exclusive

    installation.state.mkdir()
    with exclusive(installation.state / "pass.lock", "a pass"):
        result = installation("once")
    assert result.code == 1
    assert "already running" in sentence(result)


def test_a_candidate_nobody_knows_is_named_with_those_that_exist(installation: Installation) -> None:
    result = installation("bench", "--candidate", "nonesuch")
    assert result.code == 2
    assert SMALL in sentence(result)


def test_adding_the_same_name_twice_is_refused(installation: Installation) -> None:
    result = add(installation.root.parent, SMALL)
    assert result.code in (1, 2)
    assert SMALL in sentence(result)
