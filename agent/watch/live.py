"""The windows of what applications tell, tied to what is deployed; asked by the daemon, the schedule and ``status``.

Rules:
- A task has a window while it is deployed here and somebody told of it. It is of the release that serves: one that was
  replaced is told of no longer, but where an application says that it could not open the new one.
- What ``agent.core.watch`` makes of the reports is an event with its figures and causes, and stands in ``status``.
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
from agent.core.units import format_quantity
from agent.errors import BoardfitError
from agent.site import Site
from agent.watch.receiver import REST_S, Receiver

if TYPE_CHECKING:  # loaded when the first application tells something
    from agent.core.deployment import Deployment
    from agent.core.live import LiveAnswer, LiveFigures, LiveReport, LiveWindow
    from agent.core.watch import Chart
    from agent.watch.judging import Ticks

log = logging.getLogger("boardfit")

KEY = "live"  # of the daemon's selector
APART_S = 60.0  # chosen: between two degradations of a task that are told; what stands between them is in ``status``


class _Task:
    """One task that somebody tells of."""

    def __init__(self, document: Deployment, budget_p95_s: float | None) -> None:
        from agent.core.live import LiveWindow
        from agent.core.watch import Watch

        self.document = document
        self.window: LiveWindow = LiveWindow(document.task, document.release)
        self.refused_release: str | None = None
        self.engine_version: str | None = None
        self.watch = Watch(document.expected.get("latency_p95_s"), budget_p95_s)
        self.budget_p95_s = budget_p95_s
        self.degraded: str | None = None
        self.looked_at = 0  # the process that told of it
        self.told_s, self.may_tell = float("-inf"), False  # when a degradation was last told, and whether this one is
        self.look: tuple[float, Ticks | None, tuple[Chart, ...]] | None = None  # when, from what, for which charts


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
        looks = [task.look[0] for task in self._tasks.values() if task.look is not None]
        return min([*looks, *([] if self._rests_until_s is None else [self._rests_until_s])], default=None)

    def tend(self) -> None:
        """Listen again after a rest, and say what explains a task's degradation once that was looked at."""
        now_s = self._site.clock.monotonic_s()
        if self._rests_until_s is not None and now_s >= self._rests_until_s:
            self._listen()
        for task in self._tasks.values():
            if task.look is not None and now_s >= task.look[0]:
                self._explain(task)

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
                        degraded=task.degraded,
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
        task.engine_version = report.engine_version or task.engine_version
        self._judge(task, report, sender, now_s)
        if report.refused_release not in (None, task.refused_release) and self._is_current(report):
            task.refused_release = report.refused_release
            text = f"an application keeps {task.document.candidate}: {report.refused_reason or 'it gives no reason'}"
            self._site.report.event("application_kept_old_model", text, task=report.task)

    def _is_current(self, report: LiveReport) -> bool:
        from agent.deploy.store import CURRENT, ReleaseStore

        return ReleaseStore(self._site.state_dir / "deploy").linked(report.task, CURRENT) == report.refused_release

    def _judge(self, task: _Task, report: LiveReport, sender: int, now_s: float) -> None:
        """Hold a report against what was measured and is allowed. A ladder would take its steps here."""
        if task.budget_p95_s != (limit := self._limit(report.task)) and not task.watch.degraded:
            task.budget_p95_s, task.watch = limit, type(task.watch)(task.document.expected.get("latency_p95_s"), limit)
        change = task.watch.add(report)
        if change is None:
            return
        from agent.core.watch import said

        if change.degraded:
            from agent.watch.judging import LOOK_S, read_ticks

            task.may_tell = now_s - task.told_s >= APART_S
            if task.may_tell:
                task.look = (now_s + LOOK_S, read_ticks(self._site, {sender}), change.charts)
                task.looked_at = sender
            task.degraded = said(change.charts)
            return
        if task.may_tell and task.look is None:
            text = f"{task.document.candidate} serves {report.task} as it should again; it was: {said(change.charts)}"
            self._site.report.event(
                "watch_recovered", f"{text}{self._figures_text(task)}", level="info", task=report.task
            )
        task.degraded = task.look = None

    def _explain(self, task: _Task) -> None:
        from agent.core.watch import causes, said
        from agent.watch.judging import conditions_now, conditions_then, read_ticks, with_outputs

        assert task.look is not None
        _, before, charts = task.look
        task.look, task.told_s = None, self._site.clock.monotonic_s()
        now = conditions_now(self._site, task.engine_version, before, read_ticks(self._site, {task.looked_at}))
        now = with_outputs(self._site, task.document, now)
        found = causes(conditions_then(self._site, task.document), now)
        task.degraded = "; ".join(one.text for one in found)
        text = f"{task.document.candidate} serves {task.document.task} worse: {said(charts)}{self._figures_text(task)}"
        self._site.report.event("watch_degraded", f"{text}. Likely {task.degraded}", task=task.document.task)

    def _figures_text(self, task: _Task) -> str:
        """Return the window's figures beside what they are held against."""
        seen = task.window.figures(self._site.clock.monotonic_s())
        if seen is None:
            return ""
        parts = [f"p95 {format_quantity(seen.latency_p95_s, 'time')}"]
        measured = task.document.expected.get("latency_p95_s")
        parts += [] if measured is None else [f"{format_quantity(measured, 'time')} when measured"]
        parts += [] if task.budget_p95_s is None else [f"budget {format_quantity(task.budget_p95_s, 'time')}"]
        return f" ({', '.join(parts)}; {seen.requests} requests and {seen.errors} errors in {seen.window_s:.0f} s)"

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
        if known is not None and known.degraded is not None and known.may_tell and known.look is None:
            text = f"{known.document.candidate}, which served {report.task} worse, was replaced"
            self._site.report.event("watch_recovered", text, level="info", task=report.task)
        self._tasks[report.task] = _Task(document, self._limit(report.task))
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
