"""Packed candidates: publishing, fetching and unpacking them, and every way in which a packed file can be wrong."""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tuf.api.metadata import TargetFile

from agent.core.manifest import Packing
from agent.errors import DeviceError, Interrupted, ModelError, StorageError, TrustError
from agent.registry import author as authoring
from agent.registry.cache import Cache
from agent.registry.checking import check
from agent.registry.layout import target_file
from agent.registry.packing import MAX_DICTIONARY_BYTES, MEMORY_BYTES, packed, unpacked
from agent.registry.signing import load_state, publish
from tests.registry.conftest import Author
from tests.registry.samples import onnx_model
from tests.registry.test_kill import every_kill

PLAIN = np.repeat(np.random.default_rng(0).standard_normal(16).astype(np.float32), 20_000).tobytes()
FEATURES = 4000


def xz(data: bytes, **options: Any) -> bytes:
    return lzma.compress(data, **options)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear classifier with four different weights: it packs well."""
    onnx = pytest.importorskip("onnx")
    path = onnx_model(tmp_path_factory.mktemp("model") / "net.onnx", features=FEATURES)
    loaded = onnx.load(str(path))
    (tensor,) = loaded.graph.initializer
    values = np.round(onnx.numpy_helper.to_array(tensor)).clip(-1, 2).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(loaded, str(path))
    return path


@pytest.fixture(scope="module")
def packed_too(template: Author, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Author, Any]:
    """The registry of the other tests with a packed candidate more, made once, and what ``add`` said of it."""
    more = Author(tmp_path_factory.mktemp("packed") / "author")
    shutil.copytree(template.folder, more.folder)
    more.now = template.now
    return more, authoring.add(
        more.directory, model, task="digits", name="small", keys_dir=more.keys, now=more.tick(), pack=True
    )


@pytest.fixture
def author(packed_too: tuple[Author, Any], tmp_path: Path) -> Author:
    copy = Author(tmp_path / "author")
    shutil.copytree(packed_too[0].folder, copy.folder)
    copy.now = packed_too[0].now
    return copy


@pytest.fixture
def added(packed_too: tuple[Author, Any]) -> Any:
    return packed_too[1]


def forge(author: Author, data: bytes, **changes: Any) -> None:
    """Sign other bytes, or another packing, for the candidate ``small``, as a careless publisher would."""
    state = load_state(author.directory)
    targets = state.targets.signed.targets
    (path,) = [path for path in targets if path.startswith("digits/small/")]
    manifest = json.loads(targets[path].custom["boardfit"])
    manifest["packing"] |= changes
    file = author.directory / target_file(path, sha256(data))
    file.write_bytes(data)
    targets[path] = TargetFile(
        len(data), {"sha256": sha256(data)}, path, {"custom": {"boardfit": json.dumps(manifest)}}
    )
    publish(state, author.keys, ("targets",), now=author.tick())


def small_of(client: Any) -> Any:
    client.refresh()
    return next(one for one in client.candidates() if one.name == "small")


def test_the_same_file_packs_to_the_same_bytes_and_out_again(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(PLAIN)
    data = packed(tmp_path / "m")
    assert data is not None and data == packed(tmp_path / "m")
    assert len(data) < len(PLAIN) / 10
    assert lzma.decompress(data) == PLAIN  # any xz reads it
    (tmp_path / "m.xz").write_bytes(data)
    with (tmp_path / "m.xz").open("rb") as file:
        signed = Packing(method="xz", sha256=sha256(PLAIN), length=len(PLAIN))
        assert b"".join(unpacked(file, signed, "m")) == PLAIN


def test_what_packing_does_not_make_smaller_is_published_as_it_is(
    author: Author, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noise").write_bytes(np.random.default_rng(1).bytes(5000))
    (tmp_path / "empty").write_bytes(b"")
    assert packed(tmp_path / "noise") is None
    assert packed(tmp_path / "empty") is None
    monkeypatch.setattr(authoring, "packed", lambda _: None)
    result = authoring.add(
        author.directory, model, task="digits", name="noisy", keys_dir=author.keys, now=author.tick(), pack=True
    )
    assert (result.target.path, result.target.length) == ("digits/noisy/net.onnx", result.model_bytes)
    assert "packing" not in result.manifest


def test_a_packed_candidate_is_published_with_both_sizes(author: Author, model: Path, added: Any) -> None:
    data = model.read_bytes()
    assert added.target.path == "digits/small/net.onnx.xz"
    assert added.target.length < len(data) / 5
    assert added.model_bytes == len(data)
    assert added.manifest["schema"] == "boardfit.manifest/2"
    assert added.manifest["packing"] == {"method": "xz", "sha256": sha256(data), "length": len(data)}
    assert added.manifest["inputs"][0]["shape"] == (-1, FEATURES)  # read from the unpacked file
    assert added.golden_samples > 0
    assert check(author.directory, now=author.now).sound
    again = authoring.add(
        author.directory, model, task="digits", name="small", keys_dir=author.keys, now=author.tick(),
        pack=True, replace=True,
    )  # fmt: skip
    assert again.target == added.target


def test_a_plain_candidate_is_signed_as_before(author: Author) -> None:
    state = load_state(author.directory)
    for path, target in state.targets.signed.targets.items():
        if path.startswith("digits/float/"):
            manifest = json.loads(target.custom["boardfit"])
            assert manifest["schema"] == "boardfit.manifest/1"
            assert "packing" not in manifest


def test_the_packing_is_not_given_by_hand(author: Author, model: Path) -> None:
    with pytest.raises(ModelError, match="packing"):
        authoring.add(
            author.directory, model, task="digits", name="x", keys_dir=author.keys, now=author.tick(),
            extra={"packing": {"method": "xz"}},
        )  # fmt: skip


def test_a_board_unpacks_once_and_keeps_the_model_only(make_client, model, added, served, tmp_path) -> None:
    client = make_client(served.url)
    candidate = small_of(client)
    data = model.read_bytes()
    assert (candidate.sha256, candidate.size_bytes, candidate.model_bytes) == (
        sha256(data), added.target.length, len(data),
    )  # fmt: skip
    events = []
    path = client.fetch_model(candidate, progress=events.append)
    assert path.read_bytes() == data
    assert [blob.sha256 for blob in Cache(tmp_path / "cache").blobs()] == [candidate.sha256]
    assert events[-1].text == "unpacking small"
    assert (events[-1].done, events[-1].total) == (len(data), len(data))
    asked = len(served.faults.ranges(".xz"))
    assert client.fetch_model(candidate) == path
    assert len(served.faults.ranges(".xz")) == asked == 1
    path.chmod(0o644)
    path.write_bytes(b"\0" * len(data))  # the card lost it: it is fetched anew
    assert client.fetch_model(candidate).read_bytes() == data


def test_plain_candidates_are_fetched_as_ever(make_client) -> None:
    client = make_client()
    client.refresh()
    candidate = client.candidates()[0]
    assert client.fetch_model(candidate).stat().st_size == candidate.size_bytes
    assert candidate.size_unpacked_bytes is None


HUGE = bytes(9 * 1024 * 1024)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-1], "the stream ends after"),
        (lambda data: data[: len(data) // 2], "the stream ends after"),
        (lambda data: data[:20], "the stream ends after 0 of"),
        (lambda data: data + b"x", "something follows the stream"),
        (lambda data: data + data, "something follows the stream"),
        (lambda data: b"garbage" * 100, "after 0 bytes"),
        (lambda data: data[:200] + b"\0\0\0\0" + data[204:], "cannot be unpacked"),
        (lambda data: xz(HUGE, preset=0), "more comes out than"),
        (lambda data: xz(lzma.decompress(data) + b"\0"), "more comes out than"),
        (lambda data: xz(lzma.decompress(data)[:-1]), "are signed"),
        (lambda data: xz(b"\0" * len(lzma.decompress(data))), "not the signed model"),
        (lambda data: xz(lzma.decompress(data), preset=9), "[Mm]emory"),
        (lambda data: xz(lzma.decompress(data), format=lzma.FORMAT_ALONE), "after 0 bytes"),
    ],
    ids=[
        "cut at the end", "cut in half", "cut in the head", "one byte more", "a second stream", "no xz", "damaged",
        "a bomb", "one byte too long", "one byte short", "another file", "a large dictionary", "another container",
    ],
)  # fmt: skip
def test_a_packed_file_that_is_not_right_is_refused_by_board_and_check(author, make_client, added, spoil, said) -> None:
    good = (author.directory / target_file(added.target.path, added.target.sha256)).read_bytes()
    forge(author, spoil(good))
    client = make_client()
    candidate = small_of(client)
    with pytest.raises(ModelError, match=said) as caught:
        client.fetch_model(candidate)
    assert caught.value.problem.startswith("small ")
    cache = client._cache
    assert cache.lookup(candidate.sha256) is None
    assert not cache.part_path(candidate.sha256).exists()
    report = check(author.directory, now=author.now)
    assert [item.where for item in report.findings if item.level == "error"] == [added.target.path]
    # The others are had all the same, and a corrected publication is taken.
    assert client.fetch_model(client.candidates()[0]).is_file()
    forge(author, good)
    assert sha256(client.fetch_model(small_of(client)).read_bytes()) == candidate.sha256


def test_a_bomb_stops_at_the_signed_length(tmp_path: Path) -> None:
    """What a bomb would fill the disk with never comes out of the generator."""
    (tmp_path / "bomb").write_bytes(xz(HUGE, preset=0))
    came = 0
    with (tmp_path / "bomb").open("rb") as file, pytest.raises(ModelError):
        for piece in unpacked(file, Packing(method="xz", sha256="0" * 64, length=1000), "bomb"):
            came += len(piece)
    assert came <= 1000


def test_the_dictionary_is_small_enough_for_a_small_board(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(HUGE)
    data = packed(tmp_path / "large")
    assert data is not None
    lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY_BYTES + 1024 * 1024).decompress(data, 10)
    with pytest.raises(lzma.LZMAError):
        lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_BYTES).decompress(xz(HUGE, preset=9), 10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "zstd"}, "'zstd', which is not known here: it needs a newer boardfit"),
        ({"sha256": "A" * 64}, "not valid"),
        ({"sha256": "0" * 64 + "\n"}, "not valid"),
        ({"length": 0}, "not valid"),
        ({"length": "7"}, "not valid"),
        ({"method": 7}, "not valid"),
    ],
)
def test_a_packing_that_is_not_understood_is_refused_and_the_others_stay(
    author, make_client, added, changes, said
) -> None:
    forge(author, b"x", **changes)
    status = make_client().refresh()
    (refused,) = status.refused
    assert (refused.path, status.candidates) == (added.target.path, 2)
    assert said in refused.reason


def test_a_packed_candidate_under_the_first_schema_is_refused(author, make_client, added) -> None:
    """Older boards would take the packed bytes for the model."""
    state = load_state(author.directory)
    target = state.targets.signed.targets[added.target.path]
    manifest = json.loads(target.custom["boardfit"]) | {"schema": "boardfit.manifest/1"}
    target.unrecognized_fields["custom"]["boardfit"] = json.dumps(manifest)
    publish(state, author.keys, ("targets",), now=author.tick())
    (refused,) = make_client().refresh().refused
    assert "do not unpack" in refused.reason


def test_a_candidate_that_is_not_signed_as_packed_so_is_refused(make_client, added) -> None:
    client = make_client()
    candidate = small_of(client)
    other = msgspec.structs.replace(candidate.manifest.packing, sha256="0" * 64)
    manifest = msgspec.structs.replace(candidate.manifest, packing=other)
    with pytest.raises(TrustError, match="not signed as packed"):
        client.fetch_model(msgspec.structs.replace(candidate, manifest=manifest))


def test_room_for_both_files_is_made_before_the_first_byte(make_client, served, model, added, tmp_path) -> None:
    both = added.target.length + model.stat().st_size
    cache = Cache(tmp_path / "cache", reserve_bytes=0, quota_bytes=both - 1)
    client = make_client(served.url, cache=cache)
    with pytest.raises(StorageError) as caught:
        client.fetch_model(small_of(client))
    assert caught.value.facts["needed_bytes"] == both
    assert served.faults.ranges(".xz") == []
    cache.quota_bytes = both
    assert client.fetch_model(small_of(client)).is_file()
    assert cache.size_bytes() == model.stat().st_size


def test_a_part_that_lies_there_is_never_trusted(make_client, model, added, tmp_path) -> None:
    client = make_client()
    candidate = small_of(client)
    part = tmp_path / "cache" / "parts" / candidate.sha256
    secret = tmp_path / "secret"
    secret.write_bytes(b"keep")
    for lie in (
        lambda: part.write_bytes(b"\0" * model.stat().st_size),
        lambda: part.write_bytes(model.read_bytes()[:500]),
        lambda: part.symlink_to(secret),
        part.mkdir,
    ):
        lie()
        assert client.fetch_model(candidate).read_bytes() == model.read_bytes()
        client._cache.remove(candidate.sha256)
    assert secret.read_bytes() == b"keep"


def test_a_stop_in_the_middle_leaves_the_packed_file_and_no_part(make_client, model, added, tmp_path) -> None:
    client = make_client()
    candidate = small_of(client)
    seen = []

    def stop() -> bool:
        return any(event.text.startswith(candidate.target.path) for event in seen)

    with pytest.raises(Interrupted, match="unpacking"):
        client.fetch_model(candidate, progress=seen.append, stop=lambda: stop() and seen[-1].done == seen[-1].total)
    assert [blob.sha256 for blob in client._cache.blobs()] == [candidate.target.sha256]
    assert not list((tmp_path / "cache" / "parts").iterdir())
    assert client.fetch_model(candidate).read_bytes() == model.read_bytes()


def test_unpacking_killed_anywhere_can_go_on(make_client, model, added, tmp_path) -> None:
    client = make_client()
    candidate = small_of(client)
    data = model.read_bytes()
    cache = Cache(tmp_path / "cache", reserve_bytes=0)

    def go_on(step: int) -> None:
        found = cache.lookup(candidate.sha256)
        assert found is None or found.read_bytes() == data, step
        assert client.fetch_model(candidate).read_bytes() == data, step
        assert {blob.sha256 for blob in cache.blobs()} <= {candidate.sha256, candidate.target.sha256}
        for blob in cache.blobs():
            cache.remove(blob.sha256)

    assert every_kill(tmp_path / "cache", lambda: client.fetch_model(candidate), go_on) >= 5


def test_a_python_without_lzma_says_so(make_client, added, monkeypatch) -> None:
    client = make_client()
    candidate = small_of(client)
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(DeviceError, match="cannot read or write packed models"):
        client.fetch_model(candidate)
