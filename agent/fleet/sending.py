"""One command to many boards: signed, numbered, sent, and its jobs followed.

Rules:
- One id names the command on all boards. To the whole fleet or one group, where the verb allows, it is one broadcast;
  otherwise each board gets an envelope of its own, and verbs that switch what serves name that board's present epoch.
- Boards that are offline get no envelope of their own: what shall hold for boards that are away is a desired state.
- It is remembered and its counters are taken before the first byte goes out; consoles of one operator take turns, so
  that a board never sees a lower counter after a higher one.
- What the broker has not acknowledged when the line breaks is sent again as it was: boards take an envelope once.
- Answers come over a connection whose session outlives us: the broker keeps them, and ``fleet jobs`` gets them later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import msgspec

from agent.clock import iso
from agent.core.command import VERBS, Audience, Command
from agent.core.messages import decode
from agent.core.payloads import Job
from agent.core.ports import Clock, StopRequested
from agent.core.topics import address, broadcast_topic, fleet_filter, parse_topic, topic_for
from agent.errors import BusyError, ConfigError, ReportError
from agent.fleet.addressing import Selection
from agent.fleet.following import Answer, Following
from agent.fleet.ledger import Ledger, Sent
from agent.fleet.link import Link
from agent.fleet.settings import FleetSettings
from agent.fleet.signing import OperatorKey
from agent.fleet.view import BoardView
from agent.mqtt import Publication

VALID_S = 600.0  # chosen: a command is for now, and boards' clocks are seldom right to the second
ANSWER_S = 30.0  # a board answers QUEUED or REJECTED at once; chosen with room for a slow line
TURN_S = 120.0
IN_FLIGHT = 200  # unacknowledged envelopes; of these so many as the broker takes are on their way
AT_ONCE = 20  # signed before the connection is looked at again
SESSION_EXTRA_S = 3600.0

Told = Callable[[Answer], None]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done. ``deadline_s``: for how long a board may work on it; None: as its verb has it."""

    verb: str
    arguments: dict[str, Any] = {}
    deadline_s: float | None = None

    @property
    def task(self) -> str | None:
        """The task it is about."""
        return self.arguments.get("task")


