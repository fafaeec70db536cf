"""Boards of one class telling each other what they measured: what is told, what is heard, and whom it is believed of.

Leaves the signature to ``agent.vouching``, pooling to ``agent.core.class_results`` and what a race makes of it to
``agent.measure``. Rules:
- Told is one retained document for the class: of each task the newest result of each option. It is told when something
  in it is new, and only where this board can sign.
- Heard are the retained documents of the own fleet and class, over a connection of the pass's own that lasts
  ``LONGEST_S`` at most: so the idle daemon hears nothing of it. Of a large class ``MOST_BOARDS`` are enough.
- A class that was heard within ``AGAIN_S`` is not heard again.
- Believed is a document whose signature and certificate hold for the very board in its topic; others are counted, and
  said in one event.
- A broker that is away, a missing certificate or package cost a sentence in the log and nothing else: the race is then
  this board's alone.
"""

from __future__ import annotations

import hashlib
import logging
from base64 import b64encode

import msgspec

from agent.clock import iso, read_iso
from agent.core.class_results import BoardResults, ClassView, pool, results_to_tell
from agent.core.facts import DeviceFacts
from agent.core.payloads import Origin
from agent.core.results_message import MAX_TOLD_BYTES, RESULTS_TYPE, ResultsMessage
from agent.core.topics import Address, class_level, client_id, fleet_filter, parse_topic
from agent.endpoints import broker_of
from agent.errors import BoardfitError, ConfigError, ReportError, TrustError
from agent.measure.plan import LASTING
from agent.mqtt import Connection, Incoming, drive
from agent.question import NOTHING_KNOWN, OfClass
from agent.site import Site
from agent.vouching import Authority, proven, read_results, vouch

log = logging.getLogger("boardfit")

MOST_BOARDS = 64  # chosen: a median of so many is known to a twentieth of its spread
MOST_BYTES = 4 << 20
LONGEST_S = 6.0
AGAIN_S = 20 * 3600.0  # so that a nightly pass hears what is new
_CONNECT_S = 5.0
_QUIET_S = 0.5  # a broker sends what is retained at once
_OWN = "reader"  # of the client id: the daemon is connected under the board's own


def class_of(facts: DeviceFacts) -> str:
    """Return the class as it stands in a topic."""
    return class_level(facts.class_fingerprint)


def tell(site: Site, facts: DeviceFacts) -> None:
    """Tell the class what this board measured, where it can sign and where anything is new."""
    mqtt, at = site.written.mqtt, site.address
    if mqtt is None or at is None or mqtt.cert is None or mqtt.key is None:
        return
    told = _own_results(site, facts, at)
    if not told:
        return
    meaning = msgspec.json.encode([msgspec.structs.replace(one, told_at="") for one in told])
    payload = msgspec.json.encode(told)
    if len(payload) > MAX_TOLD_BYTES:
        log.warning("what this board measured is too long to tell its class: %d bytes", len(payload))
        return
    try:
        vouched = vouch(payload, RESULTS_TYPE, mqtt.cert, mqtt.key)
    except ConfigError as error:
        log.warning("what this board measured is not told to its class: %s", error.problem)
        return

    def made(origin: Origin) -> ResultsMessage:
        return ResultsMessage(
            **msgspec.structs.asdict(origin),
            class_fingerprint=facts.class_fingerprint,
            payload=b64encode(payload).decode(),
            certificates=vouched.certificates,
            signature=vouched.signature,
            digest=hashlib.sha256(meaning).hexdigest(),
        )

    site.report.tell("results", made, class_of(facts), news_only=True)


def _own_results(site: Site, facts: DeviceFacts, at: Address) -> list[BoardResults]:
    told = []
    for task in site.records.tasks():
        measured = site.records.measurements(task, facts.class_fingerprint)
        results = results_to_tell(measured, LASTING, site.records.class_checks(task, facts.class_fingerprint))
        if results:
            told.append(
                BoardResults(
                    board=client_id(at), task=task, class_fingerprint=facts.class_fingerprint,
                    told_at=iso(site.clock.utc()), results=results,
                )
            )  # fmt: skip
    return told


