"""The import rule of ``agent.__doc__``, read from the syntax tree; purity of core and select; size of modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AGENT = ROOT / "agent"
MODULES = sorted(AGENT.rglob("*.py"))

STAGES = {"device", "registry", "measure", "select", "deploy", "report"}
LAYERS = [
    {"__main__"},
    {"cli"},
    {"verbs"},
    {"console", "demo_broker", "tables"},
    {"web"},
    {"collector"},
    {"daemon", "fleet", "compress", "enrolment", "setup", "client"},
    {"sustained", "combination"},
    {"pipeline", "joint"},
    {"classmates"},
    {"question", "rehearsal", "rungs"},
    {"orders", "timetable", "recovery", "replay", "safe_mode", "watch"},
    {"site", "endpoints"},
    {"reporting"},
    STAGES,
    {"records", "ledger", "settings", "ownership"},
    {"database"},
    {"locks"},
    {
        "durable",
        "reserve",
        "runtimes",
        "mqtt",
        "config",
        "config_board",
        "config_desired",
        "config_files",
        "config_power",
        "config_schedule",
        "config_shadow",
        "config_values",
        "resources",
        "clock",
        "notify",
        "confinement",
        "sandbox",
        "child",
        "signals",
        "signatures",
        "vouching",
    },
    {"documents", "heap", "lean"},
    {"apart"},
    {"core"},
    {"errors"},
]
RANK = {name: number for number, layer in enumerate(LAYERS) for name in layer}
# agent itself (version only) may be imported by anyone.
PURE = [path for path in MODULES if path.relative_to(AGENT).parts[0] in ("core", "select")]
IMPURE = {
    "os",
    "pathlib",
    "socket",
    "subprocess",
    "time",
    "sqlite3",
    "shutil",
    "tempfile",
    "threading",
    "urllib",
    "http",
}
SIZE_LIMIT = 400


def part_of(path: Path) -> str:
    first = path.relative_to(AGENT).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def parts_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("agent.")} & set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(AGENT)))
def test_imports_point_down_only(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        assert parts_imported(path) == set()
        return
    assert part in RANK, f"{part} has no layer: give it one here and in agent/__init__.py"
    for other in parts_imported(path) - {part}:
        if part in STAGES and other in STAGES:
            pytest.fail(f"stage {part} imports stage {other}")
        assert RANK[other] > RANK[part] or (RANK[other] == RANK[part] and part not in STAGES), f"{part} imports {other}"


def test_only_the_pipeline_and_its_shell_import_several_stages() -> None:
    """The pipeline, and the run of several tasks at once, call stages; a question joins two; the site builds adapters.

    The verbs show what was made.
    """
    several = {
        part_of(path) for path in MODULES if len(parts_imported(path) & STAGES) > 1 and part_of(path) not in STAGES
    }
    assert several <= {"joint", "pipeline", "question", "site", "verbs"}


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(AGENT)))
def test_core_and_select_are_pure(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    allowed = {"pathlib"} if path.name == "ports.py" else set()  # a type in a signature
    assert roots & IMPURE <= allowed
    assert not {"numpy", "onnxruntime"} & roots
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not {"open", "print", "input"} & calls


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(AGENT)))
def test_modules_stay_small_and_say_what_they_decide(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= SIZE_LIMIT
    assert ast.get_docstring(ast.parse(text)), "a module's docstring says what it decides and what it leaves to others"


def test_no_module_is_named_after_nothing() -> None:
    assert not {path.stem for path in MODULES} & {
        "utils",
        "util",
        "common",
        "helpers",
        "helper",
        "manager",
        "base",
        "misc",
    }


def test_the_idle_daemon_loads_neither_numpy_nor_a_runtime() -> None:
    loaded = modules_after("import agent.daemon")
    assert "agent" in loaded
    assert not loaded & {"numpy", "onnxruntime", "tflite_runtime", "ai_edge_litert", "PIL", "rich", "tuf", "amqtt"}


def test_the_idle_daemon_carries_no_parser_and_nothing_the_libraries_load_for_others() -> None:
    start = "from agent.cli import plain_run; assert plain_run(['run', '--config', 'x', '--state-dir', 'y'])\n"
    board = "from agent.device.board import this_board; this_board().read_context()"
    loaded = modules_after(start + board)
    assert "agent.daemon" in loaded
    assert not loaded & {
        "argparse", "gettext", "yaml", "difflib", "shutil", "dataclasses", "inspect", "ast", "typing_extensions",
        "email", "http", "urllib.request", "importlib.resources", "sysconfig", "encodings.idna", "psutil", "tempfile",
        "shlex", "random", "secrets", "hmac", "lzma",
        "agent.measure.bench", "agent.pipeline", "agent.report.html", "asyncio", "pickle",
    }  # fmt: skip
    power = {name for name in loaded if name.startswith("agent.device.power_")}
    assert power == {"agent.device.power_mode"}  # telemetry tells the power mode; what measures power it never asks
    facts = {"accelerators", "factsheet", "fingerprint", "osinfo", "traps"}
    workers = {"accelerator_memory", "nvml", "worker_group"}
    assert not loaded & ({f"agent.device.{name}" for name in facts | workers} | {"agent.core.statistics"})


def modules_after(code: str) -> set[str]:
    shown = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(done.stdout.split())
