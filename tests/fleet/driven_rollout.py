"""Drives a rollout over a simulated fleet, and kills itself: ``driven_rollout.py FOLDER SEED``.

The fleet outlives the process in FOLDER/fleet, with what each board did; the rollout is in a real store beside it.
After a number of steps drawn from SEED the process ends itself with SIGKILL, just before or after it stores, or amid
its sending. SEED 0 never does. Prints how the rollout stands when it ends by itself.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.fleet.rollout import start
from agent.fleet.rollout_board import Order
from agent.fleet.rollout_drive import drive
from agent.fleet.rollout_spec import RolloutSpec, parse_rules, parse_waves
from agent.fleet.rollout_store import RolloutStore
from tests.fleet.simulated_fleet import (
    FLEET,
    NEW,
    TASK,
    SimulatedClock,
    SimulatedFleet,
    SimulatedPort,
    Ways,
    of_classes,
)

ID = "r0badcafe"
SPEC = RolloutSpec(
    task=TASK, candidate=NEW, address="all", waves=parse_waves("1,50%,100%"), success=0.6,
    rules=parse_rules(["rollback>30%"]), soak_s=20.0, per_class=True, wait_s=600.0,
)  # fmt: skip


def fresh() -> SimulatedFleet:
    """Return the fleet at the beginning: two classes, one board of eight goes back, one goes silent."""
    odd = {"a-2": "rolled_back", "b-1": "failed"}
    boards = of_classes(("a", "b"), 8, lambda kind, number: Ways(ends=odd.get(f"{kind}-{number}", "deployed")))
    return SimulatedFleet(boards, SimulatedClock())


class Fatal(random.Random):
    """Counts points at which the process may end, and ends it at one of them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.left = self.randint(1, 60) if seed else -1

    def point(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class StoredPort(SimulatedPort):
    """The port over a fleet that is written down after everything it does."""

    def __init__(self, fleet: SimulatedFleet, path: Path, fatal: Fatal) -> None:
        super().__init__(fleet, ID)
        self._path, self._fatal = path, fatal

    def send(self, orders: Sequence[Order]) -> None:
        self._fatal.point()  # stored, not sent
        for order in orders:
            super().send([order])
            self.keep()
            self._fatal.point()  # one sent, others not

    def wait(self, timeout_s: float) -> None:
        super().wait(timeout_s)
        self.keep()
        self._fatal.point()  # heard, not stored

    def keep(self) -> None:
        views, self.fleet.views = self.fleet.views, []
        written = self._path.with_suffix(".new")
        written.write_bytes(pickle.dumps(self.fleet))
        os.replace(written, self._path)
        self.fleet.views = views


def main(folder: Path, seed: int) -> None:
    path, fatal = folder / "fleet", Fatal(seed)
    fleet: SimulatedFleet = pickle.loads(path.read_bytes()) if path.exists() else fresh()
    port = StoredPort(fleet, path, fatal)
    with RolloutStore(folder) as store:
        if not store.newest(FLEET):
            store.create(start(ID, FLEET, SPEC, port.boards().values(), fleet.clock.now_s))
        ended = drive(store, ID, port, fleet.clock, lambda: False, lambda _: fatal.point())
    port.keep()
    sys.stdout.write(f"{ended.status}: {ended.reason}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
