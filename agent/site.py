"""One state directory and everything that works on it: database, board, registry, deployer, outbox.

Composition only: it builds adapters from the configuration and hands them out; no rule lives here. The command line and
the daemon both open a ``Site``; ``agent.pipeline`` runs stages on it.

Layout of a state directory: ``boardfit.db``, ``registry/`` (trusted metadata), ``cache/`` (artifacts),
``deploy/<task>/{current,previous,releases}``, ``engines/`` (what accelerators built), ``reserve``, ``*.lock``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.clock import SystemClock
from agent.config import Config, MqttConfig, TaskConfig
from agent.core.deployment import Deployment
from agent.core.facts import DeviceFacts
from agent.core.ports import Clock, ProbeResult, Progress, StopRequested, never_stop, no_progress
from agent.core.topics import Address, address
from agent.database import FILE_NAME, Database
from agent.device.board import Board, this_board
from agent.endpoints import broker_of, outside_of
from agent.errors import ConfigError, DownloadError, TrustError
from agent.ledger import Ledger
from agent.ownership import Standing, stand
from agent.records import Records
from agent.registry.floor import read_floor
from agent.report.outbox import Bounds, Outbox
from agent.report.pace import DrainLimits
from agent.report.publisher import Publisher
from agent.report.receipts import ReceiptPolicy
from agent.reporting import Reporting
from agent.reserve import Reserve
from agent.resources import demo_registry
from agent.settings import Settings

if TYPE_CHECKING:  # imported where they are used: the idle daemon needs none of them
    from agent.deploy.executor import Deployer
    from agent.deploy.journal import Failures
    from agent.measure.settings import MeasureSettings
    from agent.registry.client import RegistryClient

WRITTEN_AT = datetime(2026, 11, 22, tzinfo=timezone.utc)  # no board runs this before it was written
DEMO_MARKER = "made-by-boardfit-demo"  # in the state directory of a demo, and nowhere else


def default_state_dir(environment: dict[str, str] | None = None) -> Path:
    """Return systemd's ``$STATE_DIRECTORY``, /var/lib/boardfit for root, or the XDG state folder of a user."""
    env = dict(os.environ) if environment is None else environment
    if env.get("STATE_DIRECTORY"):
        return Path(env["STATE_DIRECTORY"].split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/boardfit")
    return Path(env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "boardfit"


class Site:
    """An open state directory. Close it, or use it as a context manager."""

    def __init__(
        self,
        config: Config,
        state_dir: Path,
        progress: Progress = no_progress,
        stop: StopRequested = never_stop,
        clock: Clock | None = None,
        *,
        halt: StopRequested | None = None,
    ) -> None:
        self.written = config
        self.state_dir = state_dir
        self.progress = progress
        self.stop = stop
        self.halt = halt or stop  # for what must not give way in the middle: a deployment
        self.clock = clock or SystemClock()
        self._deployers: dict[str, Deployer] = {}

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database if it was opened."""
        if "database" in self.__dict__:
            self.database.close()

    @cached_property
    def database(self) -> Database:
        """The state database; one that was damaged has been set aside, and an event says so."""
        reserve = Reserve(self.state_dir)
        database = self.__dict__["database"] = Database(self.state_dir / FILE_NAME, reserve)
        if database.set_aside is not None:
            text = f"the state database was damaged; it lies at {database.set_aside} and a fresh one took its place"
            self.report.event("database_set_aside", text, level="error")
        if self.standing.taken_from is not None:  # judged before anybody relies on what is in it
            self.report.event("identity_taken_anew", self.standing.text)
        reserve.listen(self._tell_space)
        return database

    def _tell_space(self, scarce: bool) -> None:
        if scarce:
            text = f"the disk of {self.state_dir} is full; what serves goes on, and nothing is measured or downloaded"
            self.report.event("disk_full", text, level="error", fix="free some space; the rest comes by itself")
        else:
            self.report.event("disk_has_room", f"the disk of {self.state_dir} has room again", level="info")

    @cached_property
    def settings(self) -> Settings:
        """The desired states that were taken here."""
        return Settings(self.database)

    @cached_property
    def config(self) -> Config:
        """The settings in force: agent.yaml, with the desired states laid over it where there is a broker."""
        mqtt = self.written.mqtt
        return self.written if mqtt is None else self.settings.effective(self.written, mqtt.groups)

    def renew_config(self) -> None:
        """Work by what is desired now."""
        self.__dict__.pop("config", None)

    def time_floor(self) -> datetime:
        """Return the least the time can be: when this was written, or the registry's last proof if that is later."""
        return max(WRITTEN_AT, read_floor(self.state_dir / "registry") or WRITTEN_AT)

    @cached_property
    def records(self) -> Records:
        """Measurements and decisions."""
        return Records(self.database)

    @property
    def engines(self) -> Path:
        """Where accelerators keep what they have built for a model."""
        return self.state_dir / "engines"

    @cached_property
    def ledger(self) -> Ledger:
        """What this board did by itself today."""
        return Ledger(self.database, self.clock, self.board.boot_id())

    @cached_property
    def board(self) -> Board:
        """This board's readings, those of meters in its supply among them. Raises: ConfigError."""
        return this_board(outside=outside_of(self.written))

    @cached_property
    def standing(self) -> Standing:
        """What this machine is to this state: its own, one it has taken over, or a copy that must not speak."""
        return stand(self.database, self.written, self.__dict__.get("board") or this_board())

    @property
    def device_id(self) -> str:
        """The configured id, else the one this state began with, which was derived from the machine."""
        return self.standing.name

    @cached_property
    def address(self) -> Address | None:
        """This board's place in the fleet; None without a broker, and where this state is another board's."""
        if self.written.mqtt is None or self.standing.refusal is not None:
            return None
        return address(self.written.mqtt.fleet, self.device_id)

    @cached_property
    def outbox(self) -> Outbox | None:
        """What is to be told to the fleet; None without a broker."""
        if self.address is None:
            return None
        return Outbox(
            self.database,
            self.address,
            self.clock,
            boot_id=self.board.boot_id(),
            bounds=Bounds(max_bytes=self.written.outbox_max_bytes, max_age_s=self.written.outbox_max_age_s),
            clock_synced=self.board.clock_synced,
        )

    @cached_property
    def report(self) -> Reporting:
        """What this board tells the fleet; without a broker it is logged where it is an event, and else nothing."""
        return Reporting(self.database, self.outbox, self.board.boot_id)

    def publisher(self, epoch: str | None = None) -> Publisher | None:
        """Return a publisher for the outbox, not yet connected; None without a broker. Raises: ConfigError.

        Args: epoch: told in its status, where somebody here takes commands.
        """
        settings = self.written.mqtt
        if settings is None or self.outbox is None:
            return None
        facts = self.records.facts()
        limits = DrainLimits(
            rate_per_s=settings.drain_rate_per_s, burst=settings.drain_burst, spread_s=settings.drain_spread_s
        )
        publisher = Publisher(
            self.outbox,
            broker_of(settings),
            self.clock,
            profile=facts,
            groups=settings.groups,
            epoch=epoch,
            uptime_s=self.clock.monotonic_s,
            limits=limits,
            receipts=self._receipt_policy(settings),
        )
        fix = "find the board that was copied from this one, and enroll it anew: `boardfit enroll --new-key`"
        publisher.rivalry.on_rival = lambda text: self.report.event("identity_shared", text, level="error", fix=fix)
        return publisher

    def _receipt_policy(self, settings: MqttConfig) -> ReceiptPolicy:
        if settings.receipts != "signed":
            return ReceiptPolicy(mode=settings.receipts)
        from agent.report.sealed import SealedReceipts

        now = lambda: max(self.clock.utc(), self.time_floor())  # noqa: E731
        return ReceiptPolicy(
            mode="required", unseal=SealedReceipts(self.records.operators, now, self.clock.monotonic_s)
        )

    @cached_property
    def registry(self) -> RegistryClient:
        """The registry client. Raises: ConfigError: none is configured."""
        from agent.deploy.store import ReleaseStore
        from agent.registry.cache import Cache
        from agent.registry.client import RegistryClient
        from agent.registry.counting import CountedTransport
        from agent.registry.transport import open_transport

        settings = self.written.registry
        if settings is None:
            raise ConfigError("no registry is configured", fix="run `boardfit setup`, or add `registry:` to agent.yaml")
        self._refuse_demo_root(settings.root)
        cache = Cache(
            self.state_dir / "cache",
            quota_bytes=settings.cache_quota_bytes,
            protected=ReleaseStore(self.state_dir / "deploy").protected_digests,
        )
        transport = CountedTransport(open_transport(settings.url), lambda count: self.ledger.add(download_bytes=count))
        return RegistryClient(
            settings.url, settings.root, self.state_dir / "registry", cache, clock=self.clock, transport=transport
        )

    def _refuse_demo_root(self, root: Path) -> None:
        """Raise ConfigError for the demo's root of trust outside of the demo: anybody can sign with its keys."""
        demo = None if (self.state_dir / DEMO_MARKER).exists() or not root.is_file() else demo_registry()
        if demo is not None and root.read_bytes() == (demo / "root.json").read_bytes():
            problem = f"{root} is the demo registry's root of trust, whose private keys are public"
            raise ConfigError(problem, fix="make a registry of your own with `boardfit registry init`")

    def take_operators(self) -> None:
        """Keep the registry's list of who may give commands; where it cannot be had, the last one holds."""
        from agent.registry.operators import fetch_operators

        try:
            self.records.keep_operators(fetch_operators(self.registry))
        except (TrustError, DownloadError) as error:
            self.report.failure("operators_not_fetched", error)

    @cached_property
    def measure_settings(self) -> MeasureSettings:
        """The configuration's ``measure`` part as the measuring stage takes it."""
        from agent.measure.settings import MeasureSettings

        wanted = self.written.measure
        return MeasureSettings(
            min_runs=wanted.min_runs, processes=wanted.processes, min_time_s=wanted.min_time_s,
            max_time_s=wanted.max_time_s, deadline_s=wanted.deadline_s, accuracy_time_s=wanted.accuracy_time_s,
            memory_growth_bytes=wanted.memory_cap_bytes, reuse_max_age_s=wanted.max_age_s,
            sustained_max_s=wanted.sustained_max_s, threads=wanted.threads, contended=wanted.contended,
            power_window_max_s=self.written.power.window_max_s,
        )  # fmt: skip

    def facts(self) -> DeviceFacts:
        """Return the stored facts of this board. Raises: ConfigError: it was never profiled here."""
        facts = self.records.facts()
        if facts is None:
            raise ConfigError("this board was not profiled yet", fix="run `boardfit profile` or `boardfit once` first")
        return facts

    def deployer(self, task: TaskConfig) -> Deployer:
        """Return the deployer of one task, its proof run by the measuring stage's worker; made once."""
        if task.name in self._deployers:
            return self._deployers[task.name]
        from agent.deploy.executor import Deployer
        from agent.deploy.hook import HookSettings

        hook, health = (
            None if one is None else HookSettings(argv=one.command, deadline_s=one.deadline_s)
            for one in (task.hook, task.health)
        )  # fmt: skip
        made = self._deployers[task.name] = Deployer(
            self.state_dir,
            self.database,
            clock=self.clock,
            probe=partial(
                _prove,
                engines=self.engines,
                facts=self.records.facts,
                clock=self.clock,
                stop=self.halt,
                budgets=task.budgets,
            ),
            hook=hook,
            health=health,
            probation_s=task.probation_s,
            progress=self.progress,
            stop=self.halt,
            told=self._tell_quarantine,
        )
        return made

    def _tell_quarantine(self, found: Failures, text: str) -> None:
        fix = f"publish a corrected model, or `boardfit pardon --task {found.task} --candidate {found.candidate}`"
        self.report.event("model_quarantined", text, level="error", task=found.task, fix=fix)

    def task_names(self, wanted: str | None, known: Sequence[str]) -> tuple[str, ...]:
        """Return the tasks to work on: the one asked for, the configured ones, or all known ones.

        Raises: ConfigError: there is none.
        """
        names = (wanted,) if wanted else tuple(self.config.tasks) or tuple(known)
        if not names:
            raise ConfigError("no task is configured and none is known here", fix="add `tasks:` to agent.yaml")
        return names


def _prove(release: Path, deployment: Deployment, *, engines: Path, **given: Any) -> ProbeResult:
    from agent.measure.engine_cache import EngineCache
    from agent.measure.release import prove_with_kept  # a deployer that only recovers never needs it

    return prove_with_kept(release, deployment, engines=EngineCache(engines), **given)
