"""The rungs of a ladder: laid and proven beside what serves, kept, stepped to, and left with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.deployment import RungPlace
from agent.errors import BusyError, DeploymentError
from agent.locks import exclusive
from tests.deploy.killing import KILLED, Orders
from tests.deploy.scene import TASK, Scene, candidate


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def test_rungs_are_laid_proven_kept_and_protected(scene: Scene) -> None:
    assert scene.lay("old", "light", "faint") == ()
    found = scene.deployer.status(TASK)
    assert ([rung.candidate for rung in found.ladder], found.rung) == (["old", "light", "faint"], 0)
    assert found.current is not None and found.current.rung == RungPlace(index=0, count=3)
    scene.store.collect(TASK, ())
    scene.deployer.recover()
    scene.assert_tidy()
    assert {candidate(scene.folder, name)[0].sha256 for name in ("old", "light", "faint")} <= (
        scene.store.protected_digests()
    )
    document = json.loads((scene.store.release_folder(TASK, found.ladder[1].release) / "deployment.json").read_text())
    assert document["rung"] == {"index": 1, "count": 3}


def test_a_release_without_a_ladder_is_named_as_ever(scene: Scene) -> None:
    scene.deploy("old")
    text = (scene.store.link(TASK) / "deployment.json").read_text()
    assert "rung" not in json.loads(text)


def test_a_rung_that_is_not_proven_is_left_out(scene: Scene) -> None:
    left_out = scene.lay("old", "bad", "light")
    assert left_out == (("bad", "the proof failed: golden outputs differ"),)
    assert [rung.candidate for rung in scene.deployer.status(TASK).ladder] == ["old", "light"]
    scene.assert_tidy()
    assert scene.lay("old", "bad") == left_out
    assert scene.deployer.status(TASK).ladder == ()
    scene.assert_tidy()


def test_what_lies_there_is_not_proven_again(scene: Scene) -> None:
    proven: list[str] = []
    prove = scene.deployer.rungs._probe
    scene.deployer.rungs._probe = lambda folder, document: proven.append(document.candidate) or prove(folder, document)  # type: ignore[func-returns-value]
    scene.lay("old", "light")
    scene.lay("old", "light", "faint")
    assert proven == ["light", "faint"]
    ladder = scene.store.ladder(TASK)
    assert ladder is not None
    (scene.store.release_folder(TASK, ladder.rungs[1].release) / "model.onnx").write_bytes(b"rotten")
    scene.lay("old", "light", "faint")
    assert proven == ["light", "faint", "light"]


def test_a_step_moves_current_alone_and_runs_the_hook(scene: Scene) -> None:
    scene.deploy("older")
    scene.lay("old", "light", "faint")
    events = len(scene.events)
    found = scene.step("faint")
    assert (found.phase, found.outcome, found.rung, found.reason) == ("stepped", "stepped", 2, "calls are over 20 ms")
    assert (scene.serving(), scene.serving("previous")) == ("faint", "older")
    assert scene.hook_log()[-1] == "stepped faint fain"
    assert "proving" not in [phase for phase, _ in scene.events[events:]]
    scene.step("old")
    assert scene.serving() == "old"
    scene.assert_tidy()


def test_a_hook_that_fails_for_a_rung_takes_the_step_back(scene: Scene) -> None:
    scene.lay("old", "unhooked")
    found = scene.step("unhooked")
    assert (found.phase, scene.serving()) == ("rolled_back", "old")
    assert found.reason is not None and "hook /bin/sh exited with 1" in found.reason
    assert scene.hook_log()[-2:] == ["stepped unhooked unho", "rolled_back old old "]


def test_what_was_chosen_and_stepped_down_from_is_not_switched_in_by_a_pass(scene: Scene) -> None:
    scene.lay("old", "light", "faint")
    scene.step("light")
    assert scene.lay("old", "light", "faint") == ()
    found = scene.deployer.status(TASK)
    assert (scene.serving(), found.rung) == ("light", 1)
    scene.lay("old", "light")  # the ladder is shorter now, and what serves is still of it
    assert (scene.serving(), len(scene.deployer.status(TASK).ladder)) == ("light", 2)
    scene.lay("old", "faint")  # what serves is no rung any more
    assert (scene.serving(), scene.deployer.status(TASK).rung) == ("old", 0)
    scene.assert_tidy()


def test_who_deploys_by_name_is_obeyed_on_a_lower_rung(scene: Scene) -> None:
    scene.lay("old", "light")
    scene.step("light")
    assert scene.deploy("old", force=True).outcome == "deployed"
    assert scene.serving() == "old"


def test_a_new_choice_begins_a_new_ladder_and_goes_back_to_what_was_chosen(scene: Scene) -> None:
    scene.lay("old", "light")
    scene.step("light")
    scene.lay("new", "faint")
    assert (scene.serving(), scene.serving("previous")) == ("new", "old")
    scene.assert_tidy()
    assert scene.deployer.rollback(TASK).ladder == ()
    assert scene.serving() == "old"


def test_a_rung_that_is_chosen_is_switched_in_and_told_so(scene: Scene) -> None:
    scene.lay("old", "light")
    scene.step("light")
    scene.lay("light", "faint")
    found = scene.deployer.status(TASK)
    assert (found.outcome, found.rung) == ("deployed", 0)
    assert found.current is not None and found.current.rung_index == 0


def test_a_rollback_by_hand_leaves_the_ladder_with_what_was_chosen(scene: Scene) -> None:
    scene.deploy("older")
    scene.lay("old", "light")
    chosen = scene.store.linked(TASK, "current")
    scene.step("light")
    assert scene.deployer.rollback(TASK, chosen).ladder == ()
    assert (scene.serving(), scene.serving("previous")) == ("older", "old")
    assert {one.candidate for one in scene.deployer.quarantined()} == {"old", "light"}


def test_a_step_waits_for_nobody_and_goes_to_rungs_alone(scene: Scene) -> None:
    scene.lay("old", "light")
    ladder = scene.store.ladder(TASK)
    assert ladder is not None
    with exclusive(scene.state / "switch.lock", "a deployment"), pytest.raises(BusyError):
        scene.deployer.step(TASK, ladder.rungs[1].release, "slow")
    with pytest.raises(DeploymentError, match="no rung"):
        scene.deployer.step(TASK, "0" * 64, "slow")
    scene.deploy("new")
    with pytest.raises(DeploymentError, match="no rung"):
        scene.deployer.step(TASK, ladder.rungs[1].release, "slow")


def test_damage_to_the_ladder_is_no_ladder(scene: Scene) -> None:
    scene.lay("old", "light")
    (scene.store.folder(TASK) / "ladder.json").write_bytes(b'{"task": "digits", "rungs": [{')
    assert scene.deployer.status(TASK).ladder == ()
    scene.deployer.recover()
    assert scene.serving() == "old"


def test_killed_while_a_ladder_is_laid(run_killed: Orders, tmp_path: Path) -> None:
    """Every event of the deployment, and then: what serves is whole, and every rung that is named is."""
    for count in range(1, 40):
        folder = tmp_path / str(count)
        status = run_killed(folder, "ladder:old+light+faint", str(count))
        scene = Scene(folder)
        scene.deployer.recover()
        scene.assert_tidy()
        ladder = scene.store.ladder(TASK)
        for rung in () if ladder is None else ladder.rungs:
            assert scene.store.find_damage(TASK, rung.release) is None
        scene.close()
        if status != KILLED:
            assert ladder is not None and len(ladder.rungs) == 3
            return
    pytest.fail("the order never came to its end")
