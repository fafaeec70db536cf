"""Kill -9 at every row of the table, before and after each action; start again; kill the recovery as well."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.deploy.phases import SUSPECT, TABLE, Event, Phase, Row, is_settled
from tests.deploy.killing import KILLED, Orders
from tests.deploy.scene import TASK, Scene

P, E = Phase, Event

# How each row is come by: what was done before, and the order that takes the row.
BEFORE_SETTLED = {
    P.IDLE: [],
    P.DONE: ["deploy:old"],
    P.ROLLED_BACK: ["deploy:old", "deploy:late"],
    P.FAILED: ["deploy:old", "deploy:bad"],
    P.STEPPED: ["ladder:old+light", "step:light"],
}
BEFORE_STEP = {
    P.IDLE: ["ladder:old+light", "forget"],
    P.DONE: ["ladder:old+light"],
    P.ROLLED_BACK: ["ladder:old+light", "deploy:late", "ladder:old+light"],
    P.FAILED: ["ladder:old+light", "deploy:bad"],
    P.STEPPED: ["ladder:old+light+faint", "step:faint"],
}
FAILING = {
    P.STAGING: (["deploy:old"], "deploy:torn"),
    P.STAGED: (["deploy:old"], "stop:staged"),
    P.PROVING: (["deploy:old"], "deploy:bad"),
    P.PROVED: (["deploy:old"], "stop:proved"),
    P.SWITCHING: (["deploy:old", "jam"], "deploy:new"),
    P.SWITCHED: (["deploy:old"], "stop:switched"),
    P.HOOK: (["deploy:old"], "deploy:unhooked"),
    P.PROBATION: (["deploy:old"], "deploy:late"),
    P.STEPPING: (["ladder:old+light"], "jammed:light"),
    P.STEPPED_OVER: (["ladder:old+unhooked"], "step:unhooked"),
}


def way_to(row: Row) -> tuple[list[str], str]:
    if row.event is E.DEPLOY:
        return BEFORE_SETTLED[row.phase], "deploy:new"
    if row.event is E.ROLL_BACK:
        return ["deploy:older", *(BEFORE_SETTLED[row.phase] or ["deploy:old", "forget"])], "rollback"
    if row.event is E.STEP:
        return BEFORE_STEP[row.phase], "step:light"
    if row.event is E.FAILED:
        return FAILING[row.phase]
    if row.phase in (P.STEPPING, P.STEPPED_OVER):
        return ["ladder:old+light"], "step:light"
    if row.phase is P.ROLLING_BACK:
        return ["deploy:old"], "deploy:late"
    return ["deploy:old"], "deploy:new"


def prepared(folder: Path, orders: list[str]) -> str | None:
    """Carry out the orders in this process; return what serves."""
    scene = Scene(folder)
    for order in orders:
        if order == "forget":  # the journal was lost, the links were not
            with scene.database.transaction() as connection:
                connection.execute("DELETE FROM deployment_journal")
        else:
            scene.try_to(order)
    serving = scene.serving()
    scene.close()
    return serving


def ids(row: Row) -> str:
    return f"{row.phase.value}-{row.event.value}"


def expected(row: Row, order: str, before: str | None) -> str | None:
    """What must serve once the cut at the entry of ``row.to`` has been recovered from."""
    if order == "rollback":
        return "older"
    if row.to in (P.STEPPED_OVER, P.STEPPED):
        return "light"
    return "new" if row.to in (P.COMMITTING, P.DONE) else before


@pytest.mark.parametrize("done", ["0", "1"], ids=["stored", "acted"])
@pytest.mark.parametrize("row", TABLE, ids=ids)
def test_killed_at_every_row(run_killed: Orders, tmp_path: Path, row: Row, done: str) -> None:
    orders, order = way_to(row)
    before = prepared(tmp_path, orders)
    assert run_killed(tmp_path, order, row.to.value, done) == KILLED

    scene = Scene(tmp_path)
    record = scene.deployer.status(TASK)
    assert record.phase == row.to.value
    tried = "new" if order.startswith("stop") else order.partition(":")[2]
    assert scene.serving() in {before, tried, expected(row, order, before)}  # whole, whichever it is

    statuses = scene.deployer.recover()
    assert len(statuses) == (0 if is_settled(row.to.value) else 1)
    assert scene.serving() == expected(row, order, before)
    found = scene.deployer.status(TASK)
    assert is_settled(found.phase)
    assert (found.outcome == "deployed") == (row.to in (P.COMMITTING, P.DONE))
    if "jam" not in orders:
        scene.assert_tidy()
    blamed = [(f.candidate, f.failures) for f in scene.deployer._journal.failures()]
    if row.to in SUSPECT:
        assert (order.partition(":")[2], 1) in blamed
    elif order == "deploy:new":
        assert "new" not in dict(blamed)
    assert scene.deployer.recover() == ()
    scene.close()


UNSETTLED = [phase for phase in Phase if not is_settled(phase.value)]


@pytest.mark.parametrize("phase", UNSETTLED, ids=lambda phase: phase.value)
def test_the_recovery_killed_as_well(run_killed: Orders, tmp_path: Path, phase: Phase) -> None:
    orders, order = (["deploy:old"], "deploy:late" if phase is P.ROLLING_BACK else "deploy:new")
    if phase in (P.STEPPING, P.STEPPED_OVER):
        orders, order = ["ladder:old+new"], "step:new"
    prepared(tmp_path, orders)
    assert run_killed(tmp_path, order, phase.value, "0") == KILLED
    for count in range(1, 10):
        again = tmp_path / f"again-{count}"
        shutil.copytree(tmp_path / "state", again / "state", symlinks=True)
        status = run_killed(again, "recover", str(count))
        scene = Scene(again)
        scene.deployer.recover()
        assert scene.serving() == ("new" if phase in (P.COMMITTING, P.STEPPED_OVER) else "old")
        assert is_settled(scene.deployer.status(TASK).phase)
        scene.assert_tidy()
        blamed = [f.failures for f in scene.deployer._journal.failures()]
        assert blamed == ([1] if phase in SUSPECT or phase is P.ROLLING_BACK else [])
        scene.close()
        if status != KILLED:
            assert count > 2
            return
    pytest.fail("the recovery never ended")


def test_a_model_that_takes_the_board_down_is_quarantined(run_killed: Orders, tmp_path: Path) -> None:
    prepared(tmp_path, ["deploy:old"])
    for _ in range(3):
        assert run_killed(tmp_path, "deploy:new", "probation", "0") == KILLED
        scene = Scene(tmp_path)
        scene.deployer.recover()
        assert scene.serving() == "old"
        scene.close()
    scene = Scene(tmp_path)
    assert [(q.candidate, q.reason) for q in scene.deployer.quarantined()] == [
        ("new", "interrupted in phase probation")
    ]
    scene.close()


def test_a_restored_application_that_takes_the_board_down_ends(run_killed: Orders, tmp_path: Path) -> None:
    prepared(tmp_path, ["deploy:old"])
    assert run_killed(tmp_path, "deploy:late", "rolling_back", "0") == KILLED
    killed = 0
    while run_killed(tmp_path, "recover", "rolling_back", "1") == KILLED:  # after the hook, again and again
        killed += 1
        scene = Scene(tmp_path)
        record = scene.deployer.status(TASK)
        scene.close()
        if record.phase == "rolling_back" and len(scene.hook_log()) == HOOKS_BEFORE_GIVING_UP:
            break
        assert killed < 40
    assert run_killed(tmp_path, "recover") == 0
    scene = Scene(tmp_path)
    found = scene.deployer.status(TASK)
    assert found.phase == "rolled_back"
    assert found.reason is not None and "abandoned after" in found.reason
    assert len(scene.hook_log()) == HOOKS_BEFORE_GIVING_UP
    assert scene.serving() == "old"
    scene.close()


# Two deployments ran the hook; a rollback enters its phase with write 9, and the hook runs up to write 28.
HOOKS_BEFORE_GIVING_UP = 2 + 28 - 9
