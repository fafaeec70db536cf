"""What a board obeys: the envelope, the strict reading, the judging; every refusal by its cause, without processes."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as LibraryEnvelope
from securesystemslib.signer import CryptoSigner

from agent.core.command import VERBS, Audience, Command, Recipient, arguments_of, command_bytes, judge, read_command
from agent.core.desired import Desired, DesiredAudience, DesiredSettings, DesiredTask, check_newer, desired_bytes
from agent.core.envelope import COMMAND_TYPE, MAX_PAYLOAD_BYTES, key_id, make_envelope, open_envelope, read_strictly
from agent.core.operators import Operator, OperatorList, check_operators, parse_operators
from agent.errors import OrderError
from agent.fleet.signing import OperatorKey

NOW = datetime(2026, 12, 1, 12, tzinfo=timezone.utc)
KEY = OperatorKey(Ed25519PrivateKey.generate())
ANNA = Operator(name="anna", public_key=KEY.public_key, role="operator", valid_until="2027-01-01T00:00:00Z")
HERE = Recipient(fleet="plant", device="pi", groups=("line-2",), epoch="e" * 32, now=NOW, clock_synced=True)
GOOD = Command(
    schema="boardfit.command/1", id="job-0001", verb="deploy", issuer="anna", arguments={"task": "digits"},
    audience=Audience(fleet="plant", device="pi"), counter=5, epoch="e" * 32,
    issued_at="2026-12-01T11:59:00Z", expires_at="2026-12-01T12:10:00Z",
)  # fmt: skip


def replaced(**changes: Any) -> Command:
    return msgspec.structs.replace(GOOD, **changes)


def test_a_good_command_is_obeyed() -> None:
    judge(GOOD, ANNA, HERE, 4)
    assert arguments_of(GOOD) == VERBS["deploy"].arguments(task="digits")


BENCH = {"verb": "bench", "arguments": {}, "epoch": None}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], int, str]] = {
    # what is changed of the command, the operator, the board; the last counter; a part of the reason
    "viewer": ({}, {"role": "viewer"}, {}, 4, "deploy needs operator"),
    "unknown role": ({}, {"role": "emperor"}, {}, 4, "deploy needs operator"),
    "operator sets desired": ({"verb": "set-desired"}, {}, {}, 4, "set-desired needs admin"),
    "another's name": ({"issuer": "bert"}, {}, {}, 4, "not of 'bert'"),
    "key ran out": ({}, {"valid_until": "2026-12-01T12:00:00Z"}, {}, 4, "was valid until"),
    "other device": ({"audience": Audience(fleet="plant", device="px")}, {}, {}, 4, "it is for 'px'"),
    "other fleet": ({"audience": Audience(fleet="farm", device="pi")}, {}, {}, 4, "the fleet 'farm'"),
    "other group": ({**BENCH, "audience": Audience(fleet="plant", group="line-1")}, {}, {}, 4, "group 'line-1'"),
    "two audiences": ({"audience": Audience(fleet="plant", device="pi", group="line-2")}, {}, {}, 4, "at once"),
    "expired": ({"expires_at": "2026-12-01T12:00:00Z"}, {}, {}, 4, "expired at"),
    "expired, unsure clock": ({"expires_at": "2026-12-01T12:00:00Z"}, {}, {"clock_synced": None}, 4, "not known to be"),
    "ends before it begins": ({"expires_at": "2026-12-01T11:00:00Z"}, {}, {}, 4, "at most 24 hours"),
    "for too long": ({"expires_at": "2026-12-02T12:00:00Z"}, {}, {}, 4, "at most 24 hours"),
    "from the future": ({"issued_at": "2026-12-01T12:06:00Z"}, {}, {}, 4, "in this board's future"),
    "replayed": ({}, {}, {}, 5, "is a replay"),
    "late": ({}, {}, {}, 9, "is a replay"),
    "no epoch": ({"epoch": None}, {}, {}, 4, "present epoch"),
    "old epoch": ({"epoch": "d" * 32}, {}, {}, 4, "present epoch"),
    "deploy to a group": ({"audience": Audience(fleet="plant", group="line-2")}, {}, {}, 4, "to one device"),
    "roll back a fleet": ({"verb": "rollback", "audience": Audience(fleet="plant")}, {}, {}, 4, "to one device"),
    "no time": ({"expires_at": "tomorrow"}, {}, {}, 4, "is not a UTC time"),
    "endless": ({"deadline_s": 1e9}, {}, {}, 4, "at most 24 hours"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_every_refusal_says_why(case: tuple[dict[str, Any], dict[str, Any], dict[str, Any], int, str]) -> None:
    changed, operator, board, last, reason = case
    with pytest.raises(OrderError, match=reason):
        judge(
            replaced(**changed), msgspec.structs.replace(ANNA, **operator), msgspec.structs.replace(HERE, **board), last
        )


@pytest.mark.parametrize(
    "audience", [Audience(fleet="plant"), Audience(fleet="plant", group="line-2"), Audience(fleet="plant", device="pi")]
)
@pytest.mark.parametrize("verb", [verb for verb, rule in VERBS.items() if not rule.epoch and rule.role != "admin"])
def test_what_switches_nothing_may_go_to_many_without_an_epoch(verb: Any, audience: Audience) -> None:
    judge(replaced(verb=verb, audience=audience, epoch=None, arguments={}), ANNA, HERE, 4)


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_roles_include_those_below(role: str) -> None:
    allowed = []
    for verb in VERBS:
        try:
            judge(replaced(verb=verb), msgspec.structs.replace(ANNA, role=role), HERE, 4)
        except OrderError as error:
            assert error.facts["cause"] == "role"
        else:
            allowed.append(verb)
    assert allowed == list(VERBS)[: {"viewer": 2, "operator": 10, "admin": 11}[role]]


def test_a_board_that_wakes_in_1970_judges_expiry_by_its_floor() -> None:
    floor = msgspec.structs.replace(HERE, clock_synced=False)  # ``now`` is the floor: newer than the board's clock
    with pytest.raises(OrderError, match="expired"):
        judge(replaced(issued_at="2026-11-30T00:00:00Z", expires_at="2026-11-30T00:10:00Z"), ANNA, floor, 4)
    judge(replaced(issued_at="2026-12-01T13:00:00Z", expires_at="2026-12-01T13:10:00Z"), ANNA, floor, 4)


def strictly(**changes: Any) -> bytes:
    document = msgspec.to_builtins(GOOD) | changes
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (strictly(role="admin"), "unknown field `role`"),
        (strictly(counter=...), "missing required field `counter`"),
        (strictly(schema=...), "missing required field `schema`"),
        (strictly(schema="boardfit.command/2"), "Invalid enum value"),
        (strictly(verb="reboot"), "Invalid enum value 'reboot'"),
        (strictly(counter=0), ">= 1"),
        (strictly(counter=2**53), "<= 9007199254740991"),
        (strictly(counter="5"), "Expected `int`"),
        (strictly(id="../../etc"), "matching regex"),
        (strictly(id="job-0001\n"), "matching regex"),
        (strictly(arguments={"task": "--state-dir"}), "matching regex"),
        (strictly(arguments={"task": "digits", "force": True}), "unknown field `force`"),
        (strictly(arguments={}), "missing required field `task`"),
        (strictly(deadline_s=0), "> 0"),
        (strictly(audience={"fleet": "plant", "role": "admin"}), "unknown field"),
        (strictly()[:-1] + b',"counter":9}', "written twice"),
        (strictly()[:-1] + b',"deadline_s":NaN}', "not JSON"),
        (strictly() + b" {}", "Extra data"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "Expected `object`"),
    ],
)
def test_a_payload_is_read_strictly(payload: bytes, reason: str) -> None:
    with pytest.raises(OrderError, match=reason):
        read_command(payload)


def test_what_a_board_would_not_read_is_not_signed() -> None:
    with pytest.raises(OrderError, match="not the arguments of rollback"):
        KEY.sign_command(replaced(verb="rollback", arguments={"candidate": "x"}))
    audience = DesiredAudience(fleet="plant", device="pi")
    wanted = Desired(
        schema="boardfit.desired/1", version=1, issuer="anna", audience=audience, issued_at="2026-12-01T11:59:00Z",
        settings=DesiredSettings(tasks={"digits": DesiredTask(pin="../x")}),
    )  # fmt: skip
    with pytest.raises(OrderError, match="regex"):
        desired_bytes(wanted)


ENVELOPE = KEY.sign_command(GOOD)


def enveloped(**changes: Any) -> bytes:
    return json.dumps(json.loads(ENVELOPE) | changes).encode()


SIGNATURE = json.loads(ENVELOPE)["signatures"][0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{}", "missing required field"),
        (enveloped(extra=1), "unknown field"),
        (enveloped(payloadType="text/plain"), "not of the type"),
        (enveloped(signatures=[]), "exactly one"),
        (enveloped(signatures=[SIGNATURE, SIGNATURE]), "exactly one"),
        (enveloped(signatures=[{**SIGNATURE, "keyid": "anna"}]), "64 hex digits"),
        (enveloped(signatures=[{**SIGNATURE, "sig": "AAAA"}]), "not one of Ed25519"),
        (enveloped(signatures=[{**SIGNATURE, "cert": ""}]), "unknown field"),
        (enveloped(payload="@@@@"), "base64"),
        (enveloped(payload="é"), "base64"),
        (ENVELOPE[:-1] + b',"payload":"e30="}', "written twice"),
        (b" " * 40_000, "more than an envelope"),
        (enveloped(payload=b64encode(b" " * (MAX_PAYLOAD_BYTES[COMMAND_TYPE] + 1)).decode()), "is over the"),
    ],
)
def test_an_envelope_is_read_strictly(data: bytes, reason: str) -> None:
    with pytest.raises(OrderError, match=reason):
        open_envelope(data, COMMAND_TYPE)


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_worse(data: bytes) -> None:
    for read in (lambda: open_envelope(data, COMMAND_TYPE), lambda: read_command(data)):
        with pytest.raises(OrderError):
            read()


def test_envelopes_agree_with_the_library_both_ways() -> None:
    signer = CryptoSigner.generate_ed25519()
    public = signer.public_key.keyval["public"]
    assert signer.public_key.keyid == key_id(public)
    theirs = LibraryEnvelope(command_bytes(GOOD), COMMAND_TYPE, {})
    theirs.sign(signer)
    ours = open_envelope(json.dumps(theirs.to_dict()).encode(), COMMAND_TYPE)
    assert (ours.signed_bytes, ours.keyid) == (theirs.pae(), signer.public_key.keyid)

    made = make_envelope(
        command_bytes(GOOD), COMMAND_TYPE, key_id(public), lambda data: bytes.fromhex(signer.sign(data).signature)
    )
    LibraryEnvelope.from_dict(json.loads(made)).verify([signer.public_key], 1)
    assert b64decode(json.loads(made)["payload"]) == command_bytes(GOOD)


def test_an_operator_list_names_everyone_once_and_survives_newer_fields() -> None:
    listed = OperatorList(operators=(ANNA,))
    newer = msgspec.json.encode({**msgspec.to_builtins(listed), "since": "later"})
    assert parse_operators(newer).by_key() == {KEY.keyid: ANNA}
    for bad in (
        (ANNA, ANNA),
        (ANNA, msgspec.structs.replace(ANNA, name="bert")),
        (msgspec.structs.replace(ANNA, name="Anna B"),),
        (msgspec.structs.replace(ANNA, public_key="00"),),
        (msgspec.structs.replace(ANNA, valid_until="soon"),),
    ):
        with pytest.raises(OrderError):
            check_operators(OperatorList(operators=bad))


def test_only_a_greater_version_is_newer() -> None:
    check_newer(1, None, "device")
    check_newer(8, 7, "device")
    for version in (7, 6):
        with pytest.raises(OrderError, match="is not above 7"):
            check_newer(version, 7, "device")


def test_numbers_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(OrderError):
        read_strictly(b'{"a": Infinity}')
