"""What is known of several tasks running at once on this board: what is stored and may stand in, or a run.

Decides when a stored run stands in for a new one; leaves how they run to ``agent.measure``, what follows to
``agent.select``. Rules:
- It is of the same members on the same class of board, under the same governor and power mode, ran as long as is asked
  for, bounds every latency that has a budget, and is young enough.
- Only a run that gave figures stands in: one that failed, or that other work disturbed, is run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from agent import __version__
from agent.clock import read_iso
from agent.core.combination import JointMeasurement
from agent.core.decision import Choice
from agent.core.facts import DeviceFacts
from agent.core.ports import ProgressEvent
from agent.device.neighbours import Ticks, others_share
from agent.errors import ConfigError, Interrupted
from agent.measure.race import QUANTILES
from agent.measure.together import Member, measure_together
from agent.question import candidates_of
from agent.site import Site


def key_of(facts: DeviceFacts, choices: Mapping[str, Choice]) -> tuple[object, ...]:
    """Return ``JointMeasurement.key`` of a run of these."""
    members = sorted((task, choice.artifact_sha256, choice.point) for task, choice in choices.items())
    return (facts.class_fingerprint, *members)


def stored_run(site: Site, facts: DeviceFacts, choices: Mapping[str, Choice]) -> JointMeasurement | None:
    """Return what is stored of a combination, if it may stand in for a new run."""
    joint = site.records.joint(key_of(facts, choices))
    if joint is None or joint.verdict != "ok" or (joint.window_s or 0.0) < site.config.board.window_s:
        return None
    if not all(_is_bounded(joint, metric) for metric in _limited(site, choices)):
        return None
    try:
        age_s = (site.clock.utc() - read_iso(joint.started_at)).total_seconds()
    except (ValueError, TypeError):
        return None
    now, then = site.board.read_context(), joint.context.after if joint.context is not None else None
    same = then is not None and (then.governor, then.power_mode) == (now.governor, now.power_mode)
    return joint if same and 0.0 <= age_s <= site.measure_settings.reuse_max_age_s else None


def run_together(site: Site, facts: DeviceFacts, choices: Mapping[str, Choice]) -> JointMeasurement:
    """Run the choices of several tasks at once, and store what was seen.

    Raises: ConfigError: one is no longer in the registry. Interrupted: a stop was asked for. MeasurementError,
        TrustError, DownloadError, StorageError.
    """
    members = []
    for task, choice in choices.items():
        listed = candidates_of(site, task, ())
        candidate = next((one for one in listed if one.sha256 == choice.artifact_sha256), None)
        if candidate is None:
            fix = "run `boardfit once` to decide anew"
            raise ConfigError(f"{choice.candidate} is no longer in the registry", fix=fix)
        artifact = site.registry.fetch_model(candidate, progress=site.progress, stop=site.stop)
        members.append(Member(candidate, choice.point, artifact))
    site.progress(ProgressEvent(stage="together", text=" + ".join(one.candidate.name for one in members)))
    with site.ledger.measuring(site.stop) as stop:
        joint = measure_together(
            members, facts=facts, board=site.board, clock=site.clock, settings=site.measure_settings,
            window_s=site.config.board.window_s, bounded=tuple(_limited(site, choices).values()),
            others=_others(site), progress=site.progress, stop=stop,
            agent_version=__version__, boot_id=site.board.boot_id(),
        )  # fmt: skip
    if joint is None or site.stop():
        raise Interrupted("stopped on request", fix="run again: finished measurements are stored and not repeated")
    site.records.add_joint(joint)
    return joint


def _limited(site: Site, tasks: Iterable[str]) -> dict[str, float]:
    """Return the latency quantiles that some task has a budget for."""
    metrics = {budget.metric for task in tasks for budget in site.config.task(task).budgets}
    return {metric: q for metric, q in QUANTILES.items() if metric in metrics}


def _is_bounded(joint: JointMeasurement, metric: str) -> bool:
    """Tell whether a latency of every member is bounded from above."""
    figures = [getattr(member, f"{metric}_s") for member in joint.members]
    return all(figure is not None and figure.high is not None for figure in figures)


def _others(site: Site) -> Callable[[], float | None]:
    """Return what tells the share of the processors' time that others used since it was asked last."""
    last: list[Ticks | None] = [None]

    def share() -> float | None:
        before, last[0] = last[0], site.board.processor_ticks(os.getpid())
        return others_share(before, last[0])

    return share
