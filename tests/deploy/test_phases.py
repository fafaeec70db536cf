from __future__ import annotations

import pytest

from agent.deploy.phases import RESUMED, SUSPECT, TABLE, Event, Phase, Resume, advance, is_settled, resume_for
from agent.errors import DeploymentError


def test_every_row_is_reachable_by_its_phase_and_event() -> None:
    assert len({(row.phase, row.event) for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert advance(row.phase, row.event) is row


@pytest.mark.parametrize("phase", list(Phase))
def test_the_rows_of_a_phase_agree_on_how_it_is_resumed(phase: Phase) -> None:
    rows = [row for row in TABLE if row.phase is phase]
    assert len({row.resume for row in rows}) == 1
    assert resume_for(phase.value) is rows[0].resume


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(Event))
def test_an_event_that_no_row_accepts_names_both(phase: Phase, event: Event) -> None:
    if any(row.phase is phase and row.event is event for row in TABLE):
        return
    with pytest.raises(DeploymentError) as caught:
        advance(phase, event)
    assert caught.value.facts == {"phase": phase.value, "event": event.value}
    assert repr(phase.value) in str(caught.value) and repr(event.value) in str(caught.value)


def test_a_resumed_attempt_enters_a_phase_that_resumes_alike_or_is_settled() -> None:
    for resume, (phase, _) in RESUMED.items():
        assert resume_for(phase.value) in (resume, Resume.NOTHING)


def test_an_unknown_phase_is_rolled_back() -> None:
    assert resume_for("polishing") is Resume.ROLL_BACK
    assert not is_settled("polishing")


def test_from_every_phase_a_settled_one_is_reached() -> None:
    settled = {phase for phase in Phase if is_settled(phase.value)}
    assert settled == {Phase.IDLE, Phase.DONE, Phase.ROLLED_BACK, Phase.FAILED, Phase.STEPPED}
    reaches = set(settled)
    for _ in TABLE:
        reaches |= {row.phase for row in TABLE if row.to in reaches}
    assert reaches == set(Phase)
    assert not SUSPECT & settled
