"""Boards of one class at a real broker: told signed, heard and verified, and nobody speaks for another."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from agent.classmates import class_of, hear, of_class, tell, view_of
from agent.clock import iso
from agent.config import load_config
from agent.core.class_results import BoardResults, ClassResult
from agent.core.facts import DeviceFacts
from agent.core.messages import encode
from agent.core.results_message import RESULTS_TYPE, ResultsMessage
from agent.core.topics import Address, topic_for
from agent.enrolment.authority import Authority
from agent.enrolment.identity import request_certificate
from agent.enrolment.names import parse_name
from agent.errors import TrustError
from agent.mqtt import Connection, drive
from agent.site import Site
from agent.vouching import Vouched, member_of, vouch
from tests.core.test_class_results import result
from tests.enrolment.conftest import Guarded, Party, now
from tests.measure.models import facts as board_facts
from tests.measure.simulated import Model, SimulatedBoard, budgets, objectives
from tests.scenarios.conftest import run

FACTS: DeviceFacts = msgspec.structs.replace(board_facts(), class_fingerprint="c1a55" + "0" * 59)


class Fleet:
    """Sites of one fleet at the guarded broker; what they measured is SIMULATED."""

    def __init__(self, guarded: Guarded, folder: Path) -> None:
        self.guarded, self.folder = guarded, folder
        self.sites: list[Site] = []

    def site(self, party: Party) -> Site:
        home = self.folder / f"{party.name.replace('/', '--')}-{len(self.sites)}"
        home.mkdir()
        fleet, device = party.name.split("/")
        (home / "agent.yaml").write_text(
            f"device: {{id: {device}}}\nmqtt: {{url: 'mqtts://127.0.0.1:{self.guarded.boards}', fleet: {fleet}, "
            f"ca: {self.guarded.ca}, cert: {party.certificate}, key: {party.key}}}\n"
        )
        site = Site(load_config(home / "agent.yaml"), home / "state")
        self.sites.append(site)
        return site

    def told_by(self, party: Party, p50_s: float) -> Site:
        """Have a board measure one model and tell its class."""
        site = self.site(party)
        measured(site, p50_s)
        tell(site, FACTS)
        publisher = site.publisher()
        assert publisher is not None
        assert publisher.drain(20).complete
        publisher.close()
        return site

    def publish(self, party: Party, message: ResultsMessage, of: DeviceFacts = FACTS) -> None:
        """Publish a document on a party's own topic, whatever it holds."""
        fleet, device = party.name.split("/")
        connection = Connection(self.guarded.settings(party, client_id=f"x-{uuid.uuid4().hex}"))
        connection.connect(15)
        topic = topic_for(Address(fleet=fleet, device=device), "results", class_of(of))
        sent = connection.publish(topic, encode(message), retain=True)
        assert drive(connection, lambda: sent.state == "acked", 15)
        connection.close()


def measured(site: Site, p50_s: float) -> None:
    one = SimulatedBoard([Model("m", 1000, 0.95, p50_s)], budgets(), objectives("minimize size"), threads=(1,))
    heat = one.race().next()
    assert heat is not None
    found = one.measure(heat)
    site.records.add_measurement(msgspec.structs.replace(found, class_fingerprint=FACTS.class_fingerprint))


def forged(
    party: Party,
    claims: str,
    *,
    results: tuple[ClassResult, ...] = (result(1e-6),),
    fingerprint: str = FACTS.class_fingerprint,
) -> ResultsMessage:
    """Return a document that ``party`` signs and that claims to be of a board."""
    fleet, device = party.name.split("/")
    told = BoardResults(board=claims, task="t", class_fingerprint=fingerprint, told_at=iso(now()), results=results)
    payload = msgspec.json.encode([told])
    vouched = vouch(payload, RESULTS_TYPE, party.certificate, party.key)
    return ResultsMessage(
        fleet=fleet, device=device, class_fingerprint=fingerprint, digest="",
        payload=b64(payload), certificates=vouched.certificates, signature=vouched.signature,
    )  # fmt: skip


def b64(data: bytes) -> str:
    from base64 import b64encode

    return b64encode(data).decode()


