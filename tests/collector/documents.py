"""Documents as a board sends them, of every kind; the figures are made up."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec

from agent.clock import iso
from agent.collector.judging import Taken, take
from agent.core.facts import (
    Accelerator,
    BoardIdentity,
    CpuFacts,
    DeviceFacts,
    EngineFacts,
    MemoryFacts,
    OsFacts,
)
from agent.core.messages import encode
from agent.core.payloads import (
    DecisionMessage,
    DeploymentMessage,
    Event,
    Job,
    Measurements,
    MeasurementSummary,
    Origin,
    Profile,
    Reported,
    Status,
    Telemetry,
)
from agent.core.topics import address, topic_for

FLEET = "plant-7"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc).timestamp()
CLASS = "c" * 64


class Board:
    """One board that tells; each message has the next number."""

    def __init__(self, name: str = "pi5", *, boot_id: str | None = "boot-a", synced: bool | None = True) -> None:
        self.at = address(FLEET, name)
        self.boot_id, self.synced = boot_id, synced
        self.seq = 0
        self.now_s = NOW

    def origin(self, *, numbered: bool = True, **changes: Any) -> dict[str, Any]:
        """Return the header of the next message."""
        self.seq += numbered
        self.now_s += 1
        time = iso(datetime.fromtimestamp(self.now_s, timezone.utc))
        made = Origin(
            fleet=FLEET, device=self.at.device, boot_id=self.boot_id, seq=self.seq if numbered else 0, time=time,
            clock_synced=self.synced,
        )  # fmt: skip
        return {**msgspec.structs.asdict(made), **changes}

    def status(self, state: Any = "online", **more: Any) -> tuple[str, bytes]:
        header = self.origin(numbered=False)
        said = {"uptime_s": self.now_s - NOW, "agent_version": "0.1.0", "epoch": "e" * 32, "outbox_messages": 3, **more}
        return topic_for(self.at, "status"), encode(Status(**{**header, "state": state, **said}))

    def will(self) -> tuple[str, bytes]:
        will = Status(fleet=FLEET, device=self.at.device, boot_id=self.boot_id, state="offline", reason="lost")
        return topic_for(self.at, "status"), encode(will)

    def profile(self, **more: Any) -> tuple[str, bytes]:
        facts = DeviceFacts(
            board=BoardIdentity(model="Pi 5", profile="rpi5", matched_on="model", soc="bcm2712"),
            cpu=CpuFacts(architecture="aarch64", present=(0, 1, 2, 3), usable=(0, 1, 2, 3)),
            memory=MemoryFacts(total_bytes=8 * 1024**3),
            os=OsFacts(name="Debian 12", python="3.11"),
            class_fingerprint=CLASS,
            engines=(EngineFacts(name="onnxruntime", formats=("onnx",), providers=("CPU",), proven=True),),
            accelerators=(Accelerator(kind="npu", name="hailo8l"),),
            traps=("the supply gives 3 A",),
        )
        said = Profile(
            **{
                **self.origin(numbered=False), "class_fingerprint": CLASS, "profile": "rpi5", "facts": facts,
                "model": "Pi 5", "soc": "bcm2712", "architecture": "aarch64", "cores_usable": 4,
                "memory_total_bytes": 8 * 1024**3, "power_mode": "default", **more,
            }
        )  # fmt: skip
        return topic_for(self.at, "profile"), encode(said)

    def reported(self, **more: Any) -> tuple[str, bytes]:
        said = {"version": 1, "agent_version": "0.1.0", "groups": ("line-2",), "desired_versions": {"all": 7}, **more}
        return topic_for(self.at, "reported"), encode(Reported(**self.origin(), **said))

    def decision(self, candidate: str = "small", task: str = "digits", **more: Any) -> tuple[str, bytes]:
        said = DecisionMessage(
            **{
                **self.origin(), "id": f"d{self.seq}", "task": task, "decided_at": iso(datetime.now(timezone.utc)),
                "class_fingerprint": CLASS, "outcome": "chosen", "reason": "the fastest that fits", "options_total": 2,
                "options_fitting": 1, "options": (), "budgets": (), "objectives": (), "candidate": candidate,
                "latency_p95_s": 0.004, "energy_per_inference_j": 0.02, **more,
            }
        )  # fmt: skip
        return topic_for(self.at, "decision", task), encode(said)

    def deployment(self, candidate: str = "small", task: str = "digits", **more: Any) -> tuple[str, bytes]:
        said = DeploymentMessage(
            **{
                **self.origin(), "task": task, "phase": "ACTIVE", "changed_at": "", "candidate": candidate,
                "release": "r1", **more,
            }
        )  # fmt: skip
        return topic_for(self.at, "deployment", task), encode(said)

    def measurement(self, candidate: str = "small", **more: Any) -> tuple[str, bytes]:
        return self.measurements({"candidate": candidate, **more})

    def measurements(self, *each: dict[str, Any]) -> tuple[str, bytes]:
        header = self.origin()
        made = tuple(
            MeasurementSummary(
                **{
                    "id": f"m{self.seq}-{number}", "task": "digits", "artifact_sha256": "a" * 64, "size_bytes": 1000,
                    "engine": "onnxruntime", "engine_version": "1.20", "provider": "CPU", "threads": 4, "batch": 1,
                    "class_fingerprint": CLASS, "verdict": "ok", "started_at": f"2026-11-22T11:00:0{number}.000Z",
                    "duration_s": 3.0, "latency_p95_s": 0.004, "accuracy_top1": 0.9, "memory_peak_bytes": 50_000_000,
                    **one,
                }
            )
            for number, one in enumerate(each)
        )  # fmt: skip
        return topic_for(self.at, "measurement"), encode(Measurements(**header, measurements=made))

    def telemetry(self, group: str = "board", **more: Any) -> tuple[str, bytes]:
        said = {"group": group, "temperature_celsius": 51.5, "supply_ok": True, **more}
        return topic_for(self.at, "telemetry", group), encode(Telemetry(**self.origin(), **said))

    def event(self, text: str = "it happened", **more: Any) -> tuple[str, bytes]:
        said = Event(**{**self.origin(), "level": "info", "kind": "count", "text": text, **more})
        return topic_for(self.at, "event"), encode(said)

    def job(self, name: str = "7", state: Any = "QUEUED", revision: int = 1, **more: Any) -> tuple[str, bytes]:
        said = {"id": name, "verb": "bench", "state": state, "revision": revision, "task": "digits", **more}
        return topic_for(self.at, "job", name), encode(Job(**{**self.origin(), **said}))

    def everything(self) -> list[tuple[str, bytes]]:
        """Return one message of every kind."""
        return [
            self.status(), self.profile(), self.reported(), self.decision(), self.deployment(), self.measurement(),
            self.telemetry(), self.event(), self.job(),
        ]  # fmt: skip


def judged(messages: list[tuple[str, bytes]], heard_s: float = NOW + 100, *, retained: bool = False) -> list[Taken]:
    """Return messages as a store takes them, a second apart."""
    found = [take(topic, payload, heard_s + i, retained=retained) for i, (topic, payload) in enumerate(messages)]
    return [one for one in found if one is not None]
