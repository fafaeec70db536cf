from __future__ import annotations

import hashlib
import json
import os
import select
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.core.deployment import Deployment
from agent.core.ports import ProbeResult
from agent.deploy.hook import HookSettings
from agent.deploy.phases import MAX_WRITES
from agent.errors import DeploymentError, Interrupted, MeasurementError, RolledBackError, StorageError
from tests.deploy.scene import POINT, TASK, Scene, candidate, look_at_bytes
from tests.select.measured import accuracy, measurement, power

GOOD_CHAIN = [
    "staging", "staged", "proving", "proved", "switching", "switched", "hook", "probation", "committing", "done",
]  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def test_first_deployment(scene: Scene) -> None:
    found = scene.deploy("old")
    assert scene.chain == GOOD_CHAIN
    assert (found.phase, found.outcome, found.reason, found.previous_release) == ("done", "deployed", None, None)
    assert found.current is not None and found.current.candidate == "old"
    assert found.path == str(scene.state / "deploy" / TASK / "current")
    assert os.readlink(found.path) == f"releases/{found.current.release}"
    assert (scene.serving(), scene.serving("previous")) == ("old", None)
    assert scene.hook_log() == ["deployed old old "]
    scene.assert_tidy()


def test_the_document_tells_an_application_everything(scene: Scene) -> None:
    found, model, golden = candidate(scene.folder, "old")
    figures = measurement("old", accuracy=accuracy([True] * 9 + [False]), power=power(3.0))
    scene.deployer.deploy(TASK, found, POINT, model, golden, figures)
    folder = scene.state / "deploy" / TASK / "current"
    document = json.loads((folder / "deployment.json").read_bytes())
    assert document["model"]["path"] == "model.onnx"
    assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == document["model"]["sha256"]
    assert document["golden"]["path"] == "golden.npz"
    assert document["point"]["provider"] == "CPUExecutionProvider"
    assert document["expected"] == {
        "latency_p50_s": 0.009000000000000001, "latency_p95_s": 0.01, "throughput_per_s": pytest.approx(108.695652),
        "load_time_s": 0.2, "first_inference_s": 0.05, "memory_peak_bytes": 50_000_000.0, "power_mean_w": 3.0,
        "energy_per_inference_j": 0.01, "accuracy_top1": 0.9,
    }  # fmt: skip
    release = document.pop("release")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert release == hashlib.sha256(canonical.encode()).hexdigest() == folder.readlink().name
    assert msgspec.convert(document | {"release": release}, Deployment).task == TASK


def test_files_have_one_name_and_can_be_read_by_others(scene: Scene) -> None:
    before = os.umask(0o077)
    try:
        scene.deploy("old")
    finally:
        os.umask(before)
    folder = scene.state / "deploy" / TASK / "current"
    for name in ("model.onnx", "golden.npz", "deployment.json"):
        state = (folder / name).lstat()
        assert (state.st_nlink, state.st_mode & 0o777) == (1, 0o644)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_second_and_third_deployment_keep_one_previous(scene: Scene) -> None:
    scene.deploy("old")
    scene.deploy("new")
    assert (scene.serving(), scene.serving("previous")) == ("new", "old")
    scene.deploy("newer")
    assert (scene.serving(), scene.serving("previous")) == ("newer", "new")
    scene.assert_tidy()


def test_unchanged_does_not_switch_even_with_new_figures(scene: Scene) -> None:
    first = scene.deploy("old")
    seen = list(scene.events)
    found, model, golden = candidate(scene.folder, "old")
    again = scene.deployer.deploy(TASK, found, POINT, model, golden, measurement("old"))
    assert (again.outcome, again.current) == ("unchanged", first.current)
    assert scene.events == seen
    assert scene.hook_log() == ["deployed old old "]


def test_another_operating_point_is_another_release(scene: Scene) -> None:
    scene.deploy("old")
    found, model, golden = candidate(scene.folder, "old")
    point = msgspec.structs.replace(POINT, threads=2)
    status = scene.deployer.deploy(TASK, found, point, model, golden, None)
    assert status.outcome == "deployed"
    assert (scene.serving(), scene.serving("previous")) == ("old", "old")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "deployment.json"])