@pytest.fixture
def fleet(guarded: Guarded, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(guarded, tmp_path)
    yield made
    for site in made.sites:
        site.close()


def test_a_newcomer_hears_its_class_and_believes_nobody_who_speaks_for_another(fleet: Fleet, tmp_path: Path) -> None:
    guarded = fleet.guarded
    for number, name in enumerate(("garage-1", "garage-2", "garage-3")):
        fleet.told_by(guarded.party(f"plant-7/{name}"), 0.002 * (1.0 + 0.01 * number))
    liar, stranger = guarded.party("plant-7/liar"), guarded.party("plant-7/stranger")
    fleet.publish(liar, forged(liar, "plant-7/pi5-garage"))  # its own signature, another's name
    foreign = Authority.make(tmp_path / "foreign", name="another fleet", now=now())
    request = request_certificate(tmp_path / "foreign-board", parse_name("plant-7/stranger"))
    own = Party("plant-7/stranger", foreign.sign(request.request, now=now()).certificate, request.key)
    fleet.publish(stranger, forged(own, "plant-7/stranger"))  # its own name, by an authority that is nobody here

    newcomer = fleet.site(guarded.party("plant-7/pi5-kitchen"))
    assert view_of(newcomer, FACTS, "t") is None
    hear(newcomer, FACTS)
    view = view_of(newcomer, FACTS, "t")
    assert view is not None
    assert view.boards == 3
    (option,) = view.options.values()
    assert option.figures["latency_p50"].firm
    assert option.figures["latency_p50"].value == pytest.approx(0.002, rel=0.05)
    (event,) = newcomer.database.rows("SELECT payload FROM outbox WHERE topic LIKE '%/event'")
    assert b"class_results_refused" in bytes(event["payload"])
    assert of_class(newcomer, FACTS, "t").view is not None

    fleet.told_by(guarded.party("plant-7/garage-4"), 0.002)
    hear(newcomer, FACTS)  # heard a moment ago: not again
    again = view_of(newcomer, FACTS, "t")
    assert again is not None
    assert again.boards == 3


def test_what_is_no_news_is_told_once(fleet: Fleet) -> None:
    site = fleet.site(fleet.guarded.party("plant-7/garage-5"))
    assert site.outbox is not None

    def waiting() -> list[int]:
        tell(site, FACTS)
        return [row["seq"] for row in site.database.rows("SELECT seq FROM outbox ORDER BY seq")]

    assert waiting() == []  # nothing was measured
    measured(site, 0.003)
    first = waiting()
    assert len(first) == 1
    assert waiting() == first
    measured(site, 0.004)
    assert waiting()[-1] > first[-1]


def test_another_fleet_may_not_hear(fleet: Fleet) -> None:
    fleet.told_by(fleet.guarded.party("plant-7/garage-6"), 0.002)
    other = fleet.site(fleet.guarded.party("plant-9/pi5-kitchen"))
    hear(other, FACTS)
    assert view_of(other, FACTS, "t") is None


def test_a_broker_that_is_away_costs_a_sentence(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    party = fleet.guarded.party("plant-7/pi5-garage")
    home = fleet.folder / "away"
    home.mkdir()
    (home / "agent.yaml").write_text(
        f"device: {{id: pi5-garage}}\nmqtt: {{url: 'mqtts://127.0.0.1:9', fleet: plant-7, ca: {fleet.guarded.ca}, "
        f"cert: {party.certificate}, key: {party.key}}}\n"
    )
    with Site(load_config(home / "agent.yaml"), home / "state") as site:
        hear(site, FACTS)
        assert of_class(site, FACTS, "t").view is None
    assert "is not known" in caplog.text


def test_a_signature_holds_for_its_bytes_its_time_and_its_name(fleet: Fleet) -> None:
    party, ca = fleet.guarded.party("plant-7/signer"), fleet.guarded.ca
    vouched = vouch(b"said", RESULTS_TYPE, party.certificate, party.key)
    assert member_of(b"said", RESULTS_TYPE, vouched, ca, now()) == "plant-7/signer"
    other = fleet.guarded.party("plant-7/other")
    broker = (fleet.guarded.folder / "broker.pem").read_text()
    wrong = (
        (b"more", RESULTS_TYPE, vouched, now()),
        (b"said", "application/x", vouched, now()),
        (b"said", RESULTS_TYPE, vouched, now() + timedelta(days=4000)),
        (b"said", RESULTS_TYPE, Vouched(other.certificate.read_text(), vouched.signature), now()),
        (b"said", RESULTS_TYPE, Vouched(broker, vouched.signature), now()),
        (b"said", RESULTS_TYPE, Vouched("", vouched.signature), now()),
        (b"said", RESULTS_TYPE, Vouched(vouched.certificates, "?"), now()),
        (b"said", RESULTS_TYPE, Vouched(vouched.certificates + "x" * 20_000, vouched.signature), now()),
    )
    for payload, kind, one, at in wrong:
        with pytest.raises(TrustError):
            member_of(payload, kind, one, ca, at)


def test_an_operator_is_told_of_the_odd_board_of_a_class(fleet: Fleet, tmp_path: Path) -> None:
    guarded = fleet.guarded
    other = msgspec.structs.replace(FACTS, class_fingerprint="0dd" + "1" * 61)
    for number in range(6):
        party = guarded.party(f"plant-7/odd-{number}")
        p50_s = 0.01 * (1.5 if number == 4 else 1.0 + 0.005 * number)
        calm = {"temperature_celsius": 82.0 if number == 4 else 50.0, "flags": ("throttled",) if number == 4 else ()}
        some = tuple(result(p50_s, artifact_sha256=name, **calm) for name in ("a", "b"))
        fleet.publish(party, forged(party, party.name, results=some, fingerprint=other.class_fingerprint), of=other)
    otto = guarded.party("operator/otto")
    config = tmp_path / "fleet.yaml"
    config.write_text(
        f"mqtt: {{url: 'mqtts://127.0.0.1:{guarded.people}', fleet: plant-7, ca: {guarded.ca}, "
        f"cert: {otto.certificate}, key: {otto.key}}}\n"
    )
    words = ("fleet", "classes", "--config", str(config), "--state-dir", str(tmp_path / "desk"))
    shown = run(*words, timeout=60)
    assert shown.code == 0, shown.err
    assert "plant-7/odd-4" in shown.out
    assert "fan" in shown.out
    document = run(*words, "--json", timeout=60).document
    (found,) = [one for one in document["classes"] if one["class_fingerprint"] == other.class_fingerprint]
    assert found["look"]["boards"] == 6
    assert [(one["board"], one["cause"]) for one in found["look"]["outliers"]] == [("plant-7/odd-4", "heat")]
