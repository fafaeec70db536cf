"""Eighteen classes of forged commands, each in several shapes, made with the same keys and numbers as the genuine ones.

A forger here has more than the broker: what was sent before, the board's topics, the present epoch, and, where the
class needs it, the key of somebody who is on the list and may not do what he asks.
"""

from __future__ import annotations

import json
import random
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from agent.clock import iso
from agent.core.command import VERBS, Audience, Command
from agent.core.desired import Desired, DesiredAudience, DesiredSettings
from agent.core.envelope import COMMAND_TYPE, DESIRED_TYPE, RECEIPT_TYPE, SIGN_IN_TYPE, make_envelope
from agent.core.operators import RANK, Operator, OperatorList
from agent.core.topics import address, broadcast_topic, desired_topic, topic_for
from agent.fleet.signing import OperatorKey

FLEET, DEVICE, GROUP = "plant", "pi", "line-2"
#: Who is listed, and as what; ``gone`` has a key that is over, ``mallory`` is on no list.
ROLES = {"vera": "viewer", "otto": "operator", "anna": "admin", "gone": "admin"}
#: The order of the group that Ed25519 signs in (RFC 8032, 5.1): S + this is the same signature, written otherwise.
_ORDER = 2**252 + 27742317777372353535851937790883648493
Sent = tuple[str, bytes]  # topic and envelope


def operator_list(keys: dict[str, OperatorKey], now: datetime) -> bytes:
    """Return the list that the board holds."""
    ends = {name: iso(now + timedelta(days=400)) for name in ROLES} | {"gone": iso(now - timedelta(days=1))}
    listed = [
        Operator(name=name, public_key=keys[name].public_key, role=role, valid_until=ends[name])
        for name, role in ROLES.items()
    ]
    return msgspec.json.encode(OperatorList(operators=tuple(listed)))


@dataclass
class Hand:
    """Whoever sends: genuine commands and forged ones.

    Args: now, epoch: the board's. synced: whether the board's clock is known to be right.
    """

    chance: random.Random
    keys: dict[str, OperatorKey]
    now: Callable[[], datetime]
    epoch: Callable[[], str]
    synced: bool
    version: int = 0
    past: list[tuple[Command, Sent]] = field(default_factory=list)
    epochs: list[str] = field(default_factory=lambda: ["0" * 32])
    written: dict[str, int] = field(default_factory=dict)
    _counters: dict[str, int] = field(default_factory=dict)
    _number: int = 0

    def genuine(self, verb: str, arguments: dict[str, Any] | None = None) -> tuple[Command, Sent]:
        """Return the next command that the board must take."""
        issuer = {"viewer": "vera", "operator": "otto", "admin": "anna"}[VERBS[verb].role]
        if self.chance.random() < 0.2:
            issuer = "anna"
        self._counters[issuer] = counter = self._counters.get(issuer, 0) + self.chance.randint(1, 3)
        to: dict[str, str] = {"device": DEVICE}
        if not VERBS[verb].epoch and verb not in ("set-desired", "cancel"):
            to = self.chance.choice(({"device": DEVICE}, {"group": GROUP}, {}))
        command = self._command(verb, issuer, "genuine", counter=counter, audience=Audience(fleet=FLEET, **to))
        if arguments is not None:
            command = msgspec.structs.replace(command, arguments=arguments)
        sent = self._sent(command, self.keys[issuer].sign_command(command))
        self.past.append((command, sent))
        if VERBS[verb].writes:
            self.written[issuer] = counter
        return command, sent

    def forged(self, name: str) -> Sent:
        """Return one of a class."""
        return CLASSES[name](self)

    def good(self, verb: str | None = None, issuer: str = "anna", **changes: Any) -> Command:
        """Return what the board would obey, for the forger to spoil."""
        verb = verb or self.chance.choice([one for one in VERBS if one != "cancel"])
        counter = self._counters.get(issuer, 0) + self.chance.randint(1, 1000)
        return self._command(verb, issuer, "forged", **{"counter": counter} | changes)

    def sign(self, command: Command, by: str | None = None) -> Sent:
        return self._sent(command, self.keys[by or command.issuer].sign_command(command))

    def sign_bytes(self, command: Command, payload: bytes) -> Sent:
        """Sign a payload that no tool of ours would."""
        key = self.keys[command.issuer]
        return self._sent(command, make_envelope(payload, COMMAND_TYPE, key.keyid, key._private.sign))

    def _command(self, verb: str, issuer: str, prefix: str, **changes: Any) -> Command:
        self._number += 1
        now = self.now()
        arguments: dict[str, Any] = {"task": "digits"} if verb in ("deploy", "rollback", "pardon") else {}
        if verb == "set-desired":
            self.version += 1
            budgets = {"latency_p95": f"{self.version % 90 + 5} ms"}
            arguments = {"version": self.version, "settings": {"tasks": {"digits": {"budgets": budgets}}}}
        made: dict[str, Any] = {
            "schema": "boardfit.command/1", "id": f"{prefix}-{self._number:06}", "verb": verb, "issuer": issuer,
            "audience": Audience(fleet=FLEET, device=DEVICE), "counter": 1, "issued_at": iso(now),
            "expires_at": iso(now + timedelta(minutes=self.chance.choice((10, 60, 24 * 60)))), "arguments": arguments,
            "epoch": self.epoch() if VERBS[verb].epoch else None,
        }  # fmt: skip
        return Command(**made | changes)

    def _sent(self, command: Command, envelope: bytes) -> Sent:
        return topic_of(command.verb, command.audience), envelope