def test_a_damaged_running_release_is_repaired(scene: Scene, name: str) -> None:
    scene.deploy("old")
    path = scene.state / "deploy" / TASK / "current" / name
    path.write_bytes(b"x" * path.stat().st_size)
    found = scene.deploy("old")
    assert scene.serving() == "old"
    damage = f"{name} is missing or damaged" if name == "deployment.json" else f"{name}: its SHA-256 differs"
    assert (found.outcome, found.reason) == ("unchanged", f"it runs already and was repaired ({damage})")


def test_a_failing_proof_switches_nothing(scene: Scene) -> None:
    scene.deploy("old")
    scene.events.clear()
    with pytest.raises(DeploymentError) as caught:
        scene.deploy("bad")
    assert type(caught.value) is DeploymentError
    assert caught.value.problem == "bad was not deployed: the proof failed: golden outputs differ"
    assert scene.chain == ["staging", "staged", "proving", "failed"]
    assert scene.serving() == "old"
    found = scene.deployer.status(TASK)
    assert (found.outcome, found.reason) == ("failed", "the proof failed: golden outputs differ")
    assert scene.hook_log() == ["deployed old old "]
    scene.assert_tidy()


def test_a_failing_probation_goes_back(scene: Scene) -> None:
    scene.deploy("old")
    scene.events.clear()
    with pytest.raises(RolledBackError) as caught:
        scene.deploy("late")
    assert caught.value.problem == "late was rolled back: the probation failed: golden outputs differ"
    assert scene.chain == [*GOOD_CHAIN[:8], "rolling_back", "rolled_back"]
    assert (scene.serving(), scene.serving("previous")) == ("old", None)
    assert scene.hook_log() == ["deployed old old ", "deployed late late", "rolled_back old old "]
    assert scene.deployer.status(TASK).outcome == "rolled_back"
    scene.assert_tidy()


def test_a_failing_hook_goes_back_and_is_run_again(scene: Scene) -> None:
    scene.deploy("older")
    scene.deploy("old")
    with pytest.raises(RolledBackError, match="exited with 1"):
        scene.deploy("unhooked")
    assert (scene.serving(), scene.serving("previous")) == ("old", "older")
    assert scene.hook_log()[2:] == ["deployed unhooked unho", "rolled_back old old "]
    scene.assert_tidy()


def test_the_very_first_going_back_leaves_no_link(scene: Scene) -> None:
    with pytest.raises(RolledBackError):
        scene.deploy("late")
    assert not (scene.state / "deploy" / TASK / "current").is_symlink()
    assert scene.hook_log() == ["deployed late late"]
    scene.assert_tidy()


def test_a_hanging_hook_is_killed_with_its_children(tmp_path: Path) -> None:
    def held(deadline_s: float) -> bool:
        """Deploy with a hook that hangs. Returns: whether it came so far before its deadline as to have a child."""
        folder = tmp_path / f"{deadline_s:g}"
        folder.mkdir()
        fifo = folder / "held"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        argv = ("/bin/sh", "-c", '(echo held; sleep 1000) > "$1" & wait', "hook", str(fifo))
        scene = Scene(folder, hook=HookSettings(argv=argv, deadline_s=deadline_s))
        with pytest.raises(RolledBackError, match=f"killed after its deadline of {deadline_s:g} s"):
            scene.deploy("old")
        scene.close()
        said, end = b"", None
        while end is None:  # end of file: nobody holds the other end any more; a killed child may take its time
            assert select.select([reader], [], [], 60)[0], "a child outlived its hook"
            piece = os.read(reader, 100)
            said, end = said + piece, None if piece else True
        os.close(reader)
        return said == b"held\n"

    assert any(held(deadline_s) for deadline_s in (1.0, 15.0, 60.0))  # longer where the machine is too busy for a shell


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("/nowhere/hook",), "cannot be started"),
        (("/bin/sh", "-c", "kill -9 $$"), "died by signal 9"),
        (("/bin/sh", "-c", "exit 3"), "exited with 3"),
    ],
)
def test_hook_failures_are_told(tmp_path: Path, argv: tuple[str, ...], reason: str) -> None:
    scene = Scene(tmp_path, hook=HookSettings(argv=argv))
    with pytest.raises(RolledBackError, match=reason):
        scene.deploy("old")
    scene.close()


