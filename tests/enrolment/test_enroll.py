"""A board's enrolment: by the command line with a real broker and daemon, and every way it can be refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent.config import load_config
from agent.enrolment import certificates
from agent.enrolment.authority import Authority
from agent.enrolment.identity import install_certificate, request_certificate
from agent.enrolment.names import parse_name
from agent.errors import ConfigError
from agent.mqtt import Connection, Incoming, drive
from agent.mqtt.rivals import Rivals
from agent.site import Site
from tests.enrolment.conftest import ROOT, Guarded, now
from tests.scenarios.conftest import run

NAME = parse_name("plant-7/pi5-kitchen")


def test_a_board_is_enrolled_speaks_and_renews(guarded: Guarded, tmp_path: Path) -> None:
    config, state = tmp_path / "board" / "agent.yaml", tmp_path / "state"
    config.parent.mkdir()
    config.write_text("tasks: {}\n")
    here = ("--config", config)
    asked = run("enroll", *here, "--fleet", "plant-7", "--device", "pi5-enrolled", "--json")
    assert asked.code == 0, asked.err
    request, key = Path(asked.document["request"]), Path(asked.document["key"])
    assert key.stat().st_mode & 0o777 == 0o600
    assert run("enroll", *here, "--fleet", "plant-7", "--device", "pi5-enrolled", "--json").document["key"] == str(key)

    ca = guarded.authority.folder
    signed = run("enroll", "sign", request, "--ca", ca, "--json")
    assert signed.code == 0, signed.err
    broker = f"mqtts://127.0.0.1:{guarded.boards}"
    take = (*here, "--certificate", signed.document["certificate"], "--ca", ca / "ca.pem", "--broker", broker, "--json")
    taken = run("enroll", *take, "--group", "line-2")
    assert taken.code == 0, taken.err
    assert [(one["subject"], one["state"]) for one in taken.document["findings"]] == [
        ("connection", "ok"), ("hears", "ok"), ("speaks", "ok"), ("kept to itself", "ok"),
    ]  # fmt: skip
    told = load_config(config)
    assert told.mqtt is not None
    assert (told.mqtt.fleet, told.device_id, told.mqtt.groups) == ("plant-7", "pi5-enrolled", ("line-2",))
    secret = key.read_bytes().splitlines()[1]
    assert [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()] == [key]

    heard: list[Incoming] = []
    operator = Connection(guarded.settings(guarded.party("operator/otto"), people=True))
    operator.connect(15)
    operator.subscribe("boardfit/v1/plant-7/pi5-enrolled/status", heard.append)
    words = [sys.executable, "-m", "agent", "run", "--config", str(config), "--state-dir", str(state)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE) as daemon:
        online = drive(operator, lambda: any(json.loads(one.payload)["state"] == "online" for one in heard), 60)
        daemon.send_signal(signal.SIGTERM)
        errors = daemon.communicate(timeout=60)[1]
    operator.close()
    assert online, errors

    again = run("enroll", "sign", request, "--ca", ca, "--days", "30", "--json")
    renewed = run("enroll", *here, "--certificate", again.document["certificate"], "--json")
    assert renewed.code == 0, renewed.err
    after = load_config(config)
    assert after.mqtt is not None
    assert (after.mqtt.key, after.mqtt.groups) == (key, ("line-2",))
    assert after.mqtt.cert != told.mqtt.cert


def test_a_broker_without_rules_is_named_and_one_that_is_away_changes_nothing(
    tmp_path: Path, start_broker: Callable[..., Any], sign: Callable[..., Path]
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("tasks: {}\n")
    made = request_certificate(tmp_path / "mqtt", NAME)
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.sign_broker(["127.0.0.1"], now=now())
    take = ("--config", config, "--certificate", sign(made.request), "--ca", tmp_path / "authority" / "ca.pem")
    away = run("enroll", *take, "--broker", "mqtts://127.0.0.1:1")
    assert (away.code, "nothing listens" in away.err) == (1, True)
    assert not (tmp_path / "conf.d").exists()
    assert "TLS only" in run("enroll", *take, "--broker", "mqtt://127.0.0.1").err
    lines = f"cafile {tmp_path}/authority/ca.pem\ncertfile {certificate}\nkeyfile {key}\nallow_anonymous true"
    open_to_all = start_broker(lines)
    taken = run("enroll", *take, "--broker", f"mqtts://127.0.0.1:{open_to_all.port}")
    assert taken.code == 0
    assert "warn kept to itself: the broker lets this board publish outside" in taken.out
    assert "pi5-kitchen until" in taken.out


def test_a_section_of_agent_yaml_is_not_written_over(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("mqtt: {url: mqtt://127.0.0.1}\n")
    refused = run("enroll", "--config", config, "--certificate", "x", "--ca", "y", "--broker", "mqtts://z")
    assert (refused.code, "has a section `mqtt:` already" in refused.err) == (2, True)


def install(folder: Path, certificate: Path, ca: Path, at: datetime | None = None) -> Any:
    return install_certificate(folder, certificate, ca, now=at or now())


def test_a_certificate_is_taken_only_by_the_board_that_asked(tmp_path: Path, sign: Callable[..., Path]) -> None:
    here, other, ca = tmp_path / "here", tmp_path / "other", tmp_path / "authority" / "ca.pem"
    made = request_certificate(here, NAME)
    signed = sign(made.request)
    assert install(here, signed, ca).name == str(NAME)
    copied = tmp_path / "neighbour.pem"
    copied.write_bytes(sign(request_certificate(other, parse_name("plant-7/pi5-garage")).request).read_bytes())
    with pytest.raises(ConfigError, match="does not belong to any key of this board"):
        install(here, copied, ca)
    with pytest.raises(ConfigError, match="is not a certificate"):
        install(here, made.request, ca)
    with pytest.raises(ConfigError, match="is not a certificate"):
        install(here, signed, made.request)
    with pytest.raises(ConfigError, match="has a private key in it"):
        install(here, signed, tmp_path / "authority" / "ca.key")
    with pytest.raises(ConfigError, match="cannot be read"):
        install(here, tmp_path / "nowhere.pem", ca)
    request_certificate(here, parse_name("plant-7/renamed"))
    with pytest.raises(ConfigError, match="this board asked for plant-7/renamed"):
        install(here, signed, ca)


def test_a_certificate_of_another_use_is_refused(tmp_path: Path, sign: Callable[..., Path]) -> None:
    made = request_certificate(tmp_path / "here", NAME)
    key, name = certificates.load_key(made.key), certificates.subject(str(NAME))
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, now(), now() + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )  # fmt: skip
    served = tmp_path / "server.pem"
    served.write_bytes(certificates.pem(builder.sign(key, hashes.SHA256())))
    with pytest.raises(ConfigError, match="may not be used by a client"):
        install(tmp_path / "here", served, tmp_path / "authority" / "ca.pem")


def test_an_ended_certificate_is_refused_and_a_clock_of_1970_is_said(tmp_path: Path, sign: Callable[..., Path]) -> None:
    made, ca = request_certificate(tmp_path / "here", NAME), tmp_path / "authority" / "ca.pem"
    ended = sign(made.request, now=now() - timedelta(days=9), days=7)
    with pytest.raises(ConfigError, match="ended on"):
        install(tmp_path / "here", ended, ca)
    unset = install(tmp_path / "here", ended, ca, datetime(1970, 1, 1, 0, 5, tzinfo=timezone.utc))
    assert "this board's clock says 1970-01-01" in unset.doubt
    assert install(tmp_path / "here", sign(made.request), ca).doubt is None


def test_a_new_key_is_made_only_when_asked_for_and_the_old_one_stays(tmp_path: Path, sign: Callable[..., Path]) -> None:
    folder, ca = tmp_path / "here", tmp_path / "authority" / "ca.pem"
    first = request_certificate(folder, NAME)
    assert request_certificate(folder, NAME, new_key=True).key == first.key  # it has no certificate yet
    install(folder, sign(first.request), ca)
    assert request_certificate(folder, NAME).key == first.key
    second = request_certificate(folder, NAME, new_key=True)
    assert (second.new_key, second.key != first.key, first.key.exists()) == (True, True, True)
    with pytest.raises(ConfigError, match=f"has the key {first.key_id}"):
        sign(second.request)
    assert install(folder, sign(second.request, replace=True), ca).key == second.key


def foreign_request(folder: Path, key: Any, *names: str) -> Path:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])
    path = folder / f"{os.urandom(4).hex()}.csr"
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    path.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return path


def test_the_authority_signs_nothing_that_is_not_as_it_should_be(tmp_path: Path, sign: Callable[..., Path]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    sign(foreign_request(tmp_path, key, "plant-7/one"))
    cases = [
        ((key, "plant-7/two"), "is that of plant-7/one already"),
        ((ec.generate_private_key(ec.SECP256R1()), "plant-7/one"), "plant-7/one has the key"),
        ((rsa.generate_private_key(65537, 1024), "plant-7/weak"), "too weak"),
        ((ec.generate_private_key(ec.SECP256R1()), "plant-7"), "names nobody"),
        ((ec.generate_private_key(ec.SECP256R1()), "plant-7/+"), "cannot stand in an MQTT topic"),
        ((ec.generate_private_key(ec.SECP256R1()), "plant-7/one/cmd"), "cannot stand in an MQTT topic"),
        ((ec.generate_private_key(ec.SECP256R1()), "plant-7/a", "operator/b"), "2 common names"),
        ((ec.generate_private_key(ec.SECP256R1()), "operator/otto"), "order all boards about"),
        ((ec.generate_private_key(ec.SECP256R1()), "collector/one"), "may read every fleet"),
    ]
    for (made, *names), said in cases:
        with pytest.raises(ConfigError, match=said):
            sign(foreign_request(tmp_path, made, *names))
    good = foreign_request(tmp_path, ec.generate_private_key(ec.SECP256R1()), "plant-7/three")
    forged = tmp_path / "forged.csr"
    body = x509.load_pem_x509_csr(good.read_bytes()).public_bytes(serialization.Encoding.DER)
    der = body[:-4] + bytes(4)
    import base64

    text = base64.encodebytes(der).decode()
    forged.write_text(f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n")
    with pytest.raises(ConfigError, match=r"not signed by its own key|not a signing request"):
        sign(forged)
    with pytest.raises(ConfigError, match="has a private key in it"):
        sign(tmp_path / "authority" / "ca.key")
    assert [one.name for one in Authority(tmp_path / "authority").issued()] == ["plant-7/one"]


def test_nothing_outlives_the_authority_and_none_is_replaced(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "short", name="short", now=now(), days=10)
    made = request_certificate(tmp_path / "board", NAME)
    assert authority.sign(made.request, now=now()).not_after == authority.not_after
    with pytest.raises(ConfigError, match="has ended"):
        authority.sign(made.request, now=now() + timedelta(days=11))
    with pytest.raises(ConfigError, match="holds an authority already"):
        Authority.make(tmp_path / "short", name="short", now=now())
    with pytest.raises(ConfigError, match="there is no authority in"):
        Authority(tmp_path)
    assert (tmp_path / "short" / "ca.key").stat().st_mode & 0o777 == 0o600


def test_names_that_would_be_taken_for_somebody_else_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("device: {id: pi}\n")
    cases = {
        ("--fleet", "operator"): "no fleet may be called 'operator'",
        ("--fleet", "a" * 63): "at most 64",
        ("--fleet", "plant-7", "--device", "other"): "device.id is 'pi'",
        (): "give --fleet",
        ("--name", "operator/otto"): "--name needs --dir",
    }
    from agent.cli import build_parser
    from agent.console import Console
    from agent.verbs.invocation import Invocation

    for words, said in cases.items():
        arguments = build_parser("enroll").parse_args(["enroll", "--config", str(config), *words])
        with pytest.raises(ConfigError) as caught:
            arguments.handler(Invocation(arguments=arguments, console=Console(), stop=lambda: False))
        assert said.lower() in str(caught.value).lower()
    assert not (tmp_path / "mqtt").exists()


def test_two_boards_with_one_identity_are_noticed_by_both(guarded: Guarded, tmp_path: Path) -> None:
    """A copied card: the same certificate, key and name on two boards, each with a state of its own."""
    party = guarded.party("plant-7/pi5-copied")
    broker = guarded.settings(party)
    mqtt = {"url": broker.url, "fleet": "plant-7", "ca": broker.ca, "cert": broker.cert, "key": broker.key}
    config = tmp_path / "agent.yaml"
    config.write_text(yaml.safe_dump({"mqtt": mqtt, "device": {"id": "pi5-copied"}}))
    with Site(load_config(config), tmp_path / "a") as one, Site(load_config(config), tmp_path / "b") as two:
        lines = []
        for site, boot in ((one, "boot-a"), (two, "boot-b")):
            assert site.outbox is not None
            site.outbox.boot_id = boot  # this machine has one, two boards have two
            publisher = site.publisher()
            assert publisher is not None
            publisher.connection._jitter = lambda: 0.001  # the delays between attempts, shortened
            publisher.start()
            lines.append(publisher)
        told = []
        for number, publisher in enumerate(lines):
            said = publisher.rivalry.on_rival
            assert said is not None
            publisher.rivalry.on_rival = lambda text, number=number, said=said: (
                said(text),
                told.append((number, text)),
            )  # type: ignore[misc]

        for _ in range(1000):
            for publisher in lines:
                drive(publisher, lambda: len(told) == 2, 0.02)
            if len(told) == 2:
                break
        assert {number for number, _ in told} == {0, 1}
        assert all(
            text.startswith("another client has this board's identity: it took the connection") for _, text in told
        )
        for publisher in lines:
            publisher.close()


def test_one_takeover_is_an_accident_and_a_loop_is_said_once() -> None:
    rivals = Rivals()
    rivals.note(0.0, told=True)
    rivals.note(1.0, told=True)
    assert (rivals.suspected(2.0), rivals.verdict(2.0)) == (False, None)
    rivals.note(700.0, told=True)
    assert rivals.suspected(701.0) is False  # the first two are long ago
    rivals.note(760.0, told=False)
    rivals.note(820.0, told=True)
    assert (rivals.suspected(821.0), rivals.verdict(821.0)) == (True, None)  # one of them may have been the network
    said = "another client has this board's identity: it took the connection 3 times in 2 min"
    assert rivals.verdict(821.0, proven=True) == said
    rivals.note(822.0, told=True)
    assert rivals.verdict(823.0) is None
