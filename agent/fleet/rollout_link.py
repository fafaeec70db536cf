"""A rollout's line to the real boards: what they retain and answer comes in, signed commands go out.

Rules:
- The line has a session of its own at the broker, so that answers given while nobody drives the rollout are kept; a
  lost one is no harm, since what counts is retained.
- Numbers are taken and sent in one turn among the consoles of this operator: a board takes rising numbers only.
- What cannot be sent now (no connection, another console's turn) waits here and goes at the next step; an order that
  is no longer valid by then is dropped, for the rollout asks again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from agent.clock import iso
from agent.core.command import Audience, Command
from agent.core.ports import Clock, StopRequested
from agent.core.topics import address, fleet_filter, topic_for
from agent.errors import BusyError, ReportError
from agent.fleet.ledger import Ledger
from agent.fleet.link import Link
from agent.fleet.rollout_board import Order
from agent.fleet.rollout_view import BoardNow, RolloutView
from agent.fleet.settings import FleetSettings, operator_name
from agent.fleet.signing import OperatorKey
from agent.mqtt import Publication

KEEP_S = 7 * 86400.0  # chosen: a rollout that nobody has driven for a week judges by what is retained alone
AT_ONCE = 200  # commands signed and unacknowledged at a time
_ACK_S = 30.0
_GATHER_S = 0.1  # what comes together is judged together: a step looks at every board,
_GATHER_RATIO = 20.0  # and may take one part in so many of the time: of 5,000 boards it takes some milliseconds
_GATHER_MOST_S = 2.0


class LinkPort:
    """``agent.fleet.rollout_drive.FleetPort`` over a broker. Close it, or use it as a context manager.

    Raises: ConfigError: key, certificate or operator's name. ReportError: the broker.
    """

    def __init__(  # noqa: PLR0917 - as the sender of single commands has them
        self, settings: FleetSettings, ledger: Ledger, clock: Clock, stop: StopRequested, rollout: str, task: str
    ) -> None:
        self._settings, self._ledger, self._clock = settings, ledger, clock
        self._issuer, self._key = operator_name(settings), OperatorKey.load(settings.key)
        self._view = RolloutView(settings.fleet, task, rollout)
        self._news = False
        self._waited_at = time.thread_time()
        self._unsent: list[tuple[float, Order]] = []
        session = (f"boardfit-rollout-{rollout}", KEEP_S) if settings.broker.protocol == "5" else None
        self._link = Link(settings.broker, settings.fleet, stop, session)
        try:
            self._link.hear(fleet_filter(settings.fleet, "job"), self._take)
            self._link.connect()
            for kind in ("status", "profile"):
                self._link.hear(fleet_filter(settings.fleet, kind), self._take)
                self._link.settle()
            for kind in ("deployment", "decision"):
                self._link.hear(fleet_filter(settings.fleet, kind, task), self._take)  # type: ignore[arg-type]
                self._link.settle()
        except BaseException:
            self._link.close()
            raise

    def __enter__(self) -> LinkPort:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    @property
    def link(self) -> Link:
        """The line, for what else is said over it."""
        return self._link

    @property
    def problem(self) -> str | None:
        """Why there is no connection now; None where there is one."""
        if self._link.connection.state == "online":
            return None
        error = self._link.connection.last_error
        return "not connected" if error is None else error.problem

    @property
    def heard(self) -> int:
        """How many documents have changed something."""
        return self._view.heard

    def boards(self) -> Mapping[str, BoardNow]:
        """Return the boards as they were last heard."""
        return self._view.boards

    def send(self, orders: Sequence[Order]) -> None:
        """Sign and send; what does not go now goes later. Raises: OrderError: no board would read it. StorageError."""
        self._unsent += [(time.monotonic() + order.valid_s, order) for order in orders]
        self._flush()

    def wait(self, timeout_s: float) -> None:
        """Return soon after something was heard, or after this time."""
        gather_s = _GATHER_RATIO * (time.thread_time() - self._waited_at)
        self._flush()
        if self._link.wait(lambda: self._news, timeout_s):
            self._link.wait(lambda: False, min(_GATHER_MOST_S, max(_GATHER_S, gather_s)))
        self._news = False
        self._waited_at = time.thread_time()

    def forget(self) -> None:
        """Let the broker drop what it keeps for this rollout: it has ended."""
        self._link.forget()

    def _flush(self) -> None:
        now = time.monotonic()
        self._unsent = [(until, order) for until, order in self._unsent if until > now]
        while self._unsent and self._link.connection.state == "online":
            batch, rest = self._unsent[:AT_ONCE], self._unsent[AT_ONCE:]
            try:
                with self._ledger.turn():
                    sent = self._publish([order for _, order in batch])
                    self._link.wait(lambda sent=sent: all(one.state != "sent" for one in sent), _ACK_S)  # type: ignore[misc]
            except (BusyError, ReportError):
                return
            self._unsent = [one for one, state in zip(batch, sent, strict=True) if state.state == "lost"] + rest
            for publication in sent:
                if publication.state == "refused":
                    raise ReportError(
                        f"the broker refuses {publication.topic}: {publication.reason}",
                        fix="check the operator's access there",
                    )

    def _publish(self, orders: Sequence[Order]) -> list[Publication]:
        counters = self._ledger.counters(self._issuer, len(orders))
        return [self._publish_one(order, counter) for order, counter in zip(orders, counters, strict=True)]

    def _publish_one(self, order: Order, counter: int) -> Publication:
        now, fleet = self._clock.utc(), self._settings.fleet
        command = Command(
            schema="boardfit.command/1",
            id=order.job,
            verb=order.verb,  # type: ignore[arg-type]  # read strictly before it is signed
            issuer=self._issuer,
            audience=Audience(fleet=fleet, device=order.board),
            counter=counter,
            issued_at=iso(now),
            expires_at=iso(now + timedelta(seconds=order.valid_s)),
            arguments=order.arguments,
            epoch=order.epoch,
            deadline_s=order.deadline_s,
        )
        topic = topic_for(address(fleet, order.board), "cmd", order.verb)
        return self._link.publish(topic, self._key.sign_command(command), expiry_s=max(1, round(order.valid_s)))

    def _take(self, topic: str, payload: bytes) -> None:
        self._news = self._view.take(topic, payload) or self._news
