"""A board's decision, read from the message it published, and told in the words of ``boardfit explain``.

Rules:
- What a message does not carry is left out, never made up: the checks of single options are not in it, their reasons
  are; intervals are the winner's only.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from agent.core.budget import Budget, Estimate, parse_objective
from agent.core.decision import Choice, Decision, InCombination, NearestMiss, Option
from agent.core.measurement import OperatingPoint
from agent.core.payloads import DecisionMessage
from agent.core.summaries import OptionSummary
from agent.errors import ConfigError
from agent.select.explain import explain

_POINT = re.compile(r"([^/]+)/(.+) x([0-9]+)")
_FIGURES = {
    "latency_p95": "latency_p95_s",
    "accuracy_top1": "accuracy_top1",
    "energy_per_inference": "energy_per_inference_j",
    "size": "size_bytes",
}


def read_decision(document: dict[str, Any]) -> DecisionMessage | None:
    """Return a stored document as the message that it is; None where it cannot be read as one."""
    try:
        return msgspec.convert(document, DecisionMessage)
    except msgspec.ValidationError:
        return None


def decision_of(message: DecisionMessage) -> Decision:
    """Return as much of the decision as its message tells."""
    options = tuple(_option(option, message) for option in message.options)
    places = [place for place, option in enumerate(message.options) if _is_winner(option, message)]
    winner = options[places[0]] if places else None
    incumbent = None
    if message.incumbent_candidate is not None:
        at = point_of(message.incumbent_point or "")
        same = [one for one in options if (one.candidate, one.point) == (message.incumbent_candidate, at)]
        digest = same[0].artifact_sha256 if same else ""
        incumbent = Choice(candidate=message.incumbent_candidate, artifact_sha256=digest, point=at)
    return Decision(
        id=message.id, task=message.task, decided_at=message.decided_at, class_fingerprint=message.class_fingerprint,
        outcome=message.outcome, reason=message.reason, what_if=message.what_if,
        budgets=tuple(Budget(metric=one.metric, limit=one.limit, text=one.text) for one in message.budgets),
        objectives=tuple(_objectives(message)), options=options,
        winner=None if winner is None else Choice(
            candidate=winner.candidate, artifact_sha256=winner.artifact_sha256, point=winner.point
        ),
        incumbent=incumbent, nearest_miss=_nearest_miss(message, options), combination=_combination(message),
    )  # fmt: skip


def _is_winner(option: OptionSummary, message: DecisionMessage) -> bool:
    """Tell whether an option is the one that was chosen; beside other tasks that need not be the first in rank."""
    if message.candidate is None or message.combination is None:
        return message.candidate is not None and option.rank == 1
    point = OperatingPoint(
        engine=message.engine or "", engine_version="", provider=message.provider or "", threads=message.threads or 0
    )
    return (option.candidate, option.point) == (message.candidate, point.label)


def _combination(message: DecisionMessage) -> InCombination | None:
    part = message.combination
    if part is None:
        return None
    alone = None
    if part.alone_candidate is not None:
        alone = Choice(candidate=part.alone_candidate, artifact_sha256="", point=point_of(part.alone_point or ""))
    return InCombination(
        id=part.id, outcome=part.outcome, tasks=part.tasks, reason=part.reason, alone=alone, metric=part.metric,
        excess_ratio=part.excess_ratio, latency_p95_s=part.latency_p95_s, memory_bytes=part.memory_bytes,
        power_mean_w=part.power_mean_w,
    )  # fmt: skip


def explained(message: DecisionMessage) -> str:
    """Return the decision as text, as the command line tells it."""
    text = explain(decision_of(message))
    if message.options_left_out:
        text += f"\n\n{message.options_left_out} more options were not sent."
    if message.options_untried:
        matter = message.options_untried_that_matter
        text += f"\n\n{message.options_untried} options were not measured in full; {matter} of them could change this."
    return text


def point_of(label: str) -> OperatingPoint:
    """Return the operating point of a label like ``onnxruntime/CPU x2``; engine versions are not in it."""
    match = _POINT.fullmatch(label)
    if match is None:
        return OperatingPoint(engine=label or "unknown", engine_version="", provider="unknown", threads=0)
    return OperatingPoint(engine=match[1], engine_version="", provider=match[2], threads=int(match[3]))


def _objectives(message: DecisionMessage) -> list[Any]:
    found = []
    for text in message.objectives:
        try:
            found.append(parse_objective(text, where="objective"))
        except ConfigError:
            continue  # of a newer version
    return found


def _option(option: OptionSummary, message: DecisionMessage) -> Option:
    values = {metric: getattr(option, name) for metric, name in _FIGURES.items()}
    estimates = {metric: Estimate(value=float(value)) for metric, value in values.items() if value is not None}
    if _is_winner(option, message) and message.latency_p95_s is not None:
        estimates["latency_p95"] = Estimate(
            value=message.latency_p95_s, low=message.latency_p95_low_s, high=message.latency_p95_high_s
        )
    return Option(
        candidate=option.candidate, artifact_sha256=f"{option.candidate} {option.point}", point=point_of(option.point),
        measurement_id="", verdict=option.verdict, standing=option.standing, reason=option.reason,
        estimates=estimates, rank=option.rank, size_bytes=option.size_bytes or 0,
        size_unpacked_bytes=option.size_unpacked_bytes,
    )  # fmt: skip


def _nearest_miss(message: DecisionMessage, options: tuple[Option, ...]) -> NearestMiss | None:
    if message.nearest_miss_candidate is None or message.nearest_miss_metric is None:
        return None
    name, reason = message.nearest_miss_candidate, message.nearest_miss_reason or "no reason was told"
    out = [one for one in options if one.candidate == name and one.standing in ("over_budget", "unknown")]
    found = next((one for one in out if reason in one.reason or one.reason in reason), out[0] if out else None)
    return NearestMiss(
        candidate=name, point=found.point if found else point_of(""), metric=message.nearest_miss_metric,
        state="unknown" if message.nearest_miss_ratio is None else "missed",
        miss_ratio=message.nearest_miss_ratio, reason=reason,
    )  # fmt: skip
