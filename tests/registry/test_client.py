"""The board's side: what is believed, what is refused, and what still works when the registry is away."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from agent.core.manifest import TargetRef, manifest_document
from agent.errors import ConfigError, DownloadError, ExpiredError, TrustError
from agent.registry import author as authoring
from agent.registry.signing import DEFAULT_VALIDITY, load_state


def _names(client) -> list[str]:
    return [candidate.name for candidate in client.candidates()]


def _copy(directory: Path, to: Path) -> Path:
    shutil.copytree(directory, to)
    return to


def test_refresh_lists_verified_candidates(make_client, served):
    client = make_client(served.url)
    status = client.refresh()
    assert (status.reachable, status.stale, status.candidates, status.refused) == (True, None, 2, ())
    assert status.versions == {"root": 1, "targets": 3, "snapshot": 3, "timestamp": 3}
    assert [(c.task, c.name) for c in client.candidates()] == [("digits", "float"), ("digits", "wide")]
    assert client.candidates("other") == ()


def test_unknown_manifest_fields_survive_the_way(make_client):
    client = make_client()
    client.refresh()
    manifest = client.candidates()[0].manifest
    assert manifest.extra == {"not_known_yet": {"a": [1, 2.5]}}
    assert manifest_document(manifest)["not_known_yet"] == {"a": [1, 2.5]}


def test_everything_a_candidate_refers_to_can_be_fetched(make_client, served, author):
    client = make_client(served.url)
    client.refresh()
    candidate = client.candidates()[0]
    model = client.fetch(candidate.target)
    assert model.read_bytes() == (author.folder / "float.onnx").read_bytes()
    for ref in (candidate.manifest.golden, candidate.manifest.evaluation):
        assert client.fetch(ref).stat().st_size == ref.length


def test_a_reference_that_is_not_signed_is_refused(make_client):
    client = make_client()
    client.refresh()
    target = client.candidates()[0].target
    for ref in (
        TargetRef(path=target.path, sha256="0" * 64, length=target.length),
        TargetRef(path=target.path, sha256=target.sha256, length=target.length + 1),
        TargetRef(path="digits/other/x", sha256=target.sha256, length=target.length),
    ):
        with pytest.raises(TrustError, match="not signed"):
            client.fetch(ref)


def test_a_missing_root_of_trust_says_where_it_comes_from(make_client, tmp_path):
    with pytest.raises(ConfigError, match=r"copy root\.json|Copy root\.json"):
        make_client(root=tmp_path / "absent.json")


def test_the_wrong_root_trusts_nothing(make_client, author, tmp_path):
    authoring.init(tmp_path / "other", tmp_path / "other-keys", now=author.now)
    client = make_client(root=tmp_path / "other" / "root.json")
    with pytest.raises(TrustError):
        client.refresh()
    with pytest.raises(DownloadError, match="stored"):
        client.candidates()


def test_garbage_as_root_trusts_nothing(make_client, tmp_path):
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(TrustError):
        make_client(root=tmp_path / "bad.json").refresh()


@pytest.mark.parametrize("role", ["timestamp", "3.snapshot", "3.targets"])
def test_tampered_metadata_is_refused(make_client, author, role):
    path = author.directory / f"metadata/{role}.json"
    document = json.loads(path.read_bytes())
    document["signed"]["expires"] = "2036-01-01T00:00:00Z"
    path.write_text(json.dumps(document))
    with pytest.raises(TrustError):
        make_client().refresh()


def test_metadata_without_signatures_is_refused(make_client, author):
    path = author.directory / "metadata/timestamp.json"
    document = json.loads(path.read_bytes())
    document["signatures"] = []
    path.write_text(json.dumps(document))
    with pytest.raises(TrustError):
        make_client().refresh()


def test_rollback_of_the_timestamp_is_refused(make_client, author, tmp_path):
    old = _copy(author.directory, tmp_path / "old")
    author.add_blob("x", b"x")
    make_client().refresh()
    with pytest.raises(TrustError):
        make_client(str(old)).refresh()
    assert _names(make_client()) == ["float", "wide"]


def test_rollback_of_the_snapshot_under_a_newer_timestamp_is_refused(make_client, author, tmp_path):
    author.add_blob("x", b"x")
    make_client().refresh()
    # An attacker with the timestamp key only points it at an older snapshot, signed properly once.
    state = load_state(author.directory)
    state.timestamp.signed.snapshot_meta.version -= 1
    data = (author.directory / f"metadata/{state.snapshot.signed.version - 1}.snapshot.json").read_bytes()
    state.timestamp.signed.snapshot_meta.length = len(data)
    import hashlib

    state.timestamp.signed.snapshot_meta.hashes = {"sha256": hashlib.sha256(data).hexdigest()}
    _sign_timestamp(author, state)
    with pytest.raises(TrustError):
        make_client().refresh()


def test_mix_and_match_of_targets_is_refused(make_client, author):
    state = load_state(author.directory)
    shutil.copy(author.directory / "metadata/2.targets.json", author.directory / "metadata/3.targets.json")
    assert state.targets.signed.version == 3
    with pytest.raises(TrustError):
        make_client().refresh()


def test_metadata_longer_than_signed_is_refused(make_client, author):
    path = author.directory / "metadata/3.snapshot.json"
    path.write_bytes(path.read_bytes() + b" " * 1000)
    with pytest.raises(TrustError, match="more than is signed"):
        make_client().refresh()


def test_endless_metadata_is_cut_off(make_client, served):
    def endless(handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(64):
            handler.wfile.write(b" " * 65536)
        handler.close_connection = True
        return True

    served.faults.on("timestamp.json", endless)
    with pytest.raises(TrustError, match="more than is signed"):
        make_client(served.url).refresh()


def test_an_expired_registry_is_told_apart(make_client, clock):
    clock.now += timedelta(days=31)
    with pytest.raises(ExpiredError, match="timestamp"):
        make_client().refresh()


def test_candidates_end_when_their_metadata_does(make_client, clock):
    client = make_client()
    client.refresh()
    clock.now += timedelta(days=31)
    with pytest.raises(ExpiredError):
        client.candidates()
    with pytest.raises(ExpiredError):
        make_client().candidates()
    with pytest.raises(ExpiredError, match="and the registry is away") as caught:
        make_client("http://127.0.0.1:9").refresh()
    assert caught.value.facts["reachable"] is False


def test_an_expired_registry_is_believed_again_after_refresh(make_client, author, clock):
    make_client().refresh()
    clock.now += timedelta(days=31)
    with pytest.raises(ExpiredError):
        make_client().refresh()
    authoring.refresh(author.directory, keys_dir=author.keys, now=clock.now)
    assert make_client().refresh().reachable


def test_a_registry_that_is_away_leaves_the_candidates(make_client, served):
    make_client(served.url).refresh()
    for url in ("http://127.0.0.1:9", "/nonexistent/registry"):
        client = make_client(url)
        status = client.refresh()
        assert (status.reachable, status.candidates) == (False, 2)
        assert status.stale
        assert _names(client) == ["float", "wide"]


def test_a_registry_that_was_never_reached_is_a_download_error(make_client):
    with pytest.raises(DownloadError):
        make_client("http://127.0.0.1:9").refresh()
    with pytest.raises(DownloadError, match="sync"):
        make_client().candidates()


def test_a_refresh_that_breaks_off_in_the_middle_keeps_the_old_candidates(make_client, author, served):
    make_client(served.url).refresh()
    author.add_blob("x", b"x")

    def unavailable(handler) -> bool:
        handler.send_error(503)
        return True

    for document in ("4.snapshot.json", "4.targets.json"):
        served.faults.on(document, unavailable)
        client = make_client(served.url)
        status = client.refresh()
        assert (status.reachable, status.versions["targets"]) == (False, 3)
        assert "503" in status.stale
        assert _names(make_client()) == ["float", "wide"]
        served.faults.on(document)
    assert make_client(served.url).refresh().versions["targets"] == 4


def test_new_roots_are_followed_from_the_installed_one(make_client, author):
    for _ in range(3):
        authoring.refresh(author.directory, keys_dir=author.keys, now=author.tick(), roles=("root",))
    assert make_client().refresh().versions["root"] == 4
    # The stored set carries the chain: it is verified from the installed root, without the registry.
    assert make_client("http://127.0.0.1:9").refresh().versions["root"] == 4


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_boards_follow_a_new_key_and_leave_the_old_one(make_client, author, tmp_path, role):
    make_client().refresh()
    stolen = _copy(author.keys, tmp_path / "stolen")
    authoring.rotate(author.directory, role, keys_dir=author.keys, now=author.tick())
    (author.keys / f"{role}.pem").unlink()
    author.add_blob("x", b"x")
    if role == "root":
        authoring.refresh(author.directory, keys_dir=author.keys, now=author.tick(), roles=("root",))
    client = make_client()
    assert client.refresh().versions["root"] == 3
    assert client.find("_test/x") is not None
    with pytest.raises(ConfigError, match="is not the"):
        authoring.refresh(author.directory, keys_dir=stolen, now=author.tick(), roles=(role,))


def test_a_root_the_former_root_did_not_sign_is_not_followed(make_client, author, tmp_path):
    authoring.init(tmp_path / "other", tmp_path / "other-keys", now=author.now)
    authoring.refresh(tmp_path / "other", keys_dir=tmp_path / "other-keys", now=author.now, roles=("root",))
    shutil.copy(tmp_path / "other/metadata/2.root.json", author.directory / "metadata/2.root.json")
    with pytest.raises(TrustError):
        make_client().refresh()


def test_metadata_is_written_by_our_own_durable_function(make_client, monkeypatch):
    """python-tuf's own way has no fsync; this fails when a new version of it goes around ours."""
    from agent.errors import StorageError
    from agent.registry import trust

    written = []

    def refuse(path, data, mode=0o644) -> None:
        written.append(path.name)
        raise StorageError("no")

    monkeypatch.setattr(trust, "write_file", refuse)
    with pytest.raises(StorageError):
        make_client().refresh()
    assert written == ["1.root.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe garbage", b'{"files": {}}', b"[1,2]"])