def test_a_hook_that_fails_for_the_restored_one_too_is_told(tmp_path: Path) -> None:
    first = Scene(tmp_path)
    first.deploy("old")
    first.close()
    scene = Scene(tmp_path, hook=HookSettings(argv=("/bin/false",)))
    with pytest.raises(
        RolledBackError, match="exited with 1; for the restored deployment, hook /bin/false exited with 1"
    ):
        scene.deploy("new")
    assert scene.serving() == "old"
    scene.close()


def test_the_watch_time_proves_twice_more(tmp_path: Path) -> None:
    seen: list[str] = []
    waits: list[float] = []

    def probe(release: Path, deployment: Deployment) -> ProbeResult:
        seen.append("current" if release.name == "current" else "staged")
        return look_at_bytes(release, deployment)

    scene = Scene(tmp_path, probe=probe, probation_s=5.0, pause=waits.append)
    scene.deploy("old")
    assert seen == ["staged", "current", "current"]
    assert waits == [0.5, 0.5, 0.5, 0.5]
    scene.close()


def test_a_proof_that_cannot_be_taken_is_no_proof(tmp_path: Path) -> None:
    def probe(release: Path, deployment: Deployment) -> ProbeResult:
        raise MeasurementError("the child could not be started")

    scene = Scene(tmp_path, probe=probe)
    with pytest.raises(MeasurementError):
        scene.deploy("old")
    assert (scene.serving(), scene.deployer.status(TASK).outcome) == (None, "failed")
    scene.close()


@pytest.mark.parametrize("switched", [False, True])
def test_an_unforeseen_error_settles_before_it_is_passed_on(tmp_path: Path, switched: bool) -> None:
    def probe(release: Path, deployment: Deployment) -> ProbeResult:
        if (release.name == "current") is switched and deployment.candidate == "new":
            raise ZeroDivisionError("a fault in the probe")
        return look_at_bytes(release, deployment)

    scene = Scene(tmp_path, probe=probe)
    scene.deploy("old")
    with pytest.raises(ZeroDivisionError):
        scene.deploy("new")
    assert scene.serving() == "old"
    found = scene.deployer.status(TASK)
    assert found.phase == ("rolled_back" if switched else "failed")
    assert found.reason == "ZeroDivisionError: a fault in the probe"
    assert scene.deployer.quarantined() == ()
    scene.assert_tidy()
    scene.close()


@pytest.mark.parametrize(("phase", "ends"), [("staged", "failed"), ("proved", "failed"), ("switched", "rolled_back")])
def test_a_stop_is_obeyed_and_blames_nobody(scene: Scene, phase: str, ends: str) -> None:
    scene.deploy("old")
    with pytest.raises(Interrupted):
        scene.obey(f"stop:{phase}")
    assert (scene.serving(), scene.deployer.status(TASK).phase) == ("old", ends)
    scene.assert_tidy()
    scene.stop_at = None
    for _ in range(3):
        assert scene.deploy("new").outcome in ("deployed", "unchanged")


def test_a_stop_in_the_watch_goes_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path, probation_s=100.0)
    scene.stop_at = "probation"
    with pytest.raises(Interrupted):
        scene.deploy("old")
    assert scene.serving() is None
    scene.close()


@pytest.mark.parametrize("name", ["bad", "late", "unhooked"])
def test_three_failures_are_quarantine(scene: Scene, name: str) -> None:
    scene.deploy("old")
    for _ in range(3):
        with pytest.raises(DeploymentError):
            scene.deploy(name)
    assert [(q.candidate, q.failures) for q in scene.deployer.quarantined()] == [(name, 3)]
    seen = list(scene.events)
    with pytest.raises(DeploymentError, match=f"{name} is quarantined after 3 failures, the last: "):
        scene.deploy(name)
    assert scene.events == seen
    with pytest.raises(DeploymentError, match=r"not deployed|rolled back"):
        scene.deploy(name, force=True)
    scene.deployer.withheld.pardon(TASK)
    assert scene.deployer.quarantined() == ()
    with pytest.raises(DeploymentError, match=r"not deployed|rolled back"):
        scene.deploy(name)


