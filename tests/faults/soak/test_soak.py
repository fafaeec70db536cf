"""A real daemon with a broker and a registry under mixed faults for long: memory, open files and threads stay.

The faults, at random: the broker killed and back, the daemon asked to read its configuration anew, whatever child is at
work killed, forged commands of all classes, genuine ones, and the disk full for a moment (where a tmpfs can be mounted:
the table says so). Clocks are stepped in a suite of their own, test_shifted_clock.py.

The daemon's own memory is its PSS, with no child counted. Of a straight line by Theil and Sen through medians of
blocks, after the first fifth, it is asked whether it rises (Mann and Kendall, one in a hundred by chance), and how far.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import msgspec
import pytest
import yaml

from agent.core.operators import parse_operators
from agent.core.payloads import Job, Status
from agent.core.trend import mann_kendall_z, theil_sen
from agent.fleet.signing import OperatorKey
from agent.mqtt import drive
from agent.registry import operators
from benchmarks.footprint import make_registry, memory_bytes
from tests.brokers import Listener, Mosquitto
from tests.faults.extent import Extent
from tests.faults.forged.classes import CLASSES, DEVICE, FLEET, GROUP, Hand, Sent, operator_list
from tests.faults.table import show
from tests.orders.conftest import KEYS as LISTED
from tests.orders.conftest import ROOT

QUICK_S, FULL_S = 600, 8 * 3600
BLOCKS = 20
MOST_GROWTH = 0.05  # chosen: of the memory at first, over the whole run, along the line
SURE_Z = 2.58  # two-sided, one in a hundred
Sample = tuple[float, int, int, int]  # when, memory in bytes, open files, threads
Tell = Callable[[Sequence[str], Sequence[Sequence[str]]], None]
pytestmark = pytest.mark.timeout(2 * FULL_S)


class Patient:
    """The daemon, its broker, whoever sends to it, and what is seen of it."""

    def __init__(self, folder: Path, broker: Mosquitto, keys: dict[str, OperatorKey], chance: random.Random) -> None:
        self.folder, self.broker, self.chance = folder, broker, chance
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.mounted = _mounted(self.disk)
        self.state = self.disk / "state"
        registry = make_registry(folder)
        document = {
            "registry": {"url": str(registry), "root": f"{registry}/root.json"},
            "device": {"id": DEVICE},
            "mqtt": {"url": broker.settings().url, "fleet": FLEET, "group": [GROUP]},
            "tasks": {"add": {"budgets": {"size": "1 MiB"}, "objective": ["minimize size"]}},
            "measure": {"threads": [1], "min_runs": 10, "min_time": "0.01 s", "contended": "flag"},
            "schedule": [{"name": "yearly", "action": "pass", "cron": "0 0 1 1 *"}],
        }
        (folder / "agent.yaml").write_text(yaml.safe_dump(document))
        now = datetime.now(timezone.utc)
        listed = parse_operators(operator_list(keys, now))
        operators._publish(registry, list(listed.operators), folder / "keys", now)
        self.fleet = Listener(broker.settings())
        self.log = (folder / "log").open("wb")
        files = ["--config", str(folder / "agent.yaml"), "--state-dir", str(self.state)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", *files], cwd=ROOT, stdout=self.log, stderr=self.log
        )
        self.hand = Hand(chance, keys, lambda: datetime.now(timezone.utc), lambda: self.epoch, synced=False)
        self.told: dict[str, str] = {}  # job to its last state
        self.done: Counter[str] = Counter()
        # The first pass has fetched the operator list, and deployed.
        self.fleet.wait(lambda: any("/deployment/" in one.topic for one in self.fleet.got), 240)

    @property
    def epoch(self) -> str:
        status = self._status()
        assert status is not None
        return status.epoch or ""

    def _status(self) -> Status | None:
        for one in reversed(self.fleet.topic(f"/{DEVICE}/status")):
            status = msgspec.json.decode(one.payload, type=Status)
            if status.epoch:
                return status
        return None

    def listen(self, seconds: float) -> None:
        """Let time pass, and keep of what is heard only what is needed."""
        drive(self.fleet.connection, lambda: False, seconds)
        kept = self.fleet.topic(f"/{DEVICE}/status")[-3:]
        for one in self.fleet.got:
            if "/job/" in one.topic:
                job = msgspec.json.decode(one.payload, type=Job)
                self.told[job.id] = job.state
        self.fleet.got[:] = kept

    def send(self, sent: Sent) -> None:
        self.fleet.connection.publish(*sent)

    def fault(self) -> None:
        """Do one thing to it."""
        kinds = [self.kill_broker, self.reload, self.kill_child, self.forge, self.order, self.order]
        kind = self.chance.choice([*kinds, self.fill_disk] if self.mounted else kinds)
        kind()
        self.done[kind.__name__.replace("_", " ")] += 1

    def kill_broker(self) -> None:
        self.broker.kill()
        self.listen(0.3)
        self.broker.start()
        assert drive(self.fleet.connection, lambda: self.fleet.connection.listening, 60)

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)
        self.listen(10.0)  # known: a start on a disk that is full to the last byte ends, until there is room again

    def kill_child(self) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children[:1]:
            try:
                os.kill(int(child), signal.SIGKILL)  # of the daemon that this test has started
            except ProcessLookupError:
                continue

    def forge(self) -> None:
        if self._status() is not None:
            for name in CLASSES:
                self.send(self.hand.forged(name))

    def order(self) -> None:
        if self._status() is not None:
            self.send(self.hand.genuine(self.chance.choice(("sync", "status", "set-desired", "bench", "select")))[1])

    def fill_disk(self) -> None:
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 16)):
                    pass
            except OSError:
                pass
        self.order()
        self.listen(1.0)
        filler.unlink()

    def seen(self) -> Sample:
        """Return the time, and the daemon's memory, open files and threads."""
        proc = Path(f"/proc/{self.process.pid}")
        files, threads = len(os.listdir(proc / "fd")), len(os.listdir(proc / "task"))
        return time.monotonic(), memory_bytes(self.process.pid)["pss"], files, threads

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.fleet.connection.close()
        self.log.close()
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)