def test_damaged_local_files_never_brick_the_client(make_client, author, tmp_path, damage):
    authoring.refresh(author.directory, keys_dir=author.keys, now=author.tick(), roles=("root", "timestamp"))
    make_client().refresh()
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        good = path.read_bytes()
        path.write_bytes(damage)
        client = make_client()
        assert client.refresh().candidates == 2, path
        assert path.read_bytes() == good or path.name in ("time-floor", "1.root.json"), path


def test_folders_and_rests_in_the_place_of_files_are_cleared(make_client, tmp_path):
    make_client().refresh()
    metadata = tmp_path / "state" / "metadata"
    for name in ("timestamp.json", "snapshot.json", "root_history/1.root.json"):
        (metadata / name).unlink()
        (metadata / name).mkdir()
        (metadata / name / "x").touch()
    (metadata / ".targets.json.0011aabb.tmp").write_bytes(b"half")
    assert make_client().refresh().reachable
    assert not list(metadata.glob(".*.tmp"))


def test_what_a_kill_has_left_is_removed_in_one_place(make_client, tmp_path):
    client = make_client()
    client.refresh()
    beside = tmp_path / "state" / ".time-floor.0011aabb.tmp"
    part = client._cache.directory / "parts" / ".x.etag.0011aabb.tmp"
    for path in (beside, part):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    client.tidy()
    assert [path for path in (beside, part) if path.exists()] == []


