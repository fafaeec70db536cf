"""The payload of every message, as structs, each at its first version. Pure. ``agent.core.messages`` has the rules."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from agent.core.combination import CombinationSummary
from agent.core.facts import DeviceFacts
from agent.core.measurement import Verdict
from agent.core.summaries import BudgetSummary, OptionSummary, RungSummary

Scalar = str | int | float | bool | None
StatusState = Literal["online", "busy", "offline"]
JobState = Literal["QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks, and when. ``seq`` 0 is filled in by the outbox; the other fields are the caller's."""

    fleet: str
    device: str
    boot_id: str | None = None
    seq: int = 0
    time: str | None = None  # UTC, ISO 8601 with Z
    clock_synced: bool | None = None


class Status(Origin, frozen=True, kw_only=True):
    """Whether the device is there. Retained; the last will is one of these with ``state`` offline.

    ``busy`` is at work on an order, which ``reason`` names; other work, and what waits now, are in ``telemetry/board``.
    """

    state: StatusState
    schema: Literal["boardfit.status/1"] = "boardfit.status/1"
    reason: str | None = None
    agent_version: str | None = None
    uptime_s: float | None = None
    epoch: str | None = None  # new with every start of the agent; commands that switch what serves must name it
    outbox_messages: int | None = None
    outbox_bytes: int | None = None
    outbox_dropped: int | None = None
    class_fingerprint: str | None = None  # this and what follows: for a list of boards; null of an older agent
    soc: str | None = None
    memory_total_bytes: int | None = None
    groups: tuple[str, ...] | None = None


class Profile(Origin, frozen=True, kw_only=True):
    """What the board is: a few flat columns, and all facts below ``facts``."""

    class_fingerprint: str
    profile: str
    facts: DeviceFacts
    schema: Literal["boardfit.profile-message/1"] = "boardfit.profile-message/1"
    model: str | None = None
    soc: str | None = None
    architecture: str | None = None
    cores_usable: int | None = None
    memory_total_bytes: int | None = None
    power_mode: str | None = None
    agent_version: str | None = None


class DecisionMessage(Origin, frozen=True, kw_only=True):
    """What was decided for a task. Retained. The figures at the top level are the winner's."""

    id: str
    task: str
    decided_at: str
    class_fingerprint: str
    outcome: Literal["chosen", "kept_incumbent", "nothing_fits", "nothing_measured"]
    reason: str
    options_total: int
    options_fitting: int
    options: tuple[OptionSummary, ...]
    budgets: tuple[BudgetSummary, ...]
    objectives: tuple[str, ...]
    schema: Literal["boardfit.decision-message/1"] = "boardfit.decision-message/1"
    options_left_out: int = 0
    options_untried: int = 0  # not measured in full
    options_untried_that_matter: int = 0  # of these: could change the decision
    ladder: tuple[RungSummary, ...] = ()  # what may serve, the winner first, each further one lighter
    class_boards: int | None = None  # other boards of the class whose figures said what to try; null: none
    class_use: Literal["none", "order", "bounds"] | None = None  # how far they were followed; no budget is met by them
    class_left_out: int | None = None  # options not measured in full because of them
    what_if: bool = False
    candidate: str | None = None
    artifact_sha256: str | None = None
    engine: str | None = None
    provider: str | None = None
    threads: int | None = None
    batch: int | None = None
    latency_p50_s: float | None = None
    latency_p90_s: float | None = None
    latency_p95_s: float | None = None
    latency_p95_low_s: float | None = None
    latency_p95_high_s: float | None = None
    latency_p99_s: float | None = None
    latency_p95_sustained_s: float | None = None
    throughput_per_s: float | None = None
    memory_peak_bytes: float | None = None
    power_mean_w: float | None = None
    energy_per_inference_j: float | None = None
    size_bytes: float | None = None
    size_unpacked_bytes: float | None = None
    load_time_s: float | None = None
    first_inference_s: float | None = None
    accuracy_top1: float | None = None
    accuracy_drop: float | None = None
    incumbent_candidate: str | None = None
    incumbent_point: str | None = None
    nearest_miss_candidate: str | None = None
    nearest_miss_metric: str | None = None
    nearest_miss_ratio: float | None = None
    nearest_miss_reason: str | None = None
    combination: CombinationSummary | None = None  # null: the task has the board to itself