def topic_of(verb: str, to: Audience) -> str:
    """Return where this board hears what is for ``to``; what is for others is sent to it all the same."""
    if to.device is None and to.group in (None, GROUP):
        return broadcast_topic(FLEET, verb, to.group)
    return topic_for(address(FLEET, DEVICE), "cmd", verb)


def _bytes(hand: Hand) -> Sent:
    topic, good = hand.sign(hand.good())
    chance = hand.chance
    shapes = (
        b"", b"garbage", b'{"\\ud800":1}',
        b"null", b"[]", b"{}", b"\xff\xfe{}", b"[" * 50_000, b'{"a":' * 20_000, chance.randbytes(300),
        good[: chance.randrange(len(good))], good + b"{}", good + b" " * 40_000, good.decode().encode("utf-16"),
        good.replace(b'"payload"', b'"Payload"'), b"\xef\xbb\xbf" + good,
        json.dumps({**json.loads(good), "payload": b64encode(b"x" * 30_000).decode()}).encode(),
    )  # fmt: skip
    return topic, chance.choice(shapes)


def _altered(hand: Hand) -> Sent:
    topic, good = hand.sign(hand.good())
    document = json.loads(good)
    payload, signature = b64decode(document["payload"]), b64decode(document["signatures"][0]["sig"])
    way = hand.chance.randrange(6)
    if way == 0:
        place = hand.chance.randrange(len(payload))
        payload = payload[:place] + bytes([payload[place] ^ 1 << hand.chance.randrange(8)]) + payload[place + 1 :]
    elif way == 1:
        payload += b" "
    elif way == 2:
        payload = payload.replace(b'"counter":', b'"counter":1')
    elif way == 3:
        place = hand.chance.randrange(64)
        signature = (
            signature[:place] + bytes([signature[place] ^ 1 << hand.chance.randrange(8)]) + signature[place + 1 :]
        )
    elif way == 4:
        signature = hand.chance.choice((bytes(64), b"\xff" * 64, signature[:63], signature + b"\0"))
    else:  # the same point, and a scalar that RFC 8032 forbids
        scalar = int.from_bytes(signature[32:], "little") + _ORDER
        signature = signature[:32] + scalar.to_bytes(32, "little")
    document["payload"] = b64encode(payload).decode()
    document["signatures"][0]["sig"] = b64encode(signature).decode()
    return topic, json.dumps(document).encode()


def _unlisted(hand: Hand) -> Sent:
    return hand.sign(hand.good(issuer=hand.chance.choice(("mallory", "anna"))), by="mallory")


def _other_key(hand: Hand) -> Sent:
    command = hand.good()
    document = json.loads(hand.sign(command, by=hand.chance.choice(("mallory", "vera", "gone")))[1])
    document["signatures"][0]["keyid"] = hand.keys["anna"].keyid
    return topic_of(command.verb, command.audience), json.dumps(document).encode()


def _other_kind(hand: Hand) -> Sent:
    command = hand.good()
    key, kind = hand.keys["anna"], hand.chance.choice((DESIRED_TYPE, RECEIPT_TYPE, SIGN_IN_TYPE))
    made = make_envelope(msgspec.json.encode(command), kind, key.keyid, key._private.sign)
    if hand.chance.random() < 0.5:
        made = made.replace(kind.encode(), COMMAND_TYPE.encode())
    return topic_of(command.verb, command.audience), made


def _signatures(hand: Hand) -> Sent:
    topic, good = hand.sign(hand.good())
    document = json.loads(good)
    one = document["signatures"][0]
    document["signatures"] = hand.chance.choice(([], [one, one], [{**one, "keyid": "0" * 64}, one], one, None))
    return topic, json.dumps(document).encode()


