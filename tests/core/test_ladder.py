"""Steps along a ladder: down at once, up with patience, never to and fro; and when a new choice is asked for."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ladder import (
    ASK_AFTER_S,
    ASK_AGAIN_S,
    BREACH_S,
    DWELL_S,
    LASTING_TRIAL_S,
    MOST_DWELL_S,
    TRIAL_S,
    Ask,
    Ladder,
    Seen,
    Step,
)
from agent.core.watch import CauseKind

P95_S = (0.016, 0.008, 0.004)
PROMISE_S = 0.020


class Task:
    """A task whose board is ``slow`` times as slow as when it was measured; a breach is seen after ``BLIND_S``."""

    BLIND_S = 5.0

    def __init__(self, **more: float) -> None:
        self.ladder = Ladder(P95_S, PROMISE_S, **more)
        self.now_s = 0.0
        self.rung = 0
        self.steps: list[tuple[float, int]] = []
        self.asked: list[float] = []
        self._broken_s: float | None = None

    def go(self, seconds: float, slow: float, *, gone: bool | None = None, kinds: tuple[CauseKind, ...] = ()) -> None:
        """Let time pass, a second at a time."""
        for _ in range(int(seconds)):
            self.now_s += 1.0
            over = slow * P95_S[self.rung] > PROMISE_S
            self._broken_s = None if not over else self.now_s if self._broken_s is None else self._broken_s
            broken = self._broken_s is not None and self.now_s - self._broken_s >= self.BLIND_S
            due = self.ladder.look(Seen(now_s=self.now_s, rung=self.rung, broken=broken, slowdown=slow, gone=gone))
            if isinstance(due, Step):
                assert due.to != self.rung
                self.ladder.stepped(self.now_s, self.rung, due.to, kinds)
                self.rung, self._broken_s = due.to, None
                self.steps.append((self.now_s, self.rung))
            elif isinstance(due, Ask):
                self.asked.append(self.now_s)


def test_down_at_once_to_what_keeps_the_promise_and_up_when_the_cause_is_gone() -> None:
    task = Task()
    task.go(100, 1.1)
    assert task.steps == []
    task.go(20, 2.0)
    assert task.steps == [(106.0, 1)]
    task.go(20, 1.0)
    assert task.rung == 1
    task.go(20, 1.0)
    assert task.rung == 0
    assert task.steps[-1][0] - 120 <= DWELL_S + 1


def test_a_rung_that_would_not_keep_it_either_is_passed_over() -> None:
    task = Task()
    task.go(10, 4.0)
    assert task.rung == 2


def test_what_is_slower_within_the_promise_costs_no_accuracy() -> None:
    task = Task()
    task.go(3600, 1.24)
    assert (task.rung, task.steps) == (0, [])


def test_requests_are_needed_to_step_up() -> None:
    task = Task()
    task.go(10, 2.0)
    for second in range(1000):
        seen = Seen(now_s=task.now_s + second, rung=1, broken=False, slowdown=None)
        assert not isinstance(task.ladder.look(seen), Step)


def test_a_step_up_waits_until_the_board_no_longer_shows_the_cause() -> None:
    task = Task()
    task.go(10, 2.0, kinds=("heat",))
    task.go(600, 1.0, gone=False)
    assert task.rung == 1
    task.go(int(DWELL_S) + 2, 1.0, gone=True)
    assert task.rung == 0


def test_a_cause_that_stays_and_no_longer_matters_is_tried_once_an_hour() -> None:
    task = Task()
    task.go(10, 2.0, kinds=("neighbour",))
    task.go(MOST_DWELL_S - 10, 1.0, gone=False)
    assert task.rung == 1
    task.go(20, 1.0, gone=False)
    assert task.rung == 0
    task.go(10, 2.0, kinds=("neighbour",))
    task.go(MOST_DWELL_S - 10, 1.0, gone=False)
    assert task.rung == 1


def test_of_a_cause_that_comes_back_with_the_heavier_model_steps_up_double() -> None:
    """Heat: gone while the lighter model runs, back five minutes after the heavier one does."""
    task = Task()
    while task.now_s < 86400:
        if task.rung == 0:
            task.go(300, 1.0)
            task.go(20, 2.0, kinds=("heat",))
        else:
            task.go(1, 1.0, gone=True)
    ups = [at for at, rung in task.steps if rung == 0]
    assert len(ups) <= math.log2(MOST_DWELL_S / DWELL_S) + 86400 / MOST_DWELL_S + 2
    assert ups[5] - ups[4] > 2 * (ups[3] - ups[2])


def test_one_that_outlived_its_trial_sets_the_patience_back() -> None:
    task = Task()
    task.go(10, 2.0)
    task.go(60, 1.0)
    task.go(10, 2.0)
    assert task.ladder.dwell_s == 2 * DWELL_S
    task.go(int(2 * DWELL_S) + 2, 1.0)
    assert task.rung == 0
    task.go(int(TRIAL_S) + 2, 1.0)
    assert task.ladder.dwell_s == DWELL_S


def test_a_new_choice_is_asked_for_where_nothing_lighter_is_left() -> None:
    task = Task()
    task.go(10, 10.0)
    assert task.rung == 2
    task.go(BREACH_S - 10, 10.0)
    assert task.asked == []
    task.go(3600, 10.0)
    assert len(task.asked) == 1
    task.go(ASK_AGAIN_S, 10.0)
    assert len(task.asked) == 2


def test_a_new_choice_is_asked_for_after_long_on_a_lower_rung() -> None:
    task = Task()
    task.go(10, 2.0)
    task.go(ASK_AFTER_S - 20, 2.0)
    assert (task.rung, task.asked) == (1, [])
    task.go(60, 2.0)
    assert len(task.asked) == 1


SLOW = st.sampled_from([1.0, 1.05, 1.2, 1.3, 2.0, 3.0, 6.0])
WEATHER = st.lists(st.tuples(st.integers(1, 300), SLOW, st.booleans()), min_size=1, max_size=25)


@settings(max_examples=150, deadline=None)
@given(weather=WEATHER)
def test_whatever_comes_it_stays_on_the_ladder_and_waits_before_each_step_up(
    weather: list[tuple[int, float, bool]],
) -> None:
    task = Task()
    for seconds, slow, hot in weather:
        task.go(seconds, slow, gone=not hot, kinds=("heat",) if hot else ())
        assert 0 <= task.rung < len(P95_S)
    for (before, came), (at, went) in zip([(0.0, 0), *task.steps], task.steps, strict=False):
        if went < came:
            assert at - before >= DWELL_S
        else:
            assert at - before >= Task.BLIND_S


@settings(max_examples=60, deadline=None)
@given(weather=WEATHER, slow=st.sampled_from([1.0, 1.05]))
def test_whatever_was_it_comes_back_in_bounded_time_once_the_cause_is_gone(
    weather: list[tuple[int, float, bool]], slow: float
) -> None:
    task = Task()
    for seconds, before, hot in weather:
        task.go(seconds, before, kinds=("heat",) if hot else ())
    task.go(task.ladder.dwell_s + 1, slow)
    assert task.rung == 0
    steps = len(task.steps)
    task.go(LASTING_TRIAL_S + 2, slow)
    assert len(task.steps) == steps
    assert task.ladder.dwell_s == DWELL_S


@settings(max_examples=60, deadline=None)
@given(relapse_s=st.integers(1, int(TRIAL_S) - 20), slow=st.sampled_from([2.0, 3.0, 6.0]))
def test_of_a_cause_that_comes_with_every_step_up_each_wait_is_twice_the_last(relapse_s: int, slow: float) -> None:
    task = Task()
    task.go(10, slow)
    for _ in range(6):
        waited = task.ladder.dwell_s
        task.go(waited + 2, 1.0)
        assert task.rung == 0
        task.go(relapse_s, 1.0)
        task.go(10, slow)
        assert task.rung > 0
        assert task.ladder.dwell_s == 2 * waited
