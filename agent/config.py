"""agent.yaml to a frozen Config.

Rules:
- An unknown key is an error that names its path and the nearest known key; so is a key written twice.
- A physical quantity carries its unit; a bare number is an error.
- Nothing is opened or contacted here: whether a file or broker exists is found where it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.config_board import BoardConfig, RawBoard, board_config
from agent.config_files import read_files
from agent.config_power import PowerConfig, RawPower, power_config
from agent.config_schedule import (
    RawCaps,
    RawEntry,
    RawReplay,
    ReplayConfig,
    caps_config,
    replay_config,
    schedule_config,
)
from agent.config_shadow import RawShadow, shadow_config
from agent.config_values import beside, check_keys, optional_path, positive, usable_name
from agent.core.allowance import Caps
from agent.core.budget import Budget, Objective, parse_budgets, parse_objective
from agent.core.schedule import ScheduleEntry
from agent.core.shadow import ShadowPlan
from agent.core.units import parse_quantity
from agent.errors import ConfigError

DEFAULT_PATH = Path("/etc/boardfit/agent.yaml")
_MOST_RUNGS = 8  # chosen: each is a copy of a model on the board
DEFAULT_OBJECTIVE = ("maximize accuracy_top1", "minimize latency_p95")


class _Registry(msgspec.Struct, kw_only=True):
    url: str
    root: str
    cache_quota: Any = "1 GiB"


class _Drain(msgspec.Struct, kw_only=True):
    rate: Any = "5 /s"
    burst: int = 20
    spread: Any = "10 min"


class _Mqtt(msgspec.Struct, kw_only=True):
    url: str
    fleet: str = "default"
    group: list[str] = []
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    username: str | None = None
    password_file: str | None = None
    protocol: str = "5"
    keepalive: Any = "60 s"
    receipts: Literal["auto", "required", "signed", "off"] = "auto"
    drain: _Drain = msgspec.field(default_factory=_Drain)


class _Hook(msgspec.Struct, kw_only=True):
    command: list[str]
    deadline: Any = "30 s"


class _Ladder(msgspec.Struct, kw_only=True):
    rungs: int = 3
    dwell: Any = "30 s"
    ask_after: Any = "1 h"


class _Task(msgspec.Struct, kw_only=True):
    budgets: dict[str, Any] = {}
    objective: list[str] = msgspec.field(default_factory=lambda: list(DEFAULT_OBJECTIVE))
    hook: _Hook | None = None
    health: _Hook | None = None
    probation: Any = "0 s"
    allow_estimated_power: bool = False
    shadow: RawShadow | None = None
    ladder: _Ladder | None = None


class _Measure(msgspec.Struct, kw_only=True):
    min_runs: int = 100
    processes: int = 5
    min_time: Any = "0.25 s"
    max_time: Any = "10 s"
    deadline: Any = "120 s"
    accuracy_time: Any = "60 s"
    memory_cap: Any = None
    threads: list[int] | None = None
    max_age: Any = "30 d"
    sustained_max_time: Any = "30 min"
    contended: Literal["refuse", "flag"] = "refuse"


class _Device(msgspec.Struct, kw_only=True):
    id: str | None = None  # None or "auto": derived


class _Outbox(msgspec.Struct, kw_only=True):
    max_size: Any = "16 MiB"
    max_age: Any = "30 d"


class _Document(msgspec.Struct, kw_only=True):
    registry: _Registry | None = None
    mqtt: _Mqtt | None = None
    tasks: dict[str, _Task] = {}
    board: RawBoard = msgspec.field(default_factory=RawBoard)
    schedule: list[RawEntry] = []
    caps: RawCaps = msgspec.field(default_factory=RawCaps)
    replay: RawReplay = msgspec.field(default_factory=RawReplay)
    measure: _Measure = msgspec.field(default_factory=_Measure)
    power: RawPower = msgspec.field(default_factory=RawPower)
    device: _Device | Literal["auto"] = msgspec.field(default_factory=_Device)
    outbox: _Outbox = msgspec.field(default_factory=_Outbox)


class RegistryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where signed candidates come from: an http(s) or file URL, or a folder; ``root`` is the root of trust."""

    url: str
    root: Path
    cache_quota_bytes: int


class MqttConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The broker and this board's place in the fleet."""

    url: str
    fleet: str
    groups: tuple[str, ...]
    ca: Path | None
    cert: Path | None
    key: Path | None
    username: str | None
    password_file: Path | None
    protocol: str
    keepalive_s: float
    receipts: Literal["auto", "required", "signed", "off"] = "auto"
    drain_rate_per_s: float = 5.0
    drain_burst: int = 20
    drain_spread_s: float = 600.0


class HookConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A command of the application's; a failure or a missed deadline rolls back."""

    command: tuple[str, ...]
    deadline_s: float


class LadderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many rungs at most, the shortest wait before a step up, and after how long below the top a pass is asked."""

    rungs: int = 3
    dwell_s: float = 30.0
    ask_after_s: float = 3600.0


class TaskConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one task must fulfil and what is preferred among those that do."""

    name: str
    budgets: tuple[Budget, ...]
    objectives: tuple[Objective, ...]
    hook: HookConfig | None = None  # run after a switch
    health: HookConfig | None = None  # asked again and again in the probation
    probation_s: float = 0.0
    allow_estimated_power: bool = False
    pin: str | None = None  # of a desired state: this candidate and no other
    shadow: ShadowPlan | None = None  # run beside what serves before a switch
    ladder: LadderConfig | None = None  # None: what is chosen serves, however it fares

    @property
    def settling_s(self) -> float:
        """For how long a deployment may go on once it has switched, but for its proofs."""
        return self.probation_s + sum(one.deadline_s for one in (self.hook, self.health) if one is not None)


class MeasureConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how often is measured; ``threads`` None means every count the board has.

    ``processes``: how many a measurement in full is timed in; a race needs one each.
    ``contended``: ``refuse`` gives no figure where too few runs had their cores; ``flag`` gives it and says so.
    """

    min_runs: int
    processes: int
    min_time_s: float
    max_time_s: float
    deadline_s: float
    accuracy_time_s: float
    memory_cap_bytes: int | None
    threads: tuple[int, ...] | None
    max_age_s: float
    sustained_max_s: float
    contended: Literal["refuse", "flag"]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration; ``path`` is the file it was read from, None for built-in defaults."""

    path: Path | None
    registry: RegistryConfig | None
    mqtt: MqttConfig | None
    tasks: dict[str, TaskConfig]
    schedule: tuple[ScheduleEntry, ...]
    caps: Caps
    measure: MeasureConfig
    power: PowerConfig
    device_id: str | None
    outbox_max_bytes: int
    outbox_max_age_s: float
    replay: ReplayConfig = ReplayConfig()
    board: BoardConfig = BoardConfig()

    def task(self, name: str) -> TaskConfig:
        """Return a task's configuration; one that is not configured has no budgets and the default objective."""
        return self.tasks.get(name) or TaskConfig(name=name, budgets=(), objectives=default_objectives())

    @property
    def sharing(self) -> tuple[str, ...]:
        """The tasks that share the board's budgets, by priority; none without such budgets."""
        return self.board.sharing(self.tasks)


def default_objectives() -> tuple[Objective, ...]:
    """Return the objective of a task that names none."""
    return tuple(parse_objective(text, where="objective") for text in DEFAULT_OBJECTIVE)


def load_config(path: Path | None) -> Config:
    """Read a configuration file and conf.d beside it; None reads the default path, or gives the defaults without any.

    Raises: ConfigError: unreadable, not YAML, unknown key, wrong type, bare number for a quantity.
    """
    document = read_files(path or DEFAULT_PATH, wanted=path is not None)
    if document is None:
        return parse_config({}, path=None)
    return parse_config(document, path=path or DEFAULT_PATH)


def parse_config(document: object, *, path: Path | None) -> Config:
    """Turn a YAML document into a Config. Raises: ConfigError."""
    if not isinstance(document, dict):
        raise ConfigError("the configuration must be a mapping of keys", fix="start it with `registry:` or `tasks:`")
    check_keys(document, msgspec.inspect.type_info(_Document), "")
    try:
        raw = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the configuration is not valid: {error}", fix="correct that value") from error
    return Config(
        path=path,
        registry=_registry(raw.registry, path),
        mqtt=_mqtt(raw.mqtt, path),
        tasks={name: _task(name, task) for name, task in raw.tasks.items()},
        schedule=schedule_config(raw.schedule),
        caps=caps_config(raw.caps),
        measure=_measure(raw.measure),
        power=power_config(raw.power, path),
        device_id=_device_id(raw.device),
        outbox_max_bytes=int(positive(raw.outbox.max_size, "bytes", "outbox.max_size")),
        outbox_max_age_s=positive(raw.outbox.max_age, "time", "outbox.max_age"),
        replay=replay_config(raw.replay),
        board=board_config(raw.board, raw.tasks),
    )


def _device_id(raw: _Device | str) -> str | None:
    """Return the name that was given, None where it is to be derived."""
    name = None if isinstance(raw, str) else raw.id
    return None if name in (None, "auto") else usable_name(name, "device.id")


def _registry(raw: _Registry | None, path: Path | None) -> RegistryConfig | None:
    if raw is None:
        return None
    quota = int(positive(raw.cache_quota, "bytes", "registry.cache_quota"))
    return RegistryConfig(url=raw.url, root=beside(path, raw.root), cache_quota_bytes=quota)