def _mounted(folder: Path) -> bool:
    """Mount a tmpfs, not much larger than what a store keeps free. Returns: False where nobody may."""
    command = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def patient(tmp_path: Path, broker: Mosquitto, extent: Extent) -> Iterator[Patient]:
    if extent.part == "slice":
        pytest.skip("soak runs in quick and full")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    keys = {**LISTED, "gone": OperatorKey(Ed25519PrivateKey.generate())}
    made = Patient(tmp_path, broker, keys, extent.chance("soak"))
    yield made
    made.close()


def test_a_long_life_among_faults_costs_nothing(
    patient: Patient, extent: Extent, record_property: Callable[[str, object], None]
) -> None:
    seconds = float(os.environ.get("BOARDFIT_SOAK_S", extent.count(0, QUICK_S, FULL_S)))
    samples: list[Sample] = []
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        patient.listen(1.0)
        if passed < seconds * 0.95 and patient.chance.random() < 0.3:
            patient.fault()
        assert patient.process.poll() is None, (patient.folder / "log").read_text()[-3000:]
        samples.append(patient.seen())
    last = patient.hand.genuine("sync")
    for second in range(120):
        if second % 10 == 0:
            patient.send(last[1])  # what was forged just before may have used up what is verified in a second
        patient.listen(1.0)
        if patient.told.get(last[0].id) == "SUCCEEDED":
            break
    _judge(samples, patient, lambda *table: show(record_property, f"Soak of {seconds:g} s, seed {extent.seed}", *table))
    assert patient.told.get(last[0].id) == "SUCCEEDED", "the last genuine command was not obeyed"
    patient.process.send_signal(signal.SIGTERM)
    assert patient.process.wait(60) == 0


def _judge(samples: list[Sample], patient: Patient, tell: Tell) -> None:
    warm = samples[len(samples) // 5 :]
    size = max(1, len(warm) // BLOCKS)
    blocks = [warm[place : place + size] for place in range(0, len(warm) - size + 1, size)]
    times = [median(one[0] for one in block) for block in blocks]
    memory = [float(median(one[1] for one in block)) for block in blocks]
    slope, z = theil_sen(times, memory), mann_kendall_z(memory)
    growth = slope * (times[-1] - times[0]) / memory[0]
    third = len(warm) // 3
    files = [median(one[2] for one in part) for part in (warm[:third], warm[-third:])]
    threads = [median(one[3] for one in part) for part in (warm[:third], warm[-third:])]
    obeyed = sorted(job for job, state in patient.told.items() if job.startswith("forged") and state != "REJECTED")
    done = ", ".join(f"{name} {times}" for name, times in sorted(patient.done.items()))
    disk = "" if patient.mounted else " (disk full: needs a tmpfs to mount, not here)"
    tell(
        ("what", "first", "last"),
        [
            ("memory (PSS), MiB", f"{memory[0] / 2**20:.2f}", f"{memory[-1] / 2**20:.2f}"),
            ("its line", f"{slope * 3600 / 1024:+.1f} KiB an hour", f"{growth:+.2%} in all, z {z:+.1f}"),
            ("open files, median of a third", f"{files[0]:g}", f"{files[1]:g}"),
            ("threads, median of a third", f"{threads[0]:g}", f"{threads[1]:g}"),
            ("genuine commands that were done", "-", str(sum(one == "SUCCEEDED" for one in patient.told.values()))),
            ("forged commands obeyed", "-", str(len(obeyed))),
            ("faults", done + disk, "clock steps: not here"),
        ],
    )
    assert not obeyed
    assert not (z > SURE_Z and growth > MOST_GROWTH), f"memory rises by {growth:.1%}, z {z:.1f}"
    assert files[1] <= files[0], "open files rise"
    assert threads[1] <= threads[0], "threads rise"
