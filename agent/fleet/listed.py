"""Who may sign what lies on the broker, by the registry's signed operator list, and what that says of a document.

Rules:
- The list is verified as a board verifies it; what is trusted of the registry is kept in the operator's state folder.
- Where no registry is named, or it cannot be asked, nothing is known of a signature: that is said, never "good".
- A signature is judged as boards judge it now: a key that has run out or was taken out since signs nothing any more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from agent.core.command import Recipient, check_issuer
from agent.core.desired import Desired
from agent.core.envelope import Sealed
from agent.core.operators import Operator, parse_operators
from agent.core.ports import Clock
from agent.errors import BoardfitError, OrderError
from agent.fleet.settings import FleetSettings


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a signature. ``holds`` None: nothing, ``reason`` says why."""

    holds: bool | None
    reason: str


class Listed:
    """The operators of a registry, or why they are not known."""

    def __init__(self, operators: dict[str, Operator] | None, problem: str = "") -> None:
        self._operators, self._problem = operators, problem

    def judge(self, scope: str, sealed: Sealed, desired: Desired, clock: Clock) -> Standing:
        """Return how the signature of a desired state stands that lies on a scope's topic."""
        if self._operators is None:
            return Standing(holds=None, reason=self._problem)
        from agent.signatures import verify_ed25519

        operator = self._operators.get(sealed.keyid)
        if operator is None:
            return Standing(holds=False, reason="the key is on no list, boards take no notice of it")
        if not verify_ed25519(operator.public_key, sealed.signature, sealed.signed_bytes):
            return Standing(holds=False, reason=f"the signature is not {operator.name}'s")
        to = desired.audience
        if scope != (to.device or to.scope):
            return Standing(holds=False, reason=f"it was signed for another scope, {to.device or to.scope}")
        here = Recipient(fleet=to.fleet, device=to.device or "", groups=(), epoch="", now=clock.utc())
        try:
            check_issuer(desired.issuer, desired.issued_at, "set-desired", operator, here)
        except OrderError as error:
            return Standing(holds=False, reason=error.problem)
        return Standing(holds=True, reason=f"{operator.name}, {operator.role}")


def listed(settings: FleetSettings, folder: Path, clock: Clock) -> Listed:
    """Return the operators of the registry that the settings name. Args: folder: the operator's state."""
    if settings.registry is None:
        return Listed(None, "no registry is named")
    from agent.registry.cache import Cache
    from agent.registry.client import RegistryClient
    from agent.registry.operators import fetch_operators

    url, root = settings.registry
    own = folder / "registries" / hashlib.sha256(f"{url}\0{root}".encode()).hexdigest()[:16]
    try:
        client = RegistryClient(url, root, own, Cache(own / "cache"), clock=clock)
        client.refresh()
        document = fetch_operators(client)
        return Listed({} if document is None else parse_operators(document).by_key())
    except BoardfitError as error:
        return Listed(None, error.problem)