def _mqtt(raw: _Mqtt | None, path: Path | None) -> MqttConfig | None:
    if raw is None:
        return None
    if raw.protocol not in ("5", "3.1.1"):
        raise ConfigError(f"mqtt.protocol: {raw.protocol!r} is not spoken here", fix='write "5" or "3.1.1"')
    if raw.drain.burst < 1:
        raise ConfigError(f"mqtt.drain.burst is {raw.drain.burst}, which must be at least 1")
    return MqttConfig(
        url=raw.url,
        fleet=usable_name(raw.fleet, "mqtt.fleet"),
        groups=tuple(usable_name(group, "mqtt.group") for group in raw.group),
        ca=optional_path(path, raw.ca),
        cert=optional_path(path, raw.cert),
        key=optional_path(path, raw.key),
        username=raw.username,
        password_file=optional_path(path, raw.password_file),
        protocol=raw.protocol,
        keepalive_s=positive(raw.keepalive, "time", "mqtt.keepalive"),
        receipts=raw.receipts,
        drain_rate_per_s=positive(raw.drain.rate, "rate", "mqtt.drain.rate"),
        drain_burst=raw.drain.burst,
        drain_spread_s=parse_quantity(raw.drain.spread, "time", where="mqtt.drain.spread"),
    )


def _task(name: str, raw: _Task) -> TaskConfig:
    where = f"tasks.{name}"
    usable_name(name, "tasks")
    if not raw.objective:
        raise ConfigError(f"{where}.objective is empty", fix='name at least one, like "minimize latency_p95"')
    return TaskConfig(
        name=name,
        budgets=parse_budgets(raw.budgets, where=f"{where}.budgets"),
        objectives=tuple(parse_objective(text, where=f"{where}.objective") for text in raw.objective),
        hook=_command(raw.hook, f"{where}.hook"),
        health=_command(raw.health, f"{where}.health"),
        probation_s=parse_quantity(raw.probation, "time", where=f"{where}.probation"),
        allow_estimated_power=raw.allow_estimated_power,
        shadow=shadow_config(raw.shadow, f"{where}.shadow"),
        ladder=_ladder(raw.ladder, f"{where}.ladder"),
    )


def _ladder(raw: _Ladder | None, where: str) -> LadderConfig | None:
    if raw is None:
        return None
    if not 2 <= raw.rungs <= _MOST_RUNGS:
        fix = "leave `ladder` out for none"
        raise ConfigError(f"{where}.rungs is {raw.rungs}, which must be 2 to {_MOST_RUNGS}", fix=fix)
    return LadderConfig(
        rungs=raw.rungs,
        dwell_s=positive(raw.dwell, "time", f"{where}.dwell"),
        ask_after_s=positive(raw.ask_after, "time", f"{where}.ask_after"),
    )


def _command(raw: _Hook | None, where: str) -> HookConfig | None:
    if raw is None:
        return None
    if not raw.command or not Path(raw.command[0]).is_absolute():
        fix = "write it as a list whose first word is the program's absolute path"
        raise ConfigError(f"{where}.command must name a program", fix=fix)
    return HookConfig(command=tuple(raw.command), deadline_s=positive(raw.deadline, "time", f"{where}.deadline"))


def parse_schedule(document: list[dict[str, Any]]) -> tuple[ScheduleEntry, ...]:
    """Read a list of schedule entries as agent.yaml has them. Raises: ConfigError."""
    check_keys(document, msgspec.inspect.type_info(list[RawEntry]), "schedule")
    try:
        return schedule_config(msgspec.convert(document, list[RawEntry]))
    except msgspec.ValidationError as error:
        raise ConfigError(f"the schedule is not valid: {error}", fix="correct that value") from error


def parse_caps(document: dict[str, Any]) -> Caps:
    """Read the limits of a day as agent.yaml has them. Raises: ConfigError."""
    check_keys(document, msgspec.inspect.type_info(RawCaps), "caps")
    return caps_config(msgspec.convert(document, RawCaps))


def _measure(raw: _Measure) -> MeasureConfig:
    if not 1 <= raw.processes <= 30:
        raise ConfigError(f"measure: processes is {raw.processes}, which must be 1 to 30")
    if raw.min_runs < 10 or (raw.threads is not None and (not raw.threads or min(raw.threads) < 1)):
        raise ConfigError("measure: min_runs must be at least 10 and threads a list of positive counts")
    cap = None if raw.memory_cap is None else int(positive(raw.memory_cap, "bytes", "measure.memory_cap"))
    return MeasureConfig(
        min_runs=raw.min_runs,
        processes=raw.processes,
        min_time_s=positive(raw.min_time, "time", "measure.min_time"),
        max_time_s=positive(raw.max_time, "time", "measure.max_time"),
        deadline_s=positive(raw.deadline, "time", "measure.deadline"),
        accuracy_time_s=positive(raw.accuracy_time, "time", "measure.accuracy_time"),
        memory_cap_bytes=cap,
        threads=None if raw.threads is None else tuple(raw.threads),
        max_age_s=positive(raw.max_age, "time", "measure.max_age"),
        sustained_max_s=positive(raw.sustained_max_time, "time", "measure.sustained_max_time"),
        contended=raw.contended,
    )
