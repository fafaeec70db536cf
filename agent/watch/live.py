"""The windows of what applications tell, tied to what is deployed; asked by the daemon, the schedule and ``status``.

Rules:
- A task has a window while it is deployed here and somebody told of it. It is of the release that serves: one that was
  replaced is told of no longer, but where an application says that it could not open the new one.
- An application that keeps an old release is one event for each release that it refuses.
- With nobody telling nothing is loaded, kept or sent: the socket alone stands open.

Leaves who is listened to, to ``receiver``.
"""

from __future__ import annotations

import logging
import selectors
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from agent.core.payloads import Origin, Telemetry
from agent.errors import BoardfitError
from agent.site import Site
from agent.watch.receiver import REST_S, Receiver

if TYPE_CHECKING:  # loaded when the first application tells something
    from agent.core.deployment import Deployment
    from agent.core.live import LiveAnswer, LiveFigures, LiveReport, LiveWindow

log = logging.getLogger("boardfit")

KEY = "live"  # of the daemon's selector


class _Task:
    """One task that somebody tells of."""

    def __init__(self, document: Deployment) -> None:
        from agent.core.live import LiveWindow

        self.document = document
        self.window: LiveWindow = LiveWindow(document.task, document.release)
        self.refused_release: str | None = None


class Live:
    """What applications tell a daemon."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._receiver = Receiver(site.state_dir, site.clock)
        self._tasks: dict[str, _Task] = {}
        self._selector: selectors.BaseSelector | None = None
        self._descriptor: int | None = None
        self._rests_until_s: float | None = None
        self._heard = False

    def open(self, selector: selectors.BaseSelector) -> None:
        """Listen from now on; ``on_readable`` is to be called for ``KEY``."""
        self._descriptor = self._receiver.open()
        self._selector = selector
        self._listen()

    def close(self) -> None:
        """Listen no longer."""
        self._unlisten()
        self._receiver.close()

    def _listen(self) -> None:
        self._rests_until_s = None
        if self._selector is not None and self._descriptor is not None:
            self._selector.register(self._descriptor, selectors.EVENT_READ, KEY)

    def _unlisten(self) -> None:
        if self._selector is not None and self._descriptor is not None and self._rests_until_s is None:
            self._selector.unregister(self._descriptor)

    def deadline(self) -> float | None:
        """Return when ``tend`` has something to do, monotonic; None: when somebody tells something."""
        return self._rests_until_s

    def tend(self) -> None:
        """Listen again after a rest."""
        if self._rests_until_s is not None and self._site.clock.monotonic_s() >= self._rests_until_s:
            self._listen()

    def on_readable(self) -> None:
        """Take what has come."""
        taken, more = self._receiver.take()
        now_s = self._site.clock.monotonic_s()
        for told in taken:
            try:
                if told.asked is not None:
                    self._receiver.answer(told.asked, msgspec.json.encode(self.answer()))
                elif told.report is not None:
                    self._take(told.report, told.sender, now_s)
            except BoardfitError as error:  # the disk does not say what is deployed
                log.warning("%s", error)
        if more:
            self._unlisten()
            self._rests_until_s = now_s + REST_S

    def idle_s(self) -> float | None:
        """Return for how long no application has told of a request; None: none has told anything since we began."""
        if not self._heard:
            return None
        now_s = self._site.clock.monotonic_s()
        idle = [one.window.idle_s(now_s) for one in self._tasks.values()]
        return min((seconds for seconds in idle if seconds is not None), default=float("inf"))

    def figures(self) -> tuple[LiveFigures, ...]:
        """Return every task's window, beside what was promised of it."""
        now_s = self._site.clock.monotonic_s()
        found = []
        for name, task in sorted(self._tasks.items()):
            seen = task.window.figures(now_s)
            if seen is not None:
                found.append(
                    msgspec.structs.replace(
                        seen,
                        expected_latency_p95_s=task.document.expected.get("latency_p95_s"),
                        budget_latency_p95_s=self._limit(name),
                    )
                )
        return tuple(found)

    def answer(self) -> LiveAnswer:
        """Return the answer to whoever asks how it stands."""
        from agent.core.live import LiveAnswer

        return LiveAnswer(tasks=self.figures(), refused=self._receiver.refused)

    def tell(self) -> None:
        """Queue a telemetry message for each task that was used in its window."""
        for one in self.figures():
            if one.requests or one.errors:
                self._site.report.tell("telemetry", partial(_message, one), f"task.{one.task}")

    def _limit(self, task: str) -> float | None:
        budgets = self._site.config.task(task).budgets
        return next((budget.limit for budget in budgets if budget.metric == "latency_p95"), None)

    def _take(self, report: LiveReport, sender: int, now_s: float) -> None:
        task = self._task_of(report)
        if isinstance(task, str):
            self._receiver.refused[task] = self._receiver.refused.get(task, 0) + 1
            return
        self._heard = True
        task.window.add(report, sender, now_s)
        if report.refused_release is not None and report.refused_release != task.refused_release:
            task.refused_release = report.refused_release
            text = f"an application keeps {task.document.candidate}: {report.refused_reason or 'it gives no reason'}"
            self._site.report.event("application_kept_old_model", text, task=report.task)

    def _task_of(self, report: LiveReport) -> _Task | str:
        """Return the task a report is of, begun anew where another release serves; a text says why it is of none."""
        from agent.deploy.store import CURRENT, PREVIOUS, ReleaseStore

        store = ReleaseStore(self._site.state_dir / "deploy")
        try:
            current = store.linked(report.task, CURRENT)
            previous = store.linked(report.task, PREVIOUS)
        except BoardfitError:
            return "of no task here"
        if current is None:
            return "of no task here"
        known = self._tasks.get(report.task)
        if known is not None and known.document.release == report.release:
            return known
        kept = report.release == previous and report.refused_release == current
        if report.release != current and not kept:
            return "of a release that does not serve"
        if known is not None and kept:
            return "of a release that does not serve"  # another application opened the new one
        document = store.read(report.task, report.release)
        if document is None:
            return "of a release that cannot be read"
        self._tasks[report.task] = _Task(document)
        return self._tasks[report.task]


def _message(one: LiveFigures, origin: Origin) -> Telemetry:
    return Telemetry(
        **msgspec.structs.asdict(origin),
        group=f"task.{one.task}",
        task=one.task,
        live_release=one.release,
        live_window_s=one.window_s,
        live_requests=one.requests,
        live_errors=one.errors,
        live_latency_p50_s=one.latency_p50_s,
        live_latency_p95_s=one.latency_p95_s,
        live_latency_p99_s=one.latency_p99_s,
        live_expected_latency_p95_s=one.expected_latency_p95_s,
        live_budget_latency_p95_s=one.budget_latency_p95_s,
        live_degraded=one.degraded,
    )
