"""What is kept from being deployed, how it is told, and how it comes back in."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.deployment import Deployment
from agent.core.ports import ProbeResult
from agent.deploy.journal import Failures
from agent.deploy.phases import MAX_ATTEMPTS
from agent.errors import DeploymentError, Interrupted, RolledBackError, StorageError
from tests.deploy.scene import TASK, Scene


def test_a_quarantine_is_told_once_outlives_a_restart_and_is_lifted(tmp_path: Path) -> None:
    told: list[str] = []

    def tell(found: Failures, text: str) -> None:
        told.append(text)

    for number in range(3):
        assert told == []
        scene = Scene(tmp_path, told=tell)
        scene.deploy("old")
        with pytest.raises(RolledBackError):
            scene.deploy("late")
        assert ("late" in scene.deployer.status(TASK).withheld) == (number == 2)
        scene.close()
    reason = "quarantined after 3 failures, the last: the probation failed: golden outputs differ"
    assert told == [f"late is {reason}"]
    scene = Scene(tmp_path, told=tell)
    with pytest.raises(RolledBackError):
        scene.deploy("late", force=True)  # a fourth time, because somebody wanted it
    assert len(told) == 1
    assert scene.deployer.withheld.pardon(TASK, "other") == ()
    assert [one.candidate for one in scene.deployer.withheld.pardon(TASK, "late")] == ["late"]
    assert scene.deployer.status(TASK).withheld == {}
    scene.close()


def test_a_quarantine_of_what_serves_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    scene = Scene(tmp_path, told=lambda found, text: told.append(text))
    scene.deploy("new")
    scene.close()

    def refuse(release: Path, deployment: Deployment) -> ProbeResult:
        return ProbeResult(passed=False, reason="as scripted")

    scene = Scene(tmp_path, told=lambda found, text: told.append(text), probe=refuse)
    for _ in range(3):
        with pytest.raises(DeploymentError):
            scene.deploy("new", point=scene.point(threads=2))
    assert scene.serving() == "new"
    assert [text.partition("; ")[2] for text in told] == ["the same model serves at other options and goes on serving"]
    scene.close()


def test_what_nobody_can_be_blamed_for_is_not_tried_for_ever(tmp_path: Path) -> None:
    tries: list[Path] = []

    def fails(release: Path, deployment: Deployment) -> ProbeResult:
        tries.append(release)
        raise StorageError("no space left")

    scene = Scene(tmp_path, probe=fails)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(StorageError):
            scene.deploy("new")
    with pytest.raises(DeploymentError, match=f"was tried {MAX_ATTEMPTS} times today and is left until tomorrow"):
        scene.deploy("new")
    assert len(tries) == MAX_ATTEMPTS
    assert scene.deployer.quarantined() == ()
    with pytest.raises(StorageError):
        scene.deploy("other")  # another model has its own
    with pytest.raises(StorageError):
        scene.deploy("new", point=scene.point(threads=2))  # and so have other options
    with pytest.raises(StorageError):
        scene.deploy("new", force=True)
    scene.deployer._clock.day += 1
    with pytest.raises(StorageError):
        scene.deploy("new")
    scene.close()


def test_an_attempt_that_was_asked_to_stop_does_not_count(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.stop_at = "proved"
    for _ in range(MAX_ATTEMPTS + 1):
        with pytest.raises(Interrupted):
            scene.deploy("new")
    scene.stop_at = None
    assert scene.deploy("new").outcome == "deployed"
    scene.close()
