"""Copied memory cards: a state that was made on another machine, and two boards with one name at one broker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.config import load_config
from agent.core.facts import Hardware
from agent.database import FILE_NAME, Database
from agent.mqtt import BrokerSettings
from agent.ownership import Holder, forget, read_holder, settle, write_holder
from agent.site import Site
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import ROOT, run

#: The daemon, on a machine of another boot: this machine has one, two boards have two.
OTHER_BOOT = """
import os, sys
from agent.device import identify
identify.read_boot_id = lambda root: os.environ["BOOT"]
from agent.cli import main
sys.exit(main())
"""
HERE, THERE = Hardware(serial="a", machine="m"), Hardware(serial="b", machine="m")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / FILE_NAME)


def test_another_machine_is_told_by_its_serial_else_by_its_system() -> None:
    assert THERE.differs(HERE)
    assert not Hardware(serial="a", machine="new").differs(HERE)  # the system was installed anew
    assert Hardware(machine="n").differs(Hardware(machine="m"))
    assert not Hardware().differs(HERE)


@pytest.mark.parametrize(
    ("before", "given", "key", "speaks"),
    [
        (Holder(hardware=THERE, name="old"), None, None, True),
        (Holder(hardware=THERE, name="old", given=True), "old", None, False),
        (Holder(hardware=THERE, name="old", given=True), "new", None, True),
        (Holder(hardware=THERE, name="old", given=True, key="k"), "new", "k", False),
        (Holder(hardware=THERE, name="old", given=True, key="k"), "new", "k2", True),
        (Holder(hardware=THERE, name="old", key="k"), None, "k", False),
    ],
)
def test_a_copy_speaks_only_under_a_name_and_key_of_its_own(
    database: Database, before: Holder, given: str | None, key: str | None, speaks: bool
) -> None:
    write_holder(database, before)
    with database.transaction() as connection:
        connection.execute("CREATE TABLE outbox (seq INTEGER)")
        connection.execute("CREATE TABLE deployment_journal (task TEXT)")
    standing = settle(database, HERE, given=given, derived="mine", key=key)
    assert (standing.refusal is None) is speaks
    tables = {row["name"] for row in database.rows("SELECT name FROM sqlite_master")}
    assert ("outbox" in tables, "deployment_journal" in tables) == (not speaks, True)
    after = read_holder(database)
    assert after is not None
    assert after == (
        Holder(hardware=HERE, name=given or "mine", given=given is not None, key=key) if speaks else before
    )


def test_a_name_that_was_derived_stays_when_the_system_is_installed_anew(database: Database) -> None:
    assert settle(database, HERE, given=None, derived="first", key=None).name == "first"
    assert settle(database, Hardware(serial="a", machine="n"), given=None, derived="other", key=None).name == "first"
    with database.transaction() as connection:
        forget(connection)
    assert read_holder(database) is None


def configured(folder: Path, broker: Mosquitto, device: Any) -> tuple[Path, Path]:
    config, state = folder / "agent.yaml", folder / "state"
    config.write_text(
        yaml.safe_dump({"mqtt": {"url": broker.settings().url, "fleet": "test"}, "device": device, "tasks": {}})
    )
    return config, state


def copied_from_elsewhere(config: Path, state: Path) -> str:
    """Let the state say that another machine made it; return the name it had."""
    with Site(load_config(config), state) as site:
        site.report.event("before", "said by the other board")
        found = read_holder(site.database)
        assert found is not None
        write_holder(site.database, msgspec.structs.replace(found, hardware=THERE, name=f"{found.name[:8]}-other"))
        return f"{found.name[:8]}-other" if not found.given else found.name


def test_a_copied_card_with_a_derived_name_takes_a_new_one(
    tmp_path: Path, broker: Mosquitto, listen: Callable[[BrokerSettings], Listener]
) -> None:
    config, state = configured(tmp_path, broker, "auto")
    old = copied_from_elsewhere(config, state)
    fleet = listen(broker.settings())
    daemon = subprocess.Popen(
        [sys.executable, "-m", "agent", "run", "--config", str(config), "--state-dir", str(state)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    fleet.wait(lambda: any(b"identity_taken_anew" in one.payload for one in fleet.topic("/event")))
    daemon.send_signal(signal.SIGTERM)
    daemon.communicate(timeout=60)
    assert not [one for one in fleet.got if f"/{old}/" in one.topic]
    assert not [one for one in fleet.got if b"said by the other board" in one.payload]


def test_a_copied_card_with_a_given_name_says_so_and_publishes_nothing(
    tmp_path: Path, broker: Mosquitto, listen: Callable[[BrokerSettings], Listener]
) -> None:
    config, state = configured(tmp_path, broker, {"id": "pi5-given"})
    with Site(load_config(config), state) as site:
        found = read_holder(site.database)
        assert found is not None
        write_holder(site.database, msgspec.structs.replace(found, hardware=THERE))
    fleet = listen(broker.settings())
    files = ("--config", config, "--state-dir", state)
    doctor = run("doctor", "--json", *files)
    (told,) = [one for one in doctor.document["findings"] if one["subject"] == "broker"]
    assert (doctor.code, told["state"]) == (1, "fail")
    assert "belong to another machine" in told["text"]
    said = run("profile", *files).err
    assert "belong to another machine" in said
    assert fleet.got == []
    assert run("setup", "--take-over", *files).code == 0  # this board replaces the other one
    healthy = run("doctor", "--json", *files).document["findings"]
    assert [one["state"] for one in healthy if one["subject"] == "broker"] == ["ok"]


def test_two_daemons_with_one_name_are_told_of_by_both(
    tmp_path: Path, broker: Mosquitto, listen: Callable[[BrokerSettings], Listener]
) -> None:
    config, state = configured(tmp_path, broker, {"id": "pi5-twice"})
    with Site(load_config(config), state) as site:
        assert site.device_id == "pi5-twice"
    shutil.copytree(state, tmp_path / "copy")
    fleet = listen(broker.settings())
    daemons = [
        subprocess.Popen(
            [sys.executable, "-c", OTHER_BOOT, "run", "--config", str(config), "--state-dir", str(one)],
            cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "BOOT": one.name},
        ) for one in (state, tmp_path / "copy")
    ]  # fmt: skip

    def kinds() -> list[str]:
        return [json.loads(one.payload)["kind"] for one in fleet.topic("pi5-twice/event")]

    try:
        fleet.wait(lambda: kinds().count("identity_shared") >= 1, 120)
    finally:
        for daemon in daemons:
            daemon.send_signal(signal.SIGTERM)
        said = [daemon.communicate(timeout=60)[1] for daemon in daemons]
    assert any("another client has this board's identity" in text for text in said)
