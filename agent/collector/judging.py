"""What a document says to a store: which columns it touches, and whether it is newer than what is stored. Pure.

Rules of what is newer, of two documents of one topic:
- A job's: the greater revision. A status': within one boot the greater uptime, otherwise the one heard later; a last
  will knows neither and goes by when it was heard. A retained one is taken as heard when it was asked for.
- Others: the later time where both can be believed, since numbers (``seq``) begin again where a state directory was
  wiped, and a believed time is an hour ahead at most. A clock of 1970 decides nothing. Then, of two boots, the one that
  the board's status names; then the greater number.
- Without numbers (a profile): the later believable time, otherwise the one heard later.

A time is believed where the board does not call its clock unsynchronised, and it lies between boardfit's beginnings and
an hour from now. What cannot be read or cannot be stored as it is raises ReportError, and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import msgspec

from agent.clock import iso, read_iso
from agent.core.messages import MESSAGES, decode
from agent.core.payloads import DecisionMessage, Job, Measurements, Origin, Status
from agent.core.rollout_message import RolloutMessage
from agent.core.topics import Topic, parse_topic
from agent.errors import ReportError
from agent.fleet.plain import LONG, SHORT, plain
from agent.fleet.view import BoardView, TaskView, take_document
from agent.report.receipts import digest

_PLAUSIBLE_S = 1_704_067_200.0  # 2024-01-01: before boardfit
_AHEAD_S = 3600.0  # chosen: how far a board's clock may be ahead of the collector's
_LARGEST = 2**63 - 1
_AS_WE_WRITE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
#: Kinds of which the newest is kept for its topic; and those that a receipt is given for.
NEWEST = ("status", "profile", "reported", "decision", "deployment", "telemetry")
RECEIPTED = tuple(
    kind
    for kind, row in MESSAGES.items()
    if not (row.inbound or row.aside) and row.precedence != "telemetry" and row.qos
)

_TOUCHED: dict[str, tuple[str, ...]] = {
    "offline": ("status", "reason"),
    "status": ("status", "reason", "epoch", "boot_id", "agent_version", "outbox_messages"),
    "profile": (
        "class_fingerprint", "profile", "model", "soc", "architecture", "power_mode", "cores", "memory_bytes", "os",
        "python", "engines", "accelerators", "traps",
    ),
    "reported": ("groups", "desired_versions", "desired_error"),
    "telemetry": ("temperature_celsius", "doing", "outbox_messages"),
    "job": ("job", "job_state"),
    "decision": ("decided", "outcome", "reason", "decided_p95_s", "energy_j", "budgets"),
    "deployment": ("candidate", "phase", "release", "expected_p95_s"),
}  # fmt: skip
_LISTS = frozenset({"engines", "accelerators", "traps", "groups", "desired_versions", "budgets"})
_OPTION = ("engine", "provider", "threads", "batch")
#: The columns of history beside their key, by kind; names are those of the documents' fields.
ROWS: dict[str, tuple[str, ...]] = {
    "measurement": (
        "id", "task", "candidate", *_OPTION, "class_fingerprint", "verdict", "started_at", "duration_s",
        "latency_p50_s", "latency_p95_s", "throughput_per_s", "accuracy_top1", "power_mean_w", "energy_per_inference_j",
        "memory_peak_bytes", "size_bytes", "temperature_after_celsius",
    ),
    "decision": (
        "task", "outcome", "candidate", *_OPTION, "what_if", "class_fingerprint", "reason", "latency_p95_s",
        "energy_per_inference_j", "accuracy_top1",
    ),
    "deployment": ("task", "phase", "outcome", "candidate", "release", "reason", "expected_latency_p95_s"),
    "event": ("level", "kind", "task", "text"),
    "telemetry": (
        "group", "temperature_celsius", "clock_hz", "load_1min", "memory_available_bytes", "power_w", "supply_ok",
        "throttle_now", "outbox_messages",
    ),
    "job": (
        "verb", "state", "revision", "task", "issuer", "queued_at", "started_at", "finished_at", "exit_code", "reason",
    ),
}  # fmt: skip
MOMENTS = frozenset({"queued_at", "started_at", "finished_at"})


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What decides which of two documents is newer. Times are seconds since 1970, UTC; None is not known."""

    heard_s: float
    boot_id: str | None = None
    seq: int = 0
    time_s: float | None = None  # of the board's own clock, where it can be believed
    uptime_s: float | None = None
    revision: int | None = None  # of a job


class Taken(msgspec.Struct, kw_only=True, gc=False):
    """One document, judged. ``topic`` is the end of its topic; ``removes``: an emptied status takes its board out."""

    fleet: str
    board: str
    kind: str
    topic: str
    parameter: str | None
    order: Order
    payload: str
    columns: dict[str, Any]  # of the board's row, or of its task's
    digest: str = ""
    seen: str | None = None
    retained: bool = False
    rows: tuple[dict[str, Any], ...] = ()  # of history, one of a job, of a rollout; measurements come several at once
    removes: bool = False

    @property
    def at(self) -> float:
        """When it was said, seconds since 1970: by the board where that can be believed."""
        return self.order.heard_s if self.order.time_s is None else self.order.time_s


