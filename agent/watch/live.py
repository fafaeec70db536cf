"""The windows of what applications tell, tied to what is deployed; asked by the daemon, the schedule and ``status``.

Rules:
- A task has a window while it is deployed here and somebody told of it. It is of the release that serves: one that was
  replaced is told of no longer, but where an application says that it could not open the new one.
- What ``agent.core.watch`` makes of the reports is an event with its figures and causes, and stands in ``status``.
- Where a task has a ladder (``stepping``) its promise is the budget, or what was measured of what was chosen: on a
  lower rung without a budget the watch holds reports against that, and not against the rung's own figure.
- An application that runs another engine than was decided for asks for a pass, once for each release.
- An application that keeps an old release is one event for each release that it refuses.
- With nobody telling nothing is loaded, kept or sent: the socket alone stands open.

Leaves who is listened to, to ``receiver``.
"""

from __future__ import annotations

import logging
import selectors
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from agent.core.units import format_quantity
from agent.errors import BoardfitError
from agent.site import Site
from agent.watch.message import message_for_task
from agent.watch.receiver import REST_S, Receiver

if TYPE_CHECKING:  # loaded when the first application tells something
    from agent.core.deployment import Deployment
    from agent.core.live import LiveAnswer, LiveFigures, LiveReport, LiveWindow
    from agent.core.watch import Chart
    from agent.watch.finishing import Finisher
    from agent.watch.judging import Ticks
    from agent.watch.stepping import Explained, Stepper

log = logging.getLogger("boardfit")

KEY = "live"  # of the daemon's selector
APART_S = 60.0  # chosen: between two degradations of a task that are told; what stands between them is in ``status``


class _Task:
    """One task that somebody tells of."""

    def __init__(self, document: Deployment, budget_p95_s: float | None, stepper: Stepper | None) -> None:
        from agent.core.live import LiveWindow

        self.stepper = stepper
        self.rung = None if stepper is None else stepper.ladder.index(document.release)
        self.ladder_at: int | None = None  # when the ladder was laid that ``stepper`` goes by
        self.ticks: Ticks | None = None  # when the watch began to suspect
        self.document = document
        self.window: LiveWindow = LiveWindow(document.task, document.release)
        self.refused_release: str | None = None
        self.engine_version: str | None = None
        self.hold_to(budget_p95_s)
        self.degraded: str | None = None
        self.looked_at = 0  # the process that told of it
        self.told_s, self.may_tell = float("-inf"), False  # when a degradation was last told, and whether this one is
        self.look: tuple[float, Ticks | None, tuple[Chart, ...]] | None = None  # when, from what, for which charts

    def hold_to(self, budget_p95_s: float | None) -> None:
        """Begin the charts anew, with this budget."""
        from agent.core.watch import Watch

        expected_s = self.document.expected.get("latency_p95_s")
        if self.rung and self.stepper is not None and budget_p95_s is None:
            expected_s = self.stepper.ladder.rungs[0].latency_p95_s
        self.watch, self.budget_p95_s = Watch(expected_s, budget_p95_s), budget_p95_s

    @property
    def is_broken(self) -> bool:
        """Whether calls break the promise of the ladder."""
        return ("slower" if self.budget_p95_s is None else "over_budget") in self.watch.alarmed


