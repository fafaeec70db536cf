"""agent.yaml: what is accepted, and that every refusal names the place and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent import config as config_module
from agent.config import load_config, parse_config
from agent.config_schedule import ReplayConfig
from agent.core.budget import METRICS
from agent.errors import ConfigError
from agent.site import Site

SHIPPED = Path(__file__).resolve().parent.parent / "systemd" / "agent.yaml"

EXAMPLE = """
registry: {url: https://models.example.org/edge, root: root.json}
mqtt: {url: mqtts://broker.example.org, ca: /etc/boardfit/ca.pem, fleet: plant-7, group: [line-2]}
tasks:
  digits:
    budgets:
      latency_p95: 20 ms
      memory_peak: 64 MiB
      power_mean: 4 W
      energy_per_inference: 30 mJ
      size: 4 MiB
      load_time: 2 s
      accuracy_top1: ">= 0.95"
      accuracy_drop: 0.02
    objective: [maximize accuracy_top1, minimize energy_per_inference, minimize latency_p95]
    hook: {command: [/usr/bin/systemctl, reload, digits], deadline: 20 s}
schedule:
  - name: nightly
    action: bench
    cron: "0 3 * * *"
    jitter: 15 min
    window: 2 h
    when: {load: "< 0.5", temperature: "< 60 C"}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return path


def test_the_documented_example_is_read_into_si_units(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, EXAMPLE))
    assert config.registry is not None
    assert config.registry.root == tmp_path / "root.json"
    task = config.task("digits")
    assert {budget.metric: budget.limit for budget in task.budgets} == {
        "latency_p95": 0.02, "memory_peak": 64 * 2**20, "power_mean": 4.0, "energy_per_inference": 0.03,
        "size": 4 * 2**20, "load_time": 2.0, "accuracy_top1": 0.95, "accuracy_drop": 0.02,
    }  # fmt: skip
    assert [objective.text for objective in task.objectives] == [
        "maximize accuracy_top1", "minimize energy_per_inference", "minimize latency_p95",
    ]  # fmt: skip
    assert task.hook is not None
    assert task.hook.deadline_s == 20.0
    (entry,) = config.schedule
    assert (entry.jitter_s, entry.window_s) == (900.0, 7200.0)
    assert [condition.text for condition in entry.when] == ["load < 0.5", "temperature < 60.0 °C"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "tasks: {digits: {budget: {}}}",
            "unknown key `tasks.digits.budget` in the configuration. Did you mean `budgets`",
        ),
        ("registri: {}", "unknown key `registri` in the configuration. Did you mean `registry`"),
        ("schedule: [{name: a, cron: '* * * * *', widow: 1 h}]", "unknown key `schedule[0].widow`"),
        ("tasks: {digits: {budgets: {latency_p95: 20}}}", "tasks.digits.budgets.latency_p95: 20 has no unit"),
        ("tasks: {digits: {budgets: {latency_p95: 20 MB}}}", "'MB' is not a unit of time"),
        ("tasks: {digits: {budgets: {latency_p59: 20 ms}}}", "'latency_p59' is not a metric. Did you mean latency_p9"),
        ("tasks: {digits: {budgets: {accuracy_top1: '<= 0.9'}}}", "on the wrong side. Write >="),
        ("tasks: {digits: {budgets: {accuracy_top1: 95}}}", "out of range"),
        ("tasks: {digits: {budgets: {latency_p95: .inf ms}}}", "is not a quantity"),
        ("tasks: {digits: {budgets: {latency_p95: true}}}", "True is not a quantity"),
        ("tasks: {digits: {objective: [smallest latency]}}", "is not an objective"),
        ("tasks: {Digits: {}}", "'Digits' is not a usable name"),
        ("schedule: [{name: a, cron: 'every day'}]", "is not a cron expression"),
        ("schedule: [{name: a, cron: '0 0 31 2 *'}]", "is not a cron expression"),
        ("schedule: [{name: a, cron: '* * * * *', when: {humidity: '< 5'}}]", "'humidity' is not a condition"),
        ("schedule: [{name: a, cron: '* * * * *', action: dance}]", "'dance' is not an action. Use one of pass, bench"),
        ("schedule: [{name: a, cron: '* * * * *', when: {serving: idle}}]", "Write `serving: none for 5 min`"),
        ("schedule: [{name: a, cron: '* * * * *', when: {serving: none for 5}}]", "'5' has no unit"),
        ("schedule: [{name: a, cron: '* * * * *', when: {serving: none for 1 s}}]", "Write 2 s or more"),
        ("schedule: [{name: a, cron: '* * * * *', when: {power: solar}}]", "Write `power: mains`"),
        (
            "board: {budgets: {latency_p95: 20 ms}}",
            "latency_p95 does not add up over tasks. Share memory_peak and power",
        ),
        ("board: {budgets: {memory_peak: 600}}", "board.budgets.memory_peak: 600 has no unit"),
        ("board: {tasks: [digits]}", "board.tasks: 'digits' is not a configured task"),
        ("tasks: {a: {}}\nboard: {tasks: [a, a]}", "must name each task that shares once"),
        ("board: {tries: 0}", "tries is 0, which must be 1 to 50"),
        ("board: {window: 3}", "board.window: 3 has no unit"),
        ("board: {window: 1 h}", "window is 1 h, which must be above 0 s"),
        ("caps: {bench_time: 30}", "caps.bench_time: 30 has no unit"),
        ("caps: {download: 0 MiB}", "must be above zero"),
        ("mqtt: {url: mqtt://x, drain: {rate: 5}}", "mqtt.drain.rate: 5 has no unit"),
        ("mqtt: {url: mqtt://x, drain: {burst: 0}}", "mqtt.drain.burst is 0"),
        ("mqtt: {url: mqtt://x, receipts: maybe}", "Invalid enum value 'maybe' - at `$.mqtt.receipts`"),
        ("mqtt: {url: mqtt://x, protocol: '4'}", "'4' is not spoken here"),
        ("mqtt: {url: mqtt://x, keepalive: 60}", "mqtt.keepalive: 60 has no unit"),
        ("registry: {url: x}", "missing required field `root`"),
        ("registry: [", "is not valid YAML: line 1"),
        ("device: {id: a}\ndevice: {id: b}", "key 'device' is written twice"),
        ("- a\n- b", "must be a mapping"),
        ("tasks: {d: {hook: {command: [reload]}}}", "must name a program"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_explicit_file_that_is_missing_is_an_error_and_the_default_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no configuration at"):
        load_config(tmp_path / "nothing.yaml")
    monkeypatch.setattr("agent.config.DEFAULT_PATH", tmp_path / "absent.yaml")
    assert load_config(None) == parse_config({}, path=None)


def test_binary_noise_is_refused_without_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


def keys_of(kind: Any, active: Any, whole: Any, path: str) -> Iterator[tuple[str, Any, Any, Any]]:
    """Each key of the configuration's type: its path, field, value in use, and value with every `#key` switched on."""
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(member for member in kind.types if not isinstance(member, msgspec.inspect.NoneType))
    if isinstance(kind, msgspec.inspect.StructType):
        for field in kind.fields:
            here = f"{path}.{field.name}"
            assert isinstance(whole, dict) and field.name in whole, f"{here} is not in {SHIPPED.name}"
            in_use = (active or {}).get(field.name)
            yield here, field, in_use, whole[field.name]
            yield from keys_of(field.type, in_use, whole[field.name], here)
    elif isinstance(kind, msgspec.inspect.DictType):
        for key, value in whole.items():
            yield from keys_of(kind.value_type, (active or {}).get(key), value, f"{path}.{key}")
    elif isinstance(kind, msgspec.inspect.ListType):
        for number, value in enumerate(whole):
            yield from keys_of(kind.item_type, active[number] if active else None, value, f"{path}[{number}]")


def test_the_shipped_example_is_a_valid_configuration() -> None:
    config = load_config(SHIPPED)
    assert config.registry is not None
    assert config.registry.root == SHIPPED.parent / "root.json"
    assert config.tasks and config.schedule


def test_the_shipped_example_has_every_key_and_tells_its_default(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    switched_on = re.sub(r"(?m)^( *)#(?=[a-z])", r"\1", text)
    load_config(write(tmp_path, switched_on))
    active, whole = yaml.safe_load(text), yaml.safe_load(switched_on)
    wrong = {}
    for path, field, in_use, value in keys_of(msgspec.inspect.type_info(config_module._Document), active, whole, ""):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        told = in_use is None and default not in (None, msgspec.NODEFAULT) and not isinstance(default, msgspec.Struct)
        if told and value != default:
            wrong[path] = (value, default)
    assert wrong == {}
    assert set(whole["tasks"]["digits"]["budgets"]) == set(METRICS)
    assert set(whole["schedule"][0]["when"]) == {"load", "temperature"}


@pytest.mark.parametrize("every", [False, "off"])
def test_the_replay_may_be_off(every: object) -> None:
    assert parse_config({"replay": {"every": every}}, path=None).replay.every_s is None
    replay = parse_config({"replay": {"every": "12 h", "when": {}}}, path=None).replay
    assert (replay.every_s, replay.when) == (43200.0, ())
    assert parse_config({}, path=None).replay == ReplayConfig()


@pytest.mark.parametrize("replay", [{"every": "1 min"}, {"every": 5}, {"when": {"heat": "< 3"}}])
def test_a_replay_that_makes_no_sense_is_refused(replay: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="replay"):
        parse_config({"replay": replay}, path=None)


@pytest.mark.parametrize(
    ("board", "sharing"),
    [
        ("{}", ()),
        ("{tasks: [b, a]}", ()),  # nothing is shared where no budget is
        ("{budgets: {memory_peak: <= 600 MiB}}", ("a", "b", "c")),
        ("{budgets: {power_mean: 4 W}, tasks: [c, a]}", ("c", "a")),
    ],
)
def test_the_tasks_share_in_the_order_in_which_they_are_written(
    tmp_path: Path, board: str, sharing: tuple[str, ...]
) -> None:
    config = load_config(write(tmp_path, f"tasks: {{a: {{}}, b: {{}}, c: {{}}}}\nboard: {board}"))
    assert config.sharing == sharing


METER = {"kind": "shelly", "topic": "plug-1"}


def test_meters_are_read_into_si_units(tmp_path: Path) -> None:
    written = {**METER, "period": "500 ms", "accuracy": 0.01, "url": "mqtt://10.0.0.2", "password_file": "secret"}
    power = {"window_max": "2 min", "pmic_fit": {"gain": 1.15, "offset": "590 mW"}, "meters": {"plug": written}}
    config = parse_config({"power": power}, path=tmp_path / "agent.yaml")
    (meter,) = config.power.meters
    assert (meter.name, meter.period_s, meter.accuracy_ratio, meter.ask) == ("plug", 0.5, 0.01, True)
    assert meter.password_file == tmp_path / "secret"
    assert config.power.window_max_s == 120.0
    assert config.power.pmic_fit == (1.15, pytest.approx(0.59))


@pytest.mark.parametrize(
    ("power", "problem"),
    [
        ({"meters": {"plug": {**METER, "kind": "fritz"}}}, "not valid"),
        ({"meters": {"plug": {**METER, "topic": "plug/#"}}}, "is no topic"),
        ({"meters": {"plug": {**METER, "topic": ""}}}, "is no topic"),
        ({"meters": {"Plug 1": METER}}, "not a usable name"),
        ({"meters": {"plug": {**METER, "period": 1}}}, "period"),
        ({"meters": {"plug": {**METER, "accuracy": 1.5}}}, "is no share"),
        ({"meters": {"plug": {**METER, "username": "x"}}}, "go with a url"),
        ({"meters": {"plug": {**METER, "colour": "x"}}}, "unknown key `power.meters.plug.colour`"),
        ({"pmic_fit": {"gain": 0, "offset": "1 W"}}, "must be above zero"),
        ({"window_max": "0 s"}, "must be above zero"),
    ],
)
def test_a_meter_that_cannot_be_is_refused(power: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_config({"power": power}, path=None)


def test_a_site_hears_its_meters_at_their_own_broker_or_at_that_of_the_fleet(tmp_path: Path) -> None:
    meters = {"plug": METER, "other": {**METER, "url": "mqtts://u@10.0.0.2", "component": "pm1:0", "period": "3 s"}}
    document = {"mqtt": {"url": "mqtt://fleet", "username": "b"}, "power": {"window_max": "60 s", "meters": meters}}
    with Site(parse_config(document, path=None), tmp_path) as site:
        plug, other = site.board._outside.meters
        assert (plug.broker.url, plug.broker.username, plug.topic) == ("mqtt://fleet:1883", "b", "plug-1")
        assert (other.broker.url, other.broker.username, other.period_s) == ("mqtts://10.0.0.2:8883", "u", 3.0)
        assert site.measure_settings.power_window_max_s == 60.0


def test_a_meter_without_any_broker_is_an_error_that_names_it(tmp_path: Path) -> None:
    with (
        Site(parse_config({"power": {"meters": {"plug": METER}}}, path=None), tmp_path) as site,
        pytest.raises(ConfigError, match=r"power\.meters\.plug\.url: there is no broker"),
    ):
        site.board.power_meters()


@pytest.mark.parametrize("device", ["auto", {"id": "auto"}, {}])
def test_a_name_that_is_to_be_derived_is_none(device: Any) -> None:
    assert parse_config({"device": device}, path=None).device_id is None


def test_a_device_that_is_neither_a_name_nor_auto_is_refused() -> None:
    with pytest.raises(ConfigError, match="not valid"):
        parse_config({"device": "kitchen"}, path=None)
