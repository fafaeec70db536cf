"""One simulated board: it takes orders as a board does, and tells of itself in real documents. No network, no time.

What it measures and how deployments end is said beforehand (``Ways``). It speaks through ``tell`` (topic, payload,
retain); orders come as signed envelopes (``take``) or as what is in them (``order``), and wait until ``work``, or until
``begin`` and ``finish`` where the work is to take a while.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

import msgspec

from agent import __version__
from agent.clock import iso
from agent.core.command import VERBS, Command, Recipient, judge, read_command
from agent.core.envelope import COMMAND_TYPE, open_envelope
from agent.core.messages import encode
from agent.core.operators import Operator
from agent.core.payloads import (
    BudgetSummary,
    DecisionMessage,
    DeploymentMessage,
    Job,
    Measurements,
    OptionSummary,
    Reported,
    Status,
)
from agent.core.topics import ROOT, address, inbound_filters, parse_topic, topic_for
from agent.errors import OrderError
from agent.fleet.rollout_board import Order
from agent.mqtt import Will
from agent.signatures import verify_ed25519
from benchmarks.simulated import documents
from benchmarks.simulated.documents import CANDIDATES, NEW, OLD, TASK, BoardClass, Candidate

Tell = Callable[[str, bytes, bool], None]


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """How a simulated board fares with one ``candidate``; all others fit, and deploy.

    ``standing``: what its decision says once it has measured: fits, over_budget, unknown. ``ends``: deployed,
    rolled_back, failed, or silent (gone in the middle). ``goes_back``: a rollback that is ordered succeeds.
    ``measured``: it knows the candidate before anybody asks. ``bare``: nothing served there before. ``p95_s``: what it
    measures; None: as the candidate and the class have it.
    """

    candidate: str = NEW
    standing: str = "fits"
    ends: str = "deployed"
    measured: bool = False
    bare: bool = False
    p95_s: float | None = None
    serves: str = OLD
    healthy: bool = True
    goes_back: bool = True


class _Envelope(msgspec.Struct):
    payload: str


class _Unjudged(msgspec.Struct):
    id: str
    verb: str


def now() -> datetime:
    """Return the time that documents carry."""
    return datetime.now(timezone.utc)


class SimulatedBoard:
    """One board; ``did`` lists the verbs it carried out with their job ids, ``switched`` what it was switched to.

    Args: operators: who may order; ``clock``: gives the time of documents, and to judge by.
    """

    def __init__(
        self,
        name: str,
        of: BoardClass,
        ways: Ways,
        tell: Tell,
        *,
        fleet: str = "plant",
        groups: tuple[str, ...] = (),
        operators: Iterable[Operator] = (),
        task: str = TASK,
        candidates: Sequence[Candidate] = CANDIDATES[:2],
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.name, self.of, self.ways = name, of, ways
        self.at = address(fleet, name)
        self.groups, self.task = groups, task
        self.candidates = {one.name: one for one in candidates}
        self._tell, self._clock = tell, clock
        self._operators = {one.keyid: one for one in operators}
        self._counters: dict[str, int] = {}
        self.online, self.older, self.starts = True, False, 1
        self.serving: str | None = None if ways.bare else ways.serves
        self.previous: str | None = None
        self.phase, self.changes, self.decisions, self.seq = "done", 0, 0, 0
        self.outcome: str | None = "deployed"
        self.known = {one for one in self.candidates if ways.measured or one != ways.candidate}
        self.known_jobs: set[str] = set()
        self.told: dict[str, bytes] = {}  # a job's last document
        self.commands: list[Command] = []  # that were obeyed
        self.waiting: list[Order] = []
        self.running: Order | None = None
        self.did: list[tuple[str, str]] = []
        self.switched: list[str] = []

    @property
    def kind(self) -> str:
        """Its class fingerprint."""
        return self.of.class_fingerprint

    @property
    def epoch(self) -> str:
        return f"{self.name}-start-{self.starts}"

    @property
    def filters(self) -> tuple[str, ...]:
        """What a board subscribes to."""
        return inbound_filters(self.at, self.groups)

    @property
    def will(self) -> Will:
        """What the broker says when its connection breaks."""
        gone = Status(
            fleet=self.at.fleet, device=self.name, boot_id="simulated", state="offline", reason="connection lost",
            agent_version=__version__, **self._summary(),
        )  # fmt: skip
        return Will(topic=topic_for(self.at, "status"), payload=encode(gone))

    def hello(self) -> None:
        """Tell everything that is retained."""
        self.tell_status()
        self.tell_profile()
        self.tell_reported()
        self.tell_deployment()
        if self.decisions:
            self.tell_decision()
        elif self.ways.candidate in self.known or len(self.candidates) > 2:
            self.decide()

    def status(self) -> Status:
        """Return its status of now."""
        state: Any = "offline" if not self.online else "busy" if self.running is not None else "online"
        reason = None if self.ways.healthy else "the outbox is full"
        return Status(
            **self.origin(), state=state, epoch=self.epoch if self.online else None, reason=reason,
            agent_version=__version__, uptime_s=1000.0, outbox_messages=0, outbox_bytes=0, outbox_dropped=0,
            **self._summary(),
        )  # fmt: skip

    def _summary(self) -> dict[str, Any]:
        """Return what the status says of the profile; an older agent says nothing there."""
        if self.older:
            return {}
        return {
            "class_fingerprint": self.kind, "soc": self.of.soc, "memory_total_bytes": self.of.memory_bytes,
            "groups": self.groups,
        }  # fmt: skip

    def tell_status(self) -> None:
        self._say("status", self.status())

    def tell_profile(self) -> None:
        self._say("profile", self.of.profile(self.origin(), __version__))

    def tell_reported(self) -> None:
        self._say("reported", Reported(**self.origin(), version=1, agent_version=__version__, groups=self.groups))

    def tell_telemetry(self, warmth: float) -> None:
        """Tell its condition. Args: warmth: 0..1."""
        self._say("telemetry", documents.telemetry(self.origin(), self.of, warmth), "board", retain=False)

    def tell_deployment(self) -> None:
        changed = iso(self._clock() + timedelta(milliseconds=self.changes))  # two changes never bear one time
        one = self.candidates.get(self.serving or "")
        self._say(
            "deployment",
            DeploymentMessage(
                **self.origin(), task=self.task, phase=self.phase, changed_at=changed, candidate=self.serving,
                release=documents.release(self.serving), outcome=self.outcome, engine=documents.ENGINE,
                previous_release=documents.release(self.previous),
                expected_latency_p95_s=None if one is None else self._p95_s(one),
            ),
            self.task,
        )  # fmt: skip

    def decide(self) -> None:
        """Make a decision as if all that is known had been measured."""
        self.decisions += 1
        self.tell_decision()

    def tell_decision(self) -> None:
        """Tell of the last decision."""
        options = [self._option(self.candidates[name]) for name in self.candidates if name in self.known]
        fitting = [one for one in options if one.standing == "fits"]
        best = max(fitting, key=lambda one: one.accuracy_top1 or 0.0, default=None)
        decision = DecisionMessage(
            **self.origin(), id=f"{self.name}-d{self.decisions}", task=self.task, decided_at=iso(self._clock()),
            class_fingerprint=self.kind, outcome="nothing_fits" if best is None else "chosen", reason="simulated",
            options_total=len(options), options_fitting=len(fitting), options=tuple(options),
            budgets=(BudgetSummary(metric="latency_p95", limit=0.02, text="<= 20 ms"),), objectives=(),
            candidate=None if best is None else best.candidate, engine=documents.ENGINE,
            latency_p95_s=None if best is None else best.latency_p95_s,
            accuracy_top1=None if best is None else best.accuracy_top1,
            energy_per_inference_j=None if best is None else best.energy_per_inference_j,
        )  # fmt: skip
        self._say("decision", decision, self.task)

    def take(self, topic: str, payload: bytes) -> None:
        """Take what came on one of ``filters``: a command in its envelope is opened, verified, judged, and queued."""
        place = parse_topic(topic)
        if place.kind != "cmd" or not self.online:
            return
        try:
            command, keyid = _verified(payload, tuple((one.keyid, one.public_key) for one in self._operators.values()))
            order = Order(
                board=self.name, verb=command.verb, job=command.id, arguments=command.arguments, epoch=command.epoch,
                deadline_s=command.deadline_s or VERBS[command.verb].deadline_s,
            )  # fmt: skip
        except OrderError:
            return  # no listed key has signed it: no answer
        if command.id in self.known_jobs:  # as the broker repeats, or a console
            self.order(order)
            return
        here = Recipient(
            fleet=self.at.fleet, device=self.name, groups=self.groups, epoch=self.epoch, now=self._clock(),
            clock_synced=True,
        )  # fmt: skip
        try:
            judge(command, self._operators[keyid], here, self._counters.get(keyid, 0))
        except OrderError as error:
            self._job(order, "REJECTED", 1, reason=error.problem)
            return
        self._counters[keyid] = command.counter
        self.commands.append(command)
        self.order(order)

    def answer_unjudged(self, payload: bytes) -> None:
        """Answer whatever command is in an envelope as done; nothing is verified, and nothing done."""
        envelope = msgspec.json.decode(payload, type=_Envelope)
        command = msgspec.json.decode(b64decode(envelope.payload), type=_Unjudged)
        topic = f"{ROOT}/{self.at.fleet}/{self.name}/job/{command.id}"
        job = Job(
            **self.origin(), id=command.id, verb=command.verb, state="SUCCEEDED", revision=1,
            result={"epoch": self.epoch, "simulated": "unjudged"},
        )  # fmt: skip
        self._tell(topic, msgspec.json.encode(job), False)

    def order(self, order: Order) -> None:
        """Take an order: once per id, none that names an old epoch; asked again, it tells again."""
        if not self.online:
            return
        if order.job in self.known_jobs:
            self._tell(topic_for(self.at, "job", order.job), self.told[order.job], False)
            return
        if order.epoch is not None and order.epoch != self.epoch:
            self._job(order, "REJECTED", 1, reason="it does not name the present epoch of this board")
            return
        self.known_jobs.add(order.job)
        if order.verb == "cancel":
            self._cancel(order)
        elif VERBS[order.verb].child:
            self.waiting.append(order)
            self._job(order, "QUEUED", 1)
        else:
            self._job(order, "SUCCEEDED", 1, result=self._answer(order.verb))

    def work(self) -> None:
        """Carry out what waits first."""
        if self.begin():
            self.finish()

    def begin(self) -> bool:
        """Begin with what waits first. Returns: whether anything does."""
        if not self.online or not self.waiting or self.running is not None:
            return False
        self.running = self.waiting.pop(0)
        self._job(self.running, "IN_PROGRESS", 2, stage=self.running.verb, done=0.0, total=1.0)
        return True

    def finish(self) -> None:
        """End what runs."""
        if self.running is None:
            return
        order, self.running = self.running, None
        self.did.append((order.verb, order.job))
        getattr(self, f"_{order.verb}")(order)

    def restart(self) -> None:
        """Go away and come back with a new epoch; what waited for the old one is given up."""
        self.starts += 1
        for order in self.waiting:
            if order.epoch is not None:
                self._job(order, "FAILED", 5, reason="the epoch it named ended with a restart")
        self.waiting = [order for order in self.waiting if order.epoch is None]
        self.online = True
        self.tell_status()

    def leave(self) -> None:
        """Be gone."""
        self.online = False
        self.tell_status()

    def go_back(self) -> None:
        """Go back by itself, as a failed probation does."""
        self.serving, self.previous = self.previous, self.serving
        self._change("rolled_back", "rolled_back")

    def _answer(self, verb: str) -> Mapping[str, Any]:
        if verb == "profile":
            return {"class_fingerprint": self.kind, "profile": "simulated", "model": f"simulated {self.of.name}"}
        return {"agent_version": __version__, "epoch": self.epoch, f"{self.task}.candidate": self.serving}

    def _sync(self, order: Order) -> None:
        self._job(order, "SUCCEEDED", 3, exit_code=0)

    def _bench(self, order: Order) -> None:
        wanted = order.arguments.get("candidates") or tuple(self.candidates)
        measured = [self.candidates[name] for name in wanted if name in self.candidates]
        self.known.update(one.name for one in measured)
        self.tell_measurements(measured)
        self._job(order, "SUCCEEDED", 3, exit_code=0, result={"measured": len(measured)})

    def tell_measurements(self, measured: Iterable[Candidate]) -> None:
        """Tell made-up measurements of candidates."""
        origin = self.origin()
        made = tuple(documents.measurement(origin, self.of, self.task, one, self._p95_s(one)) for one in measured)
        if made:
            self._say("measurement", Measurements(**origin, measurements=made), retain=False)

    def _select(self, order: Order) -> None:
        self.decide()
        self._job(order, "SUCCEEDED", 3, exit_code=0, result={"decision": f"{self.name}-d{self.decisions}"})

    def _deploy(self, order: Order) -> None:
        candidate = order.arguments.get("candidate") or self.ways.candidate
        ends = self.ways.ends if candidate == self.ways.candidate else "deployed"
        if ends == "silent":
            self.leave()
            return
        if ends == "failed":
            self._change("failed", "failed")
            self._job(order, "FAILED", 3, exit_code=1, reason="the proof failed: golden outputs differ", began=True)
            return
        if self.serving != candidate:
            self.switched.append(candidate)
            self.serving, self.previous = candidate, self.serving
            self._change("probation", None)
            if ends == "rolled_back":
                self.go_back()
                self._job(order, "FAILED", 3, exit_code=5, reason="the probation failed", began=True)
                return
            self._change("done", "deployed")
        self._job(order, "SUCCEEDED", 3, exit_code=0, began=True)

    def _rollback(self, order: Order) -> None:
        if not self.ways.goes_back:
            self._job(order, "FAILED", 3, exit_code=1, reason="the previous deployment is damaged", began=True)
            return
        self.switched.append("back")
        self.go_back()
        self._job(order, "SUCCEEDED", 3, exit_code=0, began=True)

    def _cancel(self, order: Order) -> None:
        for waiting in list(self.waiting):
            if waiting.job == order.arguments["job"]:
                self.waiting.remove(waiting)
                self._job(waiting, "CANCELED", 3, reason="canceled before it began")
        self._job(order, "SUCCEEDED", 1)

    def _change(self, phase: str, outcome: str | None) -> None:
        self.changes += 1
        self.phase, self.outcome = phase, outcome
        self.tell_deployment()

    def _job(self, order: Order, state: Any, revision: int, *, began: bool = False, **more: Any) -> None:
        started = iso(self._clock()) if began or state == "IN_PROGRESS" else None
        job = Job(
            **self.origin(), id=order.job, verb=order.verb, state=state, revision=revision, started_at=started, **more
        )
        self.seq += 1
        self.told[order.job] = encode(msgspec.structs.replace(job, seq=self.seq))
        self._tell(topic_for(self.at, "job", order.job), self.told[order.job], False)

    def _say(self, kind: Any, message: Any, parameter: str | None = None, *, retain: bool = True) -> None:
        if kind not in ("status", "profile"):  # these are no messages of a board's outbox, which counts
            self.seq += 1
            message = msgspec.structs.replace(message, seq=self.seq)
        self._tell(topic_for(self.at, kind, parameter), encode(message), retain)

    def origin(self) -> dict[str, Any]:
        """Return what every document begins with."""
        return {"fleet": self.at.fleet, "device": self.name, "boot_id": "simulated", "time": iso(self._clock())}

    def _p95_s(self, one: Candidate) -> float:
        own = self.ways.p95_s if one.name == self.ways.candidate else None
        return one.p95_s * self.of.slowness if own is None else own

    def _option(self, one: Candidate) -> OptionSummary:
        standing = self.ways.standing if one.name == self.ways.candidate else "fits"
        return documents.option(self.of, one, standing, self._p95_s(one))


@lru_cache(maxsize=64)
def _verified(payload: bytes, keys: tuple[tuple[str, str], ...]) -> tuple[Command, str]:
    """Return a command whose signature holds, and its key.

    Remembered: what is broadcast is verified once for all boards of this process, since each real board does that on a
    processor of its own.

    Raises: OrderError: it is not one, or no listed key has signed it.
    """
    sealed = open_envelope(payload, COMMAND_TYPE)
    public_key = dict(keys).get(sealed.keyid)
    if public_key is None or not verify_ed25519(public_key, sealed.signature, sealed.signed_bytes):
        raise OrderError("no listed key has signed it")
    return read_command(sealed.payload), sealed.keyid
