"""``make fleet-demo`` in its quick form, judged by the operator's rollout store and not by what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from agent.fleet.rollout_store import RolloutStore
from benchmarks.fleet_demo.scene import BAD, BAD_ON, FLEET, GOOD, REAL
from tests.scenarios.conftest import ROOT

WORDS = [sys.executable, "-m", "benchmarks.fleet_demo", "--quick"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_bad_candidate_is_stopped_at_its_first_wave_and_a_good_one_goes_through(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        [*WORDS, "--once", "--folder", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    with RolloutStore(folder / "operator" / "state" / "boardfit") as store:
        good, bad = store.newest(FLEET)
        history = store.history(bad.id)
    assert (bad.spec.candidate, bad.status) == (BAD, "rolled_back")
    assert {board.wave for board in bad.boards.values() if board.wave is not None} == {0}
    went_back = [board.name for board in bad.boards.values() if board.kind == "rollback"]
    assert [name.rpartition("-")[0] for name in went_back] == [f"simulated-{BAD_ON}"]
    assert any(row.after == "undoing" for row in history if row.subject == "rollout")
    assert (good.spec.candidate, good.status) == (GOOD, "completed")
    assert {board.phase for board in good.boards.values()} == {"succeeded"}
    assert len(good.boards) == 9
    assert REAL in good.boards
    deployed = folder / REAL / "state" / "deploy" / "digits" / "current" / "deployment.json"
    assert f'"{GOOD}"' in deployed.read_text()  # the real agent's own word


def test_without_mosquitto_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; from benchmarks.fleet_demo import __main__ as demo, scene\n"
        f"scene.BROKER_PATH = {str(tmp_path)!r}; sys.argv = ['fleet-demo', '--once']; sys.exit(demo.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr == "fleet-demo: the fleet demo needs the broker mosquitto. Install it: apt-get install mosquitto.\n"
    )


def test_ctrl_c_amid_the_story_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    process = subprocess.Popen(
        [*WORDS, "--folder", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "the console: " in line:  # broker, registry and collector are there
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.split()) == (130, ["fleet-demo:", "stopped."])
    left = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False)
    assert left.stdout == ""