def test_a_success_forgets_failures(tmp_path: Path) -> None:
    answers = [False, False, True, True, False, False]

    def probe(release: Path, deployment: Deployment) -> ProbeResult:
        return ProbeResult(passed=answers.pop(0), reason="as scripted")

    scene = Scene(tmp_path, probe=probe)
    for _ in range(2):
        with pytest.raises(DeploymentError):
            scene.deploy("new")
    scene.deploy("new")
    for _ in range(2):
        with pytest.raises(DeploymentError):
            scene.deploy("other")
    assert scene.deployer.quarantined() == ()
    scene.close()


def test_rollback_changes_places_and_back(scene: Scene) -> None:
    scene.deploy("old")
    scene.deploy("new")
    found = scene.deployer.rollback(TASK)
    assert (found.phase, found.outcome, found.reason) == ("rolled_back", "rolled_back", "a rollback was asked for")
    assert (scene.serving(), scene.serving("previous")) == ("old", "new")
    assert scene.hook_log()[-1] == "rolled_back old old "
    scene.deployer.rollback(TASK)
    assert (scene.serving(), scene.serving("previous")) == ("new", "old")
    scene.assert_tidy()


def test_rollback_without_a_previous_one(scene: Scene) -> None:
    for _ in range(2):
        with pytest.raises(DeploymentError, match="task digits has no previous deployment to go back to"):
            scene.deployer.rollback(TASK)
        scene.deploy("old")
    assert scene.serving() == "old"


def test_a_rollback_from_what_has_gone_back_by_itself_withdraws_it_and_switches_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path, probation_s=60.0)
    for name in ("older", "old"):
        scene.deploy(name)
    scene.stop_at = "probation"
    with pytest.raises(Interrupted):
        scene.deploy("new")
    scene.stop_at = None
    tried, switches = scene.chain, scene.hook_log()
    record = scene.deployer._journal.read(TASK)
    assert record is not None
    found = scene.deployer.rollback(TASK, leaving=record.release)
    assert (scene.serving(), scene.serving("previous"), found.outcome) == ("old", "older", "rolled_back")
    assert (scene.chain, scene.hook_log()) == (tried, switches)
    assert [one.candidate for one in scene.deployer.quarantined()] == ["new"]
    with pytest.raises(DeploymentError, match="does not serve any more, so nothing was changed"):
        scene.deployer.rollback(TASK, leaving="0" * 64)
    assert scene.serving() == "old"
    current = scene.store.linked(TASK, "current")
    assert scene.deployer.rollback(TASK, leaving=current).current is not None
    assert scene.serving() == "older"
    scene.close()


def test_a_rollback_from_a_release_may_be_asked_for_twice(scene: Scene) -> None:
    for name in ("old", "new"):
        scene.deploy(name)
    leaving = scene.store.linked(TASK, "current")
    for _ in range(2):  # who heard no answer the first time
        assert scene.deployer.rollback(TASK, leaving=leaving).outcome == "rolled_back"
        assert (scene.serving(), scene.serving("previous")) == ("old", "new")
    scene.deploy("new", force=True)
    with pytest.raises(DeploymentError, match="does not serve any more"):
        scene.deployer.rollback(TASK, leaving=scene.store.linked(TASK, "previous"))


def test_rollback_to_a_damaged_one_is_refused(scene: Scene) -> None:
    scene.deploy("old")
    scene.deploy("new")
    (scene.state / "deploy" / TASK / "previous" / "model.onnx").write_bytes(b"x")
    with pytest.raises(DeploymentError, match=r"damaged: model.onnx: 1 bytes instead of"):
        scene.deployer.rollback(TASK)
    assert scene.serving() == "new"


def test_rollback_whose_hook_fails_says_so(tmp_path: Path) -> None:
    first = Scene(tmp_path)
    first.deploy("old")
    first.deploy("new")
    first.close()
    scene = Scene(tmp_path, hook=HookSettings(argv=("/bin/false",)))
    with pytest.raises(DeploymentError, match="is back at its previous deployment, but hook /bin/false exited with 1"):
        scene.deployer.rollback(TASK)
    assert scene.serving() == "old"
    scene.close()


