"""Runs the hooks of steps in a child, as a hook may take longer than a daemon may be away.

Rules:
- One child at a time, for all steps that wait; what is asked for meanwhile is done by the next.
- A child that does not end is stopped and killed as any (``agent.child``); what it leaves, the next start of the agent
  settles, by the deployment journal.

Leaves running a hook, and going back where it fails, to ``agent.deploy``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from agent.child import Child
from agent.site import Site

log = logging.getLogger("boardfit")

LOOK_S = 0.5
MOST_S = 300.0  # chosen: waiting for a switch that is under way, and a hook for what is left and what comes


class Finisher:
    """The hooks of one board's steps. Args: agent: the command whose verbs the child runs."""

    def __init__(self, site: Site, agent: Sequence[str] = (sys.executable, "-m", "agent")) -> None:
        self._site, self._agent = site, agent
        self._wanted = False
        self._child: Child | None = None

    def ask(self) -> None:
        """Have the hooks of steps run soon."""
        self._wanted = True

    def deadline(self, now_s: float) -> float | None:
        """Return when ``tend`` has something to do, monotonic; None: nothing."""
        return None if self._child is None and not self._wanted else now_s if self._child is None else now_s + LOOK_S

    def tend(self, now_s: float) -> bool:
        """Begin, or see to the end. Returns: whether a child has just ended: what serves may be something else."""
        ended = False
        if self._child is not None and (code := self._child.poll(now_s)) is not None:
            log.info("the hooks of steps were run, with exit code %d", code)
            self._child.close()
            self._child, ended = None, True
        if self._child is None and self._wanted:
            self._wanted = False
            command = [*self._agent, "recover", "--steps", "--json", "--state-dir", str(self._site.state_dir)]
            if self._site.written.path is not None:
                command += ["--config", str(self._site.written.path)]
            self._child = Child(command)
            self._child.limit(now_s, MOST_S)
        return ended
