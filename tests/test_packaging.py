"""What is in the wheel, and that an installation needs nothing of the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
DEMO_REGISTRY = ROOT / "benchmarks" / "zoo" / "registry"
# What a build reads, and the private demo keys, which must not come along.
SOURCES = ("agent", "benchmarks", "package", "profiles", "schemas", "systemd")


def in_tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    environment["PIP_CONFIG_FILE"] = os.devnull
    command = tuple(map(str, command))
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads: building in place would leave build/ behind, and pick up what lies there."""
    copy = tmp_path_factory.mktemp("packaging") / "source"
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    folder = source.parent / "dist"
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, ".", cwd=source)
    (path,) = folder.glob("boardfit-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A fresh environment with nothing but the wheel; the dependencies are those of this one."""
    folder = wheel.parent.parent / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps")
    run(*pip, wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    # a path in a .pth file is searched after the environment's own, and its .pth files are not read
    (site / "dependencies.pth").write_text("\n".join(others))
    return folder


def test_every_package_is_named_in_pyproject() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    here = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in (ROOT / "agent").rglob("__init__.py")}
    assert sorted(setuptools["packages"]) == sorted(here | set(setuptools["package-dir"]))


def test_the_wheel_holds_what_an_installation_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        assert not [name for name in names if name.endswith(".pem") or b"BEGIN PRIVATE KEY" in archive.read(name)]
    expected = {f"agent/{path.relative_to(ROOT / 'agent')}" for path in (ROOT / "agent").rglob("*.py")}
    expected |= {"agent/py.typed", "agent/runtimes/tiny/add.onnx", "agent/runtimes/tiny/add.tflite"}
    expected |= {f"agent/web/static/{path.name}" for path in (ROOT / "agent" / "web" / "static").iterdir()}
    expected |= {f"agent/_profiles/{path.name}" for path in (ROOT / "profiles").glob("*.yaml")}
    expected |= {f"agent/_demo_registry/{name}" for name in in_tree(DEMO_REGISTRY)}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.10" in metadata


def test_the_source_archive_builds_the_same_wheel(source: Path, wheel: Path) -> None:
    build = "from setuptools import build_meta; print(build_meta.build_sdist('../sdist'))"
    (source.parent / "sdist").mkdir()
    run(sys.executable, "-c", build, cwd=source)
    (path,) = (source.parent / "sdist").glob("boardfit-*.tar.gz")
    unpacked = source.parent / "unpacked"
    unpacked.mkdir()
    names = run("tar", "-xvzf", path, cwd=unpacked).stdout.split()
    assert not [name for name in names if "demo-keys" in name or name.endswith(".pem")]
    assert [name for name in names if name.endswith("systemd/agent.yaml")]
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", unpacked, ".", cwd=next(unpacked.glob("boardfit-*")))
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(next(unpacked.glob("*.whl"))) as second:
        assert set(first.namelist()) == set(second.namelist())


@pytest.mark.parametrize("command", [["bin/boardfit"], ["bin/python", "-m", "agent"]], ids=["boardfit", "python -m"])
def test_the_installed_command_knows_its_boards(installed: Path, tmp_path: Path, command: list[str]) -> None:
    program, *rest = command
    done = run(installed / program, *rest, "profile", "--json", "--state-dir", tmp_path / "state", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["board"]["profile"] != "unknown"
    assert [engine["name"] for engine in facts["engines"] if engine["proven"]], facts["engines"]


def test_the_installed_package_has_its_own_registry_and_profiles(installed: Path, tmp_path: Path) -> None:
    ask = "from agent import resources as r; print(r.demo_registry(), r.board_profiles(), sep='\\n')"
    registry, profiles = map(Path, run(installed / "bin" / "python", "-c", ask, cwd=tmp_path).stdout.split("\n")[:2])
    assert installed in registry.parents and installed in profiles.parents
    assert in_tree(registry) == in_tree(DEMO_REGISTRY)


def test_the_installed_command_reads_its_own_registry(installed: Path, tmp_path: Path) -> None:
    ask = "from agent import resources as r; print(r.demo_registry())"
    registry = run(installed / "bin" / "python", "-c", ask, cwd=tmp_path).stdout.strip()
    (tmp_path / "agent.yaml").write_text(f"registry: {{url: {registry}, root: {registry}/root.json}}\n")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "made-by-boardfit-demo").touch()  # outside of a demo its root of trust is refused
    options = ("--json", "--config", tmp_path / "agent.yaml", "--state-dir", tmp_path / "state")
    synced = json.loads(run(installed / "bin" / "boardfit", "sync", *options, cwd=tmp_path).stdout)
    assert "mobilenet_v1-w025-onnx-static-int8" in json.dumps(synced)
