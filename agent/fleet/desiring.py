"""Desired states from the operator's side: what is asked for now, a new version of it, and which boards have taken it.

Rules:
- A document holds all that is wanted of its scope. It is never mended from what lies on the broker: what we sign is
  only what the operator gave, and what agent.yaml would refuse is refused here already.
- A version is above every one that boards report for the scope and above the one on the broker; a number from there is
  believed up to a bound only, so that nobody can use the numbers up.
- A document of the broker is shown with its signature's standing, which ``agent.fleet.listed`` judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from agent.config import parse_caps, parse_schedule
from agent.core.budget import parse_budgets, parse_objective
from agent.core.desired import Desired, DesiredAudience, DesiredSettings, read_desired
from agent.core.envelope import DESIRED_TYPE, Sealed, open_envelope
from agent.core.payloads import Reported
from agent.core.topics import check_id, desired_topic, fleet_filter, group_desired_filter, parse_topic
from agent.errors import ConfigError, OrderError, ReportError
from agent.fleet.link import Link
from agent.fleet.listed import Standing
from agent.fleet.plain import LONG, plain
from agent.fleet.signing import OperatorKey

MAX_BELIEVED_VERSION = 2**40
MAX_KEPT = 100_000
#: Says of the scope that a document lies on, its envelope and what it asks for, how its signature stands.
Judge = Callable[[str, Sealed, Desired], Standing]


class Lying(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on a desired topic. ``desired`` None: it cannot be read, ``problem`` says why."""

    scope: str  # all, group:<name>, or the board's name
    keyid: str | None = None
    desired: Desired | None = None
    problem: str | None = None
    signature: Standing = Standing(holds=None, reason="not asked")


def read_all(link: Link, judge: Judge | None = None) -> dict[str, Lying]:
    """Return what every desired topic of the fleet holds. Raises: ReportError."""
    found: dict[str, Lying] = {}

    def take(topic: str, payload: bytes) -> None:
        try:
            place = parse_topic(topic)
        except ReportError:
            return
        scope = place.device or ("all" if place.group is None else f"group:{place.group}")
        if not payload:
            found.pop(scope, None)
        elif len(found) < MAX_KEPT:
            found[scope] = _read(scope, payload, judge)

    for pattern in (fleet_filter(link.fleet, "desired"), group_desired_filter(link.fleet)):
        link.hear(pattern, take)
        link.settle()
    return found


def _read(scope: str, payload: bytes, judge: Judge | None) -> Lying:
    try:
        sealed = open_envelope(payload, DESIRED_TYPE)
        made = Lying(scope=scope, keyid=sealed.keyid, desired=(desired := read_desired(sealed.payload)))
        return made if judge is None else msgspec.structs.replace(made, signature=judge(scope, sealed, desired))
    except OrderError as error:
        return Lying(scope=scope, problem=plain(error.problem, LONG))


def check_settings(settings: DesiredSettings) -> None:
    """Raise ConfigError where every board would refuse these settings."""
    for name, task in settings.tasks.items():
        if task.budgets is not None:
            parse_budgets(task.budgets, where=f"tasks.{name}.budgets")
        if task.objective is not None:
            if not task.objective:
                raise ConfigError(f"tasks.{name}.objective is empty", fix='name one, like "minimize latency_p95"')
            for text in task.objective:
                parse_objective(text, where=f"tasks.{name}.objective")
    if settings.schedule is not None:
        parse_schedule(list(settings.schedule))
    if settings.caps is not None:
        parse_caps(dict(settings.caps))


def audience_of(fleet: str, scope: str) -> DesiredAudience:
    """Return the audience of ``all``, ``group:<name>`` or a board's name. Raises: ConfigError."""
    if scope == "all":
        return DesiredAudience(fleet=fleet)
    if scope.startswith("group:"):
        return DesiredAudience(fleet=fleet, group=check_id(scope.removeprefix("group:"), where="group"))
    return DesiredAudience(fleet=fleet, device=check_id(scope, where="board"))


def next_version(audience: DesiredAudience, lying: Lying | None, reported: Iterable[dict[str, int]]) -> int:
    """Return a version that no board and no document has reached."""
    seen = [versions.get(audience.scope, 0) for versions in reported]
    if lying is not None and lying.desired is not None:
        seen.append(lying.desired.version)
    return 1 + max((version for version in seen if 0 <= version < MAX_BELIEVED_VERSION), default=0)


def publish(link: Link, key: OperatorKey, desired: Desired) -> None:
    """Sign a new version and leave it retained. Raises: ReportError: the broker. OrderError: it is too long."""
    to = desired.audience
    topic = desired_topic(to.fleet, to.device, to.group)
    sent = link.publish(topic, key.sign_desired(desired), retain=True)
    if not link.wait(lambda: sent.state != "sent", 30.0) or sent.state != "acked":
        raise ReportError(
            f"the broker did not take {topic}: {sent.reason or 'no answer'}", fix="check the access there"
        )


class Taking:
    """Which boards have taken a version, by what they report."""

    def __init__(self, scope: str, version: int, boards: Iterable[str]) -> None:
        self.scope, self.version = scope, version
        self.waiting = set(boards)
        self.taken: list[str] = []
        self.refused: dict[str, str] = {}

    def take(self, device: str, reported: Reported) -> None:
        """Look at one board's settings in force."""
        if device not in self.waiting:
            return
        if reported.desired_versions.get(self.scope, 0) >= self.version:
            self.waiting.discard(device)
            self.taken.append(device)
        elif reported.desired_error_scope == self.scope and reported.desired_error_version == self.version:
            self.waiting.discard(device)
            self.refused[device] = plain(reported.desired_error or "no reason given", LONG)