class DeploymentMessage(Origin, frozen=True, kw_only=True):
    """What serves a task now and how the last attempt ended. Retained."""

    task: str
    phase: str
    changed_at: str
    schema: Literal["boardfit.deployment-message/1"] = "boardfit.deployment-message/1"
    outcome: str | None = None
    reason: str | None = None
    release: str | None = None
    previous_release: str | None = None
    candidate: str | None = None
    model_sha256: str | None = None
    model_bytes: int | None = None
    format: str | None = None
    engine: str | None = None
    provider: str | None = None
    threads: int | None = None
    batch: int | None = None
    expected_latency_p95_s: float | None = None
    withheld: dict[str, str] = {}  # candidate -> why no pass may try it here; the first 20 by name
    withheld_count: int = 0
    rung: int | None = None  # of the task's ladder: 0 is what was chosen, the further the lighter; null: no ladder
    rungs: int | None = None
    chosen_candidate: str | None = None  # what was chosen, where a lower rung serves in its place; else null
    chosen_release: str | None = None


class MeasurementSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measurement, flat, without raw values; bounds are two-sided at 95 %.

    A field that is left out is null, an empty text left out is empty. ``boot_id`` is there where another boot than the
    sender's measured. Numbers have seven digits.
    """

    id: str
    task: str
    candidate: str
    artifact_sha256: str
    size_bytes: int
    engine: str
    engine_version: str
    provider: str
    threads: int
    batch: int
    class_fingerprint: str
    verdict: Verdict
    started_at: str
    duration_s: float
    boot_id: str | None = None
    reason: str | None = None
    stopped: str | None = None
    agent_version: str | None = None
    size_unpacked_bytes: int | None = None
    load_time_s: float | None = None
    first_inference_s: float | None = None
    engine_build_s: float | None = None
    latency_n: int | None = None
    latency_p50_s: float | None = None
    latency_p50_low_s: float | None = None
    latency_p50_high_s: float | None = None
    latency_p90_s: float | None = None
    latency_p95_s: float | None = None
    latency_p95_low_s: float | None = None
    latency_p95_high_s: float | None = None
    latency_p99_s: float | None = None
    latency_mean_s: float | None = None
    latency_min_s: float | None = None
    latency_max_s: float | None = None
    throughput_per_s: float | None = None
    warmup_runs: int | None = None
    warmup_settled: bool | None = None
    run_queue_wait_ratio: float | None = None
    memory_peak_bytes: int | None = None
    memory_model_peak_bytes: int | None = None
    memory_model_steady_bytes: int | None = None
    memory_runtime_baseline_bytes: int | None = None
    power_mean_w: float | None = None
    power_idle_w: float | None = None
    power_scope: str | None = None
    power_source: str | None = None
    power_reason: str | None = None
    energy_per_inference_j: float | None = None
    energy_per_inference_low_j: float | None = None
    energy_per_inference_high_j: float | None = None
    accuracy_top1: float | None = None
    accuracy_top1_low: float | None = None
    accuracy_top1_high: float | None = None
    accuracy_n: int | None = None
    accuracy_reason: str | None = None
    latency_p95_sustained_s: float | None = None
    latency_p95_sustained_low_s: float | None = None
    latency_p95_sustained_high_s: float | None = None
    power_mean_sustained_w: float | None = None
    sustained_steady: bool | None = None
    sustained_duration_s: float | None = None
    sustained_reason: str | None = None
    sustained_at: str | None = None
    golden_passed: bool | None = None
    golden_max_abs_error: float | None = None
    placement_actual: str | None = None
    placement_fallback: bool | None = None
    temperature_before_celsius: float | None = None
    temperature_after_celsius: float | None = None
    clock_before_hz: float | None = None
    clock_after_hz: float | None = None
    governor: str | None = None
    load_1min_before: float | None = None
    supply_ok: bool | None = None
    flags: str = ""  # comma-separated, so that it is one column
    confinement: str = ""


class Measurements(Origin, frozen=True, kw_only=True):
    """What was measured since the last of these: a whole pass, or as much of it as one message holds.

    A message may come twice, a measurement is in one only. Telegraf's ``json_query = "measurements"`` reads the list.
    """

    measurements: tuple[MeasurementSummary, ...]
    schema: Literal["boardfit.measurements/1"] = "boardfit.measurements/1"


class Telemetry(Origin, frozen=True, kw_only=True):
    """The board's condition, and the outbox's, at one moment."""

    group: str
    schema: Literal["boardfit.telemetry/1"] = "boardfit.telemetry/1"
    temperature_celsius: float | None = None
    clock_hz: float | None = None
    clock_max_hz: float | None = None
    governor: str | None = None
    load_1min: float | None = None
    steal_ratio: float | None = None
    memory_available_bytes: int | None = None
    power_w: float | None = None
    throttle_now: str | None = None  # comma-separated names; empty is "none set"
    supply_ok: bool | None = None
    power_mode: str | None = None
    agent_rss_bytes: int | None = None
    doing: str | None = None  # what the board works on, by itself or on an order; null: nothing
    outbox_messages: int | None = None
    outbox_bytes: int | None = None
    outbox_dropped: int | None = None
    schedule_next_entry: str | None = None
    schedule_next_due: str | None = None
    schedule_deferred_entry: str | None = None  # the last one that was put off or gave way, since the agent began
    schedule_deferred_at: str | None = None
    schedule_deferred_reason: str | None = None
    bench_today_s: float | None = None  # of this UTC day: seconds of measuring
    download_today_bytes: int | None = None
    written_today_bytes: int | None = None
    # Of a group ``task.<name>`` alone, and left out of the others: what applications told of a task.
    task: str | UnsetType = UNSET
    live_release: str | UnsetType | None = UNSET
    live_window_s: float | UnsetType | None = UNSET  # the newest so many seconds
    live_requests: int | UnsetType | None = UNSET
    live_errors: int | UnsetType | None = UNSET
    live_latency_p50_s: float | UnsetType | None = UNSET  # of histograms: off by up to 1.6 %
    live_latency_p95_s: float | UnsetType | None = UNSET
    live_latency_p99_s: float | UnsetType | None = UNSET
    live_expected_latency_p95_s: float | UnsetType | None = UNSET  # of the measurement that decided
    live_budget_latency_p95_s: float | UnsetType | None = UNSET
    live_rung: int | UnsetType | None = UNSET  # of the task's ladder; null: it has none
    live_rungs: int | UnsetType | None = UNSET
    live_degraded: str | UnsetType | None = UNSET  # by what the watch explains it; null: it does not call it degraded


class Event(Origin, frozen=True, kw_only=True):
    """Something happened that a person may want to know."""

    level: Literal["info", "warning", "error"]
    kind: str  # stable short name, e.g. registry_expired
    text: str
    schema: Literal["boardfit.event/1"] = "boardfit.event/1"
    task: str | None = None
    fix: str | None = None
    facts: dict[str, Scalar] = {}


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets and objective of a task as the device applies them."""

    budgets: tuple[str, ...] = ()
    objective: tuple[str, ...] = ()
    pin: str | None = None


class ScheduleEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One scheduled action as the device applies it."""

    name: str
    action: str
    when: str
    next_at: str | None = None


class Reported(Origin, frozen=True, kw_only=True):
    """The settings in force. Retained; the counterpart of the operator's ``desired``."""

    version: int  # counts up with every change on this device
    agent_version: str
    schema: Literal["boardfit.reported/1"] = "boardfit.reported/1"
    groups: tuple[str, ...] = ()  # whose commands and desired states this device takes
    desired_version: int | None = None  # of this device's own scope; null: none was applied
    desired_versions: dict[str, int] = {}  # of every scope applied: all, group:<name>, device
    desired_error: str | None = None  # why the last one offered was refused; null once one was taken
    desired_error_scope: str | None = None
    desired_error_version: int | None = None
    tasks: dict[str, TaskSettings] = {}
    schedule: tuple[ScheduleEntry, ...] = ()
    cap_bench_s: float | None = None  # of one UTC day, of what the device does by itself; null: no limit
    cap_download_bytes: int | None = None
    cap_written_bytes: int | None = None
    versions: dict[str, str] = {}


class Job(Origin, frozen=True, kw_only=True):
    """How a command fares.

    QUEUED -> IN_PROGRESS -> SUCCEEDED | FAILED | TIMED_OUT | CANCELED, or REJECTED at once; the last five are final.
    ``revision`` counts a job's documents: of two, the greater one holds, in whatever order they come. ``exit_code`` is
    the verb's as on the command line (0 done, 3 no candidate fits, 4 registry not trusted, 5 rolled back). While it is
    IN_PROGRESS, ``reason`` names what is worked on. A ``seq`` of 0 says that the document was not kept in the outbox.
    """

    id: str
    verb: str
    state: JobState
    schema: Literal["boardfit.job/1"] = "boardfit.job/1"
    reason: str | None = None
    issuer: str | None = None
    task: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    revision: int = 0
    queued_at: str | None = None
    deadline_at: str | None = None  # of the present state, UTC
    progress_ratio: float | None = None
    stage: str | None = None
    done: float | None = None
    total: float | None = None
    exit_code: int | None = None
    result: dict[str, Scalar] = {}


class EnvelopeSignature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature over the envelope's exact payload bytes."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename={"payload_type": "payloadType"}):
    """A signed document from an operator (DSSE): a command or a desired state. Not trusted until verified."""

    payload: str  # base64
    payload_type: str
    signatures: tuple[EnvelopeSignature, ...]
