"""The example mosquitto files, run: for every topic and party, who may publish, leave a will, retain, and hear."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.enrolment.authority import Authority
from agent.errors import ReportError
from agent.mqtt import BrokerSettings, Connection, Incoming, Will, drive
from tests.enrolment.conftest import Guarded, Party, now

BOARD, NEIGHBOUR, FOREIGN = "plant-7/pi5-kitchen", "plant-7/pi5-garage", "plant-9/pi5-kitchen"
OPERATOR, COLLECTOR = "operator/otto", "collector/one"
#: What a board says, and what is said to it, with who says that.
SAID = (
    "status", "profile", "reported", "decision/digits", "deployment/digits", "measurement", "telemetry/board", "event",
    "job/17",
)  # fmt: skip
TOLD = (("cmd/bench", OPERATOR), ("desired", OPERATOR), ("receipt", COLLECTOR))
WIDE = (
    ("_all/cmd/bench", OPERATOR), ("_all/desired", OPERATOR), ("_group/line-2/cmd/bench", OPERATOR),
    ("_group/line-2/desired", OPERATOR), ("_collector/one/status", COLLECTOR),
)  # fmt: skip


def table() -> dict[str, tuple[str, frozenset[str]]]:
    """Return every topic with who alone may write it, and which boards may read it."""
    rows: dict[str, tuple[str, frozenset[str]]] = {}
    for board in (BOARD, NEIGHBOUR, FOREIGN):
        rows |= {f"{board}/{end}": (board, frozenset([board] if end == "status" else [])) for end in SAID}
        rows |= {f"{board}/{end}": (writer, frozenset([board])) for end, writer in TOLD}
        fleet = frozenset([FOREIGN] if board == FOREIGN else [BOARD, NEIGHBOUR])
        rows[f"{board}/results/0123456789abcdef"] = (board, fleet)
    for fleet, boards in (("plant-7", (BOARD, NEIGHBOUR)), ("plant-9", (FOREIGN,))):
        rows |= {f"{fleet}/{end}": (writer, frozenset(boards)) for end, writer in WIDE}
        rows |= {f"{fleet}/{end}": (OPERATOR, frozenset()) for end in ("_rollout/r1", "_operator/console")}
        rows[f"{fleet}/_probe/nobody"] = ("nobody", frozenset())
    return {f"boardfit/v1/{topic}": row for topic, row in rows.items()}


TABLE = table()
PROTOCOLS = ("5", "3.1.1")
PARTIES = (BOARD, NEIGHBOUR, FOREIGN, OPERATOR, COLLECTOR)


class Hall:
    """The broker with one certificate for each party."""

    def __init__(self, guarded: Guarded) -> None:
        self.guarded = guarded
        self.parties = {name: guarded.party(name) for name in PARTIES}

    def settings(self, name: str, protocol: str = "5", **changes: object) -> BrokerSettings:
        people = self.parties[name].name.split("/")[0] in ("operator", "collector")
        return self.guarded.settings(self.parties[name], people=people, protocol=protocol, **changes)

    @contextmanager
    def line(self, name: str, protocol: str = "5", **changes: object) -> Iterator[Connection]:
        connection = Connection(self.settings(name, protocol, **changes))
        connection.connect(15)
        yield connection
        connection.close()

    @contextmanager
    def heard_by(self, name: str, protocol: str, filters: tuple[str, ...] = ("#",)) -> Iterator[list[Incoming]]:
        """Give what a party hears, whole at the end of the block: a fence said last is waited for."""
        heard: list[Incoming] = []
        fence = f"fence-{os.urandom(4).hex()}".encode()
        to = (
            f"boardfit/v1/{name}/cmd/fence"
            if name in (BOARD, NEIGHBOUR, FOREIGN)
            else "boardfit/v1/plant-7/_operator/f"
        )
        with self.line(name, protocol) as line:
            for pattern in (*filters, to):
                line.subscribe(pattern, heard.append)
            assert drive(line, lambda: line.listening, 15)
            yield heard
            with self.line(OPERATOR) as operator:
                say(operator, {to: fence})
            assert drive(line, lambda: any(one.payload == fence for one in heard), 15), [one.topic for one in heard]
            heard[:] = [one for one in heard if not one.payload.startswith(b"fence-")]


@pytest.fixture(scope="module")
def hall(guarded: Guarded) -> Hall:
    return Hall(guarded)


def say(line: Connection, messages: dict[str, bytes], *, retain: bool = False) -> dict[str, str]:
    """Publish, wait until the broker has answered each, and return its answers."""
    sent = {topic: line.publish(topic, payload, retain=retain) for topic, payload in messages.items()}
    assert drive(line, lambda: all(one.state != "sent" for one in sent.values()), 15)
    return {topic: one.state for topic, one in sent.items()}


def mark(word: str) -> dict[str, bytes]:
    """Return a payload for every topic that this test alone uses."""
    return {topic: f"{word} {os.urandom(4).hex()}".encode() for topic in TABLE}


def among(heard: list[Incoming], marks: dict[str, bytes]) -> set[str]:
    return {one.topic for one in heard if marks.get(one.topic) == one.payload}


def writable(name: str) -> set[str]:
    return {topic for topic, (writer, _) in TABLE.items() if writer == name}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PARTIES)
def test_what_a_party_publishes_arrives_only_where_it_may_write(hall: Hall, name: str, protocol: str) -> None:
    marks = mark("live")
    with hall.heard_by(OPERATOR, protocol) as heard, hall.line(name, protocol) as line:
        answers = say(line, marks)
    assert among(heard, marks) == writable(name)
    if protocol == "5":  # 3.1.1 has no answer for a refused message
        assert {topic for topic, answer in answers.items() if answer == "acked"} == writable(name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PARTIES)
def test_what_a_party_retains_is_kept_only_where_it_may_write(hall: Hall, name: str, protocol: str) -> None:
    marks = mark("retained")
    with hall.line(name, protocol) as line:
        say(line, marks, retain=True)
    with hall.heard_by(OPERATOR, protocol) as heard:
        pass
    assert among([one for one in heard if one.retain], marks) == writable(name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", (BOARD, OPERATOR))
def test_a_will_is_published_only_where_its_party_may_write(hall: Hall, name: str, protocol: str) -> None:
    marks = mark("will")
    with hall.heard_by(OPERATOR, protocol) as heard:
        for topic, payload in marks.items():
            dying = Connection(hall.settings(name, protocol), will=Will(topic=topic, payload=payload))
            try:
                dying.connect(15)
            except ReportError as error:  # a broker may also refuse to let such a client in
                assert error.facts["cause"] == "unauthorised"
                assert topic not in writable(name)
            dying._drop_socket()  # without a goodbye
    assert among(heard, marks) == writable(name)
    with hall.heard_by(OPERATOR, protocol) as later:
        pass
    assert among([one for one in later if one.retain], marks) == writable(name)


@pytest.mark.parametrize("each", (False, True), ids=("wildcard", "each by its name"))
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PARTIES)
def test_a_party_hears_only_what_is_for_it(hall: Hall, name: str, protocol: str, each: bool) -> None:
    expected = {topic for topic, (writer, readers) in TABLE.items() if writer != "nobody"}
    if name in (BOARD, NEIGHBOUR, FOREIGN):
        expected = {topic for topic in expected if name in TABLE[topic][1]}
    kept, live = mark("kept"), mark("live")

    def everybody(marks: dict[str, bytes], *, retain: bool) -> None:
        for writer in PARTIES:
            if writer == name:  # the party speaks over the line that it hears with: a second one would take its place
                continue
            with hall.line(writer) as line:
                say(line, {topic: marks[topic] for topic in writable(writer)}, retain=retain)

    own = writable(name)
    with hall.line(name) as line:
        say(line, {topic: kept[topic] for topic in own}, retain=True)
    everybody(kept, retain=True)
    filters = tuple(TABLE) if each else ("#", "boardfit/v1/#", "boardfit/v1/+/+/cmd/+")
    with hall.heard_by(name, protocol, filters) as heard:
        everybody(live, retain=False)
    assert among(heard, kept) == expected
    assert among(heard, live) == expected - own


def test_a_board_that_is_not_listed_has_its_own_tree_and_no_more(hall: Hall) -> None:
    hall.parties["plant-7/new"] = hall.guarded.party("plant-7/new")
    own, others = "boardfit/v1/plant-7/new/", "boardfit/v1/plant-7/_all/cmd/bench"
    marks = {f"{own}cmd/bench": b"own", others: b"others"}
    heard: list[Incoming] = []
    with hall.line("plant-7/new") as line, hall.line(OPERATOR) as operator:
        line.subscribe("#", heard.append)
        assert drive(line, lambda: line.listening, 15)
        say(operator, {others: b"others"})
        say(operator, {f"{own}cmd/bench": b"own"})
        assert drive(line, lambda: b"own" in [one.payload for one in heard], 15)
        assert among(heard, marks) == {f"{own}cmd/bench"}
        assert say(line, {f"{own}status": b"x", others: b"y"}) == {f"{own}status": "acked", others: "refused"}


def test_nobody_comes_in_without_a_certificate_of_this_authority(hall: Hall, tmp_path: Path) -> None:
    party = hall.parties[BOARD]
    bare = BrokerSettings(host="127.0.0.1", port=hall.guarded.boards, tls=True, ca=str(hall.guarded.ca))
    other = Authority.make(tmp_path / "other", name="x", now=now())
    request = party.key.with_suffix(".csr")
    forged = Party(BOARD, other.sign(request, now=now()).certificate, party.key)
    plain = BrokerSettings(host="127.0.0.1", port=hall.guarded.boards)
    for people in (False, True):
        for settings in (bare, hall.guarded.settings(forged, people=people), plain):
            connection = Connection(settings)
            with pytest.raises(ReportError):
                connection.connect(15)
            connection.close()


def test_a_board_cannot_take_the_connection_of_another(hall: Hall) -> None:
    with hall.line(BOARD) as line, hall.line(NEIGHBOUR, client_id=BOARD) as thief:
        assert say(line, {f"boardfit/v1/{BOARD}/event": b"still here"}) == {f"boardfit/v1/{BOARD}/event": "acked"}
        assert say(thief, {f"boardfit/v1/{BOARD}/event": b"x"}) == {f"boardfit/v1/{BOARD}/event": "refused"}
        assert (line.state, line.connects, thief.state) == ("online", 1, "online")


def test_a_broker_that_is_killed_keeps_what_it_acknowledged(hall: Hall) -> None:
    """Saved at each change: what it writes is waited for, not a time."""
    database = hall.guarded.folder / "mosquitto.db"
    marks = {f"boardfit/v1/{BOARD}/status": os.urandom(8).hex().encode()}
    with hall.line(BOARD) as line:
        say(line, marks, retain=True)
        (payload,) = marks.values()
        assert drive(line, lambda: database.exists() and payload in database.read_bytes(), 30)
    hall.guarded.mosquitto.kill()
    hall.guarded.mosquitto.start()
    with hall.heard_by(OPERATOR, "5") as heard:
        pass
    assert among(heard, marks) == set(marks)


def test_a_message_over_the_limit_is_known_beforehand(hall: Hall) -> None:
    with hall.line(BOARD) as line:
        assert line.max_packet_bytes == 2**20
