"""Laying desired settings over agent.yaml, and a pin in the decision: pure tables."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.config import parse_config
from agent.config_desired import with_desired
from agent.core.allowance import Caps
from agent.core.desired import DesiredSettings
from agent.errors import ConfigError

WRITTEN = parse_config(
    {
        "tasks": {
            "digits": {"budgets": {"latency_p95": "20 ms", "size": "1 MiB"}, "objective": ["minimize size"]},
            "speech": {},
        },
        "schedule": [{"name": "nightly", "cron": "0 3 * * *"}],
    },
    path=None,
)


def laid(*documents: tuple[str, dict[str, Any]]) -> Any:
    return with_desired(WRITTEN, [(scope, msgspec.convert(one, DesiredSettings)) for scope, one in documents])


def test_what_is_left_out_is_as_written() -> None:
    assert laid() == laid(("all", {}), ("device", {"tasks": {"digits": {}}})) == WRITTEN


def test_budgets_are_replaced_whole_and_other_tasks_left_alone() -> None:
    config = laid(("device", {"tasks": {"digits": {"budgets": {"latency_p95": "5 ms"}}}}))
    assert [budget.text for budget in config.tasks["digits"].budgets] == ["latency_p95 <= 5 ms"]
    assert [objective.text for objective in config.tasks["digits"].objectives] == ["minimize size"]
    assert config.tasks["speech"] == WRITTEN.tasks["speech"]
    assert laid(("device", {"tasks": {"digits": {"budgets": {}}}})).tasks["digits"].budgets == ()


def test_the_narrower_scope_speaks_last() -> None:
    pin = {"tasks": {"digits": {"pin": "a"}}}
    assert laid(("all", pin)).tasks["digits"].pin == "a"
    assert laid(("all", pin), ("device", {"tasks": {"digits": {"pin": "b"}}})).tasks["digits"].pin == "b"
    assert laid(("all", pin), ("device", {"tasks": {"digits": {"pin": ""}}})).tasks["digits"].pin is None
    assert laid(("all", pin), ("device", {"tasks": {"speech": {"pin": "c"}}})).tasks["digits"].pin == "a"
    assert laid(("all", {"schedule": []})).schedule == ()
    assert laid(("all", {"schedule": []}), ("group:x", {})).schedule == ()


def test_limits_of_a_day_take_the_place_of_those_written() -> None:
    written = parse_config({"caps": {"bench_time": "30 min", "download": "1 GiB"}}, path=None)

    def caps(*documents: dict[str, Any]) -> Any:
        return with_desired(written, [("all", msgspec.convert(one, DesiredSettings)) for one in documents]).caps

    assert caps({}) == written.caps
    assert caps({"caps": {"download": "10 MiB"}}) == Caps(download_bytes=10 * 2**20)
    assert caps({"caps": {"bench_time": "1 min"}}, {"caps": {}}) == Caps()
    for bad, says in (({"download": "0 MiB"}, "above zero"), ({"bench_time": 30}, "no unit"), ({"x": "1 s"}, "caps.x")):
        with pytest.raises(ConfigError, match=says):
            caps({"caps": bad})


def test_what_is_not_asked_for_is_not_written() -> None:
    assert msgspec.json.encode(DesiredSettings()) == b"{}"
    assert b"caps" not in msgspec.json.encode(DesiredSettings(schedule=()))


def test_a_fleet_may_name_tasks_that_are_not_here_and_a_board_that_lists_none_takes_any() -> None:
    foreign = {"tasks": {"faces": {"pin": "a"}}}
    assert laid(("group:line-2", foreign)) == WRITTEN
    with pytest.raises(ConfigError, match="no task faces here"):
        laid(("device", foreign))
    bare = parse_config({}, path=None)
    assert with_desired(bare, [("device", msgspec.convert(foreign, DesiredSettings))]).tasks["faces"].pin == "a"


@pytest.mark.parametrize(
    "settings",
    [
        {"tasks": {"digits": {"budgets": {"latency_p95": 20}}}},
        {"tasks": {"digits": {"budgets": {"latency": "20 ms"}}}},
        {"tasks": {"digits": {"objective": []}}},
        {"tasks": {"digits": {"objective": ["minimise size"]}}},
        {"tasks": {"../x": {"pin": "a"}}},
        {"schedule": [{"name": "a"}]},
        {"schedule": [{"name": "a", "cron": "0 3 * * *", "when": {"mood": "> 1"}}]},
        {"schedule": [{"name": "a", "cron": "0 3 * * *"}, {"name": "a", "cron": "0 4 * * *"}]},
    ],
)
def test_what_agent_yaml_would_refuse_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        laid(("device", settings))
