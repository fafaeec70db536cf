"""A throw-away broker on a free loopback port, for the demo: no configuration, no network, gone with its parent.

``mosquitto`` where it is installed; otherwise ``amqtt``, which speaks MQTT 3.1.1 only. Both run as a child process, so
that the agent stays small. Never for production: anybody on this machine may connect.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from agent.confinement import die_with_parent
from agent.errors import ReportError
from agent.mqtt import BrokerSettings
from agent.mqtt.settings import Protocol

Kind = Literal["mosquitto", "amqtt"]
_READY = {"mosquitto": b" running", "amqtt": b"ready"}
_START_TIMEOUT_S = 20.0
_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))


class EmbeddedBroker:
    """A context manager: the broker runs inside the ``with`` block.

    Args: kind: which broker; None takes mosquitto when it is installed, else amqtt.
    Raises: ReportError: on entry, when neither is installed or it does not start.
    """

    def __init__(self, kind: Kind | None = None) -> None:
        self.kind: Kind = kind or available_kind()
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """The broker as a URL."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def protocol(self) -> Protocol:
        """The newest protocol this broker speaks."""
        return "5" if self.kind == "mosquitto" else "3.1.1"

    @property
    def settings(self) -> BrokerSettings:
        """The settings to connect to it."""
        return BrokerSettings(host="127.0.0.1", port=self.port, protocol=self.protocol)

    def __enter__(self) -> EmbeddedBroker:
        self._folder = tempfile.TemporaryDirectory(prefix="boardfit-broker-")
        said = ""
        for _ in range(3):  # another process may take the free port before the broker does
            try:
                said = self._start(Path(self._folder.name))
            except OSError as error:
                said = str(error)
            if not said:
                return self
            self._stop()
        self._folder.cleanup()
        raise ReportError(f"{self.kind} did not start: {said}", fix="give the address of a broker as mqtt.url")

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self._folder is not None:
            self._folder.cleanup()

    def _start(self, folder: Path) -> str:
        """Return nothing once it runs, else what it said."""
        self.port = free_port()
        self._process = subprocess.Popen(
            self._command(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            user=self._user(),
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, before any thread of ours exists
        )
        said = _read_until(self._process, _READY[self.kind])
        return "" if said is None else said.decode(errors="replace").strip()[-200:] or "it said nothing"

    def _command(self, folder: Path) -> list[str]:
        if self.kind == "amqtt":
            return [sys.executable, "-m", "agent.demo_broker", str(self.port)]
        configuration = folder / "mosquitto.conf"
        configuration.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "set_tcp_nodelay true\nlog_dest stderr\nlog_type error\nlog_type warning\nlog_type information\n",
            encoding="utf-8",
        )
        folder.chmod(0o755)
        return [shutil.which("mosquitto", path=_SEARCH) or "mosquitto", "-c", str(configuration)]

    def _user(self) -> str | None:
        # mosquitto started as root changes its user by itself, and the kernel then forgets whose death to follow.
        if self.kind != "mosquitto" or os.geteuid() != 0:
            return None
        known = {entry.pw_name for entry in pwd.getpwall()}
        return next((name for name in ("mosquitto", "nobody") if name in known), None)

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None


def available_kind() -> Kind:
    """Return which broker can be started here. Raises: ReportError: none."""
    if shutil.which("mosquitto", path=_SEARCH):
        return "mosquitto"
    if find_spec("amqtt") is not None:
        return "amqtt"
    raise ReportError(
        "there is no broker to start", fix="install mosquitto, or `pip install boardfit[demo]`, or set mqtt.url"
    )


def free_port() -> int:
    """Return a loopback TCP port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    die_with_parent()  # by SIGKILL: mosquitto loses a SIGTERM that comes while it starts


def _read_until(process: subprocess.Popen[bytes], word: bytes) -> bytes | None:
    """Return None once the child has said ``word``, otherwise all it said before it ended or fell silent."""
    assert process.stdout is not None
    said = b""
    while select.select([process.stdout], [], [], _START_TIMEOUT_S)[0]:
        chunk = os.read(process.stdout.fileno(), 4096)
        if not chunk:
            return said
        said += chunk
        if word in said:
            return None
    return said


async def _serve_amqtt(port: int) -> None:
    import asyncio

    from amqtt.broker import Broker

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    import asyncio

    asyncio.run(_serve_amqtt(int(sys.argv[1])))
