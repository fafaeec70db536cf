"""Signing in with a real key, and everything with which nobody gets in or gets anything done."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import iso
from agent.core.operators import Operator, OperatorList
from agent.errors import ConfigError
from agent.fleet.sign_in import SignIn, check_secrecy, origin_of
from agent.fleet.signing import OperatorKey
from agent.fleet.wishes import MAX_ADDRESS
from agent.web import OperatorsFile
from agent.web.desk import MAX_OPEN_WISHES
from benchmarks.simulated_console_board import FLEET
from tests.web.asking import Answer, ask
from tests.web.conftest import Stored

Serve = Callable[..., Stored]


class Anna:
    """An operator's key and the list that a console goes by."""

    def __init__(self, folder: Path, role: str = "operator") -> None:
        self.key = OperatorKey.make(folder / "anna.key")
        self.list = folder / "operators.json"
        self.listed(role)

    def listed(self, role: str | None, days: float = 30) -> None:
        """Write the list anew; None: without her."""
        until = iso(datetime.now(timezone.utc) + timedelta(days=days))
        anna = Operator(name="anna", public_key=self.key.public_key, role=role or "", valid_until=until)
        self.list.write_bytes(msgspec.json.encode(OperatorList(operators=(anna,) if role else ())))

    def statement(self, to: Stored, /, **changes: Any) -> tuple[str, bytes]:
        """Return a nonce and the envelope that answers it."""
        nonce = ask(to.url, "/sign-in/challenge", method="POST", body={}).document["nonce"]
        made = SignIn(
            console=to.url, nonce=nonce, issuer="anna", issued_at=iso(datetime.now(timezone.utc)),
            schema="boardfit.sign-in/1",
        )  # fmt: skip
        return nonce, self.key.sign_in(msgspec.structs.replace(made, **changes))


@pytest.fixture
def anna(tmp_path: Path) -> Anna:
    return Anna(tmp_path)


@pytest.fixture
def console(serve: Serve, anna: Anna) -> Stored:
    return serve(operators=OperatorsFile(anna.list))


def answer(console: Stored, nonce: str, envelope: bytes, **headers: str) -> Answer:
    body = {"nonce": nonce, "envelope": envelope.decode()}
    return ask(console.url, "/sign-in/answer", method="POST", body=body, **headers)


class Browser:
    """A session as a browser has it."""

    def __init__(self, console: Stored, word: str) -> None:
        self.console = console
        opened = ask(console.url, "/api/session", method="POST", body={"word": word})
        assert opened.status == 200, opened.body
        self.set_cookie = opened.headers["set-cookie"]
        self.cookie = self.set_cookie.partition(";")[0]
        self.csrf = self.session["csrf"]

    @property
    def session(self) -> dict[str, Any]:
        return ask(self.console.url, "/api/session", Cookie=self.cookie).document

    def wish(self, verb: str = "bench", address: str = "all", arguments: Any = None, **headers: str) -> Answer:
        body = {"fleet": FLEET, "verb": verb, "address": address, "arguments": arguments or {}}
        sent = {"Cookie": self.cookie, "X-Boardfit-CSRF": self.csrf, **headers}
        return ask(self.console.url, "/api/wishes", method="POST", body=body, **sent)


def signed_in(console: Stored, anna: Anna) -> tuple[str, Browser]:
    """Return the pen's token and a browser's session."""
    given = answer(console, *anna.statement(console))
    assert given.status == 200, given.body
    return given.document["token"], Browser(console, given.document["word"])


def pen(console: Stored, token: str, path: str, **body: Any) -> Answer:
    return ask(console.url, f"/pen/{path}", method="POST", body=body, authorization=f"Bearer {token}")