def take(topic: str, payload: bytes, heard_s: float, *, retained: bool = False) -> Taken | None:
    """Judge one message. Returns: None where it is nobody's document.

    Raises: ReportError: it cannot be read, or not be stored as it is.
    """
    place = parse_topic(topic)
    kind, board = place.kind, place.device
    if kind == "rollout":
        return _rollout(place, topic, payload, heard_s)
    if board is None or MESSAGES[kind].inbound:
        return None
    end = kind if place.parameter is None else f"{kind}/{place.parameter}"
    if not payload:
        return _emptied(place, end, heard_s)
    message = decode(topic, payload, kind)
    assert isinstance(message, Origin)
    seq = message.seq
    if not 0 <= seq <= _LARGEST:
        raise ReportError(f"{topic}: the number {seq} is out of range")
    time_s, seen = _time_of(message, heard_s)
    uptime_s = message.uptime_s if isinstance(message, Status) else None
    order = Order(
        heard_s=heard_s,
        boot_id=plain(message.boot_id),
        seq=seq,
        time_s=time_s,
        uptime_s=uptime_s,
        revision=_integer(topic, message.revision) if isinstance(message, Job) else None,
    )
    return Taken(
        fleet=place.fleet,
        board=board,
        kind=kind,
        topic=end,
        parameter=place.parameter,
        order=order,
        payload=_text(topic, payload),
        columns=_columns(board, place, message, topic),
        digest=digest(payload),
        seen=seen,
        retained=retained,
        rows=_rows(kind, message, topic, payload),
    )


def newer(new: Order, old: Order | None, present_boot: str | None = None) -> bool:
    """Return whether a document holds against the stored one. Args: present_boot: as the board's status names it."""
    if old is None:
        return True
    if new.revision is not None and old.revision is not None:
        return new.revision > old.revision
    one_boot = new.boot_id is not None and new.boot_id == old.boot_id
    later = new.time_s is not None and old.time_s is not None and new.time_s > old.time_s
    if new.seq and old.seq:
        if new.time_s is not None and old.time_s is not None and new.time_s != old.time_s:
            return later
        if not one_boot and present_boot is not None and present_boot in (new.boot_id, old.boot_id):
            return new.boot_id == present_boot
        return new.seq > old.seq
    if one_boot and new.uptime_s is not None and old.uptime_s is not None:
        return new.uptime_s > old.uptime_s
    status = new.uptime_s is not None or old.uptime_s is not None
    if not status and new.time_s is not None and old.time_s is not None:
        return later
    return new.heard_s >= old.heard_s


class Writes:
    """What a batch of documents changes, given the orders of what is stored. One fleet's.

    ``present_boots``: boot ids by board, as their statuses name them.
    """

    def __init__(self, orders: dict[tuple[str, str], Order], room: Callable[[str, str], bool]) -> None:
        self.orders = orders
        self.documents: dict[tuple[str, str], Taken] = {}
        self.boards: dict[str, dict[str, Any]] = {}
        self.tasks: dict[tuple[str, str], dict[str, Any]] = {}
        self.jobs: dict[tuple[str, str], Taken] = {}
        self.rollouts: dict[str, Taken] = {}
        self.removed: set[str] = set()
        self.left_out = 0
        self._room = room

    def add(self, taken: Taken) -> None:
        """Take one more document, in the order they were heard."""
        if taken.removes:
            self._remove(taken)
            return
        if taken.kind == "rollout":
            told = self.rollouts.get(taken.parameter or "")
            if told is None or taken.rows[0]["updated_at"] > told.rows[0]["updated_at"]:
                self.rollouts[taken.parameter or ""] = taken
            return
        touched = self.boards.setdefault(taken.board, {})
        heard = touched.get("heard_s")
        touched["heard_s"] = taken.order.heard_s if heard is None else max(heard, taken.order.heard_s)
        if taken.seen is not None:
            touched["seen"] = max(taken.seen, touched.get("seen") or "")
        if taken.kind == "job":
            if not self._wins((taken.board, taken.topic), taken.order):
                return
            self.jobs[taken.board, taken.topic] = taken
            order = msgspec.structs.replace(taken.order, revision=None)
            if self._wins((taken.board, "job"), order):  # the last job that was heard of
                self.documents[taken.board, "job"] = taken
                touched.update(taken.columns)
        elif taken.kind in NEWEST and self._wins((taken.board, taken.topic), taken.order):
            self.documents[taken.board, taken.topic] = taken
            if taken.kind in ("decision", "deployment"):
                if taken.columns:
                    self.tasks.setdefault((taken.board, taken.parameter or ""), {}).update(taken.columns)
            else:
                touched.update(taken.columns)

    def _wins(self, key: tuple[str, str], order: Order) -> bool:
        old = self.orders.get(key)
        status = self.orders.get((key[0], "status"))
        if not newer(order, old, None if status is None else status.boot_id):
            return False
        if old is None and not self._room(*key):
            self.left_out += 1
            return False
        self.orders[key] = order
        return True

    def _remove(self, taken: Taken) -> None:
        if not self._wins((taken.board, "status"), taken.order):
            return
        self.removed.add(taken.board)
        for kept in (self.documents, self.jobs, self.tasks, self.orders):
            for key in [key for key in kept if key[0] == taken.board]:
                kept.pop(key, None)
        self.boards[taken.board] = {"removed": True, "heard_s": taken.order.heard_s}


