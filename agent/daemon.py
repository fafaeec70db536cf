"""``boardfit run``: one loop that keeps the schedule, the broker and systemd content, and lets children do the work.

Rules:
- Every pass runs in a child process that exits: the idle daemon loads neither numpy nor a runtime, and a crash of a
  pass is an event, not the end of the daemon.
- One piece of work at a time; what is due meanwhile waits in a queue, once each. Each has an end: a job its deadline,
  all else a day, after which it is stopped and goes on with what it has not done.
- An unfinished deployment is recovered before anything else; then READY is said. One that a child leaves behind by
  dying is recovered by the next child, before anything else is begun.
- What is needed once at start (recovery, the board's profiles) is done by a copy of this process (``agent.apart``), so
  that its weight does not stay: recovery before the database is open, profiles once the fleet knows that we are there.
- SIGTERM: the child is asked to stop (what it finished is stored), the broker hears a goodbye, exit code 0.
  SIGHUP: a valid new configuration is taken by starting anew in the same process id; an invalid one is refused.
- The loop sleeps until something is due; it never polls while idle.
- What a child has measured is sent as one message when it has ended, however it has; what a killed daemon left, by the
  next. The status says busy while an order is carried out; what the board does by itself is in the telemetry.

Work comes from start-up, the schedule, and signed commands (``agent.orders``). What was ordered goes before what was
only due. An order that switches what serves does not wait for work that nobody ordered: that is asked to give way
(SIGUSR1: a deployment that has begun goes on to its end, for as long as it may take), and goes on later with what it
has not measured yet. A deployment of the very task, ordered by nobody, is stopped at once; and so is one that somebody
ordered, once it has switched, where a rollback waits: it puts back what ran before, and the rollback then finds its
work done and withdraws the model. Everything else that was ordered is begun in its order and ended by ``cancel``.
What the schedule wants done, puts off and stops is decided in ``agent.timetable``.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.apart import done_apart
from agent.child import Child
from agent.config import Config, load_config
from agent.errors import BoardfitError, BusyError, ConfigError
from agent.locks import exclusive
from agent.notify import Notifier
from agent.recovery import known_unfinished, recover, unfinished
from agent.report.publisher import Publisher
from agent.safe_mode import SAFE, SafeMode
from agent.signals import Signals
from agent.site import Site
from agent.timetable import Timetable, Work
from agent.watch.live import KEY, Live

if TYPE_CHECKING:  # a board without a broker takes no orders
    from agent.orders.desk import Desk
    from agent.orders.line import Line

log = logging.getLogger("boardfit")

TELEMETRY_S = 300.0  # chosen: a board's condition changes over minutes
_LONGEST_SLEEP_S = 60.0  # the wall clock may be stepped while we sleep
_WHILE_WORKING_S = 2.0  # how often what a child has queued is looked for
LONGEST_WORK_S = 86400.0  # chosen: of what nobody ordered; a job has a deadline of its own
GIVE_WAY_S = 300.0  # chosen: staging and proofs of a minute each; a deployment's probation and hook come on top
_VERBS = {
    "pass": ("once",), "bench": ("bench",), "sync": ("sync",), "sustained": ("bench", "--sustained"),
    "recover": ("recover",), "replay": ("replay",),
}  # fmt: skip
_COMPLETE = (0, 3)  # exit codes of a child that came to its end: all done, or nothing fits
_UNREPORTED = (1, 2)  # exit codes of a child that may have told the fleet nothing


class Daemon:
    """The loop.

    Args:
        site: with progress off, its database not open yet.
        notifier: systemd.   restart: the command that starts us anew.
        agent: the command whose verbs the children run.
    """

    def __init__(
        self,
        site: Site,
        notifier: Notifier,
        restart: Sequence[str],
        agent: Sequence[str] = (sys.executable, "-m", "agent"),
    ) -> None:
        self._site = site
        self._notifier = notifier
        self._publisher: Publisher | None = None
        self._restart = list(restart)
        self._agent = list(agent)
        self._queue: deque[Work] = deque()
        self._child: Child | None = None
        self._doing: Work | None = None  # what nobody ordered
        self._doing_text: str | None = None
        self._desk: Desk | None = None
        self._stopping = False
        self._reloading = False
        self._recovery_due = False
        self._live = Live(site, agent)
        self._timetable = Timetable(site, self._live.idle_s)
        self._live.on_wish = self._timetable.wish
        self._safe = SafeMode(site)
        self._live.may_step = lambda: not self._safe.active
        self._next_telemetry_s = 0.0
        self._board_known = False
        self._selector = selectors.DefaultSelector()
        self._watched: tuple[int, int] | None = None

    def run(self) -> int:
        """Run until SIGTERM or SIGINT. Returns: the exit code. Raises: BoardfitError: it cannot serve."""
        with exclusive(self._site.state_dir / "daemon.lock", "a daemon"), Signals() as signals:
            self._selector.register(signals.receiver, selectors.EVENT_READ)
            self._live.open(self._selector)
            self._safe.enter(safe=(done_apart(self._recover) or self._recover()) == SAFE)
            epoch = os.urandom(16).hex()
            self._publisher = self._site.publisher(epoch)
            if self._publisher is not None:
                from agent.orders.desk import Desk

                self._desk = Desk(self._site, self._publisher, epoch, self._timetable.plan)
                self._desk.open()
                self._publisher.start()
                self._publisher.forget_told()  # the one before may have had no time to
            self._site.report.release()
            self._timetable.plan()
            self._notifier.send("READY=1")
            self._begin_work()
            while not (self._stopping and self._child is None):
                self._wait()
                for number in signals.take():
                    self._on_signal(number)
                self._tend_child()
                self._tend_orders()
                self._live.tend()
                if self._safe.tend():
                    self._begin_work()
                if not self._stopping:
                    if self._may_read_board():
                        work = self._timetable.tend(idle=self._child is None and not (self._queue or self._orders_wait))
                        if work is not None:
                            self._enqueue(work)
                        self._tend_telemetry()
                    self._start_next()
            self._safe.end()
            self._live.close()
            if self._publisher is not None:
                self._publisher.poke()  # what the last child has left
                self._publisher.on_timer()
                self._publisher.close()
        if self._reloading:
            self._site.close()
            os.execv(self._restart[0], self._restart)  # noqa: S606 - ourselves, with the arguments we were started with
        return 0

    def _recover(self) -> bytes:
        """Settle the deployments that a cut left unfinished and tell the fleet, with a site and database of its own."""
        with Site(self._site.written, self._site.state_dir, clock=self._site.clock) as site:
            safe = self._safe.begin(site)
            try:
                recover(site)
            except BoardfitError as error:  # somebody's pass by hand, say: it settles what it finds
                if not isinstance(error, BusyError) or unfinished(site):
                    site.report.failure("recovery_failed", error)
        return SAFE if safe else b"settled"

    def _begin_work(self) -> None:
        """Do what is done at a start, or say that nothing is."""
        self._notifier.send(f"STATUS={self._safe.reason or 'serving'}")
        if self._publisher is not None:
            self._publisher.set_status("online", self._safe.reason)
        self._enqueue(Work("pass", "start-up", capped=True))

    def _wait(self) -> None:
        """Sleep until a signal, the broker, or the earliest of all deadlines; drive the broker's socket meanwhile."""
        now = self._site.clock.monotonic_s()
        deadlines = [now + _LONGEST_SLEEP_S, self._safe.deadline()]
        if not self._stopping and self._may_read_board():
            deadlines += [self._next_telemetry_s, *self._timetable.deadlines(now)]
        if self._child is not None:
            deadlines.append(now + _WHILE_WORKING_S)
            if self._child.deadline is not None:
                deadlines.append(self._child.deadline)
        if self._desk is not None and (end := self._desk.deadline()) is not None:
            deadlines.append(end)
        if self._notifier.watchdog_period_s is not None:
            self._notifier.send("WATCHDOG=1")
            deadlines.append(now + self._notifier.watchdog_period_s / 2)
        if self._publisher is not None:
            self._publisher.poke()  # a child, or this loop, may have queued something
            due = self._publisher.on_timer()
            self._watch_broker(self._publisher)
            if due is not None:
                deadlines.append(due)
        if (end := self._live.deadline()) is not None:
            deadlines.append(end)
        waiting = bool(self._queue) or self._orders_wait or self._recovery_due
        timeout = max(0.0, min(deadlines) - now) if not (waiting and self._child is None) else 0.0
        for key, mask in self._selector.select(timeout):
            if key.data == KEY:
                self._live.on_readable()
            if key.data == "broker" and self._publisher is not None:
                if mask & selectors.EVENT_READ:
                    self._publisher.on_readable()
                if mask & selectors.EVENT_WRITE:
                    self._publisher.on_writable()

    def _may_read_board(self) -> bool:
        """Return False until the fleet knows of us: the first reading takes a while, and wants no dial thread."""
        self._board_known = self._board_known or self._publisher is None or not self._publisher.greeting
        return self._board_known

    def _watch_broker(self, publisher: Publisher) -> None:
        descriptor = publisher.fileno()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if publisher.wants_write() else 0)
        watched = None if descriptor is None else (descriptor, wanted)
        if watched == self._watched:
            return
        if self._watched is not None:
            self._selector.unregister(self._watched[0])
        if watched is not None:
            self._selector.register(watched[0], watched[1], "broker")
        self._watched = watched

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._begin_stop()
        elif number == signal.SIGHUP:
            self._reload()

    def _begin_stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._queue.clear()
        self._notifier.send("STOPPING=1")
        if self._child is not None:
            self._child.stop(self._site.clock.monotonic_s())

    def _reload(self) -> None:
        try:
            load_config(self._site.written.path)
        except ConfigError as error:
            self._site.report.failure("configuration_refused", error)
            return
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={int(self._site.clock.monotonic_s() * 1e6)}")
        self._reloading = True
        self._begin_stop()

    def _enqueue(self, work: Work) -> None:
        if not self._safe.active and all(queued.action != work.action for queued in self._queue):
            self._queue.append(work)

    @property
    def _orders_wait(self) -> bool:
        return self._desk is not None and bool(self._desk.line.waiting)

    def _start_next(self) -> None:
        if self._child is not None:
            return
        if self._recovery_due:
            self._recovery_due = False
            self._doing = Work("recover", "a deployment was left unfinished")
            self._start(_VERBS["recover"], self._doing, most_s=self._patience_s())
            return
        words = None if self._desk is None else self._desk.line.begin(self._safe.before(self._desk.objection))
        if words is not None and self._desk is not None and self._desk.line.running is not None:
            self._start(words, Work(" ".join(words), f"ordered by {self._desk.line.running.issuer}"), ordered=True)
        elif self._queue:
            work = self._queue.popleft()
            barred = self._timetable.barred(work)
            if barred is not None:
                self._site.report.event("work_left_out", f"{work.action} ({work.cause}) is left out: {barred}")
                return
            self._doing = work
            self._start(_VERBS[work.action], work)

    def _start(
        self, words: Sequence[str], work: Work, *, ordered: bool = False, most_s: float = LONGEST_WORK_S
    ) -> None:
        command = [*self._agent, *words, "--json", "--state-dir", str(self._site.state_dir)]
        if self._site.written.path is not None:
            command += ["--config", str(self._site.written.path)]
        what = f"{words[0] if ordered else work.action}: {work.cause}"
        log.info("%s", what)
        self._notifier.send(f"STATUS={what}")
        self._child = Child(command, told=ordered)
        if not ordered:
            self._child.limit(self._site.clock.monotonic_s(), most_s)
        self._timetable.begin(work, self._child.process.pid)
        self._doing_text = what
        if self._publisher is not None and ordered:
            self._publisher.set_status("busy", what)

    def _tend_orders(self) -> None:
        """Let orders run out of time, tell how the one at work gets on, and stop what must make way."""
        if self._desk is None:
            return
        self._desk.tend()
        if self._child is None:
            return
        if (step := self._child.told()) is not None:
            self._desk.line.progress(step)
        now = self._site.clock.monotonic_s()
        if self._desk.line.urgent:
            self._make_way(self._child, self._desk.line, now)
        if self._desk.line.stop_asked:
            self._child.stop(now)

    def _make_way(self, child: Child, line: Line, now: float) -> None:
        """Let what waits first, and switches what serves, not wait for what must not keep it waiting."""
        unordered, job = self._doing is not None, line.waiting[0]
        recovering = (
            self._doing is not None and self._doing.action == "recover"
        )  # puts back what serves, and is limited
        if recovering or self._desk is None or self._safe.before(self._desk.objection)(job) is not None:
            return
        running = next((one for one in known_unfinished(self._site) if one.task == job.arguments.get("task")), None)
        if running is not None and line.supersede(running.release, switched=running.switched, ordered=not unordered):
            child.stop(now)
        elif unordered:
            child.give_way(now, self._patience_s())

    def _patience_s(self) -> float:
        """Return for how long a child that was asked to give way may go on with a deployment."""
        return GIVE_WAY_S + max((task.settling_s for task in self._site.config.tasks.values()), default=0.0)

    def _tend_child(self) -> None:
        child, work = self._child, self._doing
        if child is None:
            return
        code = child.poll(self._site.clock.monotonic_s())
        if code is None:
            if not child.asked and self._timetable.watch() is not None:
                child.give_way(self._site.clock.monotonic_s(), self._patience_s())
            return
        ordered = work is None
        self._child = self._doing = self._doing_text = None
        recovered = work is not None and work.action == "recover"
        self._recovery_due = not recovered and code != 0 and bool(known_unfinished(self._site))
        printed = child.close()
        self._site.report.release()
        gave_way = self._timetable.end(cut_short=child.asked, complete=code in _COMPLETE)
        if work is not None and (not child.asked or code == -signal.SIGKILL):
            self._tell_failure(work, code)
        made_way = child.asked and not (gave_way or self._stopping or code in _COMPLETE)
        if work is not None and made_way and work.entry is None and not recovered:
            self._enqueue(work)  # it made way for an order; what the schedule wanted, the timetable knows
        log.info("the child ended with exit code %d", code)
        self._notifier.send(f"STATUS={self._safe.reason or 'serving'}")
        self._safe.look_soon()
        if self._desk is not None:
            self._desk.line.finish(code, printed, stopping=self._stopping)
            self._desk.renew_operators()
        if self._publisher is not None:
            if ordered:
                self._publisher.set_status("online", self._safe.reason)
            self._tell_profile()

    def _tell_failure(self, work: Work, code: int) -> None:
        if code < 0:
            name = signal.Signals(-code).name
            self._site.report.event("pass_crashed", f"{work.action} ({work.cause}) was ended by {name}", level="error")
        elif code in _UNREPORTED:
            text = f"{work.action} ({work.cause}) failed with exit code {code}; the agent's log has the reason"
            self._site.report.event("pass_failed", text, level="error")

    def _tell_profile(self) -> None:
        facts = self._site.records.facts()
        if self._publisher is not None and facts is not None:
            self._publisher.set_profile(facts)

    def _tend_telemetry(self) -> None:
        now = self._site.clock.monotonic_s()
        if now < self._next_telemetry_s:
            return
        self._next_telemetry_s = now + TELEMETRY_S
        self._tell_profile()  # somebody may have profiled the board by hand
        if self._publisher is not None:
            more = self._timetable.telemetry()
            self._site.report.board(self._site.board.read_context(), doing=self._doing_text, **more)
            self._live.tell()


def serve(config: Config, state_dir: Path, restart: Sequence[str]) -> int:
    """Run the daemon on a state directory until it is told to stop. Raises: BoardfitError."""
    with Site(config, state_dir) as site:
        return Daemon(site, Notifier(os.environ), restart).run()
