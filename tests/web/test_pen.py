"""The operator's side without a browser: https, wishes for settings and rollouts, and a pen that falls silent."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.clock import SystemClock
from agent.core.envelope import DESIRED_TYPE, open_envelope
from agent.core.operators import Operator, OperatorList
from agent.errors import ConfigError, OrderError, ReportError
from agent.fleet.pen import Pen
from agent.fleet.rollout import start as begin_rollout
from agent.fleet.rollout_spec import RolloutSpec, parse_waves
from agent.fleet.rollout_store import RolloutStore
from agent.fleet.rollout_view import BoardNow
from agent.fleet.settings import FleetSettings
from agent.fleet.wishes import Told, Wish
from agent.verbs import fleet_wishes
from agent.verbs.fleet_wishes import Carrier
from agent.web import OperatorsFile
from agent.web.desk import SILENT_S, Desk
from tests.brokers import Listener, Mosquitto
from tests.fleet.conftest import Desk as Machine
from tests.fleet.simulated_board import SimulatedBoard
from tests.web.conftest import Stored
from tests.web.test_sign_in import Anna

Serve = Callable[..., Stored]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody but its file vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "console")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    files = tmp_path / "console.pem", tmp_path / "console.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def pen_at(url: str, anna: Anna, **more: object) -> Pen:
    return Pen(url, anna.key, "anna", SystemClock(), taken=print, ended=print, **more)  # type: ignore[arg-type]


def test_over_https_only_to_a_console_that_is_vouched_for(
    serve: Serve, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    anna = Anna(tmp_path)
    console = serve(operators=OperatorsFile(anna.list), tls_cert=certificate[0], tls_key=certificate[1])
    url = console.served.url
    assert url.startswith("https://127.0.0.1:")
    with pen_at(url, anna, ca=certificate[0]) as pen:
        assert pen.signed_in.role == "operator"
        assert pen.link.startswith(f"{url}/sign-in#")
    with pytest.raises(ReportError, match="cannot be reached"):
        pen_at(url, anna)
    with pytest.raises(ConfigError, match="cannot be used"):
        pen_at(url, anna, ca=tmp_path / "none.pem")
    context = ssl.create_default_context(cafile=certificate[0])
    import urllib.request

    with urllib.request.urlopen(f"{url}/", context=context) as answer:
        assert answer.headers["strict-transport-security"]


def test_a_console_that_refuses_is_told_of_in_its_words(serve: Serve, tmp_path: Path) -> None:
    anna = Anna(tmp_path)
    console = serve(operators=OperatorsFile(anna.list))
    anna.listed(None)
    with pytest.raises(OrderError, match="not in the operator list"):
        pen_at(console.url, anna)


def test_a_wish_comes_through_and_an_operator_taken_out_is_told_so(serve: Serve, tmp_path: Path) -> None:
    anna = Anna(tmp_path)
    console = serve(operators=OperatorsFile(anna.list))
    taken: list[Wish] = []
    ended: list[str] = []
    came, over = threading.Event(), threading.Event()
    pen = Pen(
        console.url, anna.key, "anna", SystemClock(),
        taken=lambda wish: (taken.append(wish), came.set()), ended=lambda why: (ended.append(why), over.set()),
    )  # fmt: skip
    from tests.web.test_sign_in import Browser

    with pen:
        browser = Browser(console, pen.signed_in.word)
        assert browser.wish("sync", "group:line-1").status == 202
        assert came.wait(20)
        anna.listed(None)
        browser.wish("sync", "group:line-1")
        assert over.wait(30)
    assert [(wish.verb, wish.address) for wish in taken] == [("sync", "group:line-1")]
    assert "no longer in the operator list" in ended[0] or "has ended" in ended[0]  # whichever asked first


def test_a_pen_that_is_silent_ends_with_its_sessions() -> None:
    at = [0.0]
    desk = Desk(lambda: datetime.now(timezone.utc), monotonic_s=lambda: at[0])
    from agent.web.desk import Pen as Held

    operator = Operator(name="anna", public_key="0" * 64, role="operator", valid_until="2099-01-01T00:00:00Z")
    held = Held(operator, at[0])
    desk._pens[held.token] = held
    session = desk.open_session(desk._link(held))
    at[0] = SILENT_S - 1
    assert desk.session(session.token) is not None
    desk.pen(held.token)
    at[0] += SILENT_S - 1
    assert desk.session(session.token) is not None
    at[0] += 2
    assert desk.session(session.token) is None
    with pytest.raises(OrderError):
        desk.pen(held.token)
    with pytest.raises(OrderError):
        desk.check_listed(held, OperatorList(operators=()))


@pytest.fixture
def machine(tmp_path: Path, broker: Mosquitto) -> Machine:
    (tmp_path / "machine").mkdir()
    return Machine(tmp_path / "machine", broker)


@pytest.fixture
def board(broker: Mosquitto, machine: Machine) -> Iterator[SimulatedBoard]:
    made = SimulatedBoard(broker.settings(), "sim-1", [machine.operator("admin")])
    yield made
    made.stop()


class Carried:
    """A carrier, and all that it says and tells."""

    def __init__(self, machine: Machine, broker: Mosquitto) -> None:
        self.said: list[str] = []
        self.told: list[Told] = []
        self.folder = machine.folder / "state"
        self.folder.mkdir()
        settings = FleetSettings(broker=broker.settings(), fleet="plant", key=machine.folder / "operator.key")
        self.carrier = Carrier(settings, self.folder, lambda: False, say=self.said.append, tell=self.told.append)

    def __call__(self, verb: str, address: str = "", **arguments: object) -> Told:
        wish = Wish(id="0" * 16, fleet="plant", verb=verb, address=address, arguments=arguments)
        self.carrier.meant(wish)
        self.carrier.carry(wish)
        return self.told[-1]


def test_settings_that_are_wished_for_are_signed_and_left_for_the_boards(
    machine: Machine, broker: Mosquitto, board: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_wishes, "_TAKE_S", 0.2)
    carried = Carried(machine, broker)
    ended = carried("set-desired", "sim-1", task="digits", budgets={"latency_p95": "20 ms"})
    assert (ended.state, ended.text) == ("failed", "taken by 0, not yet by 1")  # the simulated board takes none
    listener = Listener(broker.settings())
    listener.wait(lambda: bool(listener.topic("sim-1/desired")))
    sealed = open_envelope(listener.topic("sim-1/desired")[-1].payload, DESIRED_TYPE)
    assert sealed.keyid == machine.key.keyid
    assert msgspec.json.decode(sealed.payload)["settings"]["tasks"]["digits"]["budgets"] == {"latency_p95": "20 ms"}
    listener.connection.close()
    refused = carried("set-desired", "sim-1", task="digits", budgets={"latency_p59": "20 ms"})
    assert refused.state == "failed"
    assert "latency_p59" in refused.text


def test_a_rollout_is_paused_and_resumed_and_ended_in_this_machines_store(machine: Machine, broker: Mosquitto) -> None:
    carried = Carried(machine, broker)
    spec = RolloutSpec(
        task="digits", candidate="net-new", address="all", waves=parse_waves("1,100%"), success=0.99, rules=(),
        soak_s=1.0, per_class=False,
    )  # fmt: skip
    boards = [BoardNow(name=f"sim-{number}") for number in range(3)]
    with RolloutStore(carried.folder) as store:
        store.create(begin_rollout("r12345678", "plant", spec, boards, 0.0))
    for verb, status in (("pause", "paused"), ("resume", "running"), ("abort", "stopping")):
        ended = carried(f"rollout-{verb}", rollout="r12345678")
        assert ended.state == "done", ended.text
        with RolloutStore(carried.folder) as store:
            found = store.find("plant", "r12345678")
        assert found.status == status
        assert "anna" in found.reason
    assert carried("rollout-pause", rollout="r12345678").state == "failed"


def test_a_wish_for_nobody_or_for_another_fleet_is_said_to_be_so(machine: Machine, broker: Mosquitto) -> None:
    carrier = Carried(machine, broker).carrier
    with pytest.raises(ConfigError, match="no board"):
        carrier.meant(Wish(id="0" * 16, fleet="plant", verb="bench", address="all"))
    with pytest.raises(ConfigError, match="this machine serves plant"):
        carrier.meant(Wish(id="0" * 16, fleet="other", verb="bench", address="all"))
