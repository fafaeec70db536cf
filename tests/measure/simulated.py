"""A simulated board for races: made-up candidates with known true figures, measured through the real timing rules."""

from __future__ import annotations

import math
import random
import uuid
from dataclasses import dataclass, field
from functools import partial

import msgspec

from agent.core.budget import Budget, Objective, parse_budgets, parse_objective
from agent.core.class_results import ClassView
from agent.core.decision import Decision
from agent.core.manifest import Candidate, Manifest, ReferenceAccuracy, TargetRef
from agent.core.measurement import AccuracyFigures, Figure, Measurement, MemoryFigures, Proof, bits_text
from agent.core.sequential import ProportionTest
from agent.core.statistics import proportion_interval
from agent.measure.bench import _timing
from agent.measure.conditions import Contention
from agent.measure.figures import latency_figures
from agent.measure.observer import SPOT
from agent.measure.plan import plan
from agent.measure.protocol import Warm
from agent.measure.race import Heat, Race
from agent.measure.settings import MeasureSettings
from agent.measure.timing import Timing
from agent.select.decision import decide
from agent.select.ladder import ladder_of
from tests.measure.models import facts

PACK_N = 540
START_S = 0.4  # spawn, import and load, as seen for small models
SETTINGS = MeasureSettings(min_time_s=0.3, max_time_s=3.0)


@dataclass
class Model:
    """What is true of a simulated candidate: figures of one thread; a second one takes 40 % off."""

    name: str
    size: int
    top1: float
    p50_s: float
    spread: float = 0.05
    memory: int = 60 << 20
    contended: int = 0  # this many measurements of it are contended


