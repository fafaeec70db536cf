"""The daemon's own loop with simulated passes: for what a long process gathers over time, not for what a pass does.

    python -m benchmarks.simulated_daemon CONFIG STATE_DIR PASSES

Each pass is a shell that ends at once with an exit code for which the daemon queues an event, so that every one of them
goes through the loop, a child, the database, the outbox and the broker. The next one is queued when the one before has
ended; ``simulated passes are over`` on standard output says that PASSES are done. Neither a reconnect nor a message is
delayed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import agent.lean  # noqa: F401 - first, as in the command line
from agent.config import load_config
from agent.daemon import Daemon, Work
from agent.heap import steady_heap
from agent.notify import Notifier
from agent.report.publisher import Publisher
from agent.site import Site

SIMULATED = ("/bin/sh", "-c", "exit 1", "simulated-pass")
OVER = "simulated passes are over"


class HastySite(Site):
    """A site whose publisher dials again at once."""

    def publisher(self, epoch: str | None = None) -> Publisher | None:
        """Return the publisher without its delays."""
        made = super().publisher(epoch)
        if made is not None:
            made.connection._jitter = lambda: 0.0
            made._pace = None
        return made


class SimulatedDaemon(Daemon):
    """Queues the next simulated pass when one has ended."""

    left = 0

    def _tend_child(self) -> None:
        busy = self._child is not None
        super()._tend_child()
        if busy and self._child is None and not self._stopping:
            self.left -= 1
            if self.left > 0:
                self._enqueue(Work("pass", "simulated"))
            elif self.left == 0:
                print(OVER, flush=True)


def main() -> int:
    """Run until SIGTERM."""
    config, state_dir, passes = sys.argv[1:]
    steady_heap()
    with HastySite(load_config(Path(config)), Path(state_dir)) as site:
        daemon = SimulatedDaemon(site, Notifier({}), ["/bin/false"], SIMULATED)
        daemon.left = int(passes)
        return daemon.run()


if __name__ == "__main__":
    raise SystemExit(main())
