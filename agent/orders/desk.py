"""Where commands and desired states arrive: opened, verified, judged, and taken, answered or refused.

Rules:
- The signature is judged before the payload is read. What no listed key has signed gets no answer: it is counted, and
  told in an event now and then, so that a flood of forgeries fills neither the outbox nor the broker.
- What a listed key has signed and may not do is answered with a REJECTED job; such answers are limited in number too.
- The same command again, retained, queued or replayed, changes nothing and is not answered. One that asks for the same
  under the same id and was signed anew is answered with how that job stands: what was said of it may have been lost.
- What changes something is on disk, counter and job in one transaction, before anything is done.
- ``status`` and ``profile`` are answered at once and kept nowhere: asking wears no memory card.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import cast

import msgspec

from agent import __version__
from agent.clock import iso
from agent.core.command import (
    VERBS,
    Audience,
    CancelArguments,
    Command,
    Recipient,
    SetDesiredArguments,
    arguments_of,
    check_audience,
    check_issuer,
    deadline_of,
    judge,
    read_command,
)
from agent.core.conversions import message_for_profile
from agent.core.deployment import Deployment
from agent.core.desired import Desired, DesiredAudience, check_newer, read_desired
from agent.core.envelope import COMMAND_TYPE, DESIRED_TYPE, Sealed, open_envelope
from agent.core.operators import Operator, parse_operators
from agent.core.payloads import Scalar
from agent.core.rate import Bucket
from agent.core.topics import Topic, inbound_filters, parse_topic, topic_for
from agent.errors import BoardfitError, ConfigError, OrderError, ReportError
from agent.mqtt import Incoming
from agent.orders.jobs import JobRecord, Jobs
from agent.orders.line import MAX_WAITING, Line
from agent.orders.loose import loosely
from agent.report.publisher import Publisher
from agent.settings import Refusal
from agent.site import Site

log = logging.getLogger("boardfit")

_TOLD_EVERY_S = 3600.0


class Desk:
    """Takes commands for one board.

    Args:
        site, publisher: the daemon's. epoch: this start's random number, which the status tells.
        on_settings: called when what is desired, or why it was refused, has changed.
    """

    def __init__(self, site: Site, publisher: Publisher, epoch: str, on_settings: Callable[[], None]) -> None:
        assert site.written.mqtt is not None
        self._site = site
        self._publisher = publisher
        self._outbox = publisher.outbox
        self._epoch = epoch
        self._on_settings = on_settings
        self._groups = site.written.mqtt.groups
        self._jobs = Jobs(site.database)
        self.line = Line(site, self._outbox, publisher, self._jobs)
        self._operators: dict[str, Operator] = {}
        self._counters: dict[str, int] = {}
        clock = site.clock.monotonic_s
        self._verifications = Bucket(clock, capacity=200, per_s=20.0)
        self._answers = Bucket(clock, capacity=20, per_s=1 / 30)
        self._ignored: Counter[str] = Counter()
        self._tell_at = 0.0

    def open(self) -> None:
        """Settle what a restart has left, and listen. Raises: StorageError."""
        self.line.recover(self._now())
        self.renew_operators()
        self._publisher.listen(inbound_filters(self._outbox.address, self._groups), self._received)

    def renew_operators(self) -> None:
        """Read the operator list as the last sync stored it; one that cannot be read lists nobody."""
        document = self._site.records.operators()
        try:
            self._operators = {} if document is None else parse_operators(document).by_key()
        except OrderError as error:
            self._operators = {}
            self._site.report.failure("operators_unreadable", error)

    def objection(self, record: JobRecord) -> str | None:
        """Return why whoever ordered a job may not order it any more, None when he may."""
        operator = self._operators.get(record.keyid)
        if operator is None:
            return f"{record.issuer}'s key is no longer on the operator list"
        try:
            at = self._recipient()  # when it was issued was judged then, and the clock may have been set since
            check_issuer(record.issuer, iso(at.now), record.verb, operator, at)
        except OrderError as error:
            return f"{error.problem}; it was so when the job would have begun"
        return None

    def tend(self) -> None:
        """End what has run out of time, and tell of what was ignored once an hour."""
        self.line.tend()
        now = self._site.clock.monotonic_s()
        if self._ignored and now >= self._tell_at:
            self._tell_at = now + _TOLD_EVERY_S
            counts = ", ".join(f"{count} {cause}" for cause, count in sorted(self._ignored.items()))
            self._ignored.clear()
            self._site.report.event("orders_ignored", f"orders were ignored: {counts}")
            self._publisher.poke()

    def deadline(self) -> float | None:
        """Return the monotonic time at which ``tend`` has work."""
        ends = [self._tell_at if self._ignored else None, self.line.deadline()]
        return min((end for end in ends if end is not None), default=None)

    def _received(self, incoming: Incoming) -> None:
        try:
            topic = parse_topic(incoming.topic)
            if topic.kind == "cmd":
                self._command(topic, incoming.payload)
            elif incoming.payload:  # an empty one says that the broker has forgotten the retained one
                self._desired(topic, incoming.payload)
        except ReportError:
            self._ignore("on no topic of ours")
        except BoardfitError as error:
            log.warning("an order could not be taken: %s", error)
            self._ignore("not taken: " + error.problem)

    def _admit(self, data: bytes, payload_type: str) -> tuple[Sealed, Operator] | None:
        """Return what a listed key has signed; what is not is counted."""
        try:
            sealed = open_envelope(data, payload_type)
        except OrderError:
            self._ignore("malformed")
            return None
        operator = self._operators.get(sealed.keyid)
        if operator is None:
            self._ignore("signed by no listed key" if self._operators else "while nobody may order anything here")
            return None
        if not self._verifications.take():
            self._ignore("too many at once")
            return None
        from agent.signatures import verify_ed25519

        if not verify_ed25519(operator.public_key, sealed.signature, sealed.signed_bytes):
            self._ignore("with a signature that does not hold")
            return None
        return sealed, operator

    def _command(self, topic: Topic, data: bytes) -> None:
        admitted = self._admit(data, COMMAND_TYPE)
        if admitted is None:
            return
        sealed, operator = admitted
        try:
            command = read_command(sealed.payload)
        except OrderError as error:
            known = loosely(sealed.payload)
            if known is None:
                self._ignore("signed, and without an id to answer")
            elif self._jobs.find(known[0]) is None:
                self._reject(self._record(*known, sealed, operator.name), error)
            return
        record = self._record(command.id, command.verb, sealed, command.issuer, command)
        known_job = self._jobs.find(command.id)
        if known_job is not None:
            if known_job.digest != record.digest:
                self._tell_again(known_job, record)
            return
        last = max(self._counters.get(sealed.keyid, 0), self._jobs.counter(sealed.keyid))
        try:
            if topic.parameter != command.verb:
                raise OrderError(f"it says {command.verb} and was sent as {topic.parameter}")
            judge(command, operator, self._recipient(), last)
            self._take(command, record)
        except (OrderError, ConfigError) as error:
            if error.facts.get("cause") == "replay" and not VERBS[command.verb].writes:
                self._ignore("asked before")
                return
            self._reject(record, error)

    def _tell_again(self, known: JobRecord, asked: JobRecord) -> None:
        if (known.verb, known.keyid, known.arguments) != (asked.verb, asked.keyid, asked.arguments):
            self._ignore("with the id of another job")
        elif self._answers.take():
            self.line.say(known)
        else:
            self._ignore("asked again, and not answered")

    def _take(self, command: Command, record: JobRecord) -> None:
        if command.verb == "status":
            self._answer(command, record, self._status())
        elif command.verb == "profile":
            self._answer(command, record, self._profile())
        elif command.verb == "cancel":
            self._cancel(command, record)
        elif command.verb == "set-desired":
            self._set_desired(command, record)
        else:
            if len(self.line.waiting) >= MAX_WAITING:
                raise OrderError(f"{MAX_WAITING} jobs wait already", fix="wait, or cancel some")
            now = self._now()
            self._store(command, record)
            self.line.add(record, now)

    def _answer(self, command: Command, record: JobRecord, result: dict[str, Scalar]) -> None:
        self._counters[record.keyid] = command.counter
        self.line.say(self._succeeded(record, result))

    def _cancel(self, command: Command, record: JobRecord) -> None:
        job_id = cast("CancelArguments", arguments_of(command)).job
        target = self._jobs.find(job_id)
        is_open = any(one.id == job_id for one in (*self.line.waiting, *filter(None, [self.line.running])))
        if not is_open:
            raise OrderError(f"there is no job {job_id} here" if target is None else f"{job_id} is {target.state}")
        self._store(command, self._succeeded(record, {"job": job_id}), ends=self.line.canceled(job_id, command.issuer))
        self.line.cancel(job_id, command.issuer)

    def _set_desired(self, command: Command, record: JobRecord) -> None:
        wanted = cast("SetDesiredArguments", arguments_of(command))
        scope = _scope(command.audience)
        check_newer(wanted.version, self._site.settings.versions().get(scope), scope)
        self._site.settings.preview(self._site.written, self._groups, scope, wanted.settings)
        done = self._succeeded(record, {"scope": scope, "version": wanted.version})
        self._store(
            command,
            msgspec.structs.replace(done, arguments={}),
            lambda connection: self._site.settings.take(connection, scope, wanted.version, wanted.settings),
        )
        self._settings_changed()

    def _desired(self, topic: Topic, data: bytes) -> None:
        admitted = self._admit(data, DESIRED_TYPE)
        if admitted is None:
            return
        sealed, operator = admitted
        scope, version = _scope(topic), 0
        settings = self._site.settings
        try:
            desired: Desired = read_desired(sealed.payload)
            version, at = desired.version, self._recipient()
            check_issuer(desired.issuer, desired.issued_at, "set-desired", operator, at)
            check_audience(desired.audience, at)
            if (desired.audience.device, desired.audience.group) != (topic.device, topic.group):
                raise OrderError(f"it is for {desired.audience.scope} and was sent to {scope}")
            check_newer(version, settings.versions().get(scope), scope)
            settings.preview(self._site.written, self._groups, scope, desired.settings)
        except (OrderError, ConfigError) as error:
            if error.facts.get("cause") == "stale":
                return
            if not self._answers.take():
                self._ignore("refused, and not answered")
            elif settings.refuse(Refusal(scope=scope, version=version, reason=error.problem)):
                self._on_settings()
            return
        with self._site.database.transaction() as connection:
            settings.take(connection, scope, version, desired.settings)
        self._settings_changed()

    def _settings_changed(self) -> None:
        self._site.renew_config()
        self._on_settings()

    def _store(
        self, command: Command, record: JobRecord, also: Callable[..., None] | None = None,
        *, ends: JobRecord | None = None,
    ) -> None:  # fmt: skip
        """Store counter, job and document at once. Raises: OrderError: the disk will not take them.

        Args: ends: a job that this command ends, stored and told with it: neither is there without the other.
        """
        now = self._now()

        def write(connection: object) -> None:
            Jobs.accept(connection, record, command.counter, now)  # type: ignore[arg-type]
            if ends is not None:
                Jobs.save(connection, ends)  # type: ignore[arg-type]
            if also is not None:
                also(connection)

        if not self.line.tell(record, write, *filter(None, [ends])):
            raise OrderError("this board's disk does not take it, so nothing was done", fix="free some space there")
        self._counters[record.keyid] = command.counter

    def _reject(self, record: JobRecord, error: BoardfitError) -> None:
        if not self._answers.take():
            self._ignore("refused, and not answered")
            return
        reason = error.problem if error.fix is None else f"{error.problem}. {error.fix}"
        rejected = msgspec.structs.replace(record, state="REJECTED", reason=reason, finished_at=record.queued_at)
        topic = topic_for(self._outbox.address, "job", record.id)
        if self._outbox.put(topic, rejected.document(self._outbox.origin())) is None:
            self.line.say(rejected)
        self._publisher.poke()

    def _ignore(self, cause: str) -> None:
        self._ignored[cause[:200]] += 1

    def _record(self, job_id: str, verb: str, sealed: Sealed, issuer: str, command: Command | None = None) -> JobRecord:
        return JobRecord(
            id=job_id,
            verb=verb,
            issuer=issuer,
            keyid=sealed.keyid,
            digest=hashlib.sha256(sealed.payload).hexdigest(),
            state="QUEUED",
            queued_at=iso(self._site.clock.utc()),
            expires_at="" if command is None else command.expires_at,
            deadline_at=None if command is None else command.expires_at,
            deadline_s=0.0 if command is None else deadline_of(command),
            arguments={} if command is None else command.arguments,
            epoch=command is not None and VERBS[command.verb].epoch,
        )

    def _succeeded(self, record: JobRecord, result: dict[str, Scalar]) -> JobRecord:
        return msgspec.structs.replace(
            record, state="SUCCEEDED", finished_at=iso(self._site.clock.utc()), result=result
        )

    def _recipient(self) -> Recipient:
        address = self._outbox.address
        return Recipient(
            fleet=address.fleet, device=address.device, groups=self._groups, epoch=self._epoch, now=self._now(),
            clock_synced=self._site.board.clock_synced(),
        )  # fmt: skip

    def _now(self) -> datetime:
        """Return the time, which is never before the floor."""
        floor, proved = self._jobs.floor(), self._site.time_floor()
        return max(self._site.clock.utc(), proved, floor or proved)

    def _status(self) -> dict[str, Scalar]:
        fill, running = self._outbox.fill(), self.line.running
        result: dict[str, Scalar] = {
            "agent_version": __version__,
            "epoch": self._epoch,
            "uptime_s": self._site.clock.monotonic_s(),
            "doing": None if running is None else running.id,
            "jobs_waiting": len(self.line.waiting),
            "outbox_messages": fill.messages,
            "outbox_bytes": fill.bytes,
            "desired_version": self._site.settings.versions().get("device"),
        }
        for path in sorted((self._site.state_dir / "deploy").glob("*/current/deployment.json")):
            try:
                serving = msgspec.json.decode(path.read_bytes(), type=Deployment)
            except (OSError, msgspec.DecodeError):
                continue
            result |= {f"{serving.task}.candidate": serving.candidate, f"{serving.task}.release": serving.release}
        return result

    def _profile(self) -> dict[str, Scalar]:
        facts = self._site.records.facts()
        if facts is None:
            raise OrderError("this board was not profiled yet", fix="its first pass does that")
        message = message_for_profile(facts, self._outbox.origin(), __version__)
        self._publisher.say(topic_for(self._outbox.address, "profile"), message)
        names = ("class_fingerprint", "profile", "model", "soc", "architecture", "cores_usable", "memory_total_bytes")
        return {name: getattr(message, name) for name in names}


def _scope(of: Audience | DesiredAudience | Topic) -> str:
    return "device" if of.device is not None else "all" if of.group is None else f"group:{of.group}"
