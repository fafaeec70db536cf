"""A collector with a collector's rights, as ``boardfit enroll acl`` writes them, and with no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.clock import SystemClock
from agent.collector.intake import Intake
from agent.collector.store import Store
from agent.collector.store_reading import StoredReader
from agent.enrolment.access import mosquitto_acl
from agent.enrolment.names import parse_name
from agent.mqtt import Connection, drive
from tests.brokers import Mosquitto
from tests.collector.documents import FLEET, Board


def test_a_collector_s_rights_are_all_that_it_needs(tmp_path: Path, start_broker: Callable[..., Mosquitto]) -> None:
    members = [parse_name(name) for name in ("collector/one", "operator/otto", f"{FLEET}/pi5")]
    rules = tmp_path / "boardfit.acl"
    rules.write_text(mosquitto_acl(members))
    rules.chmod(0o700)
    broker = start_broker(f"allow_anonymous true\nacl_file {rules}")  # the user's name stands for a certificate's
    board = Board()
    line = Connection(broker.settings(username=f"{FLEET}/pi5"))
    confirmed: list[bytes] = []
    line.connect(10)
    line.subscribe(f"boardfit/v1/{FLEET}/pi5/receipt", lambda one: confirmed.append(one.payload))
    told = [line.publish(topic, payload, retain=True) for topic, payload in board.everything()[:5]]
    assert drive(line, lambda: all(one.state == "acked" for one in told), 20)
    url = f"sqlite:///{tmp_path}/collector.sqlite"
    with Store(url) as store, StoredReader(url) as reader:
        settings = broker.settings(username="collector/one")
        intake = Intake(store, settings, FLEET, SystemClock(), name="one", quiet_s=0.1)
        while not intake.replayed:
            intake.step(lambda: False)
        (found,) = reader.boards(FLEET)
        assert (found.status, found.groups, found.tasks["digits"].candidate) == ("online", ("line-2",), "small")
        line.publish(*board.event())
        for _ in range(100):
            drive(line, lambda: False, 0.01)
            intake.step(lambda: False)
            if confirmed:
                break
        assert len(reader.history(FLEET, "event")) == 1
        assert confirmed
        intake.close()
    line.close()
