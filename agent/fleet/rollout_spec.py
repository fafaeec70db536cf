"""What a rollout is to do, read from the operator's words: waves, the share that must succeed, when to stop. Pure.

::

    1,5%,25%,100%        waves: up to so many boards, or such a share of them, counted from the start of the rollout
    rollback>1%          a rule: stop when more than that share of a wave's boards has done so

Rules:
- A share is rounded up to a whole board, a wave is never smaller than the one before it, and with ``per_class`` each
  class of board is counted by itself, so that each has its own first board.
- A rule counts the boards of one wave that were given work: of one board that fails, 100 % have failed.
- A breach gives back what served before, unless ``pause`` is asked for: the operator has said beforehand what is bad,
  what served before is known to be good there, and nobody may be awake.
- Every wait has an end: an answer, a measurement, a deployment, a board that is away.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from agent.core.command import MAX_DEADLINE_S, VERBS
from agent.core.units import parse_quantity
from agent.errors import ConfigError

Kind = Literal["rollback", "failed", "no_answer", "slower"]
#: What an abort rule may count, and what each means.
KINDS: dict[str, str] = {
    "rollback": "it went back by itself after the switch",
    "failed": "it could not measure or deploy the candidate, or the candidate does not hold there",
    "no_answer": "it was given work and went silent",
    "slower": "its own measurement is over its latency budget",
}
DEFAULT_RULES = ("rollback>1%",)
ANSWER_S = 600.0  # as long as a command is valid: after that nobody will take it any more
MARGIN_S = 120.0  # for what was done to be told


class Wave(msgspec.Struct, frozen=True, kw_only=True):
    """Up to ``count`` boards, or the ``share`` (0 to 1) of them; one of the two is set."""

    text: str
    count: int | None = None
    share: float | None = None

    def target(self, total: int) -> int:
        """Return how many of ``total`` boards may have been given work by the end of this wave."""
        wanted = self.count if self.count is not None else math.ceil((self.share or 0.0) * total - 1e-9)
        return max(0, min(total, wanted))


class AbortRule(msgspec.Struct, frozen=True, kw_only=True):
    """Stop when more than ``above`` (0 to 1) of a wave's boards ended so."""

    kind: Kind
    above: float

    @property
    def text(self) -> str:
        """The rule as it is written."""
        return f"{self.kind}>{100 * self.above:.6g}%"


class RolloutSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The whole order. ``candidate`` None: each board what its own decision chooses. Times in seconds, shares 0 to 1.

    ``wait_s``: how long boards that are away are waited for before they are reported as not reached.
    """

    task: str
    candidate: str | None
    address: str
    waves: tuple[Wave, ...]
    success: float
    rules: tuple[AbortRule, ...]
    soak_s: float
    per_class: bool
    on_breach: Literal["pause", "rollback"] = "rollback"
    wait_s: float = 86400.0
    bench_s: float = VERBS["bench"].deadline_s
    deploy_s: float = VERBS["deploy"].deadline_s

    def targets(self, total: int) -> tuple[int, ...]:
        """Return how many of ``total`` boards may have been given work by the end of each wave."""
        made: list[int] = []
        for wave in self.waves:
            made.append(max(wave.target(total), made[-1] if made else min(1, total)))
        return tuple(made)

    def deadline_of(self, verb: str) -> float:
        """Return for how long a board may work on a verb."""
        return {"bench": self.bench_s, "deploy": self.deploy_s}.get(verb, VERBS[verb].deadline_s)


def parse_waves(text: str) -> tuple[Wave, ...]:
    """Read waves like ``1,5%,25%,100%``. Raises: ConfigError: not numbers or shares, or one smaller than before."""
    example = "write them like 1,5%,25%,100%"
    waves: list[Wave] = []
    for word in (part.strip() for part in text.split(",")):
        if re.fullmatch(r"[1-9][0-9]{0,6}", word):
            waves.append(Wave(text=word, count=int(word)))
        elif re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?\s*%", word):
            waves.append(Wave(text=word, share=_share(word, "--waves")))
        else:
            raise ConfigError(f"--waves: {word!r} is neither a number of boards nor a share", fix=example)
    for before, after in pairwise(waves):
        if (before.count or 0) > (after.count or math.inf) or (before.share or 0.0) > (after.share or math.inf):
            raise ConfigError(f"--waves: {after.text} comes after {before.text} and is smaller", fix=example)
    return tuple(waves)


def parse_rules(texts: Sequence[str]) -> tuple[AbortRule, ...]:
    """Read rules like ``rollback>1%``. Raises: ConfigError: an unknown kind, or not a share."""
    rules: list[AbortRule] = []
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        kind, sign, share = (part.strip() for part in text.partition(">"))
        if not sign or kind not in KINDS:
            known = ", ".join(KINDS)
            raise ConfigError(
                f"--abort-on: {text!r} is not a rule", fix=f"write it like rollback>1%, with one of {known}"
            )
        if any(rule.kind == kind for rule in rules):
            raise ConfigError(f"--abort-on: there are two rules for {kind}", fix="keep one")
        rules.append(AbortRule(kind=kind, above=_share(share, "--abort-on")))  # type: ignore[arg-type]
    return tuple(rules)


def parse_success(text: str) -> float:
    """Read the share of a wave's boards that must succeed. Raises: ConfigError."""
    share = _share(text, "--success")
    if share <= 0:
        raise ConfigError("--success: 0 would prove nothing", fix="write it like 99%")
    return share


def parse_duration(text: str, where: str) -> float:
    """Read a time of zero or more, in seconds. Raises: ConfigError."""
    found = parse_quantity(text, "time", where=where)
    if found < 0:
        raise ConfigError(f"{where}: {text!r} is below zero", fix="write it like 30min")
    return found


def parse_deadline(text: str, where: str) -> float:
    """Read for how long a board may work on an order, in seconds. Raises: ConfigError: a board would refuse it."""
    found = parse_duration(text, where)
    if not 0 < found <= MAX_DEADLINE_S:
        raise ConfigError(f"{where}: {text!r} is not above zero and at most 24 h", fix="write it like 2h")
    return found


def _share(text: str, where: str) -> float:
    if not text.strip().endswith("%"):
        raise ConfigError(f"{where}: {text!r} is not a share", fix="write it with %, like 99%")
    share = parse_quantity(text, "ratio", where=where)
    if not 0 <= share <= 1:
        raise ConfigError(f"{where}: {text!r} is not between 0% and 100%", fix="write it like 99%")
    return share
