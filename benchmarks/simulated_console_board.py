"""One simulated board of the console's pictures and tests: its documents, without a board. All figures are made up.

Every name of a board, model, profile and candidate says ``simulated`` or ``sim``.
"""

from __future__ import annotations

import hashlib
import math
import random
from datetime import datetime, timedelta
from typing import Any

import msgspec

from agent.clock import iso
from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, EngineFacts, MemoryFacts, OsFacts
from agent.core.messages import encode
from agent.core.payloads import (
    BudgetSummary,
    DecisionMessage,
    DeploymentMessage,
    Event,
    Job,
    Measurements,
    MeasurementSummary,
    OptionSummary,
    Origin,
    Profile,
    Reported,
    ScheduleEntry,
    Status,
    TaskSettings,
    Telemetry,
)
from agent.core.topics import address, topic_for

FLEET = "sim-plant"
TASK = "defects"
Message = tuple[str, bytes]


class Kind(msgspec.Struct, frozen=True):
    """A class of boards: how slow (1: the first), and what it draws in watts."""

    name: str
    model: str
    soc: str
    cores: int
    memory_bytes: int
    slow: float
    watt: float

    @property
    def fingerprint(self) -> str:
        """Return the class fingerprint."""
        return hashlib.sha256(self.model.encode()).hexdigest()


class Net(msgspec.Struct, frozen=True):
    """A candidate on the first class."""

    name: str
    p95_s: float
    accuracy: float
    size_bytes: int


KINDS = (
    Kind("pi5", "simulated Pi 5", "bcm2712", 4, 8 * 2**30, 1.0, 5.2),
    Kind("pi4", "simulated Pi 4", "bcm2711", 4, 4 * 2**30, 2.3, 4.4),
    Kind("orin", "simulated Orin Nano", "tegra234", 6, 8 * 2**30, 0.45, 9.1),
    Kind("rock5", "simulated Rock 5B", "rk3588", 8, 16 * 2**30, 0.8, 6.8),
)
NETS = (
    Net("sim-net-w100-f32", 0.0182, 0.961, 13_600_000),
    Net("sim-net-w100-int8", 0.0071, 0.958, 3_600_000),
    Net("sim-net-w050-f32", 0.0068, 0.949, 3_900_000),
    Net("sim-net-w050-int8", 0.0031, 0.944, 1_080_000),
    Net("sim-net-w025-f32", 0.0024, 0.912, 1_200_000),
    Net("sim-net-w025-int8", 0.0013, 0.903, 360_000),
    Net("sim-net-deep-f32", 0.0310, 0.963, 22_400_000),
    Net("sim-net-deep-int8", 0.0124, 0.952, 5_900_000),
)
P95_LIMIT_S, ACCURACY_LIMIT = 0.010, 0.94


