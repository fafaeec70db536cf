"""What a simulated board tells of itself: its class, its candidates, and the documents made of them. Pure.

Every figure is made up, from two numbers: how slow a class is, and how slow a candidate. Model, profile, engine and
reasons begin with ``simulated``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.core.facts import (
    Accelerator,
    BoardIdentity,
    CpuFacts,
    DeviceFacts,
    EngineFacts,
    MemoryFacts,
    OsFacts,
)
from agent.core.payloads import MeasurementSummary, Profile, Telemetry
from agent.core.summaries import OptionSummary

GIB = 2**30
TASK, OLD, NEW = "digits", "net-old", "net-new"
ENGINE = "simulated"


class BoardClass(msgspec.Struct, frozen=True, kw_only=True):
    """A class of boards. ``slowness``: by how much everything takes longer here; ``power_w``: while at work."""

    name: str
    class_fingerprint: str
    soc: str | None = None
    architecture: str = "aarch64"
    cores: int = 4
    memory_bytes: int = 8 * GIB
    accelerator: str | None = None
    slowness: float = 1.0
    power_w: float = 4.0

    def profile(self, origin: Mapping[str, Any], agent_version: str | None = None) -> Profile:
        """Return the profile message of a board of this class."""
        cores = tuple(range(self.cores))
        tpu = () if self.accelerator is None else (Accelerator(kind="npu", name=self.accelerator),)
        facts = DeviceFacts(
            board=BoardIdentity(
                model=f"simulated {self.name}", profile="simulated", matched_on="nothing", soc=self.soc
            ),
            cpu=CpuFacts(architecture=self.architecture, present=cores, usable=cores),
            memory=MemoryFacts(total_bytes=self.memory_bytes),
            os=OsFacts(name="simulated"),
            class_fingerprint=self.class_fingerprint,
            engines=(EngineFacts(name="onnxruntime", formats=("onnx",), version="simulated", proven=True),),
            accelerators=tpu,
        )
        return Profile(
            **origin, class_fingerprint=self.class_fingerprint, profile="simulated", facts=facts,
            model=facts.board.model, soc=self.soc, architecture=self.architecture, cores_usable=self.cores,
            memory_total_bytes=self.memory_bytes, agent_version=agent_version,
        )  # fmt: skip


def board_class(name: str, **more: Any) -> BoardClass:
    """Return a class whose fingerprint follows from its name."""
    made = hashlib.sha256(f"simulated {name}".encode()).hexdigest()
    return BoardClass(name=name, class_fingerprint=made, **more)


CLASSES = (
    board_class("pi5", soc="bcm2712", slowness=1.0, power_w=5.0),
    board_class("pi4", soc="bcm2711", memory_bytes=4 * GIB, slowness=2.4, power_w=4.2),
    board_class("orin-nano", soc="tegra234", cores=6, accelerator="simulated-npu", slowness=0.5, power_w=8.0),
    board_class("rock5b", soc="rk3588", cores=8, memory_bytes=16 * GIB, slowness=0.8, power_w=6.5),
)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate's made-up figures on a board whose class has the slowness 1."""

    name: str
    p95_s: float
    accuracy_top1: float
    size_bytes: int


CANDIDATES = (
    Candidate(name=OLD, p95_s=0.005, accuracy_top1=0.951, size_bytes=1_900_000),
    Candidate(name=NEW, p95_s=0.004, accuracy_top1=0.962, size_bytes=1_200_000),
    Candidate(name="net-large", p95_s=0.011, accuracy_top1=0.958, size_bytes=6_400_000),
    Candidate(name="net-small", p95_s=0.0015, accuracy_top1=0.912, size_bytes=410_000),
)


def release(candidate: str | None) -> str | None:
    """Return the digest that stands for a candidate's release."""
    return None if candidate is None else candidate.encode().hex().ljust(64, "0")[:64]


def energy_j(kind: BoardClass, p95_s: float) -> float:
    """Return joules per inference: power times a mean latency a little under the 95th percentile."""
    return kind.power_w * p95_s * 0.9


def option(kind: BoardClass, one: Candidate, standing: Any, p95_s: float) -> OptionSummary:
    """Return one candidate's line in a decision."""
    return OptionSummary(
        candidate=one.name, point="simulated", standing=standing, verdict="ok", reason=f"simulated: {standing}",
        latency_p95_s=p95_s, accuracy_top1=one.accuracy_top1, energy_per_inference_j=energy_j(kind, p95_s),
        size_bytes=one.size_bytes,
    )  # fmt: skip


def measurement(
    origin: Mapping[str, Any], kind: BoardClass, task: str, one: Candidate, p95_s: float
) -> MeasurementSummary:
    """Return one made-up measurement."""
    return MeasurementSummary(
        id=f"simulated-{origin['device']}-{origin['time']}-{one.name}", task=task, candidate=one.name,
        artifact_sha256=release(one.name) or "", size_bytes=one.size_bytes, engine=ENGINE, engine_version="simulated",
        provider="simulated", threads=kind.cores, batch=1, class_fingerprint=kind.class_fingerprint, verdict="ok",
        started_at=origin["time"], duration_s=2.0, reason="simulated", latency_n=200, latency_p50_s=p95_s * 0.85,
        latency_p90_s=p95_s * 0.96, latency_p95_s=p95_s, latency_p95_low_s=p95_s * 0.98,
        latency_p95_high_s=p95_s * 1.02, latency_p99_s=p95_s * 1.1, memory_peak_bytes=30_000_000 + 2 * one.size_bytes,
        power_mean_w=kind.power_w, power_source="simulated", energy_per_inference_j=energy_j(kind, p95_s),
        accuracy_top1=one.accuracy_top1, accuracy_n=1000, golden_passed=True,
    )  # fmt: skip


def telemetry(origin: Mapping[str, Any], kind: BoardClass, warmth: float) -> Telemetry:
    """Return the board's condition. Args: warmth: 0..1, how far it is heated."""
    return Telemetry(
        **origin, group="board", temperature_celsius=round(42.0 + 25.0 * warmth, 1), load_1min=round(warmth, 2),
        memory_available_bytes=kind.memory_bytes // 2, power_w=round(kind.power_w * (0.4 + 0.6 * warmth), 2),
        throttle_now="", supply_ok=True,
    )  # fmt: skip