def test_time_has_a_floor(make_client, author, clock):
    """A board that starts in 1970 judges expiry at the newest time it has seen signed, or refreshed at."""
    true_time = clock.now
    clock.now += timedelta(days=25)
    make_client().refresh()
    clock.now = clock.now.replace(year=1970)
    client = make_client()
    status = client.refresh()
    assert status.clock_behind_s > 50 * 365 * 86400
    # Four more days and the registry's timestamp ends: a board that was on at that time does not believe it later.
    clock.now = true_time + timedelta(days=29, hours=20)
    make_client().refresh()
    clock.now = clock.now.replace(year=1971)
    assert make_client().refresh().reachable
    authoring.refresh(author.directory, keys_dir=author.keys, now=true_time + timedelta(days=60))
    make_client().refresh()
    shutil.rmtree(make_client()._state_dir / "metadata")
    (make_client()._state_dir / "time-floor").write_text("nonsense")
    assert make_client().refresh().reachable


def test_a_clock_that_is_far_ahead_does_not_enter_the_floor(make_client, clock):
    make_client().refresh()
    good = clock.now
    clock.now += timedelta(days=20 * 365)
    with pytest.raises(ExpiredError):
        make_client().refresh()
    clock.now = good
    assert make_client().refresh().clock_behind_s == 0.0


def test_the_installed_roots_issue_is_a_floor_too(make_client, author, clock, tmp_path):
    clock.now = clock.now.replace(year=1970)
    status = make_client().refresh()
    assert status.clock_behind_s > 50 * 365 * 86400
    late = {role: timedelta(days=1) for role in DEFAULT_VALIDITY}
    authoring.init(tmp_path / "r", tmp_path / "k", now=author.now, validity={**late, "root": timedelta(days=900)})
    authoring.refresh(tmp_path / "r", keys_dir=tmp_path / "k", now=author.now + timedelta(days=300), roles=("root",))
    client = make_client(str(tmp_path / "r"), root=tmp_path / "r" / "root.json", state_dir=tmp_path / "other-state")
    with pytest.raises(ExpiredError):
        client.refresh()


