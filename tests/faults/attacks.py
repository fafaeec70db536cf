"""The attacks on an update system that TUF's specification lists, each in three ways, on one registry.

An attacker holds the mirror that the board asks, and the keys that are named as stolen. ``see`` says how an attack must
end at a board whose clock is usable: ``refused`` (with what must be said), ``expired``, ``nothing new``, ``accepted``
(the keys that were stolen allow it; no candidate may change by it) or ``away`` (as a registry that cannot be reached).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported without saying so
from tuf.api.metadata import Metadata, MetaFile  # type: ignore[attr-defined]  # re-exported without saying so

from agent.registry import layout
from tests.faults.repository import THRESHOLDS, Repository, edited
from tests.faults.web import Exchange

TRICKLE_S = 0.02


@dataclass
class Scene:
    """What an attack has at hand: what the board is shown, what it was shown before, and chance.

    ``served`` is a copy of ``honest``; ``earlier`` the folder of an older state. ``wire``: a part of a path, and what a
    web server does in place of serving the files that contain it.
    """

    honest: Repository
    served: Repository
    earlier: Path
    chance: random.Random
    wire: dict[str, Callable[[Exchange, bytes], None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Attack:
    """One way of one attack. ``says``: what must be in the sentence. ``stolen``: roles whose keys must be replaced."""

    kind: str
    way: str
    mount: Callable[[Scene], None]
    see: str = "refused"
    says: str = "cannot be trusted"
    stolen: tuple[str, ...] = ()
    at_fetch: bool = False


def _version(scene: Scene, role: str) -> int:
    version: int = scene.served.documents[role].signed.version
    return version


def _older(scene: Scene) -> None:
    shutil.rmtree(scene.served.folder)
    shutil.copytree(scene.earlier, scene.served.folder)


def _older_snapshot(scene: Scene) -> None:
    version = scene.chance.randrange(1, _version(scene, "snapshot"))
    data = scene.served.read(layout.metadata_file("snapshot", version))
    scene.served.documents["timestamp"].signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
    scene.served.publish("timestamp")


def _older_targets(scene: Scene) -> None:
    version = scene.chance.randrange(1, _version(scene, "targets"))
    data = scene.served.read(layout.metadata_file("targets", version))
    scene.served.documents["snapshot"].signed.meta["targets.json"] = MetaFile.from_data(version, data, ["sha256"])
    scene.served.publish("snapshot")


def _frozen(_: Scene) -> None:
    """Nothing is changed: the state of two days ago is shown for ever."""


def _root_withheld(scene: Scene) -> None:
    scene.honest.rotate("timestamp")
    scene.honest.add("withheld", b"what the mirror does not show")


def _prolonged(scene: Scene) -> None:
    role = scene.chance.choice(("timestamp", "snapshot", "targets"))
    if role == "timestamp":
        data = scene.served.read(layout.metadata_file("timestamp", None))
        changed = edited(data, version=_version(scene, role) + 1, expires="2036-01-01T00:00:00Z")
        scene.served.write(layout.metadata_file("timestamp", None), changed)
        return
    _publish_both(scene)
    path = layout.metadata_file(role, _version(scene, role))
    scene.served.write(path, edited(scene.served.read(path), expires="2036-01-01T00:00:00Z"))


def _ended(scene: Scene) -> None:
    """A timestamp that the registry signed for a few days, which were over when this board refreshed last."""
    now = scene.honest.now
    scene.served.publish("timestamp", issued=now - timedelta(days=5), expires=now - timedelta(days=2))


def _publish_both(scene: Scene) -> None:
    """The registry goes on, and the mirror has that state."""
    scene.honest.add("newer", scene.chance.randbytes(200))
    shutil.copytree(scene.honest.folder, scene.served.folder, dirs_exist_ok=True)
    scene.served.documents = scene.honest.copy(scene.served.folder).documents


def _old_under_new_name(role: str) -> Callable[[Scene], None]:
    def mount(scene: Scene) -> None:
        before = scene.served.read(layout.metadata_file(role, _version(scene, role)))
        _publish_both(scene)
        scene.served.write(layout.metadata_file(role, _version(scene, role)), before)

    return mount


def _fork(scene: Scene) -> None:
    """The same author's keys signed another list of the same version, elsewhere."""
    fork = scene.honest.copy(scene.served.folder.with_name("fork"))
    fork.add("fork", b"of another branch")
    _publish_both(scene)
    path = layout.metadata_file("targets", _version(scene, "targets"))
    scene.served.write(path, fork.read(path))


