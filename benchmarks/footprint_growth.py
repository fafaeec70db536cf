"""Whether the daemon grows: its memory over many simulated passes and many broken connections. Used by ``footprint``.

The daemon (``simulated_daemon``) and the broker are real processes; between them stands a TCP relay that can cut the
line. A cut counts once the broker has told of the lost device (the last will) and of its return.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from agent.mqtt import BrokerSettings, Connection, Incoming, drive
from benchmarks.simulated_daemon import OVER

WARM_PASSES, WARM_CUTS = 20, 5  # before these, the first use of this and that is still counted
PATIENCE_S = 60.0


class Growth(NamedTuple):
    """Memory in bytes after each pass or cut counted, the warm-up left out."""

    samples: list[int]

    @property
    def ratio(self) -> float:
        """By how much of the first sample the straight line through all of them rises from first to last."""
        return slope(self.samples) * (len(self.samples) - 1) / self.samples[0]

    @property
    def last_ratio(self) -> float:
        """By how much of the first sample the last one is above it."""
        return self.samples[-1] / self.samples[0] - 1


def slope(samples: Sequence[int]) -> float:
    """Return the least-squares slope, per sample."""
    count = len(samples)
    mean_x, mean_y = (count - 1) / 2, sum(samples) / count
    spread = sum((x - mean_x) ** 2 for x in range(count))
    return sum((x - mean_x) * (y - mean_y) for x, y in enumerate(samples)) / spread


def rss_bytes(pid: int) -> int:
    """Return the resident set. Source: proc_pid_status(5), VmRSS, in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


class Relay:
    """Passes bytes between one client at a time and the broker, until the line is cut."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._line: tuple[socket.socket, socket.socket] | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break the line that is up."""
        for end in self._line or ():
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break the line and take no more."""
        with suppress(OSError):  # closing alone does not wake who waits in accept()
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        self._thread.join(PATIENCE_S)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                device, _ = self._server.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
                self._line = (device, broker)
                with device, broker:
                    _pump(device, broker)


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while True:
            readable, _, _ = select.select([one, other], [], [])
            for end in readable:
                data = end.recv(65536)
                if not data:
                    return
                (other if end is one else one).sendall(data)


class Watcher:
    """Hears what one of the processes says."""

    def __init__(self, settings: BrokerSettings, pattern: str) -> None:
        self.heard: list[Incoming] = []
        self._connection = Connection(settings)
        self._connection.subscribe(pattern, self.heard.append)
        self._connection.connect(PATIENCE_S)
        self.wait(lambda: self._connection.listening, PATIENCE_S, "the subscription")

    def wait(self, holds: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Raises: SystemExit: it did not come about in time."""
        if not drive(self._connection, holds, timeout_s):
            raise SystemExit(f"{what} did not happen within {timeout_s:.0f} s")

    def has(self, part: str) -> bool:
        """Return whether a message came on a topic with this part."""
        return any(part in message.topic for message in self.heard)

    def count(self, part: str) -> int:
        """Return how many messages came on topics with this part."""
        return sum(part in message.topic for message in self.heard)

    def states(self) -> list[str]:
        """Return every status heard so far, in order."""
        return [json.loads(m.payload)["state"] for m in self.heard if m.topic.endswith("/status") and m.payload]


class Scene(NamedTuple):
    """A daemon with simulated passes, the line it has to the broker, and who hears it."""

    daemon: subprocess.Popen[bytes]
    relay: Relay
    watcher: Watcher


@contextmanager
def simulated_daemon(
    settings: BrokerSettings, configuration: Callable[[str], str], folder: Path, passes: int
) -> Iterator[Scene]:
    """Run a daemon through simulated passes, and keep it.

    Args: configuration: returns agent.yaml for a broker's URL.   folder: empty, for its state.
    """
    relay = Relay(settings.port)
    config, log = folder / "agent.yaml", folder / "log"
    config.write_text(configuration(f"mqtt://127.0.0.1:{relay.port}"))
    watcher = Watcher(settings, "boardfit/#")
    command = [sys.executable, "-m", "benchmarks.simulated_daemon", str(config), str(folder / "state"), str(passes)]
    with log.open("wb") as said, subprocess.Popen(
        command, cwd=Path(__file__).resolve().parents[1], stdin=subprocess.DEVNULL, stdout=said, stderr=said
    ) as daemon:  # fmt: skip
        try:
            yield Scene(daemon, relay, watcher)
        except SystemExit as error:
            raise SystemExit(f"{error}; the daemon said\n{log.read_text()[-2000:]}") from error
        finally:
            daemon.terminate()
            daemon.wait(timeout=PATIENCE_S)
            relay.close()


def measure_growth(
    settings: BrokerSettings, configuration: Callable[[str], str], folder: Path, *, passes: int, cuts: int
) -> dict[str, Growth]:
    """Run the simulated daemon through ``passes`` and then ``cuts``, both beyond the warm-up; as ``simulated_daemon``.

    Raises: SystemExit: something did not come about.
    """
    with simulated_daemon(settings, configuration, folder, WARM_PASSES + passes) as scene:
        by_pass = _over_passes(scene.daemon, scene.watcher, passes)
        scene.watcher.wait(lambda: OVER in (folder / "log").read_text(), PATIENCE_S, "the end of the simulated passes")
        return {"passes": by_pass, "reconnects": _over_cuts(scene.daemon, scene.relay, scene.watcher, cuts)}


def _over_passes(daemon: subprocess.Popen[bytes], watcher: Watcher, passes: int) -> Growth:
    samples: list[int] = []
    for number in range(1, WARM_PASSES + passes + 1):
        # Every simulated pass ends in an event: the broker has it, so the whole way was gone.
        watcher.wait(lambda number=number: watcher.count("/event") >= number, PATIENCE_S, f"simulated pass {number}")  # type: ignore[misc]
        if number > WARM_PASSES:
            samples.append(rss_bytes(daemon.pid))
    return Growth(samples)


def _over_cuts(daemon: subprocess.Popen[bytes], relay: Relay, watcher: Watcher, cuts: int) -> Growth:
    samples: list[int] = []
    for number in range(1, WARM_CUTS + cuts + 1):
        before = len(watcher.states())
        relay.cut()
        watcher.wait(lambda before=before: _left_and_back(watcher.states()[before:]), PATIENCE_S, f"return {number}")  # type: ignore[misc]
        if number > WARM_CUTS:
            samples.append(rss_bytes(daemon.pid))
    return Growth(samples)


def _left_and_back(states: list[str]) -> bool:
    return "offline" in states and "online" in states[states.index("offline") :]


def as_document(growth: dict[str, Growth]) -> dict[str, Any]:
    """Return the figures for a JSON document."""
    return {
        name: {"count": len(one.samples), "line": one.ratio, "last": one.last_ratio, "rss": one.samples[-1]}
        for name, one in growth.items()
    }
