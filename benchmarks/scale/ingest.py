"""A collector takes statuses of all boards: parsed, validated, judged and stored, beside a bare paho reader.

The bare reader puts topic and payload into an SQLite table unread, a thousand in a transaction. Ours is
``agent.collector.intake`` with SQLite and with PostgreSQL, each with its database's usual durability. A process of its
own publishes retained statuses at QoS 1 as fast as the broker takes them; the clock runs from its beginning until the
last status is in the database.

    python -m benchmarks.scale.ingest PORT BOARDS COUNT      that process: says ``ready``, waits for a line, publishes
"""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path

import msgspec
import paho.mqtt.client as mqtt

from agent.clock import SystemClock, iso
from agent.core.topics import fleet_filter, topic_for
from agent.demo_broker import free_port
from benchmarks.scale.bare import RawConsole, names
from benchmarks.scale.ground import FLEET, ROOT, Broker, Operators
from benchmarks.scale.judging import Figure, over
from benchmarks.simulated.board import SimulatedBoard, Ways
from benchmarks.simulated.documents import CLASSES

EACH = 4  # statuses of each board in a round
GOAL = 0.5
_BATCH = 1000


def statuses(boards: int, count: int) -> list[tuple[bytes, bytes]]:
    """Return topic and payload of statuses, each newer than the one before."""
    begin = datetime.now(timezone.utc)
    made = [
        SimulatedBoard(name, CLASSES[number % len(CLASSES)], Ways(), lambda *_: None, fleet=FLEET)
        for number, name in enumerate(names(boards))
    ]
    told = []
    for number in range(count):
        board = made[number % boards]
        status = msgspec.structs.replace(board.status(), time=iso(begin + timedelta(milliseconds=number)))
        told.append((topic_for(board.at, "status").encode(), msgspec.json.encode(status)))
    return told


@contextmanager
def publisher(broker: Broker, boards: int, count: int) -> Iterator[Callable[[], None]]:
    """Have statuses ready in another process; the callable lets it begin."""
    words = [sys.executable, "-m", "benchmarks.scale.ingest", str(broker.port), str(boards), str(count)]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    if b"ready" not in process.stdout.readline():
        raise SystemExit("the publisher did not start")

    def go() -> None:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()

    try:
        yield go
    finally:
        process.kill()
        process.wait()