def _far(scene: Scene) -> int:
    return scene.chance.choice((2**31 - 1, 2**31, 2**53 + 1, 2**63, 2**64, 2**80)) + scene.chance.randrange(100)


def _far_timestamp(scene: Scene) -> None:
    scene.served.publish("timestamp", version=_far(scene))


def _far_snapshot(scene: Scene) -> None:
    data = scene.served.read(layout.metadata_file("targets", _version(scene, "targets")))
    far = _far(scene)
    scene.served.documents["snapshot"].signed.meta["targets.json"] = MetaFile.from_data(far, data, ["sha256"])
    scene.served.write(layout.metadata_file("targets", far), data)
    scene.served.publish("snapshot", version=_far(scene))


def _far_time(scene: Scene) -> None:
    """The time of issue is signed as far ahead as it can be: beyond all ends, or just before the first of them."""
    served = scene.served
    ends = min(served.documents[role].signed.expires for role in ("root", "targets", "snapshot"))
    issued = scene.chance.choice((ends - timedelta(days=1), ends + timedelta(days=1), ends + timedelta(days=20_000)))
    served.publish("timestamp", issued=issued, expires=issued + timedelta(days=1))


def _by_another_role(scene: Scene) -> None:
    other = scene.chance.choice(("snapshot", "targets", "root"))
    scene.served.publish("timestamp", by={"timestamp": scene.served.signers[other]})


def _targets_by_online_keys(scene: Scene) -> None:
    signers = scene.served.signers
    scene.served.documents["targets"].signed.targets.clear()
    scene.served.publish("targets", by={"targets": [*signers["snapshot"], *signers["timestamp"]]})


def _another_type(scene: Scene) -> None:
    role = scene.chance.choice(("root", "snapshot", "targets"))
    data = scene.served.read(layout.metadata_file(role, _version(scene, role)))
    scene.served.write(layout.metadata_file("timestamp", None), data)


def _another(scene: Scene) -> Repository:
    other = Repository(scene.served.folder.with_name("another"), scene.served.now)
    for number in range(scene.chance.randrange(4, 9)):
        other.add(f"foreign-{number}", b"foreign")
    return other


def _another_registry(scene: Scene) -> None:
    other = _another(scene)
    shutil.rmtree(scene.served.folder)
    shutil.copytree(other.folder, scene.served.folder)


def _another_root(scene: Scene) -> None:
    other = _another(scene)
    while other.documents["root"].signed.version <= _version(scene, "root"):
        other.publish("root")
    shutil.copytree(other.folder, scene.served.folder, dirs_exist_ok=True)


def _another_list(scene: Scene) -> None:
    _publish_both(scene)
    other = _another(scene)
    role = scene.chance.choice(("snapshot", "targets"))
    data = other.read(layout.metadata_file(role, other.documents[role].signed.version))
    scene.served.write(layout.metadata_file(role, _version(scene, role)), data)


def _model(scene: Scene) -> tuple[Path, bytes]:
    """The file of the model that the registry published last."""
    _publish_both(scene)
    (path,) = scene.served.folder.glob("targets/digits/newer/*")
    return path, path.read_bytes()


def _other_bytes(scene: Scene) -> None:
    path, data = _model(scene)
    place = scene.chance.randrange(len(data))
    path.write_bytes(data[:place] + bytes([data[place] ^ 1 << scene.chance.randrange(8)]) + data[place + 1 :])


def _another_model(scene: Scene) -> None:
    path, _ = _model(scene)
    path.write_bytes(next(scene.served.folder.glob("targets/digits/first/*")).read_bytes())


def _another_length(scene: Scene) -> None:
    path, data = _model(scene)
    path.write_bytes(
        scene.chance.choice((data + scene.chance.randbytes(scene.chance.randrange(1, 100_000)), data[:-1]))
    )


def _on_the_wire(role: str, act: Callable[[Exchange, bytes], None]) -> Callable[[Scene], None]:
    def mount(scene: Scene) -> None:
        _publish_both(scene)
        name = {"root": f"{_version(scene, 'root') + 1}.root", "timestamp": "timestamp", "model": "newer/"}.get(role)
        scene.wire[name or f"{_version(scene, role)}.{role}"] = act

    return mount


def _endless(exchange: Exchange, data: bytes) -> None:
    exchange.head(200, None)
    exchange.body(data)
    exchange.endless()


def _slow(exchange: Exchange, data: bytes) -> None:
    exchange.head(200, len(data))
    exchange.trickle(data, TRICKLE_S)


def _below_threshold(scene: Scene) -> None:
    scene.served.documents["targets"].signed.targets.clear()
    scene.served.publish("targets", by={"targets": [scene.chance.choice(scene.served.signers["targets"])]})