@pytest.mark.parametrize("how", ["torn", "missing", "link", "folder"])
def test_a_cache_file_that_is_not_what_was_signed(scene: Scene, how: str) -> None:
    scene.deploy("old")
    found, model, golden = candidate(scene.folder, "torn" if how == "torn" else "new")
    if how != "torn":
        kept = model.rename(model.with_suffix(".kept"))
        if how == "link":
            model.symlink_to(kept)
        if how == "folder":
            model.mkdir()
    with pytest.raises(DeploymentError) as caught:
        scene.deployer.deploy(TASK, found, POINT, model, golden, None)
    assert caught.value.fix is not None and "boardfit sync" in caught.value.fix
    assert scene.serving() == "old"
    assert scene.deployer.quarantined() == ()
    scene.assert_tidy()


def test_a_hard_linked_cache_file_is_copied_not_linked(scene: Scene) -> None:
    found, model, golden = candidate(scene.folder, "old")
    os.link(model, scene.folder / "second-name")
    scene.deployer.deploy(TASK, found, POINT, model, golden, None)
    placed = (scene.state / "deploy" / TASK / "current" / "model.onnx").stat()
    assert (placed.st_nlink, placed.st_ino == model.stat().st_ino) == (1, False)


def test_not_enough_space_is_said_before_anything_is_written(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.deploy("old")
    seen = list(scene.events)
    state = os.statvfs(scene.state)
    full = os.statvfs_result((*state[:3], 0, 10, *state[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(StorageError, match=r"are free. Free some space; the deployed model keeps serving"):
        scene.deploy("new")
    assert (scene.events, scene.serving()) == (seen, "old")


def test_protected_digests(scene: Scene) -> None:
    assert scene.deployer.protected_digests() == frozenset()
    scene.deploy("old")
    scene.deploy("new")
    scene.deploy("newer")
    wanted = set()
    for name in ("new", "newer"):
        found, _, _ = candidate(scene.folder, name)
        assert found.manifest.golden is not None
        wanted |= {found.sha256, found.manifest.golden.sha256}
    assert scene.deployer.protected_digests() == wanted


def test_names_that_are_not_plain_are_refused(scene: Scene) -> None:
    for task in ("../x", "a/b", "", "."):
        with pytest.raises(DeploymentError):
            scene.deployer.rollback(task)
        with pytest.raises(DeploymentError):
            scene.deployer.status(task)


def test_status_before_anything(scene: Scene) -> None:
    found = scene.deployer.status(TASK)
    assert (found.phase, found.outcome, found.current, found.previous_release) == ("idle", "none", None, None)
    assert scene.deployer.recover() == ()


def test_a_journal_of_another_version_is_refused(scene: Scene) -> None:
    scene.deploy("old")
    with scene.database.transaction() as connection:
        connection.execute("UPDATE deployment_journal SET schema_version = 2")
    with pytest.raises(DeploymentError, match="has schema 2, not 1"):
        scene.deployer.status(TASK)


def test_an_unknown_phase_is_rolled_back(scene: Scene) -> None:
    scene.deploy("old")
    scene.deploy("new")
    with scene.database.transaction() as connection:
        connection.execute(
            "UPDATE deployment_journal SET phase = 'polishing', restore_current = ?, restore_previous = NULL",
            (scene.store.linked(TASK, "previous"),),
        )
    assert [status.phase for status in scene.deployer.recover()] == ["rolled_back"]
    assert (scene.serving(), scene.serving("previous")) == ("old", None)


def test_past_the_write_limit_the_hook_is_left_out(scene: Scene) -> None:
    scene.deploy("old")
    with scene.database.transaction() as connection:
        connection.execute(
            "UPDATE deployment_journal SET phase = 'rolling_back', writes = ?, reason = 'it hung', restore_current = ?",
            (MAX_WRITES, scene.store.linked(TASK, "current")),
        )
    found = scene.deployer.recover()
    assert [status.reason for status in found] == ["it hung; abandoned after 29 journal writes, the hook was not run"]
    assert scene.hook_log() == ["deployed old old "]
    assert scene.deploy("new").outcome == "deployed"


def test_a_lost_journal_does_not_lose_the_deployment(scene: Scene) -> None:
    scene.deploy("old")
    with scene.database.transaction() as connection:
        connection.execute("DELETE FROM deployment_journal")
    assert scene.deployer.recover() == ()
    assert scene.serving() == "old"
    assert scene.deploy("new").outcome == "deployed"
