"""What one board sends and receives, in bytes: a real daemon, a real broker, a real registry, with a tap in both lines.

    python benchmarks/message_sizes.py [--json | --markdown] [--samples FILE]

One ``boardfit run`` with the bundled registry (its copy, on a real HTTP server) does, one after the other: start and
first pass; a connection cut; a scheduled pass with nothing new, and another; what an operator orders. Every MQTT packet
is counted by ``benchmarks.wire``: topic, payload, and all else. TCP, IP and TLS are not in it. What the broker retains
is what a new subscriber gets at the end.

A day is put together from these: one scheduled pass, telemetry as often as the daemon sends it, keep-alives, and one
new connection. A pass measures again what a busy machine disturbed. Sizes are those of this machine's profile, names
and candidates; a board with other names, sensors or a longer list differs. Needs mosquitto.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.core.topics import parse_topic  # noqa: E402
from agent.daemon import TELEMETRY_S  # noqa: E402
from agent.demo_broker import EmbeddedBroker  # noqa: E402
from agent.errors import ReportError  # noqa: E402
from agent.mqtt import BrokerSettings, Connection, Incoming, drive  # noqa: E402
from agent.registry.serve import RegistryServer  # noqa: E402
from benchmarks.one_agent import Agent, Operator, sign_registry  # noqa: E402
from benchmarks.table import render  # noqa: E402
from benchmarks.wire import Packet, Tap  # noqa: E402

FLEET, BOARD = "plant-7", "line-2-camera-4"  # names of a usual length: topics are bytes too
PASS_TIMEOUT_S = 600.0
QUIET_S = 3.0  # nothing for so long, and all has been sent
DAY_S = 86400.0
FLEETS = (100_000, 1_000_000)
PACKET_BYTES = 20 + 20 + 12  # IPv4 (RFC 791), TCP (RFC 9293) with its timestamps (RFC 7323)
RECORD_BYTES = 5 + 1 + 16  # TLS 1.3: header, type, tag (RFC 8446, 5.2 and 5.3)
HELD = "scheduled pass on a connection that held, nothing new"
FIRST, LATER = "start and first pass", "scheduled pass after a new connection, nothing new"
OTHER = "mobilenet_v1-w025-onnx-static-int8"


class Row(NamedTuple):
    """Messages of one kind in one phase. Bytes are sums but for ``largest`` and ``usual``."""

    phase: str
    kind: str
    up: bool
    count: int
    payload: int
    topic: int
    overhead: int
    usual: float  # median payload
    largest: int

    @property
    def total(self) -> int:
        """All bytes above TCP."""
        return self.payload + self.topic + self.overhead


class Sizes(NamedTuple):
    """What was counted."""

    rows: list[Row]
    retained: dict[str, int]  # end of the topic -> bytes of topic and payload
    registry: dict[str, dict[str, int]]  # sync -> what -> bytes from the server
    requests: dict[str, int]  # sync -> how many requests
    metadata: dict[str, int]  # file -> bytes
    messages: list[tuple[str, Packet]]  # phase, and what the board sent in it


def kind_of(packet: Packet) -> str:
    """Return the kind of a PUBLISH by its topic, or the packet's own type."""
    if packet.kind != "PUBLISH":
        return packet.kind
    try:
        return parse_topic(packet.topic).kind
    except ReportError:
        return packet.topic.split("/")[2] if packet.topic.count("/") > 1 else packet.topic


def rows_of(phase: str, packets: Sequence[Packet]) -> list[Row]:
    """Add packets up by kind and direction."""
    found: dict[tuple[bool, str], list[Packet]] = {}
    for packet in packets:
        found.setdefault((packet.up, kind_of(packet)), []).append(packet)
    rows = []
    for (up, kind), some in sorted(found.items(), key=lambda one: (not one[0][0], one[0][1])):
        payloads = [len(one.payload) for one in some]
        topic = sum(len(one.topic.encode()) for one in some)
        overhead = sum(one.overhead for one in some)
        rows.append(Row(phase, kind, up, len(some), sum(payloads), topic, overhead, median(payloads), max(payloads)))
    return rows


