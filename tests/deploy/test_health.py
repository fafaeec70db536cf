"""The application's own word in the probation: one bad answer, and what ran before is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.deploy.hook import HookSettings
from agent.errors import RolledBackError
from tests.deploy.scene import Scene

# Notes each time it is asked, and what serves then; ill at the time that $2 says.
SCRIPT = 'echo "$BOARDFIT_EVENT $BOARDFIT_CANDIDATE" >> "$1"; test "$(wc -l < "$1")" -ne "$2"'


def asked(folder: Path, ill_at: int) -> HookSettings:
    return HookSettings(argv=("/bin/sh", "-c", SCRIPT, "health", str(folder / "health.log"), str(ill_at)))


@pytest.mark.parametrize("ill_at", [1, 2, 3])
def test_one_bad_answer_at_any_time_is_enough(tmp_path: Path, ill_at: int) -> None:
    scene = Scene(tmp_path)
    scene.deploy("old")
    scene.close()
    # The clock moves a second with each look: there is time to ask in between.
    scene = Scene(tmp_path, health=asked(tmp_path, ill_at), probation_s=12.0)
    with pytest.raises(RolledBackError, match="the probation failed: the application's health check failed: hook"):
        scene.deploy("new")
    assert scene.serving() == "old"
    log = (tmp_path / "health.log").read_text().splitlines()
    assert log == ["health new"] * ill_at
    assert [one.failures for one in scene.deployer._journal.failures()] == [1]
    scene.close()


def test_one_who_is_well_stays(tmp_path: Path) -> None:
    scene = Scene(tmp_path, health=asked(tmp_path, 0))
    assert scene.deploy("new").outcome == "deployed"
    assert (tmp_path / "health.log").read_text() == "health new\n"
    scene.close()
