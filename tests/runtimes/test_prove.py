from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.runtimes.prove import TINY, prove_engines, run_tiny
from agent.runtimes.table import ENGINES, EngineUnavailableError, engine_row, is_cpu
from benchmarks.make_tiny_models import onnx_bytes, tflite_bytes


def test_the_bundled_models_are_what_their_script_makes() -> None:
    assert (TINY / "add.onnx").read_bytes() == onnx_bytes()
    assert (TINY / "add.tflite").read_bytes() == tflite_bytes()


def test_installed_engines_are_proven_with_version_and_provider() -> None:
    proven = {engine.name: engine for engine in prove_engines()}
    assert list(proven) == [row.name for row in ENGINES]
    for row in ENGINES:
        engine = proven[row.name]
        if engine.version is None:
            assert "is not installed" in (engine.reason or "")
            continue
        assert (engine.proven, engine.reason) == (True, None)
        assert engine.providers[0] == row.cpu_provider
        assert engine.formats == row.formats


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), 11)", "it died by SIGSEGV running a tiny model"),
        ("time.sleep(600)", "it did not answer within 2 s"),
        (
            "os.write(2, b'the library is for another board'); os._exit(1)",
            "no answer: the library is for another board",
        ),
        ("sys.modules['numpy'] = None", "numpy"),
    ],
)
def test_an_engine_that_fails_is_not_proven_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, sys, time\nif 'agent.runtimes.prove' in sys.orig_argv:\n    {code}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for engine in prove_engines(deadline_s=2.0):
        assert (engine.proven, engine.providers) == (False, ())
        assert words in (engine.reason or ""), engine


def test_a_provider_that_is_not_offered_is_not_proven() -> None:
    answer = run_tiny("onnxruntime", "NoSuchExecutionProvider")
    assert answer.proven is False
    assert "not NoSuchExecutionProvider" in (answer.reason or "")


def test_a_provider_that_runs_nothing_itself_is_not_proven() -> None:
    pytest.importorskip("onnxruntime")
    import onnxruntime

    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime offers no provider that places nothing")
    answer = run_tiny("onnxruntime", "AzureExecutionProvider")
    assert answer.proven is False


def test_unknown_engines_have_no_row() -> None:
    with pytest.raises(EngineUnavailableError):
        engine_row("tensorrt")
    assert is_cpu("onnxruntime", "CPUExecutionProvider")
    assert not is_cpu("onnxruntime", "CUDAExecutionProvider")
    assert sys.modules.get("tensorrt") is None
