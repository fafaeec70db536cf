"""A real PostgreSQL on a Unix socket and a free loopback port, run by an unprivileged user, that can be stopped."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from agent.demo_broker import free_port

_SETTINGS = {
    "fsync": "off",  # a test's data need not outlive the machine; a killed server is another matter, and needs no fsync
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "autovacuum": "off",
    "timezone": "Asia/Kolkata",  # not ours: what is stored must not depend on it
}


class Postgres:
    """One server with its data in ``folder``. ``url`` is of its first database."""

    def __init__(self, folder: Path) -> None:
        self._binaries = _binaries()
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._user = {}
        if os.getuid() == 0:  # PostgreSQL refuses root
            someone = pwd.getpwnam("postgres")
            self._user = {"user": someone.pw_uid, "group": someone.pw_gid, "extra_groups": []}
            folder.mkdir(parents=True)
            os.chown(folder, someone.pw_uid, someone.pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-U", "boardfit", "-A", "trust", "-E", "UTF8", "--no-sync",
                  "--locale=C")  # fmt: skip

    def start(self) -> Postgres:
        options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        self.process = subprocess.Popen(
            [self._binaries / "postgres", "-D", self.folder / "data", "-p", str(self.port), *options],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._user,
        )  # fmt: skip
        self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), attempts=200)
        return self

    def stop(self) -> None:
        """Stop at once, as a machine that loses power does to its clients."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(60)
            self.process = None

    def database(self) -> str:
        """Return the URL of a new, empty database."""
        self._databases += 1
        name = f"collector_{self._databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "boardfit", name)
        return f"postgresql://boardfit@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str, attempts: int = 1) -> None:
        for _ in range(attempts):
            done = subprocess.run(
                [self._binaries / program, *arguments], cwd=self.folder if self.folder.is_dir() else None,
                capture_output=True, text=True, check=False, **self._user,
            )  # fmt: skip
            if done.returncode == 0:
                return
        pytest.fail(f"{program} did not succeed: {done.stdout}{done.stderr}")


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if shutil.which("initdb") is None:
        pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
    return Path(str(shutil.which("initdb"))).parent