class Teller:
    """Makes one board's documents. ``seed``: two with the same tell the same."""

    def __init__(self, kind: Kind, number: int, now: datetime, fleet: str = FLEET) -> None:
        self.kind, self.now, self.fleet = kind, now, fleet
        self.name = f"sim-{kind.name}-{number:03d}"
        self.at = address(fleet, self.name)
        self.random = random.Random(f"{kind.name} {number}")
        self.slow = kind.slow * self.random.uniform(0.97, 1.04)
        self.group = f"line-{1 + number // 4 % 4}"
        self._seq = 0

    def origin(self, ago_s: float) -> dict[str, Any]:
        """Return who speaks, and when."""
        self._seq += 1
        time = iso(self.now - timedelta(seconds=ago_s))
        made = Origin(
            fleet=self.fleet, device=self.name, boot_id="simulated", seq=self._seq, time=time, clock_synced=True
        )
        return msgspec.structs.asdict(made)

    def say(self, kind: Any, message: Any, parameter: str | None = None) -> Message:
        """Return topic and payload."""
        return topic_for(self.at, kind, parameter), encode(message)

    def status(self, state: Any, ago_s: float, **more: Any) -> Message:
        """Tell the status."""
        told = Status(**self.origin(ago_s), state=state, agent_version="0.1.0", epoch="e" * 32, **more)
        return self.say("status", told)

    def profile(self) -> Message:
        """Tell what the board is."""
        kind = self.kind
        cores = tuple(range(kind.cores))
        facts = DeviceFacts(
            board=BoardIdentity(model=kind.model, profile=f"simulated-{kind.name}", matched_on="nothing", soc=kind.soc),
            cpu=CpuFacts(architecture="aarch64", present=cores, usable=cores),
            memory=MemoryFacts(total_bytes=kind.memory_bytes),
            os=OsFacts(name="simulated Debian 12", python="3.11.2"),
            class_fingerprint=kind.fingerprint,
            engines=(
                EngineFacts(
                    name="onnxruntime",
                    formats=("onnx",),
                    version="1.20",
                    proven=True,
                    providers=("CPUExecutionProvider",),
                ),
            ),
            traps=("simulated: the fan stands still below 50 °C",) if kind.name == "pi4" else (),
        )
        told = Profile(
            **self.origin(90_000),
            class_fingerprint=kind.fingerprint,
            profile=f"simulated-{kind.name}",
            facts=facts,
            model=kind.model,
            soc=kind.soc,
            architecture="aarch64",
            cores_usable=kind.cores,
            memory_total_bytes=kind.memory_bytes,
            agent_version="0.1.0",
        )
        return self.say("profile", told)

    def p95_s(self, net: Net) -> float:
        """Return a candidate's latency here."""
        return net.p95_s * self.slow

    def energy_j(self, net: Net) -> float:
        """Return a candidate's energy here."""
        return self.kind.watt * 0.62 * self.p95_s(net)

    def options(self) -> list[OptionSummary]:
        """Return every candidate as the decision saw it, what fits first."""
        fits, misses = [], []
        for net in NETS:
            p95 = self.p95_s(net)
            if p95 > P95_LIMIT_S:
                reason = f"latency_p95 {p95 * 1e3:.3g} ms is over 10 ms by {100 * (p95 / P95_LIMIT_S - 1):.0f} %"
            elif net.accuracy < ACCURACY_LIMIT:
                reason = f"accuracy_top1 {net.accuracy:.3f} is below its budget of {ACCURACY_LIMIT}"
            else:
                reason = f"fits every budget; accuracy_top1 {net.accuracy:.3f}"
            fit = reason.startswith("fits")
            made = OptionSummary(
                candidate=net.name,
                point=f"onnxruntime/CPU x{self.kind.cores}",
                standing="fits" if fit else "over_budget",
                verdict="ok",
                reason=reason,
                latency_p95_s=p95,
                accuracy_top1=net.accuracy,
                energy_per_inference_j=self.energy_j(net),
                size_bytes=net.size_bytes,
            )
            (fits if fit else misses).append((net, made))
        fits.sort(key=lambda pair: -pair[0].accuracy)
        ranked = [msgspec.structs.replace(made, rank=rank) for rank, (_, made) in enumerate(fits, start=1)]
        return ranked + [made for _, made in sorted(misses, key=lambda pair: pair[1].latency_p95_s or 0)]

    def decision(self, ago_s: float) -> Message:
        """Tell the last decision."""
        options = self.options()
        best = options[0] if options[0].rank == 1 else None
        miss = next((one for one in options if one.rank is None), None)
        net = None if best is None else next(net for net in NETS if net.name == best.candidate)
        p95 = None if best is None else best.latency_p95_s
        told = DecisionMessage(
            **self.origin(ago_s),
            id=f"d-{self.name}",
            task=TASK,
            decided_at=iso(self.now - timedelta(seconds=ago_s)),
            class_fingerprint=self.kind.fingerprint,
            outcome="chosen" if best else "nothing_fits",
            reason=f"{best.candidate} has the highest accuracy_top1 of {sum(o.rank is not None for o in options)} fit"
            if best
            else "nothing fits",
            options_total=len(options),
            options_fitting=sum(one.rank is not None for one in options),
            options=tuple(options),
            objectives=("maximize accuracy_top1", "minimize energy_per_inference"),
            budgets=(
                BudgetSummary(
                    metric="latency_p95",
                    limit=P95_LIMIT_S,
                    text="10 ms",
                    state="met" if best else None,
                    miss_ratio=None if p95 is None else p95 / P95_LIMIT_S - 1,
                ),
                BudgetSummary(
                    metric="accuracy_top1",
                    limit=ACCURACY_LIMIT,
                    text=">= 0.94",
                    state="met" if best else None,
                    miss_ratio=None if net is None else 1 - net.accuracy / ACCURACY_LIMIT,
                ),
            ),
            candidate=None if best is None else best.candidate,
            engine="onnxruntime",
            provider="CPUExecutionProvider",
            threads=self.kind.cores,
            batch=1,
            latency_p95_s=p95,
            latency_p95_low_s=None if p95 is None else p95 * 0.97,
            latency_p95_high_s=None if p95 is None else p95 * 1.03,
            energy_per_inference_j=None if best is None else best.energy_per_inference_j,
            accuracy_top1=None if net is None else net.accuracy,
            nearest_miss_candidate=miss.candidate if miss else None,
            nearest_miss_metric="latency_p95" if miss else None,
            nearest_miss_ratio=(miss.latency_p95_s or 0) / P95_LIMIT_S - 1 if miss else None,
            nearest_miss_reason=miss.reason if miss else None,
        )
        return self.say("decision", told, TASK)

    def deployment(self, candidate: str, ago_s: float, phase: str = "done", slow: float = 1.0) -> Message:
        """Tell what serves. Args: slow: by how much slower than in the decision."""
        net = next(net for net in NETS if net.name == candidate)
        told = DeploymentMessage(
            **self.origin(ago_s),
            task=TASK,
            phase=phase,
            changed_at=iso(self.now - timedelta(seconds=ago_s)),
            candidate=candidate,
            engine="onnxruntime",
            provider="CPUExecutionProvider",
            threads=self.kind.cores,
            batch=1,
            release=hashlib.sha256(candidate.encode()).hexdigest(),
            expected_latency_p95_s=self.p95_s(net) * slow,
        )
        return self.say("deployment", told, TASK)

    def measurement(self, net: Net, ago_s: float) -> Message:
        """Tell one measurement."""
        drift = 1 + 0.03 * math.sin(ago_s / 20_000) + self.random.uniform(-0.015, 0.015)
        p95 = self.p95_s(net) * drift
        one = MeasurementSummary(
            id=f"m-{self.name}-{net.name}-{ago_s:.0f}",
            task=TASK,
            candidate=net.name,
            artifact_sha256=hashlib.sha256(net.name.encode()).hexdigest(),
            size_bytes=net.size_bytes,
            engine="onnxruntime",
            engine_version="1.20",
            provider="CPUExecutionProvider",
            threads=self.kind.cores,
            batch=1,
            class_fingerprint=self.kind.fingerprint,
            verdict="ok",
            duration_s=4.0,
            started_at=iso(self.now - timedelta(seconds=ago_s)),
            latency_n=400,
            latency_p50_s=p95 * 0.86,
            latency_p95_s=p95,
            energy_per_inference_j=self.energy_j(net) * drift,
            accuracy_top1=net.accuracy,
            accuracy_n=2000,
            memory_peak_bytes=24_000_000 + int(2.2 * net.size_bytes),
            golden_passed=True,
        )
        told = Measurements(**self.origin(ago_s), measurements=(one,))
        return self.say("measurement", told)

    def telemetry(self, ago_s: float) -> Message:
        """Tell the board's condition."""
        heat = 46 + 9 * self.kind.watt / 5 * (0.55 + 0.45 * math.sin(ago_s / 5000)) + self.random.uniform(-1, 1)
        told = Telemetry(
            **self.origin(ago_s),
            group="board",
            temperature_celsius=round(heat, 1),
            load_1min=round(self.random.uniform(0.2, 1.4), 2),
            power_w=round(self.kind.watt * 0.7, 2),
            throttle_now="",
            supply_ok=True,
        )
        return self.say("telemetry", told, "board")

    def reported(self, **more: Any) -> Message:
        """Tell the settings in force."""
        settings = TaskSettings(
            budgets=("latency_p95 <= 10 ms", "accuracy_top1 >= 0.94"), objective=("maximize accuracy_top1",)
        )
        nightly = ScheduleEntry(
            name="nightly", action="bench", when="0 3 * * *", next_at=iso(self.now + timedelta(hours=7))
        )
        told = Reported(
            **self.origin(80_000),
            version=3,
            agent_version="0.1.0",
            groups=(self.group,),
            tasks={TASK: settings},
            desired_version=None,
            desired_versions={"all": 4},
            schedule=(nightly,),
            **more,
        )
        return self.say("reported", told)

    def job(self, verb: str, state: Any, ago_s: float, **more: Any) -> Message:
        """Tell how a command fares."""
        job_id = f"{verb}-{self.name}-{ago_s:.0f}"
        started = iso(self.now - timedelta(seconds=ago_s))
        ended = None if state in ("QUEUED", "IN_PROGRESS") else iso(self.now - timedelta(seconds=max(0.0, ago_s - 40)))
        told = Job(
            **self.origin(ago_s),
            id=job_id,
            verb=verb,
            state=state,
            issuer="anna",
            task=TASK,
            started_at=started,
            finished_at=ended,
            revision=2,
            **more,
        )
        return self.say("job", told, job_id)

    def event(self, level: Any, text: str, ago_s: float, fix: str | None = None) -> Message:
        """Tell something a person may want to know."""
        told = Event(**self.origin(ago_s), level=level, kind="simulated", text=text, fix=fix, task=TASK)
        return self.say("event", told)
