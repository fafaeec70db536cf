"""What one board tells the fleet: each kind of message made from what is known here, and queued once.

Decides what a message holds, and whether it is news; leaves the queue and its limits to ``agent.report``, and when
something is told to whoever calls. Without a broker nothing is made, and an event is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal

import msgspec

from agent import __version__
from agent.config import Config
from agent.core.allowance import Caps
from agent.core.conversions import message_for_deployment, message_for_reading, summary_of_measurement
from agent.core.deployment import DeploymentStatus
from agent.core.measurement import ContextReading, Measurement
from agent.core.payloads import Event, Origin, Reported, Scalar, ScheduleEntry, TaskSettings
from agent.core.topics import Kind, topic_for
from agent.database import Database
from agent.errors import BoardfitError
from agent.report.gathering import Gathering
from agent.report.outbox import Outbox
from agent.settings import Settings

log = logging.getLogger("boardfit")

Level = Literal["info", "warning", "error"]
_LOG_LEVELS: dict[Level, int] = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Reporting:
    """The messages of one board. Args: outbox: None without a broker. boot_id: of the boot that runs."""

    def __init__(self, database: Database, outbox: Outbox | None, boot_id: Callable[[], str | None]) -> None:
        self._database, self._outbox, self._boot_id = database, outbox, boot_id

    @cached_property
    def _gathering(self) -> Gathering | None:
        """The measurements that wait to be sent together."""
        return None if self._outbox is None else Gathering(self._database, self._outbox)

    def measured(self, measurement: Measurement) -> None:
        """Have a measurement sent with the others of its pass."""
        if self._gathering is not None:
            self._gathering.add(summary_of_measurement(measurement, self._boot_id()))

    def board(self, reading: ContextReading, **more: Any) -> None:
        """Queue one reading of the board's condition, and the outbox's. Args: more: further fields of telemetry."""
        if self._outbox is None:
            return
        fill = self._outbox.fill()
        of_the_outbox = {"outbox_messages": fill.messages, "outbox_bytes": fill.bytes, "outbox_dropped": fill.lost}
        fields = {**more, **of_the_outbox}
        self.tell(
            "telemetry",
            lambda origin: msgspec.structs.replace(message_for_reading(reading, origin), **fields),
            "board",
        )

    def release(self) -> None:
        """Queue what was measured and not sent yet; for whoever publishes."""
        if self._gathering is not None:
            self._gathering.release()

    def tell(
        self, kind: Kind, make: Callable[[Origin], Origin], parameter: str | None = None, *, news_only: bool = False
    ) -> None:
        """Queue one message for the fleet, made from its header; without a broker nothing is made.

        Args: news_only: leave it out where the broker was told just that last.
        """
        if self._outbox is not None:
            put = self._outbox.put_news if news_only else self._outbox.put
            put(topic_for(self._outbox.address, kind, parameter), make(self._outbox.origin()))

    def event(
        self, kind: str, text: str, *, level: Level = "warning", task: str | None = None, fix: str | None = None,
        facts: Mapping[str, Scalar] | None = None,
    ) -> None:  # fmt: skip
        """Log an event and queue it for the fleet."""
        log.log(_LOG_LEVELS[level], "%s", text)
        self.tell(
            "event",
            lambda origin: Event(
                **msgspec.structs.asdict(origin),
                level=level,
                kind=kind,
                text=text,
                task=task,
                fix=fix,
                facts=dict(facts or {}),
            ),
        )

    def failure(self, kind: str, error: BoardfitError, *, task: str | None = None) -> None:
        """Queue an event for an error that the caller handles or raises on."""
        self.event(kind, error.problem, level="error", task=task, fix=error.fix)

    def deployment(self, status: DeploymentStatus) -> None:
        """Queue the retained deployment document of a task, where it is news."""
        self.tell("deployment", lambda origin: message_for_deployment(status, origin), status.task, news_only=True)

    def settings(self, config: Config, settings: Settings, next_at: dict[str, str] | None = None) -> None:
        """Queue the retained document of the settings in force, where it is news."""
        if self._outbox is None:
            return
        tasks = {
            name: TaskSettings(
                budgets=tuple(budget.text for budget in task.budgets),
                objective=tuple(objective.text for objective in task.objectives),
                pin=task.pin,
            )
            for name, task in config.tasks.items()
        }
        schedule = tuple(
            ScheduleEntry(name=entry.name, action=entry.action, when=entry.cron) for entry in config.schedule
        )
        versions, refused = settings.versions(), settings.refused()
        caps = config.caps
        told = (tasks, schedule, versions, caps) if caps != Caps() else (tasks, schedule, versions)  # as ever without
        number = settings.reported_version(msgspec.json.encode(told, order="sorted"))
        self.tell(
            "reported",
            lambda origin: Reported(
                **msgspec.structs.asdict(origin),
                version=number,
                agent_version=__version__,
                groups=() if config.mqtt is None else config.mqtt.groups,
                desired_version=versions.get("device"),
                desired_versions=versions,
                desired_error=None if refused is None else refused.reason,
                desired_error_scope=None if refused is None else refused.scope,
                desired_error_version=None if refused is None else refused.version,
                tasks=tasks,
                schedule=tuple(
                    msgspec.structs.replace(entry, next_at=(next_at or {}).get(entry.name)) for entry in schedule
                ),
                cap_bench_s=caps.bench_s,
                cap_download_bytes=caps.download_bytes,
                cap_written_bytes=caps.written_bytes,
            ),
            news_only=True,
        )
