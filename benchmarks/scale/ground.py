"""What all parts stand on: Debian's mosquitto with a configuration of its own, an operator, and thousands of boards."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.clock import iso
from agent.core.operators import Operator, OperatorList
from agent.demo_broker import free_port
from agent.fleet.settings import Options, load_settings, write_public
from agent.fleet.signing import OperatorKey
from agent.mqtt import BrokerSettings

ROOT = Path(__file__).resolve().parents[2]
FLEET = "plant"
_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_LINES = """listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_queued_messages 0
log_type none
"""


class Broker:
    """One mosquitto that can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(_LINES.format(port=self.port) + ("user root\n" if os.geteuid() == 0 else ""))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> BrokerSettings:
        return BrokerSettings(host="127.0.0.1", port=self.port)

    def start(self) -> None:
        """Start, and wait until it listens."""
        import socket

        binary = shutil.which("mosquitto", path=_SEARCH)
        if binary is None:
            raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
        self.process = subprocess.Popen([binary, "-c", str(self._configuration)], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit("mosquitto did not start") from None
                time.sleep(0.005)
            else:
                return

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Operators:
    """An operator's machine: key, settings and state in one folder, and the list that boards read."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        self.key = OperatorKey.make(folder / "operator.key")
        write_public(folder / "operator.key", "anna", self.key.public_key)
        self.config = folder / "fleet.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "mqtt": {"url": f"mqtt://127.0.0.1:{broker.port}", "fleet": FLEET},
                    "operator": {"key": "operator.key"},
                }
            )
        )
        self.settings = load_settings(Options(config=self.config))
        until = iso(datetime.now(timezone.utc) + timedelta(days=30))
        listed = Operator(name="anna", public_key=self.key.public_key, role="admin", valid_until=until)
        self.list = OperatorList(operators=(listed,))
        self.file = folder / "operators.json"
        self.file.write_bytes(msgspec.json.encode(self.list))

    def words(self, *words: str) -> list[str]:
        """Return the command line of ``boardfit fleet``."""
        files = ["--config", str(self.config), "--state-dir", str(self.folder / "state")]
        return [sys.executable, "-m", "agent", "fleet", *words, *files]


class Fleet:
    """The process of ``benchmarks.simulated.many``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._said = b""

    def ask(self, word: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """Tell it a word, and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()
        return self.answer(timeout_s)

    def answer(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """Return the next line it says."""
        assert self._process.stdout is not None
        end = time.monotonic() + timeout_s
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not piece:
                raise SystemExit("the simulated boards do not answer")
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        made: dict[str, Any] = json.loads(line)
        return made


@contextmanager
def simulated_fleet(broker: Broker, operators: Operators, boards: int) -> Iterator[Fleet]:
    """Have thousands of boards connected, everything retained."""
    words = [sys.executable, "-m", "benchmarks.simulated.many", str(broker.port), str(boards), "--fleet", FLEET]
    process = subprocess.Popen(
        [*words, "--operators", str(operators.file)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        fleet = Fleet(process)
        fleet.answer()
        yield fleet
    finally:
        process.kill()
        process.wait()
