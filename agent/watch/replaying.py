"""When the golden inputs of what serves are replayed: at idle, ``replay.every`` after the last time.

Rules:
- Due is what was proven or replayed longest ago: all tasks are replayed together, in one child. One that disagreed is
  due again ``AGAIN_S`` later until it is known to be a change, one that could not be judged an hour later.
- It waits until the conditions of ``replay.when`` hold, judged once a minute, and for the limits of the day.
- However a replay ends, the next one begins ``AGAIN_S`` later at the soonest: a disk that takes no result is not worn.
- Where a replay asks for a pass, that is handed out once.

Leaves the replay to ``agent.replay``; the timetable asks, and the daemon runs it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from agent.clock import read_iso
from agent.core.drift import AGAIN_S
from agent.core.schedule import Condition
from agent.errors import BoardfitError
from agent.replay import Replays
from agent.site import Site

log = logging.getLogger("boardfit")

_LOOK_S = 3600.0  # how often it is looked for a first deployment
_RECHECK_S = 60.0


class ReplayTimes:
    """The replays of one board. Times in seconds on the monotonic clock."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._due_s: float | None = None
        self._not_before_s = float("-inf")
        self._begun = False
        self._none = True  # nothing was deployed when it was looked for

    def deadline(self, now_s: float) -> float | None:
        """Return when ``tend`` has something to do; None: never."""
        if self._site.config.replay.every_s is None:
            return None
        return now_s if self._due_s is None else max(now_s, self._due_s)

    def tend(self, hindered: Callable[[tuple[Condition, ...]], str | None]) -> tuple[str, str] | None:
        """Return what is to be done now and why; None: nothing.

        Args: hindered: says why the board may not be disturbed now under these conditions, None where it may.
        """
        every_s = self._site.config.replay.every_s
        if every_s is None:
            return None
        now_s = self._site.clock.monotonic_s()
        try:
            if self._begun:
                self._begun = False
                if (asked := Replays(self._site.database).asked()) is not None:
                    return "pass", asked
            if self._due_s is None:
                next_s = self._next(every_s, now_s)
                self._due_s = now_s + _LOOK_S if next_s is None else max(next_s, self._not_before_s)
                self._none = next_s is None
        except BoardfitError as error:
            log.warning("%s", error)
            self._due_s = now_s + AGAIN_S
        if now_s < self._due_s:
            return None
        if self._none:
            self._due_s = None  # somebody may have deployed something since
            return None
        why = hindered(self._site.config.replay.when)
        if why is not None:
            log.debug("the replay waits: %s", why)
            self._due_s = now_s + _RECHECK_S
            return None
        self._due_s, self._not_before_s, self._begun = None, now_s + AGAIN_S, True
        return "replay", "golden outputs are due"

    def _next(self, every_s: float, now_s: float) -> float | None:
        """Return when the next replay is due, ``every_s`` from now at most whatever the clock; None: nothing serves."""
        wall_s = self._site.clock.utc().timestamp()
        known = Replays(self._site.database).all()
        found = []
        for folder in (self._site.state_dir / "deploy").glob("*/current"):
            task = folder.parent.name
            last = known.get(task)
            try:
                release = os.readlink(folder).rpartition("/")[2]  # noqa: PTH115 - the name alone
                proven_s = (folder / "deployment.json").stat().st_mtime
            except OSError:
                continue
            at_s, wait_s = proven_s, every_s
            if last is not None and last.release == release:
                at_s, wait_s = read_iso(last.at).timestamp(), last.again_s(every_s)
            found.append(now_s + min(wait_s, max(0.0, at_s + wait_s - wall_s)))
        return min(found, default=None)
