"""What the Debian package is made of, as far as it shows unbuilt; ``make container-test`` shows the rest."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import agent.database
from agent.config import parse_config
from agent.database import FILE_NAME, FORMAT, STEPS, Database
from agent.errors import StorageError
from agent.records import Records

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "package"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PACKAGE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("lines", ["", "[Service]\nProtectSystem=no\nNoNewPrivileges=no\nSystemCallFilter=\n"])
def test_the_units_exposure_is_2_at_most_and_the_check_can_fail(tmp_path: Path, lines: str) -> None:
    unit = tmp_path / "boardfit.service"
    unit.write_text((ROOT / "systemd" / "boardfit.service").read_text() + lines)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (lines == ""), done.stdout[-300:] + done.stderr


def test_the_packaged_configuration_sets_nothing_and_loses_nothing() -> None:
    shipped = (ROOT / "systemd" / "agent.yaml").read_text()
    sed = ["sed", "-E", r"s/^( *)([^ #])/\1#\2/"]
    assert sed[2] in (PACKAGE / "build-deb.sh").read_text()
    commented = subprocess.run(sed, input=shipped, capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(commented) is None
    assert commented.replace("#", "") == shipped.replace("#", "")
    assert parse_config({}, path=Path("/etc/boardfit/agent.yaml")).registry is None


@pytest.mark.parametrize(
    ("compatible", "vendor", "expected"),
    [
        ("raspberrypi,4-model-b\0brcm,bcm2711\0", None, {"50-raspberry-pi.conf"}),
        ("nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0", None, {"50-jetson.conf"}),
        (None, "0x10de", {"50-nvidia.conf"}),
        ("radxa,rock-5b\0rockchip,rk3588\0", "0x1ac1", {"50-coral.conf"}),
        (None, None, set()),
    ],
)
def test_a_board_gets_what_its_family_needs(
    tmp_path: Path, compatible: str | None, vendor: str | None, expected: set[str]
) -> None:
    if compatible is not None:
        (tmp_path / "proc/device-tree").mkdir(parents=True)
        (tmp_path / "proc/device-tree/compatible").write_text(compatible)
    if vendor is not None:
        (tmp_path / "sys/bus/pci/devices/0000:01:00.0").mkdir(parents=True)
        (tmp_path / "sys/bus/pci/devices/0000:01:00.0/vendor").write_text(f"{vendor}\n")
    environment = {**os.environ, "BOARDFIT_GENERATOR_ROOT": str(tmp_path)}
    command = [str(PACKAGE / "boards" / "generator.sh"), str(tmp_path / "normal"), "early", "late"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    made = tmp_path / "normal" / "boardfit.service.d"
    assert {one.name for one in made.iterdir()} == expected if expected else not made.exists()
    for one in expected:
        assert (PACKAGE / "boards" / Path(os.readlink(made / one)).name).is_file()


def test_a_wheelhouse_follows_the_boards_markers_not_ours() -> None:
    pytest.importorskip("packaging")
    lock = (ROOT / "requirements" / "agent.lock").read_text()
    old, new = (script("wheelhouse").needed(lock, python, "aarch64") for python in ("3.11", "3.13"))
    assert "tflite-runtime==" in old and "tflite-runtime==" not in new
    assert "numpy==1." in old and "numpy==2." in new
    assert all(" --hash=sha256:" in line for line in (old + new).splitlines())


def test_the_manual_page_has_every_verb(capfd: pytest.CaptureFixture[str]) -> None:
    from agent.cli import build_parser

    page = script("manpage").page(build_parser(), "1.2.3", "what it is for")
    for verb in ("once", "run", "enroll", "registry add", "fleet watch"):
        assert f".SS boardfit {verb}" in page
    if shutil.which("groff"):
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_state_of_a_later_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "boardfit.db"
    Database(path).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        connection.execute(f"PRAGMA user_version={FORMAT + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="written by a later version of boardfit"):
        Database(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["boardfit.db"]


def test_the_state_of_an_earlier_version_is_taken_on(tmp_path: Path) -> None:
    path = tmp_path / "boardfit.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE kept (x)")
        connection.execute("INSERT INTO kept VALUES (7)")
    connection.close()
    with Database(path) as database:
        assert [row["x"] for row in database.rows("SELECT x FROM kept")] == [7]
        assert database.rows("PRAGMA user_version")[0][0] == FORMAT


def test_a_state_goes_through_every_step_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "boardfit.db"
    with Database(path) as database:
        database.ensure(["CREATE TABLE IF NOT EXISTS kept (x)", "INSERT INTO kept VALUES (7)"])

    def double(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE kept SET x = 2 * x")

    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (x)")
        connection.execute("INSERT INTO kept SELECT x FROM nowhere")

    def opened_with(*steps: Callable[[sqlite3.Connection], None]) -> list[int]:
        monkeypatch.setattr(agent.database, "STEPS", (*STEPS, *steps))
        monkeypatch.setattr(agent.database, "FORMAT", FORMAT + len(steps))
        with Database(path) as database:
            assert database.rows("PRAGMA user_version")[0][0] == FORMAT + len(steps)
            return [row["x"] for row in database.rows("SELECT x FROM kept")]

    with pytest.raises(StorageError, match="nowhere"):
        opened_with(double, fails)
    assert opened_with() == [7]
    assert not list(tmp_path.glob("*.damaged-*"))
    assert opened_with(double, double) == [28]
    assert opened_with(double, double) == [28]
    with pytest.raises(StorageError, match="written by a later version"):
        opened_with(double)


def test_the_later_version_of_the_board_tests_can_be_made(tmp_path: Path) -> None:
    """Its edits find their places, it takes on the state of this version, and this version refuses it afterwards."""
    shutil.copytree(ROOT / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    made = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "board" / "later.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    state = tmp_path / "state"
    with Database(state / FILE_NAME) as database:
        Records(database).keep_run("nightly", "2026-01-01T00:00:00Z")
    reads = (
        "from pathlib import Path; import sys; from agent import __version__; from agent.database import Database;"
        "from agent.records import Records; print(__version__, Records(Database(Path(sys.argv[1]))).last_runs())"
    )
    done = subprocess.run(
        [sys.executable, "-c", reads, str(state / FILE_NAME)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{made.stdout.strip()} {{'nightly': '2026-01-01T00:00:00Z'}}\n", done.stderr
    with pytest.raises(StorageError, match="written by a later version"):
        Database(state / FILE_NAME)


def test_readmes_blocks_are_those_that_the_board_tests_follow() -> None:
    section = (ROOT / "README.md").read_text().split("## Install on a board")[1].split("\n## ")[0]
    blocks = [block.split("```")[0].splitlines() for block in section.split("```sh\n")[1:]]
    inside = (ROOT / "tests" / "board" / "inside" / "lib.sh").read_text()
    (names,) = re.findall(r"^((?:[A-Z]+=\d ?)+)$", inside, re.MULTILINE)
    assert dict(one.split("=") for one in names.split()) == {
        name: str(number) for number, name in enumerate(("INSTALL", "CONFIGURE", "UPGRADE", "BACK", "REMOVE"), start=1)
    }
    firsts = [
        "apt install",
        "editor /etc/boardfit/agent.yaml",
        "apt install",
        "apt install --allow-downgrades",
        "apt remove",
    ]
    assert [block[0].startswith(first) for block, first in zip(blocks, firsts, strict=True)] == [True] * 5
    checks = "".join((ROOT / "tests" / "board" / "inside" / f"{name}.sh").read_text() for name in ("lib", "package"))
    for name in ("INSTALL", "CONFIGURE", "UPGRADE", "BACK", "REMOVE"):
        assert f"readme ${name} " in checks


def test_a_new_state_goes_through_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(connection: sqlite3.Connection) -> None:
        raise AssertionError("there is nothing to take on")

    monkeypatch.setattr(agent.database, "STEPS", (never,))
    with Database(tmp_path / "boardfit.db") as database:
        assert database.rows("PRAGMA user_version")[0][0] == FORMAT
