"""``fleet desired get`` beside a real registry: whose signature a document bears is checked, or said not to be."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.clock import iso
from agent.core.desired import Desired, DesiredAudience, DesiredSettings
from agent.core.topics import desired_topic
from agent.fleet.signing import OperatorKey
from agent.mqtt import Connection, drive
from tests.brokers import Mosquitto
from tests.fleet.conftest import Desk
from tests.scenarios.conftest import run


def asked(board: str, issuer: str) -> Desired:
    return Desired(
        schema="boardfit.desired/1", version=1, issuer=issuer, audience=DesiredAudience(fleet="plant", device=board),
        issued_at=iso(datetime.now(timezone.utc)), settings=DesiredSettings(),
    )  # fmt: skip


def test_a_signature_is_checked_by_the_list_of_the_registry(desk: Desk, broker: Mosquitto, tmp_path: Path) -> None:
    models, stranger = tmp_path / "models", OperatorKey(Ed25519PrivateKey.generate())
    good = desk.key.sign_desired(asked("good", "anna"))
    lying = {
        "good": good,
        "moved": good,  # another board's document: what was signed is not of this scope
        "named": desk.key.sign_desired(asked("named", "bert")),
        "strange": stranger.sign_desired(asked("strange", "anna")),
        "broken": good.replace(b'"sig":"', b'"sig":"AAAA', 1),
    }
    line = Connection(broker.settings())
    line.connect(10)
    sent = [line.publish(desired_topic("plant", name), payload, retain=True) for name, payload in lying.items()]
    assert drive(line, lambda: all(one.state == "acked" for one in sent), 10)
    line.close()
    assert run("registry", "init", models).code == 0
    public = desk.folder / "operator.key.pub"
    assert run("fleet", "keys", "add", models, public, "--role", "admin").code == 0

    unknown = desk("desired", "get", "good")
    assert "signature not checked: no registry is named" in unknown.out
    root = ("--registry", models, "--root", models / "root.json")
    shown = {one["scope"]: one for one in desk("desired", "get", *root, "--json").document["desired"]}
    assert shown["good"]["signature"] == {"holds": True, "reason": "anna, admin"}
    assert shown["moved"]["signature"]["holds"] is False
    assert "another scope" in shown["moved"]["signature"]["reason"]
    assert "not of 'bert' but of anna" in shown["named"]["signature"]["reason"]
    assert "on no list" in shown["strange"]["signature"]["reason"]
    assert shown["broken"]["signature"]["holds"] is not True
    written = yaml.safe_load(desk.config.read_text())
    desk.config.write_text(
        yaml.safe_dump(written | {"registry": {"url": str(models), "root": str(models / "root.json")}})
    )
    assert "signed by anna, admin" in desk("desired", "get", "good").out
    assert "NOT SIGNED as boards want it" in desk("desired", "get", "strange").out
    away = desk("desired", "get", "good", "--registry", tmp_path / "none", "--root", models / "root.json")
    assert away.code == 0
    assert "signature not checked: " in away.out
