"""What others are shown of a rollout: it tells what is stored, it is bounded, and nothing obeys it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.core.messages import MAX_PAYLOAD_BYTES, decode, encode
from agent.core.rollout_message import RolloutMessage
from agent.core.topics import rollout_topic
from agent.fleet.rollout import Rollout, pause
from agent.fleet.rollout_spec import parse_waves
from agent.fleet.rollout_telling import MAX_BYTES, MOST, Teller, message_of
from tests.fleet.simulated_fleet import FLEET, NEW, TASK, Ways, of_classes
from tests.fleet.test_rollout import ID, Boards, Run, plain, spec

ANNA = Teller(operator="anna", machine="desk-1")


def told(run: Run, state: Rollout, *, driven: bool = True) -> RolloutMessage:
    last, before = run.store.last(ID, MOST)
    made = message_of(state, last, before, ANNA, run.clock.now_s, driven=driven)
    read = decode(rollout_topic(FLEET, ID), encode(made))
    assert read == made
    assert isinstance(read, RolloutMessage)
    return read


def soaking(state: Rollout) -> bool:
    return state.tracks["all"].soak_until is not None


def test_a_soaking_wave_says_until_when_and_a_paused_one_does_not(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(40), spec())
    state = run.drive(soaking)
    seen = told(run, state)
    assert (seen.task, seen.candidate, seen.operator, seen.machine, seen.driven) == (TASK, NEW, "anna", "desk-1", True)
    assert seen.boards_total == 40 == sum(seen.phases.values())
    (track,) = seen.tracks
    assert (track.name, track.class_fingerprint, track.total, track.wave, track.done) == ("all", None, 40, 1, False)
    assert [(wave.number, wave.text, wave.boards) for wave in track.waves] == [
        (1, "1", 1), (2, "5%", 1), (3, "25%", 8), (4, "100%", 30),
    ]  # fmt: skip
    assert track.waves[0].phases == {"soaking": 1}
    assert track.idle == {"waiting": 39}
    assert track.soak_until is not None
    assert seen.updated_at <= track.soak_until
    assert told(run, pause(state, "paused by anna")).tracks[0].soak_until is None
    later = run.drive(lambda now: now.tracks["all"].wave == 1)
    assert later.tracks["all"].soak_until is None


def test_the_end_is_told_with_the_last_transitions(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(20), spec(waves=parse_waves("100%")))
    ended = run.drive()
    seen = told(run, ended)
    assert (seen.status, seen.ended, seen.phases) == ("completed", True, {"succeeded": 20})
    history = run.store.history(ID)
    assert len(seen.transitions) == MOST
    assert seen.transitions_left_out == len(history) - MOST > 0
    last = seen.transitions[-1]
    assert (last.subject, last.before, last.after) == ("rollout", "running", "completed")


def test_boards_that_are_not_in_order_are_named_with_their_reasons(tmp_path: Path) -> None:
    boards: Boards = of_classes(("a",), 4, lambda _, number: Ways(ends="rolled_back" if number == 2 else "deployed"))
    run = Run(tmp_path, boards, spec(waves=parse_waves("100%"), on_breach="pause"))
    seen = told(run, run.drive(lambda state: state.status == "paused"))
    assert [(board.name, board.phase, board.kind, board.wave) for board in seen.boards] == [
        ("a-2", "rolled_back", "rollback", 1)
    ]
    assert seen.boards_left_out == 0


def test_the_worst_fleet_fits_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    boards: Boards = of_classes(
        [f"{number:060x}" for number in range(300)], 4, lambda *_: Ways(standing="unknown", p95_s=0.1)
    )
    run = Run(tmp_path, boards, spec(per_class=True, on_breach="pause", waves=parse_waves("1,2,3,100%")))
    state = run.drive(lambda now: now.status == "paused")
    wordy = {
        name: msgspec.structs.replace(board, kind="failed", reason="ş" * 2000) for name, board in state.boards.items()
    }
    seen = told(run, msgspec.structs.replace(state, boards=wordy))
    assert len(encode(seen)) <= MAX_BYTES < MAX_PAYLOAD_BYTES
    assert seen.boards
    assert len(seen.boards) + seen.boards_left_out == 1200
    assert seen.tracks
    assert len(seen.tracks) + seen.tracks_left_out == 300


def test_an_unchanged_step_gives_back_the_very_state(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(4), spec())
    state = run.drive(soaking)
    again, orders = run.store.change(ID, lambda before: (msgspec.structs.replace(before), ()), run.clock.now_s)
    assert again is run.store.load(ID)
    assert (again, orders) == (state, ())
