"""Temporary files that a kill left behind: removed by the next who writes in their folder, and by nobody else."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

from agent.durable import write_file


def test_what_a_killed_writer_left_is_gone_after_the_next_write(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        write_file(tmp_path / "new.key", b"secret", 0o600)
        os._exit(0)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"secret"
    write_file(tmp_path / "other", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_is_being_written_by_another_process_stays(tmp_path: Path) -> None:
    theirs, not_ours = tmp_path / ".a.key.0123abcd.tmp", tmp_path / ".plan.tmp"
    not_ours.touch()
    (tmp_path / ".current.0123abcd.tmp").symlink_to("releases/x")
    with theirs.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_file(tmp_path / "other", b"whole")
        assert theirs.exists()
    write_file(tmp_path / "other", b"again")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".current.0123abcd.tmp", ".plan.tmp", "other"]
