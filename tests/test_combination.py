"""Switching tasks that share a board: in which order, and what a failure of one leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent import combination, pipeline
from agent.combination import Settled
from agent.config import parse_config
from agent.core.deployment import DeploymentStatus
from agent.core.measurement import Measurement
from agent.errors import BoardfitError, DeploymentError, NoFeasibleCandidateError
from agent.select.joint import confirmed, in_combination, judge_joint
from agent.site import Site
from tests.select.test_shared import DIGITS, MEMORY, OWN, WORDS, chosen, joint, posed, sharer
from tests.select.test_shared import choice as choice_of

BOARD = {"tasks": {"words": {}, "digits": {}}, "board": {"budgets": {"memory_peak": "600 MiB"}}}


class Deploying:
    """Stands in for the deployments alone: what is asked of them, and which of them fail."""

    def __init__(self, *fails: str) -> None:
        self.fails, self.asked = fails, list[tuple[str, str]]()

    def __call__(self, site: Site, task: str, choice: Any, *_: object, **more: Any) -> DeploymentStatus:
        self.asked.append((task, choice.candidate))
        if task in self.fails:
            raise DeploymentError(f"{choice.candidate} was not deployed: for the test")
        assert more["together"].task == task
        return DeploymentStatus(task=task, phase="done", changed_at="now", current=None, outcome="deployed")


class Tallied:
    """As much of a pass's tally as switching needs."""

    def __init__(self) -> None:
        self.facts = None
        self.errors: list[BoardfitError] = []
        self.deployments: list[DeploymentStatus] = []


def settled(words: Measurement, digits: Measurement) -> Settled:
    """Words first: it is to have 400 MiB and digits 60, of 600. Args: what serves each of them now."""
    sharers = (sharer(WORDS, incumbent=choice_of(words)), sharer(DIGITS, incumbent=choice_of(digits)))
    question = posed(*sharers)
    plan = chosen(question)
    seen = joint(plan)
    done = confirmed(plan, seen, judge_joint(seen, MEMORY, OWN), ())
    return Settled(done, tuple(in_combination(one.decision, done, seen) for one in sharers), seen, question)


def switched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deploying: Deploying, question: Settled
) -> tuple[Tallied, Site]:
    monkeypatch.setattr(pipeline, "deploy", deploying)
    tally = Tallied()
    with Site(parse_config(BOARD, path=None), tmp_path) as site:
        combination._switch(site, question, tally)  # type: ignore[arg-type]
    return tally, site


def test_what_shrinks_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deploying = Deploying()
    tally, _ = switched(monkeypatch, tmp_path, deploying, settled(WORDS[2], DIGITS[0]))
    assert deploying.asked == [("digits", "small"), ("words", "large")]
    assert (len(tally.deployments), tally.errors) == (2, [])


def test_after_a_failure_nothing_grows_past_the_budget_beside_what_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deploying = Deploying("digits")
    tally, _ = switched(monkeypatch, tmp_path, deploying, settled(WORDS[2], DIGITS[0]))
    assert deploying.asked == [("digits", "small")]  # 300 MiB stay there, and 400 beside them are too many
    assert [type(error) for error in tally.errors] == [DeploymentError, DeploymentError]
    assert tally.errors[1].problem == (
        "words stays as it is: beside what still serves digits it would pass a shared budget"
    )


def test_after_a_failure_what_still_fits_is_switched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deploying = Deploying("words")
    tally, _ = switched(monkeypatch, tmp_path, deploying, settled(WORDS[1], DIGITS[1]))
    assert deploying.asked == [("digits", "small"), ("words", "large")]
    assert [one.task for one in tally.deployments] == ["digits"]
    assert len(tally.errors) == 1


def test_where_nothing_was_chosen_nothing_is_switched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sharers = (sharer(WORDS), sharer(DIGITS))
    question = posed(*sharers, budgets=("memory_peak<=1MiB",))
    plan = chosen(question)
    nothing = Settled(plan, tuple(in_combination(one.decision, plan, None) for one in sharers), None, question)
    deploying = Deploying()
    tally, _ = switched(monkeypatch, tmp_path, deploying, nothing)
    assert (deploying.asked, tally.deployments) == ([], [])
    assert [type(error) for error in tally.errors] == [NoFeasibleCandidateError] * 2