def test_a_key_that_is_listed_signs_in_and_its_wish_goes_to_its_machine(console: Stored, anna: Anna) -> None:
    token, browser = signed_in(console, anna)
    assert (browser.session["operator"], browser.session["role"]) == ("anna", "operator")
    assert "HttpOnly" in browser.set_cookie
    assert "SameSite=strict" in browser.set_cookie
    made = browser.wish("bench", "group:line-2", {"task": "defects"})
    assert made.status == 202
    (wish,) = pen(console, token, "wishes").document["wishes"]
    assert (wish["verb"], wish["address"], wish["arguments"]) == ("bench", "group:line-2", {"task": "defects"})
    assert pen(console, token, "told", id=wish["id"], state="done", text="1 succeeded\u202e").status == 200
    (known,) = ask(console.url, "/api/wishes", Cookie=browser.cookie).document["wishes"]
    assert (known["state"], known["text"]) == ("done", "1 succeeded·")
    assert pen(console, token, "told", id=wish["id"], state="working").status == 200  # after the end: nothing changes
    assert ask(console.url, "/api/wishes", Cookie=browser.cookie).document["wishes"][0]["state"] == "done"


def test_when_the_command_ends_so_does_the_session(console: Stored, anna: Anna) -> None:
    token, browser = signed_in(console, anna)
    pen(console, token, "end")
    assert not browser.session["signed_in"]
    assert browser.wish().status == 403
    assert pen(console, token, "wishes").status == 403


def test_one_who_signs_out_is_out(console: Stored, anna: Anna) -> None:
    _, browser = signed_in(console, anna)
    sent = {"Cookie": browser.cookie, "X-Boardfit-CSRF": browser.csrf}
    assert ask(console.url, "/api/session", method="DELETE", **sent).status == 200
    assert browser.wish().status == 403


def test_a_challenge_is_answered_once(console: Stored, anna: Anna) -> None:
    nonce, envelope = anna.statement(console)
    assert answer(console, nonce, envelope).status == 200
    again = answer(console, nonce, envelope)
    assert again.status == 403
    assert "answered before" in again.document["problem"]


def test_a_challenge_that_was_never_given_is_worth_nothing(console: Stored, anna: Anna) -> None:
    nonce, envelope = anna.statement(console, nonce="ab" * 32)
    assert "answers another challenge" in answer(console, nonce, envelope).document["problem"]
    assert answer(console, "ab" * 32, envelope).status == 403


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"console": "http://127.0.0.1:1"}, "it was signed for http://127.0.0.1:1"),
        ({"issuer": "bert"}, "the key is not of 'bert'"),
        ({"issued_at": "2020-01-01T00:00:00Z"}, "it was signed at 2020"),
    ],
)
def test_a_statement_for_something_else_is_refused(
    console: Stored, anna: Anna, changes: dict[str, str], says: str
) -> None:
    refused = answer(console, *anna.statement(console, **changes))
    assert refused.status == 403
    assert says in refused.document["problem"]


