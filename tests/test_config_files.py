"""agent.yaml and conf.d: what is put together, and what is refused with both files named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.config import load_config
from agent.config_files import read_files
from agent.errors import ConfigError


@pytest.fixture
def main(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    path = tmp_path / "agent.yaml"
    path.write_text("tasks: {digits: {}}\n")
    return path


def part(main: Path, name: str, text: str) -> Path:
    path = main.parent / "conf.d" / name
    path.write_text(text)
    return path


def test_a_section_of_conf_d_counts_as_if_agent_yaml_had_it(main: Path) -> None:
    part(main, "20-mqtt.yaml", "mqtt: {url: mqtts://b, ca: ca.pem}\n")
    part(main, "10-device.yaml", "device: {id: pi}\n")
    part(main, "empty.yaml", "# nothing\n")
    part(main, ".hidden.yaml", "nonsense: 1\n")
    part(main, "notes.txt", "nonsense: 1\n")
    config = load_config(main)
    assert (list(config.tasks), config.device_id, config.path) == (["digits"], "pi", main)
    assert config.mqtt is not None
    assert config.mqtt.ca == main.parent / "ca.pem"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: {}\n", r"`tasks:` is given in .*agent.yaml and in .*x.yaml"),
        ("mqtt: [\n", r"x.yaml is not valid YAML: line 2"),
        ("- mqtt\n", r"x.yaml must be a mapping"),
        ("mqqt: {}\n", r"unknown key `mqqt`.*Did you mean `mqtt`"),
    ],
)
def test_what_cannot_be_put_together_names_the_file(main: Path, text: str, said: str) -> None:
    part(main, "x.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(main)
    assert re.search(said, str(caught.value))


def test_conf_d_does_not_stand_in_for_an_agent_yaml_that_was_named(main: Path) -> None:
    part(main, "x.yaml", "device: {id: pi}\n")
    main.unlink()
    with pytest.raises(ConfigError, match="no configuration at"):
        load_config(main)
    assert read_files(main, wanted=False) == {"device": {"id": "pi"}}
    assert read_files(main.parent / "elsewhere" / "agent.yaml", wanted=False) is None
