"""External delegates: found, proven by running, and refused with the reason. The accelerator is SIMULATED."""

from __future__ import annotations

import ast
import errno
from pathlib import Path

import numpy as np
import pytest

from agent.core.facts import EngineFacts, ProviderFacts
from agent.core.measurement import OperatingPoint
from agent.runtimes import prove
from agent.runtimes.prove import installed_version
from agent.runtimes.providers import PROVIDERS, drivers_mapped, find_library, provider_row
from agent.runtimes.table import (
    EngineUnavailableError,
    PlacementError,
    Runtime,
    engine_row,
    is_cpu,
    is_own,
    plain_point,
    runtime_class,
)
from agent.sandbox import landlock
from tests.runtimes.delegates import ADD_THEN_MUL, ADDS, COMPILED, Node, build_delegate, save_model

ENGINES = ("ai-edge-litert", "tflite-runtime")
X = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
ARMNN, EDGE_TPU = "libarmnnDelegate.so", "libedgetpu.so.1"


def point(provider: str, engine: str = "ai-edge-litert") -> OperatingPoint:
    return OperatingPoint(engine=engine, engine_version="0", provider=provider, threads=1)


def engine_class(name: str) -> type[Runtime]:
    try:
        return runtime_class(name)
    except EngineUnavailableError as error:
        pytest.skip(f"{name}: {error}")


def proven(engine: str = "ai-edge-litert") -> EngineFacts:
    """Prove one engine in its children."""
    return prove._prove_engine(engine_row(engine), 20.0)


def judged(provider: str) -> ProviderFacts:
    """Prove one delegate of LiteRT, in one child."""
    return prove._judge(provider, prove._ask_child("ai-edge-litert", provider, 20.0))


