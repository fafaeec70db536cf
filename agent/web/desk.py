"""Who is signed in, and what was wished for. Lives in the server's event loop and knows no HTTP.

::

    challenge -> (signed on the operator's machine) -> pen + a link that counts once -> session of a browser
    browser: wish -> pen takes it -> the person says yes or no there -> the pen tells how it fares -> browser

Rules:
- A pen is an operator's command that runs: as long as it asks for wishes, its sessions live. When it ends, or is silent
  for ``SILENT_S``, or the operator is no longer listed, they end.
- A challenge is given up at the first answer to it, right or wrong.
- Everything is bounded; nothing is stored. Several consoles do not share sessions.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import msgspec

from agent.core.envelope import SIGN_IN_TYPE, open_envelope
from agent.core.operators import Operator, OperatorList
from agent.errors import OrderError
from agent.fleet.plain import LONG, plain
from agent.fleet.sign_in import VALID_S, check_operator, judge_sign_in, read_sign_in, why_not
from agent.fleet.wishes import FINAL, Told, Wish
from agent.signatures import verify_ed25519

MAX_CHALLENGES = 256
MAX_PENS = 100
MAX_SESSIONS = 20  # of one pen
MAX_WISHES = 100
MAX_OPEN_WISHES = 20
SILENT_S = 40.0
_LINK_S = 120.0

Now = Callable[[], datetime]


class WishNow(msgspec.Struct, kw_only=True):
    """A wish and how it stands. ``text``: what the operator's machine says of it."""

    wish: Wish
    state: str = "asked"
    text: str = ""
    command: str | None = None
    taken: bool = False