def test_a_key_that_is_not_listed_is_refused(console: Stored, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Anna(tmp_path / "other")
    refused = answer(console, *other.statement(console))
    assert "not in the operator list" in refused.document["problem"]


def test_a_signature_that_does_not_hold_is_refused(console: Stored, anna: Anna) -> None:
    nonce, envelope = anna.statement(console)
    broken = msgspec.json.decode(envelope)
    broken["signatures"][0]["sig"] = "A" * 86 + "=="
    assert "does not hold" in answer(console, nonce, msgspec.json.encode(broken)).document["problem"]


@pytest.mark.parametrize("envelope", [b"", b"{}", b"x" * 100_000, b'{"payload":"","payloadType":"x","signatures":[]}'])
def test_what_is_no_envelope_is_refused_in_a_sentence(console: Stored, anna: Anna, envelope: bytes) -> None:
    nonce, _ = anna.statement(console)
    assert answer(console, nonce, envelope).status in (400, 403, 413)


@pytest.mark.parametrize(("role", "days"), [("operator", -1), ("emperor", 30)])
def test_a_key_that_has_ended_or_a_role_nobody_knows_is_refused(
    console: Stored, anna: Anna, role: str, days: float
) -> None:
    anna.listed(role, days)
    assert answer(console, *anna.statement(console)).status == 403


def test_a_revoked_operator_is_out_at_the_next_wish(console: Stored, anna: Anna) -> None:
    token, browser = signed_in(console, anna)
    anna.listed(None)
    refused = browser.wish()
    assert refused.status == 403
    assert "no longer in the operator list" in refused.document["problem"]
    assert not browser.session["signed_in"]
    assert pen(console, token, "wishes").status == 403


def test_a_viewer_may_not_wish_for_what_changes_something(console: Stored, anna: Anna) -> None:
    anna.listed("viewer")
    _, browser = signed_in(console, anna)
    refused = browser.wish("deploy", "all", {"task": "defects"})
    assert refused.status == 403
    assert "needs the role operator" in refused.document["problem"]
    assert browser.session["refusals"]["bench"] == "it needs the role operator, and yours is viewer"
    assert browser.session["refusals"]["status"] is None
    assert browser.wish("status").status == 202


def test_a_role_that_changes_counts_at_once(console: Stored, anna: Anna) -> None:
    _, browser = signed_in(console, anna)
    assert browser.wish("bench").status == 202
    anna.listed("viewer")
    assert browser.wish("bench").status == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
def test_a_wish_from_another_page_is_refused(console: Stored, anna: Anna, origin: str) -> None:
    _, browser = signed_in(console, anna)
    assert browser.wish(Origin=origin).status == 403
    assert browser.wish(Origin=console.url).status == 202


def test_a_wish_without_the_pages_word_is_refused(console: Stored, anna: Anna) -> None:
    _, browser = signed_in(console, anna)
    for word in ("", "x", browser.csrf + "x"):
        assert browser.wish(**{"X-Boardfit-CSRF": word}).status == 403
    assert browser.wish(**{"Content-Type": "text/plain"}).status == 400


def test_a_link_opens_one_session(console: Stored, anna: Anna) -> None:
    given = answer(console, *anna.statement(console)).document
    Browser(console, given["word"])
    again = ask(console.url, "/api/session", method="POST", body={"word": given["word"]})
    assert again.status == 403


@pytest.mark.parametrize(
    ("verb", "address", "arguments"),
    [
        ("reboot", "all", {}), ("bench", "", {}), ("bench", "all", {"tasks": 1}), ("deploy", "all", {}),
        ("bench", "x" * (MAX_ADDRESS + 1), {}), ("rollout-abort", "", {"rollout": "../x"}), ("bench", "all", {"x": 1}),
    ],
)  # fmt: skip
def test_a_wish_that_nobody_could_carry_out_is_refused(
    console: Stored, anna: Anna, verb: str, address: str, arguments: Any
) -> None:
    _, browser = signed_in(console, anna)
    assert browser.wish(verb, address, arguments).status == 403


def test_wishes_are_bounded(console: Stored, anna: Anna) -> None:
    _, browser = signed_in(console, anna)
    answers = [browser.wish("status").status for _ in range(MAX_OPEN_WISHES + 1)]
    assert answers == [202] * MAX_OPEN_WISHES + [403]


def test_without_a_list_nobody_signs_in_and_it_is_said_why(serve: Serve, tmp_path: Path) -> None:
    console = serve()
    refused = ask(console.url, "/sign-in/challenge", method="POST", body={})
    assert refused.status == 403
    assert "knows no operator list" in refused.document["problem"]
    assert "knows no operator list" in ask(console.url, "/api/session").document["why"]
    gone = serve(operators=OperatorsFile(tmp_path / "none.json"))
    nonce = ask(gone.url, "/sign-in/challenge", method="POST", body={}).document["nonce"]
    assert "cannot be read" in answer(gone, nonce, b"{}").document["problem"]


def test_over_plain_http_from_elsewhere_nobody_signs_in(console: Stored) -> None:
    refused = ask(console.url, "/sign-in/challenge", method="POST", body={}, Host="192.0.2.1:80")
    assert "is not protected on the way" in refused.document["problem"]
    with pytest.raises(ConfigError, match="not protected"):
        check_secrecy("http://console.example.org")
    check_secrecy("https://console.example.org")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://console.example.org/", "https://console.example.org"), ("console.example.org", "http://console.example.org"),
        ("http://[::1]:8470/fleets", "http://[::1]:8470"), ("https://x:443", "https://x"), ("http://LOCALHOST:1", "http://localhost:1"),
    ],
)  # fmt: skip
def test_an_address_becomes_an_origin(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://a@b", "http://x:99999", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        origin_of(url)
