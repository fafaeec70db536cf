"""What a verb that ran in a child has done, in a few scalars for the job's document. Pure.

Reads what the command line prints with ``--json``; fields it does not know are passed over. What cannot be read is left
out: the exit code stands for itself.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agent.core.payloads import Scalar

MOST_NAMED = 20  # of the models that were pardoned
#: What an exit code of the command line means, where there is no sentence.
MEANINGS = {
    0: "done",
    1: "it failed; the agent's log has the reason",
    2: "usage or configuration",
    3: "no candidate fits",
    4: "the registry is not trusted",
    5: "the deployment was rolled back",
}


class _Named(msgspec.Struct):
    candidate: str


class _Decision(msgspec.Struct):
    id: str
    task: str
    outcome: str | None = None
    reason: str = ""
    winner: _Named | None = None


class _Status(msgspec.Struct):
    candidates: int
    reachable: bool
    versions: dict[str, int] = {}


class _Printed(msgspec.Struct):
    """Every field that any verb's document has; which are there says which verb it was."""

    schema: str = ""
    error: str | None = None
    fix: str | None = None
    result: Any = None
    measurements: list[msgspec.Raw] | None = None
    untried: list[msgspec.Raw] | None = None
    decisions: list[_Decision] | None = None
    status: _Status | None = None
    outcome: str | None = None
    phase: str | None = None
    current: _Named | None = None
    pardoned: list[_Named] | None = None
    settled: list[msgspec.Raw] | None = None


def read_outcome(code: int, printed: bytes) -> tuple[str | None, dict[str, Scalar]]:
    """Return the reason (None when it went well) and the result of a verb.

    Args: code: the exit code, negative for a signal. printed: its standard output.
    """
    try:
        document = msgspec.json.decode(printed, type=_Printed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = _Printed()
    result = _result(document)
    if code == 0:
        return None, result
    if code < 0:
        return f"it was ended by signal {-code}", result
    if document.error is not None:
        return document.error if document.fix is None else f"{document.error}. {document.fix}", result
    reasons = [decision.reason for decision in document.decisions or () if decision.winner is None]
    return "; ".join(reasons) or MEANINGS.get(code, f"exit code {code}"), result


def _result(document: _Printed) -> dict[str, Scalar]:
    result: dict[str, Scalar] = {}
    if document.measurements is not None:
        result |= {"measured": len(document.measurements), "untried": len(document.untried or ())}
    for decision in document.decisions or ():
        prefix = "" if len(document.decisions or ()) == 1 else f"{decision.task}."
        result |= {
            f"{prefix}decision": decision.id,
            f"{prefix}outcome": decision.outcome,
            f"{prefix}candidate": decision.winner.candidate if decision.winner else None,
        }
    if document.status is not None:
        result |= {
            "candidates": document.status.candidates,
            "reachable": document.status.reachable,
            "targets_version": document.status.versions.get("targets"),
        }
    if document.pardoned is not None:
        names = ", ".join(one.candidate for one in document.pardoned[:MOST_NAMED])
        result |= {"pardoned": len(document.pardoned), "candidates": names}
    if document.settled is not None:
        result["settled"] = len(document.settled)
    if document.phase is not None:
        result |= {
            "outcome": document.outcome,
            "phase": document.phase,
            "candidate": document.current.candidate if document.current else None,
        }
    return result