def _envelope_fields(hand: Hand) -> Sent:
    topic, good = hand.sign(hand.good())
    text = good.decode()
    shapes = (
        text[:-1] + ',"role":"admin"}', text[:-1] + f',"payloadType":"{COMMAND_TYPE}"}}',
        '{"payload":"e30=",' + text[1:], text.replace('"keyid"', '"alg":"none","keyid"'),
        text.replace('"keyid":"', '"keyid":"' + "A" * 64 + '","keyid":"'), text.replace('"sig":"', '"sig":" '),
        text.replace('"keyid":"', '"keyid":"\\n'),
    )  # fmt: skip
    return topic, hand.chance.choice(shapes).encode()


def _payload_fields(hand: Hand) -> Sent:
    command = hand.good()
    text = msgspec.json.encode(command).decode()
    shapes = (
        text[:-1] + ',"role":"admin"}', text[:-1] + ',"verb":"rollback"}', '{"counter":1,' + text[1:],
        text.replace('"counter":', '"counter":1.5e9,"x":'), text.replace('"deadline_s":null', '"deadline_s":NaN'),
        text.replace("boardfit.command/1", "boardfit.command/2"), text.replace(f'"{command.verb}"', '"reboot"'),
        text.replace(f'"counter":{command.counter}', '"counter":18446744073709551617'),
        text.replace(f'"counter":{command.counter}', f'"counter":"{command.counter}"'),
        text.replace(command.id, command.id + "\\n"), text.replace(command.id, "../../etc"), "[" + text + "]",
        text.replace('"deadline_s":null', '"deadline_s":1e999'), text.replace('"deadline_s":null', '"deadline_s":-1'),
    )  # fmt: skip
    return hand.sign_bytes(command, hand.chance.choice(shapes).encode())


def _replay(hand: Hand) -> Sent:
    if not hand.past:
        return _bytes(hand)
    recent = hand.past[-20:] if hand.chance.random() < 0.5 else hand.past
    command, (topic, envelope) = hand.chance.choice(recent)
    if hand.chance.random() < 0.3:
        topic = topic_of(hand.chance.choice((command.verb, *VERBS)), command.audience)
    if hand.chance.random() < 0.2:  # written otherwise, and signed as it was
        envelope = json.dumps(json.loads(envelope), indent=1).encode()
    return topic, envelope


def _old_counter(hand: Hand) -> Sent:
    taken = [name for name, counter in hand.written.items() if counter and name != "vera"]
    if not taken:
        return _replay(hand)
    issuer = hand.chance.choice(taken)
    counter = hand.chance.choice((1, hand.written[issuer], hand.chance.randint(1, hand.written[issuer])))
    verb = hand.chance.choice(("bench", "sync", "deploy", "rollback", "status"))
    return hand.sign(hand.good(verb, issuer, counter=counter))


def _time(hand: Hand) -> Sent:
    now = hand.now()
    spans = [
        (timedelta(hours=-2), timedelta(hours=-1)), (timedelta(0), timedelta(0)), (timedelta(0), timedelta(seconds=-1)),
        (timedelta(0), timedelta(hours=25)), (timedelta(days=-30), timedelta(hours=1)),
    ]  # fmt: skip
    if hand.synced:
        spans += [(timedelta(minutes=6), timedelta(hours=1)), (timedelta(days=300), timedelta(days=300, hours=1))]
    begins, ends = hand.chance.choice(spans)
    made = hand.good(issued_at=iso(now + begins), expires_at=iso(now + ends))
    if hand.chance.random() < 0.2:
        odd = hand.chance.choice(("tomorrow", "2099-01-01", "9999-12-31T23:59:60Z", "2026-01-01T00:00:00+14:00", ""))
        made = msgspec.structs.replace(made, expires_at=odd)
    return hand.sign(made)


def _audience(hand: Hand) -> Sent:
    others = (
        {"fleet": "farm", "device": DEVICE}, {"fleet": FLEET, "device": "pi2"}, {"fleet": FLEET, "device": ""},
        {"fleet": FLEET, "group": "line-3"}, {"fleet": FLEET, "group": GROUP, "device": DEVICE}, {"fleet": "farm"},
        {"fleet": "PLANT"}, {"fleet": FLEET, "device": "_all"}, {"fleet": FLEET, "device": "+"},
    )  # fmt: skip
    return hand.sign(hand.good(audience=Audience(**hand.chance.choice(others))))


