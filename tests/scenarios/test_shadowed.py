"""Before a switch that asks for it the candidate runs beside what serves, on a real application's requests."""

from __future__ import annotations

from agent.client import open_model
from tests.client.places import digits
from tests.client.test_lending import Calls
from tests.client.test_model import FAST, until
from tests.scenarios.conftest import CANDIDATES, QUICK, Installation

SMALLEST = {"digits": {"budgets": {"accuracy_top1": ">= 0.9"}, "objective": ["minimize size"]}}
SHADOW = {"requests": 20, "agreement": 0.7, "share": 1.0, "time": "5 min", "without_traffic": "require"}


def test_a_pass_switches_only_after_the_application_s_own_requests(installation: Installation) -> None:
    installation.tasks, installation.more = SMALLEST, {"measure": {**QUICK, "processes": 1}}
    installation.write()
    first = CANDIDATES[1]  # the largest
    assert installation("bench", "--candidate", first).code == 0
    assert installation("deploy", "--task", "digits", "--candidate", first).code == 0
    installation.write(tasks={"digits": {**SMALLEST["digits"], "shadow": SHADOW}})
    with (
        open_model("digits", state_dir=installation.state, **FAST) as model,
        Calls(model, digits(), images=True) as calls,
    ):
        done = installation("once", "--json")
        assert done.code == 0, done.err
        better = done.document["decisions"][0]["winner"]["candidate"]
        assert better != first
        until(lambda: model.swaps == 1, "the swap")
        assert model.deployment.candidate == better
        seen = calls.count
        until(lambda: calls.count > seen, "a call")
    (task,) = installation("status", "--json").document["tasks"]
    ran = task["shadow"]
    assert (ran["candidate"], ran["incumbent"], ran["verdict"]) == (better, first, "passed")
    assert ran["requests"] >= 20 and ran["metric"] == "top1"
    assert f"Shadow run: digits: {better} beside {first}: passed: it agrees on " in installation("status").out