def bare_reader(broker: Broker, folder: Path, boards: int, count: int) -> float:
    """Read with paho into SQLite. Returns: seconds."""
    with sqlite3.connect(folder / f"bare-{os.urandom(4).hex()}.db", isolation_level=None) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE status (topic TEXT, payload BLOB)")
        rows: list[tuple[str, bytes]] = []
        stored, subscribed = 0, False

        def flush() -> None:
            nonlocal stored
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO status VALUES (?, ?)", rows)
            database.execute("COMMIT")
            stored += len(rows)
            rows.clear()

        def heard(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
            if not message.retain:
                rows.append((message.topic, message.payload))
            if len(rows) >= _BATCH:
                flush()

        def agreed(*_: object) -> None:
            nonlocal subscribed
            subscribed = True

        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.on_message, client.on_subscribe = heard, agreed
        client.on_connect = lambda *_: client.subscribe(fleet_filter(FLEET, "status"), 1)
        client.connect("127.0.0.1", broker.port)
        while not subscribed:
            client.loop(0.1)
        with publisher(broker, boards, count) as go:
            client.loop(0.1)
            go()
            begin = time.perf_counter()
            while stored + len(rows) < count:
                client.loop(0.2)
            flush()
            took = time.perf_counter() - begin
        client.disconnect()
    return took


def our_collector(broker: Broker, url: str, boards: int, count: int) -> float:
    """Take them with our collector. Returns: seconds."""
    from agent.collector.intake import Intake
    from agent.collector.store import Store

    with Store(url) as store:
        store.open()
        intake = Intake(store, broker.settings, FLEET, SystemClock(), name="benchmark", quiet_s=0.3)
        end = time.monotonic() + 10.0
        quiet_from, seen = time.monotonic(), -1
        while time.monotonic() - quiet_from < 3.0:  # until what is retained has been replayed
            intake.step(lambda: False)
            if intake.counts.received != seen:
                quiet_from, seen = time.monotonic(), intake.counts.received
            if time.monotonic() > end + 50.0:
                raise SystemExit("the collector's replay did not end")
        with publisher(broker, boards, count) as go:
            intake.step(lambda: False)
            before = intake.counts.stored
            go()
            begin = time.perf_counter()
            while intake.counts.stored - before < count:
                intake.step(lambda: False)
                if time.perf_counter() - begin > 120.0:
                    raise SystemExit(f"the collector has stored {intake.counts.stored - before} of {count}")
            took = time.perf_counter() - begin
        if intake.counts.refused:
            raise SystemExit(f"the collector refused {intake.counts.refused}: {intake.counts.last_refusal}")
        intake.close()
    return took


@contextmanager
def postgres(folder: Path) -> Iterator[str | None]:
    """Run a PostgreSQL of our own, with its usual durability. Yields: its URL; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parts[-2]))
    binaries = found[-1] if found else Path(shutil.which("initdb") or "/nowhere/x").parent
    if not (binaries / "initdb").exists():
        yield None
        return
    home, port = folder / "postgres", free_port()
    home.mkdir()
    user = None
    if os.geteuid() == 0:  # it refuses root
        user = "postgres"
        someone = pwd.getpwnam(user)
        os.chown(home, someone.pw_uid, someone.pw_gid)
        folder.chmod(0o755)
    make = [binaries / "initdb", "-D", home / "data", "-U", "boardfit", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(make, user=user, cwd=home, stdout=subprocess.DEVNULL, check=True)
    serve = [binaries / "postgres", "-D", home / "data", "-p", str(port), "-c", "unix_socket_directories="]
    process = subprocess.Popen(serve, user=user, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False).returncode:
            time.sleep(0.1)
        yield f"postgresql://boardfit@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def measure(broker: Broker, operators: Operators, boards: int, rounds: int) -> list[Figure]:
    """Interleave the bare reader, ours with either database, and the bare reader again."""
    if find_spec("agent.collector.intake") is None:
        return []  # this tree has no collector
    count = boards * EACH
    bare: list[float] = []
    again: list[float] = []
    ours: list[float] = []
    served: list[float] = []
    with postgres(operators.folder) as server:
        for number in range(rounds):
            bare.append(bare_reader(broker, operators.folder, boards, count))
            ours.append(our_collector(broker, f"sqlite:///{operators.folder}/ours-{number}.db", boards, count))
            if server is not None:
                served.append(our_collector(broker, _database(server, number), boards, count))
            again.append(bare_reader(broker, operators.folder, boards, count))
    least = [(a + b) / 2 for a, b in zip(bare, again, strict=True)]
    rows = [("bare paho into SQLite, unread", least), ("ours into SQLite", ours), ("ours into PostgreSQL", served)]
    part = "ingest"
    return [
        *(Figure(part, name, [count / one for one in took], unit="/s") for name, took in rows if took),
        Figure(part, "rate of ours with SQLite over paho's", over(least, ours), GOAL, "x", True, over(again, bare)),
        *([Figure(part, "the same with PostgreSQL", over(least, served), unit="x")] if served else []),
    ]


def _database(server: str, number: int) -> str:
    """Make an empty database. Returns: its URL."""
    import psycopg

    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE round_{number}")  # type: ignore[call-overload]
    return f"{server}/round_{number}"


def main() -> int:
    """Publish when told to."""
    port, boards, count = map(int, sys.argv[1:])
    told, console = statuses(boards, count), RawConsole(port)
    print("ready", flush=True)
    sys.stdin.readline()
    console.publish(told, retain=True)
    console.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