def _epoch(hand: Hand) -> Sent:
    verb = hand.chance.choice(("deploy", "rollback"))
    if hand.chance.random() < 0.3:
        to = hand.chance.choice((Audience(fleet=FLEET), Audience(fleet=FLEET, group=GROUP)))
        return hand.sign(hand.good(verb, "otto", audience=to))
    now = hand.epoch()
    wrong = hand.chance.choice(
        (None, "", *hand.epochs[-3:], now.upper() + " ", now[:-1], f"{hand.chance.getrandbits(128):032x}")
    )
    return hand.sign(hand.good(verb, "otto", epoch=wrong))


def _role(hand: Hand) -> Sent:
    wanted = [
        (verb, who)
        for verb, rule in VERBS.items()
        for who, role in ROLES.items()
        if who != "gone" and RANK[role] < RANK[rule.role]
    ]
    verb, issuer = hand.chance.choice(wanted)
    arguments = {"job": hand.past[-1][0].id if hand.past else "genuine-000001"}
    return hand.sign(hand.good(verb, issuer, **({"arguments": arguments} if verb == "cancel" else {})))


def _name(hand: Hand) -> Sent:
    by = hand.chance.choice(("vera", "otto"))
    made = hand.good(hand.chance.choice(("status", "bench", "sync")), counter=10**6)
    return hand.sign(msgspec.structs.replace(made, issuer=hand.chance.choice(("anna", "root", "", "Otto"))), by=by)


def _key_ended(hand: Hand) -> Sent:
    return hand.sign(hand.good(issuer="gone"))


def _arguments(hand: Hand) -> Sent:
    command = hand.good("deploy", "otto")
    if hand.chance.random() < 0.3:
        return topic_of("bench", command.audience), hand.sign(command)[1]
    task = hand.chance.choice(
        ("--state-dir=/tmp", "-c", "../..", "digits\n", "a b", "", "Digits", "x" * 64, "digits;id")
    )
    verb, arguments = hand.chance.choice((
        ("pardon", {}), ("pardon", {"task": "digits", "candidate": task}), ("leave-safe-mode", {"task": "digits"}),
        ("deploy", {"task": task}), ("deploy", {}), ("rollback", {"task": task}), ("rollback", {"task": ["digits"]}),
        ("bench", {"candidates": ["--again", "a"]}), ("bench", {"again": "yes"}), ("bench", {"config": "/tmp/a"}),
        ("select", {"task": task}), ("sync", {"url": "http://evil"}), ("status", {"x": 1}),
        ("cancel", {"job": task}), ("deploy", {"task": "digits", "candidate": "../a"}),
    ))  # fmt: skip
    spoiled = msgspec.structs.replace(hand.good(verb, "otto"), arguments=arguments)
    return hand.sign_bytes(spoiled, msgspec.json.encode(spoiled))


def _desired(hand: Hand) -> Sent:
    """A desired state that nobody may ask for: it is a command that does not expire."""
    settings = msgspec.convert({"tasks": {"digits": {"pin": "evil"}}}, DesiredSettings)
    way = hand.chance.randrange(6)
    audience = DesiredAudience(fleet="farm" if way == 0 else FLEET, device="pi2" if way == 1 else DEVICE)
    issuer = {2: "otto", 3: "gone"}.get(way, "anna")
    version = 2**40
    if way == 4:
        version, audience = max(1, hand.version // 2), DesiredAudience(fleet=FLEET, group=GROUP)  # sent as the device's
    made = Desired(
        schema="boardfit.desired/1", version=version, issuer=issuer, audience=audience, issued_at=iso(hand.now()),
        settings=settings,
    )  # fmt: skip
    sealed = hand.keys["mallory" if way == 5 else issuer].sign_desired(made)
    if hand.chance.random() < 0.3:
        sealed = sealed.replace(b'"sig":"', b'"sig":"AA')
    return desired_topic(FLEET, DEVICE, None), sealed


CLASSES: dict[str, Callable[[Hand], Sent]] = {
    "no envelope: noise, cut, nested, too long": _bytes,
    "payload or signature altered": _altered,
    "signed by nobody listed": _unlisted,
    "a listed key's id over another's signature": _other_key,
    "signed as another kind of document": _other_kind,
    "none, two or no list of signatures": _signatures,
    "envelope with a field more, or twice": _envelope_fields,
    "payload with a field more, twice, or no such value": _payload_fields,
    "replayed": _replay,
    "another id, an old counter": _old_counter,
    "out of its time": _time,
    "for another fleet, board or group": _audience,
    "no epoch, an old one, or to many boards": _epoch,
    "the role is too low": _role,
    "in another's name": _name,
    "the key is over": _key_ended,
    "no such arguments, or sent as another verb": _arguments,
    "a desired state nobody may ask for": _desired,
}