class Sender:
    """Sends one command and follows it.

    Args: told: called with each new answer.   answer_s: how long a board may say nothing at all.
    Raises: ConfigError: key or certificate files.
    """

    def __init__(
        self,
        settings: FleetSettings,
        issuer: str,
        ledger: Ledger,
        clock: Clock,
        stop: StopRequested,
        *,
        told: Told = lambda _: None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._settings, self._issuer = settings, issuer
        self._ledger, self._clock, self._stop = ledger, clock, stop
        self._told, self._answer_s = told, answer_s
        self._key = OperatorKey.load(settings.key)
        self._fresh: dict[str, Job] = {}
        self._issued: tuple[datetime, str, str] | None = None

    def send(self, wanted: Wanted, selection: Selection, boards: Sequence[BoardView], timeout_s: float) -> Following:
        """Send, and follow until each board has ended, ``timeout_s`` have passed, or a stop is asked for.

        Raises: ReportError: the broker. OrderError: a board would not read it. StorageError.
        """
        rule = VERBS[wanted.verb]
        whole = selection.whole if not rule.epoch else None
        reached = [board for board in boards if board.reachable]
        following = Following(new_id(), (b.name for b in boards), (b.name for b in boards if not b.reachable))
        if not reached and whole is None:
            return following
        self._check_epochs(wanted, reached)
        keep_s = max(timeout_s, wanted.deadline_s or rule.deadline_s) + SESSION_EXTRA_S
        sent = self._remember(following, wanted, selection, keep_s)
        kept = session(self._settings, following.command, keep_s)
        with Link(self._settings.broker, self._settings.fleet, self._stop, kept) as link:
            link.connect()
            listen(link, following, self._heard, others=whole is not None)
            link.settle()
            with self._turn(link):
                topics = self._publish(link, self._envelopes(following.command, wanted, whole, reached))
            if whole is None:
                sent_to = {parse_topic(topic).device for topic in topics}
                following.not_sent(board.name for board in reached if board.name not in sent_to)
            self._follow(link, following, timeout_s)
            if following.ended:
                self._ledger.keep(msgspec.structs.replace(sent, boards=tuple(following.answers), listening=False))
                link.forget()
        return following

    @contextmanager
    def _turn(self, link: Link) -> Iterator[None]:
        """Have numbers taken and sent in one order, whatever other consoles of this operator send meanwhile."""
        with ExitStack() as held:
            taken: list[bool] = []

            def mine() -> bool:
                with suppress(BusyError):
                    if not taken:
                        held.enter_context(self._ledger.turn())
                        taken.append(True)
                return bool(taken)

            if not link.wait(mine, TURN_S):
                raise BusyError("another console of this operator is sending", fix="wait for it, and try again")
            yield

    @staticmethod
    def _check_epochs(wanted: Wanted, boards: Sequence[BoardView]) -> None:
        without = [board.name for board in boards if board.epoch is None]
        if VERBS[wanted.verb].epoch and without:
            raise ConfigError(
                f"{wanted.verb} must name a board's epoch, and {', '.join(without[:5])} has told none",
                fix="start `boardfit run` there with an operator list in its registry",
            )

    def _envelopes(
        self, command: str, wanted: Wanted, whole: str | None, boards: Sequence[BoardView]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield topic and envelope of each message to send; the counters of all are on disk before the first."""
        fleet = self._settings.fleet
        if whole is not None:
            group = None if whole == "all" else whole.removeprefix("group:")
            (counter,) = self._ledger.counters(self._issuer, 1)
            audience = Audience(fleet=fleet, group=group)
            yield broadcast_topic(fleet, wanted.verb, group), self._sign(command, wanted, audience, counter, None)
            return
        for board, counter in zip(boards, self._ledger.counters(self._issuer, len(boards)), strict=True):
            epoch = board.epoch if VERBS[wanted.verb].epoch else None
            envelope = self._sign(command, wanted, Audience(fleet=fleet, device=board.name), counter, epoch)
            yield topic_for(address(fleet, board.name), "cmd", wanted.verb), envelope

    def _sign(self, command: str, wanted: Wanted, audience: Audience, counter: int, epoch: str | None) -> bytes:
        issued_at, expires_at = self._times()
        return self._key.sign_command(
            Command(
                schema="boardfit.command/1",
                id=command,
                verb=wanted.verb,  # type: ignore[arg-type]  # read strictly before it is signed
                issuer=self._issuer,
                audience=audience,
                counter=counter,
                issued_at=issued_at,
                expires_at=expires_at,
                arguments=wanted.arguments,
                epoch=epoch,
                deadline_s=wanted.deadline_s,
            )
        )

    def _times(self) -> tuple[str, str]:
        """Return issue and expiry of what is signed now; the same for all of a second."""
        now = self._clock.utc()
        if self._issued is None or abs((now - self._issued[0]).total_seconds()) >= 1.0:
            self._issued = now, iso(now), iso(now + timedelta(seconds=VALID_S))
        return self._issued[1:]

    def _remember(self, following: Following, wanted: Wanted, selection: Selection, keep_s: float) -> Sent:
        now = self._clock.utc()
        sent = Sent(
            id=following.command,
            fleet=self._settings.fleet,
            verb=wanted.verb,
            issuer=self._issuer,
            address=selection.text,
            boards=tuple(following.answers),
            sent_at=iso(now),
            until=iso(now + timedelta(seconds=keep_s)),
            task=wanted.task,
            offline=tuple(name for name, answer in following.answers.items() if answer.state == "offline"),
        )
        self._ledger.keep(sent)
        return sent

    def _publish(self, link: Link, envelopes: Iterator[tuple[str, bytes]]) -> set[str]:
        """Sign and send all, a bounded number of them unacknowledged; what a broken line has lost goes again.

        Each is signed when there is room for it, while boards work at those before it.

        Returns: the topics of what was sent; some are missing where a stop was asked for.
        """
        sent: set[str] = set()
        again: list[tuple[str, bytes]] = []
        under_way: dict[Publication, tuple[str, bytes]] = {}

        def moved() -> bool:
            online = link.connection.state == "online"
            return any(one.state != "sent" for one in under_way) or (online and not under_way)

        while True:
            room = min(AT_ONCE, IN_FLIGHT - len(under_way)) if link.connection.state == "online" else 0
            messages = [*again[:room], *islice(envelopes, max(0, room - len(again)))]
            del again[:room]
            for message in messages:
                under_way[link.publish(*message, expiry_s=round(VALID_S))] = message
                sent.add(message[0])
            if not under_way and link.connection.state == "online":
                return sent
            if len(messages) == AT_ONCE and not self._stop():
                link.turn()  # more is to be signed meanwhile
            elif not link.wait(moved, VALID_S) and self._stop():
                return sent.difference(topic for topic, _ in again)
            for publication, message in list(under_way.items()):
                if publication.state == "refused":
                    raise ReportError(
                        f"the broker refuses {message[0]}: {publication.reason}",
                        fix="check the operator's access there",
                    )
                if publication.state != "sent":
                    del under_way[publication]
                if publication.state == "lost":
                    again.append(message)

    def _follow(self, link: Link, following: Following, timeout_s: float) -> None:
        silent_after = time.monotonic() + self._answer_s

        def tick() -> None:
            self._store()
            if time.monotonic() >= silent_after:
                for name in following.give_up_on_silent():
                    self._told(following.answers[name])

        link.wait(lambda: following.ended, timeout_s, tick)
        self._store()

    def _heard(self, answer: Answer, job: Job) -> None:
        self._fresh[answer.board] = job
        self._told(answer)

    def _store(self) -> None:
        if self._fresh:
            self._ledger.keep_answers(list(self._fresh.values()))
            self._fresh.clear()


def new_id() -> str:
    """Return an id that no other command has."""
    return os.urandom(8).hex()


def session(settings: FleetSettings, command: str, keep_s: float) -> tuple[str, float] | None:
    """Return client id and lifetime of the broker session that keeps a command's answers; MQTT 3.1.1 never ends one."""
    return (f"boardfit-fleet-{command}", keep_s) if settings.broker.protocol == "5" else None


def listen(link: Link, following: Following, heard: Callable[[Answer, Job], None], *, others: bool = False) -> None:
    """Feed a command's job documents to its ``following``; what cannot be read is left out."""

    def take(topic: str, payload: bytes) -> None:
        try:
            place = parse_topic(topic)
            job = decode(topic, payload, place.kind)
        except ReportError:
            return
        if place.device is None or not isinstance(job, Job):
            return
        answer = following.take(place.device, job, others=others)
        if answer is not None:
            heard(answer, msgspec.structs.replace(job, device=place.device))

    link.hear(fleet_filter(link.fleet, "job", following.command), take)
