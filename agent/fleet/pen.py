"""The operator's side of a console: signs in with the operator's key, takes wishes, tells how they fare.

Rules:
- The console is not trusted: it is given one signed statement for its own address, which serves for nothing else, and
  whatever it hands over is read as strictly as anything from outside.
- Asking for wishes goes on beside the work, so that the sign-in lives as long as this object is open.

Leaves what becomes of a wish to ``agent.verbs.fleet_wishes``.
"""

from __future__ import annotations

import json
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agent.clock import iso
from agent.core.ports import Clock
from agent.errors import ConfigError, OrderError, ReportError
from agent.fleet.plain import LONG, plain
from agent.fleet.sign_in import SignIn, check_secrecy, origin_of
from agent.fleet.signing import OperatorKey
from agent.fleet.wishes import MAX_BYTES, Told, Wish, read_wish

TIMEOUT_S = 30.0  # longer than a console keeps a question for wishes open
_AGAIN_S = 3.0
MAX_WAITING = 100


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """What a console answers to a signature that it believes. ``word`` opens a browser's session once."""

    token: str
    word: str
    operator: str
    role: str


class Pen:
    """One sign-in at one console. Close it, or use it as a context manager.

    Args: taken: called with each wish, from a thread of its own. ended: called once with the reason when the console
    ends it. ca: certificates that the console's is signed by, where the system does not know them.
    Raises: ConfigError: an address that is none, or not protected. OrderError: the console refuses. ReportError: it
    cannot be reached.
    """

    def __init__(
        self,
        url: str,
        key: OperatorKey,
        name: str,
        clock: Clock,
        *,
        taken: Callable[[Wish], None],
        ended: Callable[[str], None],
        ca: Path | None = None,
    ) -> None:
        self.console = origin_of(url)
        check_secrecy(self.console)
        self._taken, self._ended = taken, ended
        self._stopping = threading.Event()
        self._open = urllib.request.build_opener(
            urllib.request.ProxyHandler({}) if "127.0.0.1" in self.console else urllib.request.ProxyHandler(),
            urllib.request.HTTPSHandler(context=_trusting(ca)),
            _NoRedirect(),
        ).open
        self.signed_in = self._sign_in(key, name, clock)
        self._thread = threading.Thread(target=self._run, name="pen", daemon=True)

    def __enter__(self) -> Pen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def link(self) -> str:
        """The address that lets one browser in, once. What follows the # never travels in a request's address."""
        return f"{self.console}/sign-in#{self.signed_in.word}"

    def close(self) -> None:
        """End the sign-in; the browsers are read-only from now on."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        try:
            self._ask("/pen/end", {}, self.signed_in.token)
        except (OrderError, ReportError):
            return

    def tell(self, told: Told) -> None:
        """Tell how a wish fares; a console that is away does not hear it."""
        try:
            self._ask("/pen/told", msgspec.to_builtins(told), self.signed_in.token)
        except (OrderError, ReportError):
            return

    def _sign_in(self, key: OperatorKey, name: str, clock: Clock) -> SignedIn:
        nonce = str(self._ask("/sign-in/challenge", {}).get("nonce"))
        statement = SignIn(
            console=self.console, nonce=nonce, issuer=name, issued_at=iso(clock.utc()), schema="boardfit.sign-in/1"
        )
        answer = self._ask("/sign-in/answer", {"nonce": nonce, "envelope": key.sign_in(statement).decode()})
        try:
            return msgspec.convert(answer, SignedIn)
        except msgspec.ValidationError as error:
            raise ReportError(f"{self.console} does not answer as a console does", fix="check the address") from error

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                found = self._ask("/pen/wishes", {}, self.signed_in.token).get("wishes", [])
            except OrderError as error:
                if not self._stopping.is_set():
                    self._ended(str(error))
                return
            except ReportError:
                self._stopping.wait(_AGAIN_S)
                continue
            for one in found[:MAX_WAITING] if isinstance(found, list) else ():
                try:
                    self._taken(read_wish(one))
                except OrderError:
                    continue  # the console checks the same; one that does not is not worth a word

    def _ask(self, path: str, document: Any, token: str | None = None) -> dict[str, Any]:
        """Return the console's answer. Raises: OrderError: it refuses. ReportError: it cannot be reached."""
        head = {"content-type": "application/json", "accept": "application/json"}
        if token is not None:
            head["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(  # noqa: S310 - http and https only, see origin_of
            self.console + path, json.dumps(document).encode(), head, method="POST"
        )
        try:
            with self._open(request, timeout=TIMEOUT_S) as answer:
                return _document(answer.read(MAX_BYTES * MAX_WAITING))
        except urllib.error.HTTPError as error:
            with error:
                said = _document(error.read(MAX_BYTES))
            problem = plain(str(said.get("problem") or f"it answers {error.code}"), LONG)
            fix = said.get("fix")
            raise OrderError(
                f"{self.console}: {problem}", fix=plain(fix, LONG) if isinstance(fix, str) else None
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ReportError(f"{self.console} cannot be reached: {reason}", fix="check the address") from error


def _trusting(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca} cannot be used: {error}", fix="give certificates in PEM form") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What was signed for one address goes to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise ReportError("the answer is not a console's", fix="check the address") from error
    if not isinstance(found, dict):
        raise ConfigError("the answer is not a console's", fix="check the address")
    return found
