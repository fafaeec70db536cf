"""``bench --sustained`` by real processes on real candidates; steady is called far too early, by a stated patch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.scenarios.conftest import CANDIDATES, ROOT, Installation

#: Everything is called steady after half a second, so that the way of the figures is tested and not the figures.
HASTY = """
import sys
from functools import partial
import agent.sustained
from agent.cli import main
from agent.measure.heat import HeatPolicy
from agent.measure.sustained import measure_sustained
policy = HeatPolicy(window_s=0.5, steady_trend=1e9, settled_celsius_per_s=1e9)
agent.sustained.measure_sustained = partial(measure_sustained, policy=policy, blind_s=0.5, block_s=0.02)
sys.exit(main())
"""


def hasty(installation: Installation, *arguments: str) -> Any:
    command = [sys.executable, "-c", HASTY, "bench", "--sustained", "--json", *arguments]
    files = ["--config", str(installation.config), "--state-dir", str(installation.state)]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["measurements"]


def test_an_unknown_sustained_latency_blocks_until_it_was_measured(installation: Installation) -> None:
    installation.tasks = {"digits": {"budgets": {"latency_p95_sustained": "1 s"}}}
    installation.write()
    blocked = installation("once", "--json")
    assert blocked.code == 3
    assert "sustained latency was not measured" in installation("explain").out
    (first,) = hasty(installation)  # the one that would be chosen if only that were no obstacle
    assert first["sustained"]["steady"] is True
    served = installation("once", "--json").document
    assert served["measured"] == []
    (deployed,) = served["deployments"]
    assert deployed["current"]["candidate"] == first["candidate"]
    (again,) = hasty(installation)  # the check of what serves
    assert (again["candidate"], again["point"]) == (first["candidate"], first["point"])
    assert again["sustained"]["measured_at"] > first["sustained"]["measured_at"]
    assert again["latency"] == first["latency"]


def test_what_is_over_its_limit_in_the_long_run_is_left_for_the_next(installation: Installation) -> None:
    installation.tasks = {"digits": {"budgets": {"latency_p95_sustained": "1 us"}}}
    installation.write()
    assert installation("once").code == 3
    measured = hasty(installation)
    options = [(one["candidate"], tuple(one["point"].items())) for one in measured]
    assert len(options) == len(set(options)) >= len(CANDIDATES)
    decided = installation("select", "--json").document["decisions"][0]
    assert {option["standing"] for option in decided["options"]} == {"over_budget"}


def test_one_that_was_not_measured_cannot_be_run_on(installation: Installation) -> None:
    refused = installation("bench", "--sustained", "--candidate", CANDIDATES[0])
    assert refused.code == 2
    assert f"boardfit bench --task digits --candidate {CANDIDATES[0]}" in refused.err


def test_not_steady_in_the_time_given_stays_unknown_and_says_what_moved(installation: Installation) -> None:
    installation.tasks = {"digits": {"budgets": {"latency_p95_sustained": "1 s"}}}
    installation.write(
        measure={"min_runs": 20, "threads": [1], "contended": "flag", "processes": 1, "sustained_max_time": "0.1 s"}
    )
    assert installation("bench", "--candidate", CANDIDATES[0]).code == 0
    done = installation("bench", "--sustained", "--candidate", CANDIDATES[0])
    assert done.code == 0, done.err
    assert "no sustained latency: not steady within" in done.out
    unknown = installation("select", "--json").document["decisions"][0]["options"]
    assert any("not steady within" in option["reason"] for option in unknown)