@dataclass
class SimulatedBoard:
    """Measures models as the worker would, from seeded draws; counts what that cost."""

    models: list[Model]
    budgets: tuple[Budget, ...]
    objectives: tuple[Objective, ...]
    threads: tuple[int, ...] = (1, 2)
    seed: int = 1
    heats: list[str] = field(default_factory=list)
    device_s: float = 0.0
    rungs: int = 0  # of a ladder; 0: none is wanted

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._difficulty = [self._random.random() for _ in range(PACK_N)]

    def race(
        self, stored: tuple[Measurement, ...] = (), *, exhaustive: bool = False, view: ClassView | None = None
    ) -> Race:
        from datetime import datetime, timezone

        settings = MeasureSettings(threads=self.threads)
        now = datetime(2026, 1, 2, tzinfo=timezone.utc)
        return Race(
            plan([self._candidate(model) for model in self.models], facts(), settings, stored, now),
            self.budgets,
            self.objectives,
            self.decide,
            class_fingerprint="test-class",
            with_power=False,
            retries=2,
            exhaustive=exhaustive,
            view=view,
        )

    def decide(self, measurements: object) -> Decision:
        decision = partial(
            decide, "t", budgets=self.budgets, objectives=self.objectives, class_fingerprint="test-class",
            decided_at="2026-01-02T00:00:00Z", decision_id="d",
        )(measurements=measurements)  # type: ignore[arg-type]  # fmt: skip
        return msgspec.structs.replace(decision, ladder=ladder_of(decision.options, self.rungs))

    def run(self, race: Race, most: int = 500) -> Decision:
        """Run a race to its end."""
        for _ in range(most):
            heat = race.next()
            if heat is None:
                return race.decision
            race.add(heat, self.measure(heat))
        raise AssertionError(f"{most} heats and no end")

    def measure(self, heat: Heat) -> Measurement:
        model = next(model for model in self.models if model.name == heat.run.candidate.name)
        self.heats.append(f"{model.name} x{heat.run.point.threads}")
        if model.contended > 0:
            model.contended -= 1
            return self._document(heat, verdict="contended", reason="simulated")
        self.device_s += START_S
        memory = MemoryFigures(
            admission_peak_bytes=model.memory, model_peak_bytes=None, model_steady_bytes=None,
            runtime_baseline_bytes=None,
        )  # fmt: skip
        if model.memory > heat.stakes.observed.get("memory_peak", math.inf):
            return self._document(heat, memory=memory, stopped="memory_peak is over (simulated)")
        timing = self._time(model, heat)
        latencies = [ns / 1e9 for ns in timing.kept_ns]
        latency = latency_figures([latencies], Warm(runs=10, settled=True), Contention(0.0, 0, timing.elapsed_s, 0))
        proofs = timing.result().proofs
        if any(proof.state == "missed" for proof in proofs):
            return self._document(heat, memory=memory, latency=latency, proofs=proofs, stopped="too slow (simulated)")
        if heat.stakes.spot:
            return self._document(heat, memory=memory, latency=latency, stopped=SPOT)
        accuracy, proof = self._evaluate(model, heat)
        stopped = "accuracy missed (simulated)" if proof is not None and proof.state == "missed" else None
        both = proofs if proof is None else (*proofs, proof)
        return self._document(heat, memory=memory, latency=latency, accuracy=accuracy, proofs=both, stopped=stopped)

    def _time(self, model: Model, heat: Heat) -> Timing:
        timing = Timing(_timing(SETTINGS, heat.stakes))
        median = model.p50_s * (1.0 if heat.run.point.threads == 1 else 0.6)
        elapsed = 0.0
        while not timing.over:
            watch, block = timing.watch(), []
            while sum(block) < 1e8 and len(block) < timing.most_runs:
                block.append(int(median * math.exp(model.spread * self._random.gauss(0, 1)) * 1e9))
                if watch is not None and block[-1] > 2e6 and watch.missed(block[-1]):
                    break
            elapsed += sum(block) / 1e9
            timing.add(block, 0, sum(block), elapsed)
        self.device_s += elapsed + 10 * median
        return timing

    def _evaluate(self, model: Model, heat: Heat) -> tuple[AccuracyFigures, Proof | None]:
        hits = [difficulty < model.top1 for difficulty in self._difficulty]
        asked, proof, n = heat.stakes.accuracy, None, PACK_N
        if asked is not None:
            test = ProportionTest(asked.limit)
            for hit in hits:
                state = test.add(hit)
                if state == "missed" or (state == "met" and asked.may_stop_when_met):
                    break
            n = test.n if state in {"met", "missed"} and (state == "missed" or asked.may_stop_when_met) else PACK_N
            proof = Proof(metric="accuracy_top1", limit=asked.limit, state=test.state, n=test.n)
        self.device_s += n * model.p50_s
        correct = sum(hits[:n])
        interval = proportion_interval(correct, n)
        figures = AccuracyFigures(
            top1=Figure(value=correct / n, low=interval.low, high=interval.high), correct=correct, n=n,
            pack_sha256="p", pack_n=PACK_N,
            correct_bits=bits_text(int("".join("01"[hit] for hit in hits), 2), PACK_N) if n == PACK_N else "",
        )  # fmt: skip
        return figures, proof

    @staticmethod
    def _document(heat: Heat, **fields: object) -> Measurement:
        candidate = heat.run.candidate
        return Measurement(
            **{
                "id": uuid.uuid4().hex, "task": "t", "candidate": candidate.name, "size_bytes": candidate.size_bytes,
                "artifact_sha256": candidate.sha256, "point": heat.run.point, "class_fingerprint": "test-class",
                "verdict": "ok", "started_at": "2026-01-01T00:00:00Z", "duration_s": 1.0, "load_time_s": 0.01,
                "first_inference_s": 0.001, **fields,
            }  # type: ignore[arg-type]
        )  # fmt: skip

    def _candidate(self, model: Model) -> Candidate:
        pack = TargetRef(path="pack", sha256="p", length=1)
        top1 = sum(difficulty < model.top1 for difficulty in self._difficulty) / PACK_N  # the publisher's, same pack
        manifest = Manifest(
            task="t", name=model.name, format="onnx", inputs=(), outputs=(), evaluation=pack,
            reference=ReferenceAccuracy(value=top1, n=PACK_N, data="simulated"),
        )  # fmt: skip
        return Candidate(manifest=manifest, target=TargetRef(path=model.name, sha256=model.name * 4, length=model.size))


def budgets(**limits: str) -> tuple[Budget, ...]:
    return parse_budgets(limits, where="test")


def objectives(*texts: str) -> tuple[Objective, ...]:
    return tuple(parse_objective(text, where="test") for text in texts)
