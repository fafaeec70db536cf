"""The addresses for signing in, wishing, and carrying wishes to the operator's machine.

Rules:
- ``/sign-in/*`` and ``/pen/*`` are for the operator's command, ``/api/*`` for the browser. The command shows its token
  in a header; the browser has a cookie that no script can read, and a word that must come with whatever it asks for.
- Each wish, and each time a command asks for wishes, the operator list is looked at again.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.errors import BoardfitError, ConfigError, OrderError
from agent.fleet.sign_in import VALID_S, WISHES, check_secrecy, why_not
from agent.fleet.wishes import Told, Wish, read_wish
from agent.web.answers import answered, document, json
from agent.web.desk import Desk, Pen, Session
from agent.web.operators import OperatorSource

COOKIE = "boardfit-session"
POLL_S = 12.0
_NOBODY = "this console knows no operator list: start it with --registry and --root, or with --operators"


class SigningRoutes:
    """Handlers of one console. Args: operators: who may sign in; None: nobody."""

    def __init__(self, desk: Desk, operators: OperatorSource | None) -> None:
        self._desk, self._operators = desk, operators

    def routes(self) -> list[Route]:
        """Return the addresses."""
        return [
            Route("/api/session", answered(self.session), methods=["GET"]),
            Route("/api/session", answered(self.open_session), methods=["POST"]),
            Route("/api/session", answered(self.close_session), methods=["DELETE"]),
            Route("/api/wishes", answered(self.wishes), methods=["GET"]),
            Route("/api/wishes", answered(self.wish), methods=["POST"]),
            Route("/sign-in/challenge", answered(self.challenge), methods=["POST"]),
            Route("/sign-in/answer", answered(self.answer), methods=["POST"]),
            Route("/pen/wishes", answered(self.pen_wishes), methods=["POST"]),
            Route("/pen/told", answered(self.pen_told), methods=["POST"]),
            Route("/pen/end", answered(self.pen_end), methods=["POST"]),
        ]

    def pen_of(self, request: Request) -> str | None:
        """Return the token of the pen whose news a browser may hear."""
        found = self._desk.session(request.cookies.get(COOKIE))
        return None if found is None else found[1].token

    async def session(self, request: Request) -> Response:
        """Who the browser is, and what it may wish for."""
        found = self._desk.session(request.cookies.get(COOKIE))
        if found is None:
            return json({"signed_in": False, "why": self._why_nobody(request), "origin": request.state.origin})
        session, pen = found
        operator = pen.operator
        may = {wish: why_not(wish, operator.role) for wish in WISHES}
        return json(
            {"signed_in": True, "operator": operator.name, "role": operator.role, "csrf": session.csrf, "refusals": may}
        )

    async def open_session(self, request: Request) -> Response:
        """Turn the word of a link into a session."""
        word = (await document(request)).get("word")
        made = self._desk.open_session(word if isinstance(word, str) else "")
        response = json({"signed_in": True})
        response.set_cookie(
            COOKIE, made.token, httponly=True, samesite="strict", path="/",
            secure=request.state.origin.startswith("https:"),
        )  # fmt: skip
        return response

    async def close_session(self, request: Request) -> Response:
        """Sign the browser out."""
        session, _ = self._signed_in(request)
        self._desk.close_session(session.token)
        response = json({"signed_in": False})
        response.delete_cookie(COOKIE, path="/")
        return response

    async def wishes(self, request: Request) -> Response:
        """What was wished for, the newest first."""
        found = self._desk.session(request.cookies.get(COOKIE))
        known = [] if found is None else list(found[1].wishes.values())
        return json({"wishes": list(reversed(known))})

    async def wish(self, request: Request) -> Response:
        """Ask the operator's machine for something."""
        _, pen = self._signed_in(request)
        given = await document(request)
        wish = read_wish({**{k: v for k, v in given.items() if k != "id"}, "id": secrets.token_hex(8)})
        await self._still_listed(pen)
        return json(self._desk.wish(pen, wish), 202)

    async def challenge(self, request: Request) -> Response:
        """Give a nonce to sign."""
        why = self._why_nobody(request)
        if why is not None:
            raise OrderError(why)
        return json({"nonce": self._desk.challenge(), "console": request.state.origin, "valid_s": VALID_S})

    async def answer(self, request: Request) -> Response:
        """Let an operator in by what he has signed."""
        why = self._why_nobody(request)
        if why is not None:
            raise OrderError(why)
        given = await document(request)
        nonce, envelope = given.get("nonce"), given.get("envelope")
        if not isinstance(nonce, str) or not isinstance(envelope, str):
            raise ConfigError("a nonce and an envelope are needed")
        pen, word = self._desk.sign_in(envelope.encode(), nonce, request.state.origin, await self._listed())
        operator = pen.operator
        return json({"token": pen.token, "word": word, "operator": operator.name, "role": operator.role})

    async def pen_wishes(self, request: Request) -> Response:
        """Hand wishes to the operator's machine; wait a while for one."""
        pen = self._pen(request)
        await self._still_listed(pen)
        wishes: list[Wish] = await self._desk.wishes_for(pen, POLL_S)
        self._pen(request)  # it may have ended meanwhile
        return json({"wishes": wishes})

    async def pen_told(self, request: Request) -> Response:
        """Note how a wish fares."""
        pen = self._pen(request)
        try:
            told = msgspec.convert(await document(request), Told)
        except msgspec.ValidationError as error:
            raise ConfigError(f"this tells nothing of a wish: {error}") from error
        self._desk.told(pen, told)
        return json({})

    async def pen_end(self, request: Request) -> Response:
        """End a sign-in."""
        self._desk.end(self._pen(request))
        return json({})

    def _why_nobody(self, request: Request) -> str | None:
        if self._operators is None:
            return _NOBODY
        try:
            check_secrecy(request.state.origin)
        except ConfigError as error:
            return str(error)
        return None

    def _pen(self, request: Request) -> Pen:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        return self._desk.pen(token if kind == "Bearer" else "")

    def _signed_in(self, request: Request) -> tuple[Session, Pen]:
        found = self._desk.session(request.cookies.get(COOKIE))
        if found is None:
            raise OrderError("nobody is signed in", fix="run `boardfit fleet sign-in` on your machine")
        word = request.headers.get("x-boardfit-csrf", "")
        if not secrets.compare_digest(word.encode(), found[0].csrf.encode()):
            raise OrderError("this request does not come from the console's own page", cause="csrf")
        return found

    async def _listed(self) -> Any:
        if self._operators is None:
            raise OrderError(_NOBODY)
        try:
            return await run_in_threadpool(self._operators.current)
        except BoardfitError as error:
            raise OrderError(f"the operator list cannot be read: {error.problem}", fix=error.fix) from error

    async def _still_listed(self, pen: Pen) -> None:
        self._desk.check_listed(pen, await self._listed())
