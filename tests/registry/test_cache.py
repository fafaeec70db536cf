"""The store: content addressing, quota, eviction, protection."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from agent.errors import StorageError, TrustError
from agent.registry.cache import Cache


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(cache: Cache, data: bytes, used_s: int | None = None) -> str:
    sha256 = digest(data)
    cache.make_room(sha256, len(data))
    cache.part_path(sha256).write_bytes(data)
    path = cache.insert(sha256, len(data))
    if used_s is not None:
        os.utime(path, (used_s, used_s))
    return sha256


def held(cache: Cache) -> set[str]:
    return {blob.sha256 for blob in cache.blobs()}


def test_a_blob_is_read_only_and_named_by_its_content(tmp_path):
    cache = Cache(tmp_path, reserve_bytes=0)
    sha256 = put(cache, b"model")
    path = tmp_path / "blobs" / "sha256" / sha256[:2] / sha256
    assert cache.lookup(sha256) == path
    assert path.read_bytes() == b"model"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_what_no_download_can_go_on_with_is_removed(tmp_path):
    cache = Cache(tmp_path)
    part, orphan = tmp_path / "parts" / digest(b"a"), tmp_path / "parts" / digest(b"b")
    for path in (part, part.with_name(f"{part.name}.etag"), orphan.with_name(f"{orphan.name}.etag")):
        path.write_bytes(b"x")
    (tmp_path / "parts" / f".{part.name}.etag.0123abcd.tmp").write_bytes(b"x")
    cache.tidy()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [part.name, f"{part.name}.etag"]


def test_what_is_not_there_is_none(tmp_path):
    assert Cache(tmp_path).lookup("0" * 64) is None


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 63, "A" * 64])
def test_only_digests_are_names(tmp_path, name):
    cache = Cache(tmp_path)
    for call in (cache.lookup, cache.part_path, cache.remove):
        with pytest.raises(TrustError):
            call(name)


def test_a_blob_that_rotted_is_removed_when_it_is_asked_for(tmp_path):
    cache = Cache(tmp_path, reserve_bytes=0)
    sha256 = put(cache, b"model")
    path = cache.lookup(sha256)
    path.chmod(0o644)
    path.write_bytes(b"mode1")
    assert cache.lookup(sha256) is None
    assert not path.exists()


def test_links_and_folders_are_not_believed(tmp_path):
    cache = Cache(tmp_path / "cache", reserve_bytes=0)
    outside = tmp_path / "outside"
    outside.write_bytes(b"model")
    sha256 = digest(b"model")
    path = tmp_path / "cache" / "blobs" / "sha256" / sha256[:2] / sha256
    path.parent.mkdir()
    path.symlink_to(outside)
    assert cache.lookup(sha256) is None
    os.link(outside, path)
    assert cache.lookup(sha256) is None
    path.mkdir()
    (path / "x").touch()
    assert cache.lookup(sha256) is None
    assert outside.read_bytes() == b"model"
    assert outside.stat().st_nlink == 1
    assert not path.exists()


@pytest.mark.parametrize(("data", "length"), [(b"mode1", 5), (b"model", 6), (b"", 5)])
def test_bytes_of_another_digest_or_length_are_not_inserted(tmp_path, data, length):
    cache = Cache(tmp_path, reserve_bytes=0)
    sha256 = digest(b"model")
    cache.part_path(sha256).write_bytes(data)
    with pytest.raises(TrustError):
        cache.insert(sha256, length)
    assert not cache.part_path(sha256).exists()
    assert cache.blobs() == ()


def test_the_quota_evicts_what_was_used_longest_ago(tmp_path):
    cache = Cache(tmp_path, quota_bytes=3000, reserve_bytes=0)
    old, middle, new = (put(cache, bytes([n]) * 1000, used_s=1000 + n) for n in range(3))
    assert cache.lookup(old) is not None  # used now: it becomes the newest
    latest = put(cache, b"x" * 500)
    assert held(cache) == {old, new, latest}
    assert middle not in held(cache)
    assert cache.size_bytes() <= 3000


def test_protected_blobs_are_never_evicted(tmp_path):
    protected: set[str] = set()
    cache = Cache(tmp_path, quota_bytes=2500, reserve_bytes=0, protected=lambda: protected)
    active = put(cache, b"a" * 1000, used_s=1)
    previous = put(cache, b"b" * 1000, used_s=2)
    protected |= {active, previous}
    with pytest.raises(StorageError) as caught:
        cache.make_room(digest(b"c" * 1000), 1000)
    assert caught.value.facts["missing_bytes"] == 500
    assert held(cache) == {active, previous}
    protected.discard(previous)
    put(cache, b"c" * 1000)
    assert active in held(cache)
    assert previous not in held(cache)


def test_parts_of_other_downloads_go_before_any_blob(tmp_path):
    cache = Cache(tmp_path, quota_bytes=2000, reserve_bytes=0)
    kept = put(cache, b"a" * 1000)
    other, own = digest(b"other"), digest(b"own")
    cache.part_path(other).write_bytes(b"o" * 900)
    cache.part_path(own).write_bytes(b"p" * 400)
    cache.make_room(own, 1000)
    assert held(cache) == {kept}
    assert not cache.part_path(other).exists()
    assert cache.part_path(own).stat().st_size == 400


class _Space:
    def __init__(self, free: int) -> None:
        self.f_frsize, self.f_bavail = 1, free


def test_the_disks_reserve_is_left_alone(tmp_path):
    free = 1500
    cache = Cache(tmp_path, reserve_bytes=1000, disk_space=lambda _: _Space(free))
    cache.make_room("0" * 64, 500)
    with pytest.raises(StorageError):
        cache.make_room("0" * 64, 501)


def test_old_blobs_make_room_on_a_full_disk(tmp_path):
    cache = Cache(tmp_path, reserve_bytes=0, disk_space=lambda _: _Space(10_000 - cache.size_bytes()))
    first = put(cache, b"a" * 6000, used_s=1)
    second = put(cache, b"b" * 6000, used_s=2)
    assert held(cache) == {second}
    assert first not in held(cache)


def test_a_really_full_disk_is_told_and_survived(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs needs root and the right to mount")
    try:
        cache = Cache(mount / "cache", reserve_bytes=0)
        with pytest.raises(StorageError):
            cache.make_room("0" * 64, 2_000_000)
        _fill_under_a_download(cache, mount)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def _fill_under_a_download(cache: Cache, mount: Path) -> None:
    """The disk has room when the download begins, and has none in its middle."""
    from agent.core.manifest import TargetRef
    from agent.registry.download import download
    from agent.registry.transport import FileTransport

    data = os.urandom(600_000)
    ref = TargetRef(path="blob.bin", sha256=digest(data), length=len(data))
    source = mount.parent / "registry" / "targets"
    source.mkdir(parents=True)
    (source / f"{ref.sha256}.blob.bin").write_bytes(data)
    transport = FileTransport(mount.parent / "registry")

    def fill(event: object) -> None:
        if not (mount / "filler").exists():
            (mount / "filler").write_bytes(b"f" * 800_000)

    with pytest.raises(StorageError, match="no space"):
        download(transport, ref, cache, progress=fill)
    (mount / "filler").unlink()
    assert download(transport, ref, cache).read_bytes() == data