def _root_by_one(scene: Scene) -> None:
    """A root that lists the attacker's keys, or asks for fewer, signed by one holder and by the attacker."""
    served = scene.served
    mine, root = CryptoSigner.generate_ed25519(), served.documents["root"].signed
    if scene.chance.random() < 0.5:
        for role in THRESHOLDS:
            root.add_key(mine.public_key, role)
    root.roles["root"].threshold = root.roles["targets"].threshold = 1
    served.publish("root", by={"root": [scene.chance.choice(served.signers["root"]), mine]})


def _one_counted_twice(scene: Scene) -> None:
    """One holder's signature, again under the name of another holder."""
    role = scene.chance.choice(("root", "targets"))
    first, second = scene.chance.sample(scene.served.signers[role], 2)
    served = scene.served
    served.publish(role, by={role: [first]})
    path = layout.metadata_file(role, _version(scene, role))
    document = Metadata.from_bytes(served.read(path))
    signature = document.signatures[first.public_key.keyid].to_dict() | {"keyid": second.public_key.keyid}
    document.signatures[second.public_key.keyid] = type(document.signatures[first.public_key.keyid]).from_dict(
        signature
    )
    data = document.to_bytes()
    served.write(path, data)
    if role == "targets":
        served.documents["snapshot"].signed.meta["targets.json"] = MetaFile.from_data(
            _version(scene, role), data, ["sha256"]
        )
        served.publish("snapshot")


ONLINE = ("snapshot", "timestamp")
ATTACKS = (
    Attack("rollback", "an older mirror", _older, says="timestamp version"),
    Attack("rollback", "an older snapshot", _older_snapshot, says="snapshot version", stolen=("timestamp",)),
    Attack("rollback", "an older list", _older_targets, says="targets.json version", stolen=ONLINE),
    Attack("freeze", "the same for ever", _frozen, see="nothing new"),
    Attack("freeze", "a new root withheld", _root_withheld, see="nothing new"),
    Attack("freeze", "a later end written in", _prolonged),
    Attack("freeze", "one that has ended, unseen so far", _ended, see="expired"),
    Attack("mix-and-match", "the snapshot of before", _old_under_new_name("snapshot")),
    Attack("mix-and-match", "the list of before", _old_under_new_name("targets")),
    Attack("mix-and-match", "the list of a fork", _fork),
    Attack("fast-forward", "timestamp", _far_timestamp, see="accepted", stolen=("timestamp",)),
    Attack("fast-forward", "snapshot", _far_snapshot, says="Expected targets", stolen=ONLINE),
    Attack("fast-forward", "time of issue", _far_time, see="accepted", stolen=("timestamp",)),
    Attack("wrong role", "timestamp by another", _by_another_role, says="timestamp was signed by 0/1"),
    Attack("wrong role", "list by the online keys", _targets_by_online_keys, says="targets was signed by 0/2",
           stolen=ONLINE),
    Attack("wrong role", "another document as timestamp", _another_type, says="Expected 'timestamp'"),
    Attack("mirror swap", "another registry", _another_registry),
    Attack("mirror swap", "another registry's root", _another_root, says="root was signed by 0/2"),
    Attack("mirror swap", "another registry's lists", _another_list, says="the registry"),
    Attack("arbitrary package", "one bit", _other_bytes, says="not the signed ones", at_fetch=True),
    Attack("arbitrary package", "another signed model", _another_model, says="signed", at_fetch=True),
    Attack("arbitrary package", "another length", _another_length, says="are signed", at_fetch=True),
    Attack("endless metadata", "timestamp", _on_the_wire("timestamp", _endless), says="more than is signed"),
    Attack("endless metadata", "next root", _on_the_wire("root", _endless), says="more than is signed"),
    Attack("endless metadata", "list", _on_the_wire("targets", _endless), says="more than is signed"),
    Attack("slow retrieval", "timestamp", _on_the_wire("timestamp", _slow), see="away", says="bytes/s"),
    Attack("slow retrieval", "list", _on_the_wire("targets", _slow), see="away", says="bytes/s"),
    Attack("slow retrieval", "model", _on_the_wire("model", _slow), see="away", says="bytes/s", at_fetch=True),
    Attack("keys below threshold", "one of the list's", _below_threshold, says="targets was signed by 1/2",
           stolen=ONLINE),
    Attack("keys below threshold", "one of the root's", _root_by_one, says="root was signed by 1/2"),
    Attack("keys below threshold", "one counted twice", _one_counted_twice, says="was signed by 1/2", stolen=ONLINE),
)  # fmt: skip