class Heard:
    """The documents of one class as they come in; bounded."""

    def __init__(self, at: Address) -> None:
        self._at = at
        self.documents: dict[str, bytes] = {}
        self.length = 0

    @property
    def full(self) -> bool:
        """Whether no more is taken."""
        return len(self.documents) >= MOST_BOARDS or self.length >= MOST_BYTES

    def take(self, incoming: Incoming) -> None:
        """Take one message; the topic says whose it claims to be."""
        place = parse_topic(incoming.topic)
        if place.device is not None and place.device != self._at.device and incoming.payload and not self.full:
            self.documents[f"{place.fleet}/{place.device}"] = incoming.payload
            self.length += len(incoming.payload)


def hear(site: Site, facts: DeviceFacts) -> None:
    """Hear what other boards of the class told, and keep what is proven to be theirs."""
    mqtt, at = site.written.mqtt, site.address
    if mqtt is None or at is None or mqtt.cert is None or mqtt.ca is None:
        return
    if _known(site, facts):
        return
    try:
        found = _listen(site, facts, at)
        believed: dict[str, bytes] = {}
        refused: list[str] = []
        authority = Authority(mqtt.ca, max(site.clock.utc(), site.time_floor()))
        for board, data in sorted(found.items()):
            try:
                believed[board] = proven(board, data, facts.class_fingerprint, authority)
            except (TrustError, ReportError) as error:
                refused.append(f"{board}: {error.problem}")
        site.records.keep_class(facts.class_fingerprint, believed, iso(site.clock.utc()))
        if refused:
            text = f"what {len(refused)} boards say of this class is not believed: {refused[0]}"
            site.report.event("class_results_refused", text)
    except BoardfitError as error:
        log.warning("what other boards of this class measured is not known: %s", error.problem)


def _known(site: Site, facts: DeviceFacts) -> bool:
    """Tell whether the class was heard not long ago; a clock that was set back makes it be heard again."""
    at = site.records.class_heard_at(facts.class_fingerprint)
    age_s = -1.0 if at is None else (site.clock.utc() - read_iso(at)).total_seconds()
    return 0.0 <= age_s < AGAIN_S


def _listen(site: Site, facts: DeviceFacts, at: Address) -> dict[str, bytes]:
    assert site.written.mqtt is not None
    settings = broker_of(site.written.mqtt)
    settings = msgspec.structs.replace(settings, client_id=f"{client_id(at)}/{_OWN}", session_expiry_s=0)
    heard, clock = Heard(at), site.clock.monotonic_s
    connection = Connection(settings)
    try:
        connection.connect(_CONNECT_S)
        connection.subscribe(fleet_filter(at.fleet, "results", class_of(facts)), heard.take)
        end = clock() + LONGEST_S
        drive(connection, lambda: connection.listening or site.stop(), LONGEST_S)
        while clock() < end and not (heard.full or site.stop()):
            before = heard.length
            drive(connection, lambda before=before: heard.length != before or site.stop(), _QUIET_S)  # type: ignore[misc]
            if heard.length == before:
                break
    finally:
        connection.close()
    return heard.documents


def view_of(site: Site, facts: DeviceFacts, task: str) -> ClassView | None:
    """Return what is known of the class for a task; None where nothing is."""
    told: list[BoardResults] = []
    for payload in site.records.class_told(facts.class_fingerprint):
        try:
            told += read_results(payload)
        except ReportError as error:
            log.warning("what a board of this class told cannot be read any more: %s", error.problem)
    if not told:
        return None
    own = None if site.address is None else client_id(site.address)
    view = pool(told, class_fingerprint=facts.class_fingerprint, task=task, but=own)
    return view if view.boards else None


def of_class(site: Site, facts: DeviceFacts, task: str) -> OfClass:
    """Return what a race is told of the class."""
    view = view_of(site, facts, task)
    return NOTHING_KNOWN if view is None else OfClass(view, site.records.class_checks(task, facts.class_fingerprint))
