"""Rollouts that another operator's machine drives, as they are seen over a real broker; nobody obeys what is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.core.messages import decode, encode
from agent.core.rollout_message import RolloutMessage
from agent.core.topics import rollout_topic
from agent.mqtt import Connection, drive
from tests.brokers import Listener, Mosquitto
from tests.fleet.boards_at_broker import BoardsAtBroker
from tests.fleet.conftest import Desk
from tests.fleet.simulated_fleet import NEW, TASK
from tests.fleet.test_rollout_commands import ROLLOUT

Start = Callable[..., BoardsAtBroker]


@pytest.fixture
def other(tmp_path: Path, broker: Mosquitto) -> Desk:
    folder = tmp_path / "other"
    folder.mkdir()
    return Desk(folder, broker, "otto")


def retained(broker: Mosquitto) -> dict[str, RolloutMessage]:
    """Return what a newcomer is told of rollouts."""
    listener = Listener(broker.settings())
    found = {
        one.topic: decode(one.topic, one.payload) for one in listener.got if "/_rollout/" in one.topic and one.payload
    }
    listener.connection.close()
    assert all(isinstance(one, RolloutMessage) for one in found.values())
    return found  # type: ignore[return-value]


def test_another_machine_sees_a_rollout_and_does_not_start_a_second_one(
    desk: Desk,
    other: Desk,
    boards: Start,
    broker: Mosquitto,
) -> None:
    boards(other)
    assert desk(*ROLLOUT, "--detach").code == 0
    ((topic, told),) = retained(broker).items()
    assert topic == rollout_topic("plant", told.id)
    assert (told.status, told.operator, told.driven, told.boards_total) == ("running", "anna", False, 8)
    listed = other("rollout", "status")
    assert listed.code == 0
    assert "No rollout was started for plant from here." in listed.out
    assert f"anna@{told.machine}" in listed.out
    refused = other(*ROLLOUT, "--soak", "0s")
    assert refused.code == 1
    assert f"{told.id} of {TASK} has not ended" in refused.err
    assert "--supersede" in refused.err
    assert desk("rollout", "pause").code == 0
    assert retained(broker)[topic].status == "paused", "whoever changes what nobody drives tells of it"
    shown = other("rollout", "show", told.id[:5])
    assert f"{told.id} is paused: paused by anna. anna has left it on" in shown.out
    ended = other(*ROLLOUT, "--soak", "0s", "--supersede")
    assert ended.code == 0, ended.err
    assert "nothing here stops it: abort it there" in ended.out
    mine = other("rollout", "status", "--json").document
    assert [one["status"] for one in mine["rollouts"]] == ["completed"]
    assert [(one["id"], one["status"]) for one in mine["elsewhere"]] == [(told.id, "paused")]
    last = retained(broker)[rollout_topic("plant", mine["rollouts"][0]["id"])]
    assert (last.status, last.driven, last.phases) == ("completed", False, {"succeeded": 8})
    assert last.transitions[-1].after == "completed"


def test_a_rollout_is_forgotten_once_it_has_ended_or_its_machine_is_gone(
    desk: Desk,
    other: Desk,
    boards: Start,
    broker: Mosquitto,
) -> None:
    boards()
    assert desk(*ROLLOUT, "--detach").code == 0
    (told,) = retained(broker).values()
    kept = other("rollout", "forget", told.id)
    assert kept.code == 2
    assert "has not ended" in kept.err
    assert retained(broker)
    assert other("rollout", "forget", told.id, "--gone").code == 0
    assert retained(broker) == {}
    assert desk("rollout", "abort").code == 1
    ((topic, ended),) = retained(broker).items()
    assert ended.status == "aborted"
    assert desk("rollout", "forget", told.id).code == 0
    assert topic not in retained(broker)
    assert desk("rollout", "show", told.id).code == 0, "its history stays here"


def test_what_is_told_of_a_rollout_changes_nothing_in_it(
    desk: Desk,
    boards: Start,
    broker: Mosquitto,
) -> None:
    fleet = boards()
    assert desk(*ROLLOUT, "--detach", "--soak", "0s").code == 0
    ((topic, told),) = retained(broker).items()
    forged = msgspec.structs.replace(told, status="aborted", reason="\x1b]0;mine\x07 forged")
    liar = Connection(broker.settings())
    liar.connect(10)
    sent = [
        liar.publish(topic, encode(forged), retain=True),
        liar.publish("boardfit/v1/plant/_rollout/r0", b"\xff not json", retain=True),
        liar.publish("boardfit/v1/plant/_rollout/r1", encode(forged), retain=True),  # says to be another
    ]
    assert drive(liar, lambda: all(one.state == "acked" for one in sent), 10)
    liar.close()
    ended = desk("rollout", "run")
    assert ended.code == 0, ended.err
    assert set(fleet.serving().values()) == {NEW}
    listed = desk("rollout", "status")
    assert "\x1b" not in listed.out
    assert retained_text(broker, topic).status == "completed"
    assert desk("rollout", "status", "--json").document["elsewhere"] == []


def retained_text(broker: Mosquitto, topic: str) -> RolloutMessage:
    listener = Listener(broker.settings())
    (found,) = [decode(one.topic, one.payload) for one in listener.got if one.topic == topic]
    listener.connection.close()
    assert isinstance(found, RolloutMessage)
    return found