@lru_cache(maxsize=1024)  # a batch was heard within few moments
def moment(seconds: float) -> str:
    """Return a time as it is stored, from seconds since 1970."""
    return iso(datetime.fromtimestamp(seconds, timezone.utc))


def _rollout(place: Topic, topic: str, payload: bytes, heard_s: float) -> Taken | None:
    """Judge how a rollout stands; a forgotten one stays in the store."""
    if not payload:
        return None
    message = decode(topic, payload, place.kind)
    assert isinstance(message, RolloutMessage)
    updated_at = _moment(message.updated_at)
    if updated_at is None:
        raise ReportError(f"{topic}: {plain(message.updated_at)} is not a time")
    return Taken(
        fleet=place.fleet,
        board="",
        kind="rollout",
        topic=f"rollout/{place.parameter}",
        parameter=place.parameter,
        order=Order(heard_s=heard_s),
        payload=_text(topic, payload),
        columns={},
        rows=({"updated_at": updated_at},),
    )


def _text(topic: str, payload: bytes) -> str:
    """Return the document as text. Fields that we do not know were skipped when it was read: they must be sound too."""
    try:
        text = payload.decode()
        msgspec.json.decode(payload)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise ReportError(f"{topic}: not sound JSON: {error}") from error
    if "\\u0000" in text:
        raise ReportError(f"{topic}: a text with a NUL in it cannot be stored")
    return text


def _emptied(place: Topic, end: str, heard_s: float) -> Taken | None:
    if place.kind != "status":
        return None
    return Taken(
        fleet=place.fleet,
        board=str(place.device),
        kind="status",
        topic=end,
        parameter=None,
        order=Order(heard_s=heard_s),
        payload="",
        columns={},
        removes=True,
    )


def _time_of(message: Origin, heard_s: float) -> tuple[float | None, str | None]:
    """Return the board's time where it can be believed, and what it says; what is no time is neither."""
    if message.time is None:
        return None, None
    try:
        said = read_iso(message.time)
        seconds = said.timestamp() if said.tzinfo is not None else said.replace(tzinfo=timezone.utc).timestamp()
    except (ValueError, OverflowError):
        return None, None
    if seconds > heard_s + _AHEAD_S:
        return None, None
    text = message.time if _AS_WE_WRITE.fullmatch(message.time) else moment(seconds)
    believed = message.clock_synced is not False and seconds >= _PLAUSIBLE_S
    return seconds if believed else None, text


def _columns(board: str, place: Topic, message: Any, topic: str) -> dict[str, Any]:
    kind = place.kind
    touched = _TOUCHED.get("offline" if kind == "status" and message.state == "offline" else kind, ())
    if not touched or (kind == "telemetry" and place.parameter != "board"):
        return {}
    if isinstance(message, DecisionMessage) and message.what_if:
        return {}
    view = BoardView(board)
    take_document(view, place, message)
    told: BoardView | TaskView = view.tasks[place.parameter or ""] if kind in ("decision", "deployment") else view
    found = {}
    for name in touched:
        value = getattr(told, name)
        if value is None and name == "outbox_messages":
            continue  # not told; what the last status told holds
        if name in _LISTS:
            value = None if value is None else msgspec.json.encode(value).decode()
        elif isinstance(value, int):
            value = _integer(topic, value)
        found[name] = value
    return found


def _rows(kind: str, message: Any, topic: str, payload: bytes) -> tuple[dict[str, Any], ...]:
    """Return the columns of the rows of history or of a job, without the document where it is the whole message."""
    fields = ROWS.get(kind)
    if fields is None:
        return ()
    if not isinstance(message, Measurements):
        return (_row(fields, message, topic),)
    sent = msgspec.json.decode(payload)["measurements"]
    header = {name: getattr(message, name) for name in Origin.__struct_fields__}
    return tuple(
        {**_row(fields, one, topic), "payload": msgspec.json.encode({**header, **as_sent}).decode()}
        for one, as_sent in zip(message.measurements, sent, strict=True)
    )


def _row(fields: tuple[str, ...], message: Any, topic: str) -> dict[str, Any]:
    """Return the columns of one row; texts are made plain and fit a line."""
    row = {}
    for name in fields:
        value = getattr(message, name)
        if isinstance(value, str):
            value = _moment(value) if name in MOMENTS else plain(value, LONG if name in ("reason", "text") else SHORT)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = _integer(topic, value)
        row[name] = value
    return row


def _moment(text: str) -> str | None:
    try:
        return iso(read_iso(text))
    except (ValueError, OverflowError):
        return None


def _integer(topic: str, value: int) -> int:
    if not -_LARGEST <= value <= _LARGEST:
        raise ReportError(f"{topic}: the number {value} is out of range")
    return value
