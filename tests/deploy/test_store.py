from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import pytest

from agent.core.deployment import DeployedFile, Deployment
from agent.deploy.document import deployment_for, is_same_model, release_of
from agent.deploy.files import describe_file, find_damage, place_file
from agent.deploy.store import ReleaseStore
from agent.errors import DeploymentError, StorageError
from tests.deploy.scene import POINT, TASK, candidate
from tests.select.measured import measurement


def staged(folder: Path, name: str = "old") -> tuple[ReleaseStore, Deployment]:
    found, model, golden = candidate(folder, name)
    document = deployment_for(found, POINT, describe_file(golden, "golden.npz"), measurement(name))
    store = ReleaseStore(folder / "deploy")
    store.stage(document, model, golden)
    return store, document


def test_a_release_is_named_after_its_document(tmp_path: Path) -> None:
    store, document = staged(tmp_path)
    assert store.read(TASK, document.release) == document
    assert store.find_damage(TASK, document.release) is None
    path = store.release_folder(TASK, document.release) / "deployment.json"
    path.write_bytes(path.read_bytes().replace(b"onnxruntime", b"onnxruntimf"))
    assert store.read(TASK, document.release) is None
    assert store.find_damage(TASK, document.release) == "deployment.json is missing or damaged"


def test_sameness_leaves_out_the_figures_only(tmp_path: Path) -> None:
    found, _, _ = candidate(tmp_path, "old")
    first = deployment_for(found, POINT, None, None)
    second = deployment_for(found, POINT, None, measurement("old"))
    assert first.release != second.release == release_of(second)
    assert is_same_model(first, second)
    assert not is_same_model(first, deployment_for(found, msgspec.structs.replace(POINT, threads=2), None, None))


def test_staging_again_repairs_what_is_damaged_and_leaves_the_rest(tmp_path: Path) -> None:
    store, document = staged(tmp_path)
    folder = store.release_folder(TASK, document.release)
    kept = (folder / "golden.npz").stat().st_ino
    (folder / "model.onnx").write_bytes(b"rot")
    (folder / ".model.onnx.tmp").write_bytes(b"left by a cut")
    staged(tmp_path)
    assert store.find_damage(TASK, document.release) is None
    assert (folder / "golden.npz").stat().st_ino == kept
    assert sorted(path.name for path in folder.iterdir()) == ["deployment.json", "golden.npz", "model.onnx"]


def test_a_half_made_staging_folder_is_started_over(tmp_path: Path) -> None:
    left = tmp_path / "deploy" / TASK / "staging"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"half")
    store, document = staged(tmp_path)
    assert store.find_damage(TASK, document.release) is None
    assert not left.exists()


def test_links_move_and_go(tmp_path: Path) -> None:
    store, document = staged(tmp_path)
    assert store.linked(TASK, "current") is None
    store.set_link(TASK, "current", document.release)
    store.set_link(TASK, "current", document.release)
    assert store.linked(TASK, "current") == document.release
    assert str(store.link(TASK).readlink()) == f"releases/{document.release}"
    store.set_link(TASK, "current", None)
    store.set_link(TASK, "current", None)
    assert not store.link(TASK).is_symlink()
    store.set_link("nobody", "current", None)


def test_collect_keeps_what_is_linked_and_what_is_named(tmp_path: Path) -> None:
    store, old = staged(tmp_path, "old")
    _, new = staged(tmp_path, "new")
    _, other = staged(tmp_path, "other")
    store.set_link(TASK, "previous", old.release)
    (store.folder(TASK) / ".current.0badcafe.tmp").symlink_to("releases/x")
    (store.folder(TASK) / "notes.txt").write_text("not ours")
    store.collect(TASK, [new.release])
    left = {path.name for path in (store.folder(TASK) / "releases").iterdir()}
    assert left == {old.release, new.release}
    assert other.release not in left
    assert {path.name for path in store.folder(TASK).iterdir()} == {"releases", "previous", "notes.txt"}


def test_a_link_that_cannot_be_read_is_not_taken_for_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, document = staged(tmp_path)
    store.set_link(TASK, "current", document.release)

    def broken(path: Path) -> Path:
        raise OSError(errno.EIO, "input/output error", str(path))

    monkeypatch.setattr(Path, "readlink", broken)
    with pytest.raises(StorageError):
        store.collect(TASK, ())
    assert store.release_folder(TASK, document.release).is_dir()


def test_a_placed_file_never_follows_or_replaces(tmp_path: Path) -> None:
    _, model, _ = candidate(tmp_path, "old")
    file = describe_file(model, "model.onnx")
    target = tmp_path / "target"
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        place_file(model, target, file)
    assert not (tmp_path / "elsewhere").exists()
    target.unlink()
    place_file(model, target, file)
    with pytest.raises(StorageError):
        place_file(model, target, file)


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b"x"), "1 bytes instead of 30000"),
        (lambda path: path.write_bytes(b"x" * 30000), "its SHA-256 differs"),
        (lambda path: path.with_name("second").hardlink_to(path), "not a file with one name"),
        (lambda path: (path.unlink(), path.mkdir()), "not a file with one name"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: object, damage: str) -> None:
    _, model, _ = candidate(tmp_path, "old")
    file, target = describe_file(model, "model.onnx"), tmp_path / "model.onnx"
    place_file(model, target, file)
    assert find_damage(target, file) is None
    change(target)  # type: ignore[operator]
    assert find_damage(target, file) == damage


def test_a_source_of_endless_length_is_cut_off(tmp_path: Path) -> None:
    long = tmp_path / "long"
    with long.open("wb") as file:
        file.truncate(50 << 20)
    with pytest.raises(DeploymentError, match="is not the file that was signed"):
        place_file(long, tmp_path / "target", DeployedFile(path="m", sha256="0" * 64, length=10))
    assert (tmp_path / "target").stat().st_size <= 1 << 20