class Pen:
    """One operator's command that is running."""

    def __init__(self, operator: Operator, at: float) -> None:
        self.operator = operator
        self.token = secrets.token_urlsafe(32)
        self.seen = at
        self.wishes: OrderedDict[str, WishNow] = OrderedDict()
        self.woken = asyncio.Event()


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One browser that an operator has let in. ``csrf`` must come with everything that asks for something."""

    token: str
    csrf: str
    pen_token: str


class Desk:
    """All challenges, pens and sessions of a console. Args: changed: told of a pen with news for its browsers."""

    def __init__(
        self,
        now: Now,
        changed: Callable[[str], None] = lambda _: None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now, self._changed, self._monotonic_s = now, changed, monotonic_s
        self._challenges: OrderedDict[str, float] = OrderedDict()
        self._links: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._pens: dict[str, Pen] = {}
        self._sessions: dict[str, Session] = {}

    def challenge(self) -> str:
        """Return a nonce that may be answered once, within ``VALID_S``."""
        at = self._monotonic_s()
        for nonce in [nonce for nonce, until in self._challenges.items() if until <= at]:
            del self._challenges[nonce]
        while len(self._challenges) >= MAX_CHALLENGES:
            self._challenges.popitem(last=False)
        nonce = secrets.token_hex(32)
        self._challenges[nonce] = at + VALID_S
        return nonce

    def sign_in(self, envelope: bytes, nonce: str, console: str, listed: OperatorList) -> tuple[Pen, str]:
        """Let an operator in. Returns: his pen, and a word that opens a session once.

        Raises: OrderError: why not.
        """
        until = self._challenges.pop(nonce, None)
        if until is None or until <= self._monotonic_s():
            raise OrderError("the challenge was answered before, or is too old", fix="sign in again", cause="replay")
        sealed = open_envelope(envelope, SIGN_IN_TYPE)
        operator = listed.by_key().get(sealed.keyid)
        if operator is None:
            raise OrderError("the key is not in the operator list", fix="have it added with `boardfit fleet keys add`")
        if not verify_ed25519(operator.public_key, sealed.signature, sealed.signed_bytes):
            raise OrderError("the signature does not hold")
        judge_sign_in(read_sign_in(sealed.payload), operator, console, nonce, self._now())
        self._sweep()
        if len(self._pens) >= MAX_PENS:
            raise OrderError("too many operators are signed in", fix="try again later")
        pen = Pen(operator, self._monotonic_s())
        self._pens[pen.token] = pen
        return pen, self._link(pen)

    def _link(self, pen: Pen) -> str:
        word = secrets.token_urlsafe(24)
        self._links[word] = (pen.token, self._monotonic_s() + _LINK_S)
        while len(self._links) > MAX_PENS:
            self._links.popitem(last=False)
        return word

    def open_session(self, word: str) -> Session:
        """Turn the word of a link into a session; it counts once. Raises: OrderError."""
        pen_token, until = self._links.pop(word, ("", 0.0))
        pen = self._alive(pen_token)
        if pen is None or until <= self._monotonic_s():
            raise OrderError("this link was used before, or is too old", fix="run `boardfit fleet sign-in` again")
        mine = [session for session in self._sessions.values() if session.pen_token == pen_token]
        if len(mine) >= MAX_SESSIONS:
            del self._sessions[mine[0].token]
        made = Session(token=secrets.token_urlsafe(32), csrf=secrets.token_urlsafe(24), pen_token=pen_token)
        self._sessions[made.token] = made
        return made

    def session(self, token: str | None) -> tuple[Session, Pen] | None:
        """Return a session and its pen; None where it has ended."""
        found = self._sessions.get(token or "")
        pen = None if found is None else self._alive(found.pen_token)
        return None if found is None or pen is None else (found, pen)

    def close_session(self, token: str) -> None:
        """Sign a browser out."""
        self._sessions.pop(token, None)

    def check_listed(self, pen: Pen, listed: OperatorList) -> None:
        """Hold a pen to the operator list of now: a changed role counts at once. Raises: OrderError: he is out."""
        found = listed.by_key().get(pen.operator.keyid)
        try:
            if found is None:
                raise OrderError(f"{pen.operator.name}'s key is no longer in the operator list")
            check_operator(found, self._now())
        except OrderError:
            self.end(pen)
            raise
        if found.role != pen.operator.role:
            pen.operator = found
            self._changed(pen.token)

    def pen(self, token: str) -> Pen:
        """Return a pen by its token, and note that it is there. Raises: OrderError: it has ended."""
        pen = self._alive(token)
        if pen is None:
            raise OrderError("this sign-in has ended", fix="run `boardfit fleet sign-in` again")
        pen.seen = self._monotonic_s()
        return pen

    def end(self, pen: Pen) -> None:
        """End a pen and its sessions."""
        if self._pens.pop(pen.token, None) is None:
            return
        for token in [token for token, session in self._sessions.items() if session.pen_token == pen.token]:
            del self._sessions[token]
        pen.woken.set()
        self._changed(pen.token)

    def wish(self, pen: Pen, wish: Wish) -> WishNow:
        """Pass a wish on. Raises: OrderError: the role does not allow it, or too many are open."""
        refusal = why_not(wish.verb, pen.operator.role)
        if refusal is not None:
            raise OrderError(f"{wish.verb} cannot be asked for: {refusal}", cause="role")
        if sum(one.state not in FINAL for one in pen.wishes.values()) >= MAX_OPEN_WISHES:
            raise OrderError("too much is asked for at once", fix="answer what is open in the terminal")
        made = pen.wishes[wish.id] = WishNow(wish=wish)
        while len(pen.wishes) > MAX_WISHES:
            pen.wishes.popitem(last=False)
        pen.woken.set()
        self._changed(pen.token)
        return made

    def told(self, pen: Pen, told: Told) -> None:
        """Note how a wish fares; of a wish that has ended nothing more is heard."""
        found = pen.wishes.get(told.id)
        if found is None or found.state in FINAL:
            return
        found.state, found.text = told.state, plain(told.text, LONG * 4)
        found.command = plain(told.command) if told.command else found.command
        self._changed(pen.token)

    async def wishes_for(self, pen: Pen, wait_s: float) -> list[Wish]:
        """Return wishes that the pen has not had; wait for one up to ``wait_s``."""
        fresh = self._fresh(pen)
        if not fresh:
            pen.woken.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(pen.woken.wait(), wait_s)
            fresh = self._fresh(pen)
        return fresh

    @staticmethod
    def _fresh(pen: Pen) -> list[Wish]:
        fresh = [one for one in pen.wishes.values() if not one.taken]
        for one in fresh:
            one.taken = True
        return [one.wish for one in fresh]

    def _alive(self, token: str) -> Pen | None:
        pen = self._pens.get(token)
        if pen is not None and self._monotonic_s() - pen.seen > SILENT_S:
            self.end(pen)
            return None
        return pen

    def _sweep(self) -> None:
        for token in list(self._pens):
            self._alive(token)