class Doing:
    """What the daemon does, as it tells systemd: a socket that stands in for systemd's, and its STATUS lines."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self.environment = {"NOTIFY_SOCKET": str(folder / "notify")}
        self._told: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            for line in self._socket.recv(4096).decode().splitlines():
                if line.startswith("STATUS="):
                    self._told.append(line.removeprefix("STATUS="))

    def take(self) -> None:
        """Forget what was told, but for what it does now."""
        self._told = self._told[-1:]

    def has_done(self, work: str) -> bool:
        """Whether it has done something whose name begins so, and is idle."""
        return any(one.startswith(work) for one in self._told) and self._told[-1] == "serving"


class Counted:
    """Waits for what the board does, and keeps what passes the tap by phase."""

    def __init__(self, tap: Tap, doing: Doing) -> None:
        self._tap, self._doing = tap, doing
        self.rows: list[Row] = []
        self.messages: list[tuple[str, Packet]] = []

    def kinds(self) -> list[str]:
        """Return what the board has sent since the last phase."""
        return [kind_of(one) for one in self._tap.seen() if one.up]

    def phase(self, name: str, over: Callable[[], bool], timeout_s: float = PASS_TIMEOUT_S) -> None:
        """Wait until ``over`` and until nothing more comes; then add up. Raises: SystemExit: it took too long."""
        end, last, quiet_since = time.monotonic() + timeout_s, -1, 0.0
        while True:
            time.sleep(0.1)
            now, seen = time.monotonic(), sum(one.kind == "PUBLISH" for one in self._tap.seen())
            if seen != last or not over():
                last, quiet_since = seen, now
            elif now - quiet_since >= QUIET_S:
                break
            if now > end:
                raise SystemExit(f"{name}: not over after {timeout_s:g} s; sent: {self.kinds()}")
        self._doing.take()
        packets = self._tap.take()
        self.rows += rows_of(name, packets)
        self.messages += [(name, one) for one in packets if one.up and one.kind == "PUBLISH"]


@contextmanager
def served(models: Path) -> Iterator[Tap]:
    """Serve a registry, with a tap before it."""
    server = RegistryServer(models, ("127.0.0.1", 0))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Tap(int(server.server_address[1]), http=True) as tap:
        yield tap
    server.shutdown()
    server.server_close()


def fetched(packets: Sequence[Packet]) -> tuple[dict[str, int], int]:
    """Return bytes from the registry by what was asked for, and the number of requests."""
    found: dict[str, int] = {}
    for packet in packets:
        if not packet.up:
            name = Path(packet.kind).name
            what = "targets" if "/targets/" in packet.kind else name.split(".", 1)[-1] if name[:1].isdigit() else name
            found[what] = found.get(what, 0) + packet.bytes
    return found, sum(packet.up for packet in packets)


def retained(settings: BrokerSettings) -> dict[str, int]:
    """Return the bytes of topic and payload of what the broker keeps, by the end of the topic."""
    got: list[Incoming] = []
    with_all = Connection(settings)
    with_all.connect(10)
    with_all.subscribe("boardfit/#", got.append)
    drive(with_all, lambda: False, 2.0)
    with_all.close()
    return {one.topic.split("/", 4)[-1]: len(one.topic.encode()) + len(one.payload) for one in got if one.retain}


def measure() -> Sizes:
    """Run it all. Raises: SystemExit: a step did not come about."""
    registry: dict[str, dict[str, int]] = {}
    requests: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="boardfit-sizes-") as name, EmbeddedBroker("mosquitto") as broker:
        folder = Path(name)
        operator = Operator(folder / "anna", "anna", broker.url, FLEET)
        models = sign_registry(folder, operator)
        with Tap(broker.port) as line, served(models) as shop:
            doing = Doing(folder)
            counted = Counted(line, doing)
            agent = Agent(
                folder / "board",
                BOARD,
                registry=f"http://127.0.0.1:{shop.port}",
                root=models / "root.json",
                broker=f"mqtt://127.0.0.1:{line.port}",
                fleet=FLEET,
            )
            agent.start(doing.environment)
            try:
                counted.phase(FIRST, lambda: doing.has_done("pass: start-up"))
                registry["first pass"], requests["first pass"] = fetched(shop.take())
                line.cut()
                counted.phase("new connection", lambda: "status" in counted.kinds())
                _schedule_soon(operator, folder)
                counted.phase("desired state", lambda: True)
                counted.phase(LATER, lambda: doing.has_done("pass: "))
                registry["later pass"], requests["later pass"] = fetched(shop.take())
                _schedule_soon(operator, folder)
                counted.phase("desired state again", lambda: True)
                counted.phase(HELD, lambda: doing.has_done("pass: "))
                _order(operator, "status", BOARD)
                counted.phase("fleet status", lambda: True)
                for words in (("bench", BOARD), ("deploy", BOARD)):
                    _order(operator, *words, "--task", "digits", "--candidate", OTHER)
                    counted.phase(f"fleet {words[0]}", lambda verb=words[0]: doing.has_done(verb))  # type: ignore[misc]
                kept = retained(broker.settings)
            finally:
                agent.stop()
        sizes = {path.name: path.stat().st_size for path in sorted((models / "metadata").iterdir())}
    newest = {name.split(".", 1)[-1] if name[0].isdigit() else name: size for name, size in sizes.items()}
    return Sizes(counted.rows, kept, registry, requests, newest, counted.messages)


def _schedule_soon(operator: Operator, folder: Path) -> None:
    """Have the board do a pass in the minute after the next."""
    at = datetime.now() + timedelta(minutes=1, seconds=20)  # noqa: DTZ005 - cron is in the board's local time
    wish = folder / "wish.yaml"
    entry = {"name": "nightly", "action": "pass", "cron": f"{at.minute} {at.hour} * * *"}
    wish.write_text(yaml.safe_dump({"schedule": [entry]}))
    _order(operator, "desired", "set", BOARD, "--file", str(wish))


def _order(operator: Operator, *words: str) -> None:
    ended = operator(*words)
    if ended.code != 0:
        raise SystemExit(f"boardfit fleet {' '.join(words)} ended with {ended.code}:\n{ended.out}{ended.err}")


def day_of(sizes: Sizes) -> list[tuple[str, int, float]]:
    """Return what a day is made of: (what, messages or packets, bytes above TCP), both directions."""

    def of(phase: str, *kinds: str, but: tuple[str, ...] = ()) -> list[Row]:
        rows = [row for row in sizes.rows if row.phase == phase and row.kind not in but]
        return [row for row in rows if not kinds or row.kind in kinds]

    told = [row for row in sizes.rows if row.kind == "telemetry"]
    acked = 4.0  # PUBACK without properties: MQTT 5, section 3.4
    telemetry = sum(row.total for row in told) / sum(row.count for row in told) + acked
    beats = int(DAY_S / BrokerSettings(host="any").keepalive_s)
    often = int(DAY_S / TELEMETRY_S)
    aside = ("telemetry", "PINGREQ", "PINGRESP")
    again, later = of("new connection", but=aside), of(LATER, but=aside)
    return [
        (
            "a scheduled pass after a new connection, nothing new",
            _messages(later),
            float(sum(row.total for row in later)),
        ),
        (f"telemetry every {TELEMETRY_S:g} s", often, often * telemetry),
        ("keep-alives, at most", 2 * beats, beats * 4.0),  # PINGREQ and PINGRESP have 2 bytes each
        ("one new connection", _messages(again), float(sum(row.total for row in again))),
    ]


def fleet_of(sizes: Sizes, boards: int) -> list[tuple[str, str]]:
    """Return what that is for many boards: (what, figure with unit). Means over a day; nothing here was run."""
    day = day_of(sizes)
    told = sum(size for _, _, size in day)
    messages = day[0][1] + day[1][1]
    kept, kept_bytes = len(sizes.retained), sum(sizes.retained.values())
    # Calculated: each message and its PUBACK, each PINGREQ and PINGRESP, is one record in a segment of its own.
    segments = 2 * messages + day[2][1] + 2 * day[3][1]
    line = told + segments * (PACKET_BYTES + RECORD_BYTES)
    return [
        ("retained messages", f"{boards * kept:,}"),
        ("their bytes", f"{boards * kept_bytes / 1e9:,.2f} GB"),
        ("messages a second, mean", f"{boards * messages / DAY_S:,.0f}"),
        ("of which telemetry", f"{boards * day[1][1] / DAY_S:,.0f}"),
        ("keep-alives a second, at most", f"{boards * day[2][1] / 2 / DAY_S:,.0f}"),
        ("bytes a day above TCP", f"{boards * told / 1e9:,.1f} GB"),
        ("bytes a day on the line, TLS 1.3 over IPv4, calculated", f"{boards * line / 1e9:,.1f} GB"),
        ("mean rate of that", f"{boards * line * 8 / DAY_S / 1e6:,.0f} Mbit/s"),
    ]


def options_of(sizes: Sizes) -> tuple[int, float]:
    """Return how many options the last decision names, and the bytes of each."""
    told = [json.loads(one.payload) for _, one in sizes.messages if parse_topic(one.topic).kind == "decision"]
    if not told or not told[-1].get("options"):
        return 0, 0.0
    options = told[-1]["options"]
    return len(options), len(json.dumps(options, separators=(",", ":"), ensure_ascii=False).encode()) / len(options)


def _messages(rows: Sequence[Row]) -> int:
    return sum(row.count for row in rows if row.kind != "PUBACK")


def show(sizes: Sizes, *, markdown: bool) -> str:
    """Return everything as text."""
    title = "# Message sizes\n\n" if markdown else ""
    options, option_bytes = options_of(sizes)
    about = (
        f"{title}Of one board of this machine's profile, `benchmarks/message_sizes.py`; bytes above TCP. Names: fleet "
        f"`{FLEET}`, board `{BOARD}`, task `digits`. The decision is over {options} options (a candidate in an engine, "
        f"with a number of threads), {option_bytes:,.0f} bytes each: its size goes with them."
    )
    parts = [about]
    heads = ("phase", "way", "what", "count", "payload", "topic", "other", "all", "usual payload", "largest")
    lines = [
        (
            row.phase, "from the board" if row.up else "to the board", row.kind, str(row.count), f"{row.payload:,}",
            f"{row.topic:,}", f"{row.overhead:,}", f"{row.total:,}",
            f"{row.usual:,.0f}" if row.payload else "–", f"{row.largest:,}" if row.payload else "–",
        )
        for row in sizes.rows
    ]  # fmt: skip
    parts.append(render(heads, lines, markdown=markdown, left=3))
    day = day_of(sizes)
    rows = [(what, f"{count:,}", f"{size:,.0f}") for what, count, size in day]
    rows.append(("together", f"{sum(one[1] for one in day):,}", f"{sum(one[2] for one in day):,.0f}"))
    parts.append(_headed("A day", render(("of", "messages", "bytes"), rows, markdown=markdown), markdown))
    kept = [(name, f"{size:,}") for name, size in sorted(sizes.retained.items())]
    kept.append((f"together, {len(sizes.retained)}", f"{sum(sizes.retained.values()):,}"))
    table = render(("topic", "bytes with topic"), kept, markdown=markdown)
    parts.append(_headed("What the broker retains of the board", table, markdown))
    fleets = [fleet_of(sizes, boards) for boards in FLEETS]
    rows = [(one[0][0], *(fleet[1] for fleet in one)) for one in zip(*fleets, strict=True)]
    heads = ("of", *(f"{boards:,} boards" for boards in FLEETS))
    parts.append(_headed("For a fleet, multiplied", render(heads, rows, markdown=markdown), markdown))
    pulled = [
        (sync, what, f"{size:,}", str(sizes.requests[sync]) if place == 0 else "")
        for sync, files in sizes.registry.items()
        for place, (what, size) in enumerate(sorted(files.items()))
    ]
    table = render(("pass", "of", "bytes with HTTP", "requests"), pulled, markdown=markdown, left=2)
    parts.append(_headed("From the registry", table, markdown))
    files = [(name, f"{size:,}") for name, size in sorted(sizes.metadata.items())]
    parts.append(_headed("Metadata", render(("file", "bytes"), files, markdown=markdown), markdown))
    return "\n\n".join(parts)


def _headed(title: str, table: str, markdown: bool) -> str:
    return f"## {title}\n\n{table}" if markdown else f"{title}\n{table}"


def as_document(sizes: Sizes) -> dict[str, Any]:
    """Return everything for ``--json``."""
    rows = [row._asdict() | {"total": row.total} for row in sizes.rows]
    document = sizes._asdict() | {"rows": rows, "day": day_of(sizes)}
    del document["messages"]
    return document


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="also write every message there, one JSON a line")
    options = parser.parse_args()
    sizes = measure()
    if options.samples is not None:
        lines = [
            json.dumps({"phase": phase, "topic": one.topic, "payload": one.payload.decode()})
            for phase, one in sizes.messages
        ]
        options.samples.write_text("\n".join(lines) + "\n")
    print(json.dumps(as_document(sizes), indent=1) if options.json else show(sizes, markdown=options.markdown))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
