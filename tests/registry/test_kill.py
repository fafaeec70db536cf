"""SIGKILL at every step a refresh, a download or a publication takes on the file system; then go on.

The step is counted by an audit hook in a forked child, which kills itself before the n-th one happens.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.registry.author import rotate
from agent.registry.cache import Cache
from agent.registry.checking import check
from agent.registry.signing import load_state

_STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "open"}
_MAX_STEPS = 400


def killed_at(step: int, under: Path, act: Callable[[], object]) -> bool:
    """Run ``act`` in a child that dies before its step number ``step`` under a folder. Returns: it died there."""
    child = os.fork()
    if child == 0:
        _die_at(step, under)
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the act itself failed"
    return False


def _die_at(step: int, under: Path) -> None:
    left = step

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event not in _STEPS or not str(arguments[0]).startswith(str(under)):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def every_kill(under: Path, act: Callable[[], object], check_after: Callable[[int], None]) -> int:
    for step in range(1, _MAX_STEPS):
        if not killed_at(step, under, act):
            return step - 1
        check_after(step)
    pytest.fail("it never finished")


def test_a_refresh_killed_anywhere_leaves_candidates_and_can_go_on(make_client, author, tmp_path):
    make_client().refresh()
    author.add_blob("x", b"x")
    state = tmp_path / "state"
    kept = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}

    def go_on(step: int) -> None:
        # Before asking the registry again: what was verified last, old or new, whole.
        assert len(make_client("/nonexistent").candidates()) == 2, step
        assert make_client().refresh().versions["targets"] == 4, step
        for path in [path for path in state.rglob("*") if path.is_file()]:
            path.unlink()
        for path, data in kept.items():
            path.write_bytes(data)

    assert every_kill(state, lambda: make_client().refresh(), go_on) >= 8


def test_a_first_refresh_killed_anywhere_can_go_on(make_client, tmp_path):
    import shutil

    def go_on(step: int) -> None:
        assert make_client().refresh().candidates == 2, step
        shutil.rmtree(tmp_path / "state")

    assert every_kill(tmp_path / "state", lambda: make_client().refresh(), go_on) >= 8


def test_a_download_killed_anywhere_can_go_on(make_client, author, tmp_path):
    data = os.urandom(300_000)
    ref = author.add_blob("blob.bin", data)
    client = make_client()
    client.refresh()
    cache = Cache(tmp_path / "cache", reserve_bytes=0)

    def go_on(step: int) -> None:
        blobs = [path for path in (tmp_path / "cache" / "blobs").rglob("*") if path.is_file()]
        assert all(path.read_bytes() == data for path in blobs), step
        assert client.fetch(ref).read_bytes() == data, step
        assert not [path for path in (tmp_path / "cache" / "parts").iterdir() if path.name == ref.sha256]
        cache.remove(ref.sha256)

    assert every_kill(tmp_path / "cache", lambda: client.fetch(ref), go_on) >= 3


def test_a_download_killed_at_any_chunk_is_resumed(make_client, author, tmp_path):
    data = os.urandom(300_000)
    ref = author.add_blob("blob.bin", data)
    client = make_client()
    client.refresh()
    part = tmp_path / "cache" / "parts" / ref.sha256

    def fetch_and_die(at: int) -> None:
        def die(event) -> None:
            if event.done >= at:
                os.kill(os.getpid(), signal.SIGKILL)

        client.fetch(ref, progress=die)

    for at in (65536, 131072, 262144):
        assert killed_at(10**9, tmp_path, lambda at=at: fetch_and_die(at))
        assert part.read_bytes() == data[: part.stat().st_size]
        assert part.stat().st_size >= at
    assert client.fetch(ref).read_bytes() == data


@pytest.mark.slow
@pytest.mark.parametrize("role", ["root", "targets"])
def test_a_rotation_killed_anywhere_leaves_a_registry_that_holds_together(make_client, author, role):
    def go_on(step: int) -> None:
        assert check(author.directory, now=author.tick()).sound, step
        assert make_client().refresh().reachable, step
        author.add_blob("after", str(step).encode())
        assert make_client().refresh().reachable, step

    every_kill(author.folder, lambda: rotate(author.directory, role, keys_dir=author.keys, now=author.tick()), go_on)


def test_a_publication_killed_anywhere_shows_boards_the_old_or_the_new(make_client, author):
    def go_on(step: int) -> None:
        assert make_client().refresh().candidates == 2, step
        before = load_state(author.directory).targets.signed.version
        assert check(author.directory, now=author.now).sound
        author.tick()
        author.add_blob("after", str(step).encode())
        assert load_state(author.directory).targets.signed.version == before + 1
        assert make_client().refresh().versions["targets"] == before + 1

    assert every_kill(author.directory, lambda: author.add_blob("x", b"x"), go_on) >= 6
