"""Where the broker and the operator come from: fleet.yaml, agent.yaml, options; and the ledger's numbers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml

from agent.core.payloads import Job
from agent.errors import BusyError, ConfigError
from agent.fleet.attaching import recalled
from agent.fleet.ledger import Ledger, Sent
from agent.fleet.settings import Options, load_settings, operator_name, read_public, write_public

MQTT = {"url": "mqtts://broker.example.org", "fleet": "plant", "ca": "ca.pem", "cert": "anna.pem", "key": "/keys/anna"}


def written(folder: Path, document: object, name: str = "fleet.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_fleet_file_with_paths_beside_it(tmp_path: Path) -> None:
    path = written(tmp_path, {"mqtt": MQTT, "operator": {"name": "anna", "key": "operator.key"}})
    settings = load_settings(Options(config=path))
    assert (settings.fleet, settings.broker.url) == ("plant", "mqtts://broker.example.org:8883")
    assert (settings.broker.ca, settings.broker.key) == (str(tmp_path / "ca.pem"), "/keys/anna")
    assert (settings.key, operator_name(settings)) == (tmp_path / "operator.key", "anna")


def test_options_take_the_files_place(tmp_path: Path) -> None:
    path = written(tmp_path, {"mqtt": MQTT, "operator": {"name": "anna"}})
    settings = load_settings(Options(config=path, fleet="farm", ca=Path("/other.pem"), operator="bert"))
    assert (settings.fleet, settings.broker.ca, operator_name(settings)) == ("farm", "/other.pem", "bert")
    other = load_settings(Options(config=path, broker="mqtt://127.0.0.1:1900")).broker
    assert (other.url, other.cert, other.ca) == ("mqtt://127.0.0.1:1900", None, None)  # not the other broker's


def test_a_boards_configuration_serves_too(tmp_path: Path) -> None:
    mqtt = {"url": "mqtt://127.0.0.1", "fleet": "plant", "protocol": "3.1.1"}
    path = written(tmp_path, {"mqtt": mqtt, "tasks": {"digits": {}}}, "agent.yaml")
    settings = load_settings(Options(config=path))
    assert (settings.fleet, settings.broker.protocol) == ("plant", "3.1.1")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "no broker is given"),
        ({"mqtt": {"url": "mqtt://x"}}, "missing required field `fleet`"),
        ({"mqtt": {**MQTT, "fleat": "x"}}, "did you mean `fleet`"),
        ({"mqtt": {**MQTT, "fleet": "Plant 7"}}, "cannot stand in an MQTT topic"),
        ({"operator": {"nam": "anna"}}, "did you mean `name`"),
        (["mqtt"], "must be a mapping"),
    ],
)
def test_a_bad_file_says_what_to_do(tmp_path: Path, document: object, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(Options(config=written(tmp_path, document)))
    assert said.lower() in str(error.value).lower()


@pytest.mark.parametrize(
    "operator", [{}, {"operator": {"name": "anna"}}], ids=["as a board has it", "as an operator has it"]
)
def test_a_registry_is_named_in_the_file_or_by_options(tmp_path: Path, operator: dict[str, object]) -> None:
    path = tmp_path / "fleet.yaml"
    written = {
        "mqtt": {"url": "mqtt://here", "fleet": "plant"},
        "registry": {"url": "https://models", "root": "r.json"},
    }
    path.write_text(yaml.safe_dump({**written, **operator}))
    assert load_settings(Options(config=path)).registry == ("https://models", tmp_path / "r.json")
    given = Options(config=path, registry="file:///other", root=Path("other.json"))
    assert load_settings(given).registry == ("file:///other", Path("other.json"))
    path.write_text(yaml.safe_dump({"mqtt": written["mqtt"]}))
    assert load_settings(Options(config=path)).registry is None
    for wrong in (Options(config=path, root=Path("r.json")), Options(config=path, registry="file:///other")):
        with pytest.raises(ConfigError, match="registry"):
            load_settings(wrong)


def test_the_name_stands_beside_the_key(tmp_path: Path) -> None:
    key = tmp_path / "operator.key"
    settings = load_settings(Options(broker="mqtt://x", fleet="plant", key=key, config=written(tmp_path, {})))
    with pytest.raises(ConfigError, match="is not known"):
        operator_name(settings)
    public = write_public(key, "anna", "0" * 64)
    assert (operator_name(settings), read_public(public)) == ("anna", ("anna", "0" * 64))
    public.write_text("anna\n")
    with pytest.raises(ConfigError, match="does not hold"):
        operator_name(settings)


class Standing:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = datetime(2026, 12, 1, tzinfo=timezone.utc)

    def utc(self) -> datetime:
        return self.now

    def monotonic_s(self) -> float:
        return 0.0


def test_counters_only_rise_whatever_the_clock_does(tmp_path: Path) -> None:
    clock = Standing()
    with Ledger(tmp_path, clock) as ledger:
        first = ledger.counters("anna", 3)
        assert list(first) == [first[0], first[0] + 1, first[0] + 2]
        clock.now -= timedelta(days=300)
        with Ledger(tmp_path, clock) as other:
            assert other.counters("anna", 1)[0] == first[-1] + 1
        clock.now += timedelta(days=301)
        later = ledger.counters("anna", 1)[0]
        assert later > first[-1] + 1
    (tmp_path / "fleet.db").unlink()
    clock.now += timedelta(seconds=1)
    with Ledger(tmp_path, clock) as lost:
        assert lost.counters("anna", 1)[0] > later  # a lost file is no way back


def test_one_console_at_a_time_sends(tmp_path: Path) -> None:
    with Ledger(tmp_path, Standing()) as ledger, ledger.turn(), pytest.raises(BusyError), ledger.turn():
        pass


def test_what_was_sent_is_remembered_with_the_newest_answers(tmp_path: Path) -> None:
    sent = Sent(
        id="0badcafe0badcafe", fleet="plant", verb="bench", issuer="anna", address="all", boards=("pi", "px", "py"),
        sent_at="2026-12-01T00:00:00Z", until="2026-12-01T07:00:00Z", offline=("py",),
    )  # fmt: skip
    with Ledger(tmp_path, Standing()) as ledger:
        ledger.keep(sent)
        job = {"fleet": "plant", "device": "pi", "id": sent.id, "verb": "bench"}
        ledger.keep_answers([Job(**job, state="SUCCEEDED", revision=3)])
        ledger.keep_answers([Job(**job, state="IN_PROGRESS", revision=2)])
        assert ledger.find("plant", "0bad") == [sent] == ledger.sent("plant")
        assert ledger.find("farm", "0bad") == []
        states = {name: answer.state for name, answer in recalled(ledger, sent).answers.items()}
    assert states == {"pi": "SUCCEEDED", "px": "waiting", "py": "offline"}
