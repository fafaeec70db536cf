"""The broker is killed amid a rollout's orders, and forgets all it had: the driver goes on by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.core.messages import decode
from agent.core.rollout_message import RolloutMessage
from agent.fleet import rollout_board
from agent.fleet.ledger import Ledger
from agent.fleet.rollout import start
from agent.fleet.rollout_board import Order
from agent.fleet.rollout_drive import drive
from agent.fleet.rollout_link import LinkPort
from agent.fleet.rollout_notices import Notices, this_machine
from agent.fleet.rollout_spec import parse_waves
from agent.fleet.rollout_store import RolloutStore
from agent.fleet.settings import Options, load_settings
from agent.mqtt import Publication
from tests.brokers import Listener, Mosquitto
from tests.fleet.boards_at_broker import BoardsAtBroker
from tests.fleet.conftest import Desk
from tests.fleet.simulated_fleet import FLEET, NEW, TASK
from tests.fleet.test_rollout import ID, spec


class CutPort(LinkPort):
    """Kills the broker with its nth order, and starts another one in its place that knows nothing."""

    def __init__(self, *more: Any, broker: Mosquitto, nth: int) -> None:
        super().__init__(*more)
        self._broker, self.left = broker, nth

    def _publish_one(self, order: Order, counter: int) -> Publication:
        sent = super()._publish_one(order, counter)
        self.left -= 1
        if self.left == 0:
            self._broker.kill()
            self._broker.start()
        return sent


@pytest.mark.parametrize("nth", [1, 9, 21], ids=["first order", "amid benches", "amid switches"])
def test_a_rollout_outlives_its_broker(
    desk: Desk,
    boards: Callable[..., BoardsAtBroker],
    broker: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
    nth: int,
) -> None:
    monkeypatch.setattr(rollout_board, "RESEND_S", 1.0)
    monkeypatch.setattr(rollout_board, "ASK_S", 2.0)
    fleet, clock = boards(), SystemClock()
    settings, folder = load_settings(Options(config=desk.config)), desk.folder / "state"
    wanted = spec(waves=parse_waves("1,100%"), per_class=True, soak_s=0.0)
    with (
        RolloutStore(folder) as store,
        Ledger(folder, clock) as ledger,
        CutPort(settings, ledger, clock, lambda: False, ID, TASK, broker=broker, nth=nth) as port,
    ):
        store.create(start(ID, FLEET, wanted, port.boards().values(), clock.utc().timestamp()))
        notices = Notices(port.link, store, this_machine("anna"), clock)
        ended = drive(store, ID, port, clock, lambda: False, notices.offer)
        notices.leave(ended)
    assert port.left <= 0, "the broker was never killed"
    assert (ended.status, ended.reason) == ("completed", "every wave is through: 8 succeeded")
    assert set(fleet.serving().values()) == {NEW}
    for name, member in fleet.members.items():
        jobs = [job for _, job in member.did]
        assert len(jobs) == len(set(jobs)), "an order had two effects"
        assert member.switched == [NEW], f"{name} was switched to {member.switched}"
    newcomer = Listener(broker.settings())
    (told,) = [decode(one.topic, one.payload) for one in newcomer.got if "/_rollout/" in one.topic]
    newcomer.connection.close()
    assert isinstance(told, RolloutMessage)
    assert (told.status, told.driven) == ("completed", False)