class Live:
    """What applications tell a daemon.

    Args: agent: the command whose verbs children run.
    Attributes: on_wish: hears why a pass is wanted. may_step: asked before each step.
    """

    def __init__(self, site: Site, agent: Sequence[str] = (sys.executable, "-m", "agent")) -> None:
        self._site = site
        self._agent = agent
        self.on_wish: Callable[[str], None] = lambda _cause: None
        self.may_step: Callable[[], bool] = lambda: True
        self._steppers: dict[str, Stepper] = {}
        self._finisher: Finisher | None = None  # made with the first step that has a hook
        self._compared: dict[str, str] = {}  # task -> the release for whose engine a pass was asked
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
        if self._finisher is not None and (end := self._finisher.deadline(self._site.clock.monotonic_s())) is not None:
            looks.append(end)
        return min([*looks, *([] if self._rests_until_s is None else [self._rests_until_s])], default=None)

    def tend(self) -> None:
        """Listen again after a rest, and say what explains a task's degradation once that was looked at."""
        now_s = self._site.clock.monotonic_s()
        if self._rests_until_s is not None and now_s >= self._rests_until_s:
            self._listen()
        if self._finisher is not None:
            self._finisher.tend(now_s)
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
                        rung=task.rung,
                        rungs=None if task.stepper is None else len(task.stepper.ladder.rungs),
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
                self._site.report.tell("telemetry", partial(message_for_task, one), f"task.{one.task}")

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
        self._step(task, sender, now_s)
        self._compare_engine(task)
        if report.refused_release not in (None, task.refused_release) and self._is_current(report):
            task.refused_release = report.refused_release
            text = f"an application keeps {task.document.candidate}: {report.refused_reason or 'it gives no reason'}"
            self._site.report.event("application_kept_old_model", text, task=report.task)

    def _is_current(self, report: LiveReport) -> bool:
        from agent.deploy.store import CURRENT, ReleaseStore

        return ReleaseStore(self._site.state_dir / "deploy").linked(report.task, CURRENT) == report.refused_release

    def _judge(self, task: _Task, report: LiveReport, sender: int, now_s: float) -> None:
        """Hold a report against what was measured and is allowed."""
        if task.budget_p95_s != (limit := self._limit(report.task)) and not task.watch.degraded:
            task.stepper = self._stepper_of(report.task)
            task.hold_to(limit)
        change = task.watch.add(report)
        if task.stepper is not None:
            self._suspect(task, sender)
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

    def _suspect(self, task: _Task, sender: int) -> None:
        """Read who uses the processors when a breach may be coming: a step has no time to look for long."""
        if not task.watch.suspects:
            task.ticks = None
        elif task.ticks is None:
            from agent.watch.judging import read_ticks

            task.ticks = read_ticks(self._site, {sender})

    def _step(self, task: _Task, sender: int, now_s: float) -> None:
        """Take the step along the task's ladder that is due."""
        self._renew_ladder(task)
        stepper = task.stepper
        if stepper is not None and task.rung is None and self._serves(task.document):
            task.rung = stepper.ladder.index(task.document.release)  # the step was taken back
        if stepper is None or task.rung is None or not self.may_step():
            return

        def explain() -> Explained:
            if task.look is not None:
                self._explain(task, task.ticks)
            return self._explained(task, task.ticks, sender)

        newest = task.window.newest_p95_s(now_s)
        if not stepper.look(task.rung, broken=task.is_broken, p95_s=newest, told=(sender, now_s), explain=explain):
            return
        task.rung = None  # it is another's from now on, and reports that are under way are of the past
        if stepper.hook_waits:
            from agent.watch.finishing import Finisher

            self._finisher = self._finisher or Finisher(self._site, self._agent)
            self._finisher.ask()

    def _renew_ladder(self, task: _Task) -> None:
        """Go by the ladder of now: a pass may have laid another below what it left serving."""
        if task.ladder_at == (at := self._ladder_at(task.document.task)):
            return
        task.ladder_at, task.stepper = at, self._stepper_of(task.document.task)
        serves = task.stepper is not None and self._serves(task.document)
        task.rung = task.stepper.ladder.index(task.document.release) if task.stepper is not None and serves else None

    def _ladder_at(self, task: str) -> int | None:
        try:
            return (self._site.state_dir / "deploy" / task / "ladder.json").stat().st_mtime_ns
        except OSError:
            return None

    def _serves(self, document: Deployment) -> bool:
        from agent.deploy.store import CURRENT, ReleaseStore

        return ReleaseStore(self._site.state_dir / "deploy").linked(document.task, CURRENT) == document.release

    def _compare_engine(self, task: _Task) -> None:
        """Ask for a pass where another engine runs than was measured; what was not measured with it is measured."""
        decided, runs = task.document.point.engine_version, task.engine_version
        release = task.document.release
        if not decided or not runs or runs == decided or self._compared.get(task.document.task) == release:
            return
        self._compared[task.document.task] = release
        self._wish(task.document.task, f"an application runs {task.document.point.engine} {runs}, not {decided}")

    def _wish(self, task: str, reason: str) -> None:
        self._site.report.event("reselection_wanted", f"{task} asks to be chosen anew: {reason}", task=task)
        self.on_wish(f"{task}: {reason}")

    def _explained(self, task: _Task, before: Ticks | None, sender: int) -> Explained:
        """Look at the board. Args: before: an earlier look at who uses the processors."""
        from agent.core.watch import causes
        from agent.watch.judging import conditions_now, conditions_then, read_ticks, with_outputs
        from agent.watch.stepping import Explained

        after = None if before is None else read_ticks(self._site, {sender})
        now, then = (
            conditions_now(self._site, task.engine_version, before, after),
            conditions_then(self._site, task.document),
        )
        return Explained(causes(then, with_outputs(self._site, task.document, now)), then, now)

    def _explain(self, task: _Task, before: Ticks | None = None) -> None:
        """Tell what explains a degradation. Args: before: an earlier look than the one that was taken with it."""
        from agent.core.watch import said

        assert task.look is not None
        _, looked, charts = task.look
        task.look, task.told_s = None, self._site.clock.monotonic_s()
        found = self._explained(task, before or looked, task.looked_at).causes
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
        self._tasks[report.task] = _Task(document, self._limit(report.task), self._stepper_of(report.task))
        return self._tasks[report.task]

    def _stepper_of(self, task: str) -> Stepper | None:
        """Return who steps a task: the one that did, while its ladder and its budget are the same."""
        from agent.deploy.store import ReleaseStore

        store = ReleaseStore(self._site.state_dir / "deploy")
        ladder = None if self._site.config.task(task).ladder is None else store.ladder(task)
        if ladder is None or len(ladder.rungs) < 2:
            self._steppers.pop(task, None)
            return None
        from agent.watch.stepping import Stepper

        known = self._steppers.get(task)
        if known is None or known.ladder.rungs != ladder.rungs or known.budget_p95_s != self._limit(task):
            self._steppers[task] = Stepper(self._site, ladder, self._limit(task), self._wish)
        return self._steppers[task]