def beyond(facts: EngineFacts, name: str) -> ProviderFacts:
    return next(one for one in facts.beyond if one.name == name)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of libraries that the loader looks into first."""
    folder = tmp_path / "lib"
    folder.mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_a_delegate_takes_its_nodes_and_what_it_leaves_is_counted_and_named(engine: str, here: Path) -> None:
    build_delegate(here, ARMNN)
    kind = engine_class(engine)
    model = kind.load(save_model(here / "part.tflite", ADD_THEN_MUL), point("armnn-CpuAcc", engine))
    model.set_input(0, X)
    model.run()
    assert np.array_equal(model.output(0), 3 * X * X)
    placement = model.placement()
    assert placement.nodes == {"armnn-CpuAcc": 2, "builtin": 1}
    assert (placement.left, placement.fallback, placement.share) == ({"MUL": 1}, True, 2 / 3)
    mixed = plain_point(point("armnn-CpuAcc", engine))
    assert mixed == point("armnn-CpuAcc+builtin", engine)
    assert kind.load(here / "part.tflite", mixed).placement().fallback is False
    whole = kind.load(save_model(here / "whole.tflite", ADDS), point("armnn-CpuAcc", engine)).placement()
    assert (whole.actual, whole.fallback, whole.share, whole.left) == (("armnn-CpuAcc",), False, 1.0, {})


def test_a_delegate_that_takes_no_node_is_a_refusal(here: Path) -> None:
    build_delegate(here, ARMNN)
    model = save_model(here / "mul.tflite", (Node("MUL", (0, 0), 1),))
    with pytest.raises(PlacementError, match="armnn-CpuAcc takes none of its 1 nodes"):
        engine_class("ai-edge-litert").load(model, point("armnn-CpuAcc"))


def test_an_unknown_delegate_and_one_that_is_not_here_are_refused(here: Path) -> None:
    kind, model = engine_class("ai-edge-litert"), save_model(here / "add.tflite", ADDS)
    with pytest.raises(EngineUnavailableError, match=r"there is no libedgetpu\.so\.1"):
        kind.load(model, point("edgetpu"))
    with pytest.raises(EngineUnavailableError, match="none that is known here"):
        kind.load(model, point("hexagon"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_delegate_is_proven_by_running(engine: str, here: Path) -> None:
    engine_class(engine)
    build_delegate(here, ARMNN)
    facts = proven(engine)
    assert facts.providers == ("XNNPACK", "armnn-CpuAcc", "armnn-GpuAcc")
    found = beyond(facts, "armnn-CpuAcc")
    assert (found.state, found.reason, found.library) == ("proven", None, str(here / ARMNN))
    assert found.drivers == (f"{ARMNN} ({(here / ARMNN).stat().st_size} bytes)",)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("wrong", "the tiny model gave a wrong result"),
        ("dies", "it died by SIGSEGV running a tiny model"),
        ("no_device", "simulated: no device answers"),
        ("takes_none", "armnn-CpuAcc takes none of its 1 nodes"),
        ("refuses", "simulated: the device refuses this graph"),
    ],
)
def test_a_delegate_that_does_not_run_is_refused_with_the_reason_and_what_to_do(
    mode: str, reason: str, here: Path
) -> None:
    engine_class("ai-edge-litert")
    build_delegate(here, ARMNN, mode)
    found = judged("armnn-CpuAcc")
    assert found.state == "refused"
    assert reason in (found.reason or "")
    assert "Arm NN" in (found.fix or "")


def test_a_library_that_is_none_is_refused(here: Path) -> None:
    engine_class("ai-edge-litert")
    (here / EDGE_TPU).write_bytes(b"not a library")
    facts = proven()
    assert (facts.proven, facts.providers) == (True, ("XNNPACK",)), "the engine itself runs"
    found = beyond(facts, "edgetpu")
    assert (found.state, EDGE_TPU in (found.reason or "")) == ("refused", True)
    assert facts.reason == f"edgetpu: {found.reason}"


def test_one_for_compiled_models_is_opened_and_each_model_decides(here: Path) -> None:
    kind = engine_class("ai-edge-litert")
    build_delegate(here, EDGE_TPU, operator="edgetpu-custom-op")
    facts = proven()
    found = beyond(facts, "edgetpu")
    assert (found.state, found.fix) == ("opened", None)
    assert found.reason == "it takes only models that hold edgetpu-custom-op; each proves itself"
    assert "edgetpu" in facts.providers
    model = kind.load(save_model(here / "compiled.tflite", COMPILED), point("edgetpu"))
    model.set_input(0, X)
    model.run()
    assert np.array_equal(model.output(0), 2 * X)
    assert model.placement().share == 1.0
    build_delegate(here, EDGE_TPU, "no_device", operator="edgetpu-custom-op")
    absent = judged("edgetpu")
    assert (absent.state, "no device answers" in (absent.reason or "")) == ("refused", True)
    assert "libedgetpu1-std" in (absent.fix or "")


def test_a_proof_is_confined_and_leaves_nothing_behind(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine's import tries what it may not; what it was answered comes back as the reason."""
    if installed_version(engine_row("onnxruntime")) is None or not isinstance(landlock.abi(), int):
        pytest.skip("needs onnxruntime, in whose place a module is put, and Landlock")
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("x")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TOKEN", "secret")
    (here / "onnxruntime.py").write_text(
        "import os, socket\n"
        "said = [os.environ['HOME'], os.environ.get('TOKEN'), os.getcwd()]\n"
        "for act in (lambda: socket.socket(), lambda: open(os.path.expanduser('~/db'), 'w'),\n"
        f"            lambda: open({str(home / 'secret')!r}), lambda: os.listdir('/home')):\n"
        "    try: act(); said.append('could')\n"
        "    except OSError as error: said.append(error.errno)\n"
        "raise ImportError(repr(said))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(here))
    answer = prove._ask_child("onnxruntime", "CPUExecutionProvider", 20.0)
    said = ast.literal_eval((answer.reason or "").partition("imported: ")[2])
    assert "boardfit-proof-" in said[0] and not Path(said[0]).exists()
    assert said[1:] == [None, "/", errno.EPERM, errno.EPERM, errno.EACCES, errno.EACCES]
    assert [one.name for one in home.iterdir()] == ["secret"]


def test_what_is_known_of_providers_holds_together() -> None:
    names = [row.name for row in PROVIDERS]
    assert len(set(names)) == len(names)
    assert all(row.fix for row in PROVIDERS)
    assert provider_row("XnnpackExecutionProvider").options_for(3) == {"intra_op_num_threads": "3"}
    options = provider_row("TensorrtExecutionProvider").options_for(1, Path("/state/engines/a"))
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/state/engines/a"
    assert provider_row("TensorrtExecutionProvider").options_for(1) == {}
    for name in ("XnnpackExecutionProvider", "ACLExecutionProvider"):
        assert is_cpu("onnxruntime", name) and not is_own("onnxruntime", name)
        assert is_cpu("onnxruntime", f"{name}+CPUExecutionProvider")
    assert not is_cpu("onnxruntime", "CUDAExecutionProvider+CPUExecutionProvider")
    assert not is_cpu("ai-edge-litert", "edgetpu")
    assert find_library(("libnosuch.so",)) is None


def test_drivers_are_named_with_version_and_size(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.550.54.15"
    library.write_bytes(b"12345")
    maps = f"7f00-7f01 r-xp 0 fe:00 1  {library}\n7f02-7f03 r-xp 0 fe:00 2  /usr/lib/libcurand.so.10\n"
    row = provider_row("CUDAExecutionProvider")
    assert drivers_mapped(row, maps + maps) == ("libcuda.so.550.54.15 (5 bytes)",)
    assert drivers_mapped(row, "7f00 r-xp /gone/libcudart.so.12\n") == ("libcudart.so.12",)
    assert drivers_mapped(provider_row("XnnpackExecutionProvider"), maps) == ()
