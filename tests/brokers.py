"""A real mosquitto on a free loopback port, and a subscriber that keeps what it hears."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.demo_broker import free_port
from agent.mqtt import BrokerSettings, Connection, Incoming, drive

SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


class Mosquitto:
    """One broker that can be killed, frozen and started again on the same port."""

    def __init__(self, folder: Path, lines: str) -> None:
        self.folder = folder
        self.lines = lines
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        binary = shutil.which("mosquitto", path=SEARCH)
        if binary is None:
            pytest.fail("mosquitto is not installed: apt-get install mosquitto")
        configuration = self.folder / f"mosquitto-{self.port}.conf"
        configuration.write_text(
            "log_dest stderr\nlog_type error\nlog_type information\nset_tcp_nodelay true\npersistence false\n"
            f"user root\nlistener {self.port} 127.0.0.1\n{self.lines}\n"
        )
        self.process = subprocess.Popen([binary, "-c", str(configuration)], stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        said = b""
        while b" running" not in said:
            ready, _, _ = select.select([self.process.stderr], [], [], 20)
            chunk = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            if not chunk:
                pytest.fail(f"mosquitto did not start: {said.decode()}")
            said += chunk
        return self

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process = None

    def settings(self, **changes: object) -> BrokerSettings:
        return BrokerSettings(**{"host": "127.0.0.1", "port": self.port, **changes})  # type: ignore[arg-type]


class Listener:
    """Subscribes to everything and keeps what comes."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.got: list[Incoming] = []
        self.connection = Connection(settings)
        self.connection.connect(10)
        self.connection.subscribe("#", self.got.append)
        self.wait_for_subscription()

    def wait_for_subscription(self) -> None:
        # A message to ourselves comes back only once the subscription holds.
        self.connection.publish("marker", b"")
        self.wait(lambda: any(one.topic == "marker" for one in self.got))
        self.got[:] = [one for one in self.got if one.topic != "marker"]

    def wait(self, until: Callable[[], bool], timeout_s: float = 60) -> None:
        assert drive(self.connection, until, timeout_s), [one.topic for one in self.got]

    def topic(self, end: str) -> list[Incoming]:
        return [one for one in self.got if one.topic.endswith(end)]