def test_one_unreadable_manifest_does_not_hide_the_others(make_client, author):
    state = load_state(author.directory)
    from agent.registry.signing import publish

    targets = state.targets.signed.targets
    custom = targets["digits/wide/wide.onnx"].unrecognized_fields["custom"]
    manifest = json.loads(custom["boardfit"])
    custom["boardfit"] = json.dumps({**manifest, "schema": "boardfit.manifest/9"})
    publish(state, author.keys, ("targets",), now=author.tick())
    client = make_client()
    status = client.refresh()
    assert _names(client) == ["float"]
    assert [item.path for item in status.refused] == ["digits/wide/wide.onnx"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"task": "../etc"},
        {"needs": {"opset": 21}},
        {"golden": {"path": "digits/_data/x.npz", "sha256": "0" * 64, "length": 1}},
        {"inputs": 3},
    ],
)
def test_a_signed_manifest_that_contradicts_itself_is_refused(make_client, author, change):
    from agent.registry.signing import publish

    state = load_state(author.directory)
    custom = state.targets.signed.targets["digits/wide/wide.onnx"].unrecognized_fields["custom"]
    custom["boardfit"] = json.dumps({**json.loads(custom["boardfit"]), **change})
    publish(state, author.keys, ("targets",), now=author.tick())
    client = make_client()
    assert len(client.refresh().refused) == 1
    assert _names(client) == ["float"]


def test_a_signed_file_that_is_no_model_is_found_by_its_path(make_client, author):
    ref = author.add_blob("operators.json", b"{}")
    client = make_client()
    client.refresh()
    assert client.find("_test/operators.json") == ref
    assert client.kind("_test/operators.json") == "test"
    assert client.find("nothing") is None
    assert client.fetch(ref).read_bytes() == b"{}"


def _run(code: str, *arguments: object) -> str:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout.strip()


def test_importing_the_client_loads_neither_numpy_nor_a_runtime():
    heavy = "{'numpy', 'onnxruntime', 'onnx', 'tflite_runtime', 'ai_edge_litert', 'PIL'}"
    assert _run(f"import sys, agent.registry.client; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_a_board_without_cryptography_verifies(make_client, author, tmp_path):
    code = """
import sys
sys.modules["cryptography"] = None
from datetime import datetime, timezone
from pathlib import Path
from agent.registry.cache import Cache
from agent.registry.client import RegistryClient

class Clock:
    def utc(self):
        return datetime(2026, 11, 2, tzinfo=timezone.utc)

url, state = sys.argv[1], Path(sys.argv[2])
client = RegistryClient(url, Path(url) / "root.json", state, Cache(state / "cache", reserve_bytes=0), clock=Clock())
print(client.refresh().candidates, client.fetch(client.candidates()[0].target).is_file())
"""
    assert _run(code, author.directory, tmp_path / "bare") == "2 True"


def _sign_timestamp(author, state) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    state.timestamp.signed.version += 1
    state.timestamp.sign(CryptoSigner(load_pem_private_key((author.keys / "timestamp.pem").read_bytes(), None)))
    (author.directory / "metadata/timestamp.json").write_bytes(state.timestamp.to_bytes())


@pytest.mark.parametrize(("ahead", "clock_ahead"), [(30_000, 0), (60, 0), (60, 45)])
def test_a_stolen_key_that_signs_a_time_ahead_ends_with_that_key(make_client, author, clock, ahead, clock_ahead):
    """A time of issue in the future is kept as the floor at most until the registry has replaced the key."""
    make_client().refresh()
    state = load_state(author.directory)
    issued = clock.now + timedelta(days=ahead)
    state.timestamp.signed.unrecognized_fields["issued"] = issued.strftime("%Y-%m-%dT%H:%M:%SZ")
    state.timestamp.signed.expires = issued + timedelta(days=1)
    _sign_timestamp(author, state)
    clock.now += timedelta(days=clock_ahead)
    make_client().refresh()
    clock.now -= timedelta(days=clock_ahead)
    assert _names(make_client()) == ["float", "wide"], "what was signed by other keys does not end by it"
    state.timestamp.signed.unrecognized_fields["issued"] = "2026-11-01T12:00:00Z"
    _sign_timestamp(author, state)  # the author goes on as if nothing had happened
    authoring.rotate(author.directory, "timestamp", keys_dir=author.keys, now=author.tick())
    author.add_blob("x", b"x")
    client = make_client()
    assert client.refresh().reachable
    assert client.find("_test/x") is not None
    assert make_client().status().clock_behind_s == 0.0
