"""Models that are compiled for an accelerator which the publisher does not have. The accelerator here is SIMULATED."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.core import golden
from agent.core.facts import EngineFacts, ProviderFacts
from agent.core.manifest import Candidate, TargetRef, manifest_document, parse_manifest
from agent.core.measurement import Measurement
from agent.errors import ConfigError, ModelError
from agent.measure.plan import refusal
from agent.registry import author as authoring
from agent.registry.checking import check
from benchmarks import make_tiny_models
from tests.measure import models
from tests.measure.conftest import measure
from tests.registry.samples import onnx_model
from tests.runtimes.delegates import ADD_THEN_MUL, COMPILED, Node, build_delegate, save_model

__all__ = ["measure"]
X = np.array([[[1.0, 2.0, 3.0, 4.0]]], np.float32)
POINT = msgspec.structs.replace(models.LITERT_POINT, provider="edgetpu")


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    pytest.importorskip("ai_edge_litert")
    return save_model(tmp_path / "net_edgetpu.tflite", COMPILED)


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """What the simulated accelerator computes, in an operator that everybody has."""
    return save_model(tmp_path / "net.tflite", (Node("ADD", (0, 0), 1),))


def golden_file(path: Path, outputs: np.ndarray) -> Path:
    np.savez(
        path, **{golden.SCHEMA_ARRAY: np.array(golden.SCHEMA), golden.ENGINE_ARRAY: np.array("by hand"),
                 golden.TOLERANCE_ARRAY: np.array([1e-6]), golden.input_array(0): X, golden.output_array(0): outputs},
    )  # fmt: skip
    return path


@pytest.fixture
def publish(author: Any) -> Callable[..., authoring.AddResult]:
    def run(model: Path, **given: Any) -> authoring.AddResult:
        return authoring.add(
            author.directory, model, task="sum", name="net", keys_dir=author.keys, now=author.tick(), **given
        )

    return run


def board(*providers: str) -> Any:
    engine = EngineFacts(
        name="ai-edge-litert", formats=("tflite",), version="0", providers=("XNNPACK", *providers), proven=True,
        beyond=tuple(ProviderFacts(name=name, state="proven") for name in providers),
    )  # fmt: skip
    return models.facts(engines=(engine,))


def published(author: Any, made: authoring.AddResult) -> tuple[Candidate, Path, Path]:
    """Return the candidate with its files, as a board would read them."""
    manifest = parse_manifest(made.manifest)
    assert manifest.golden is not None

    def file(ref: TargetRef) -> Path:
        folder, _, name = ref.path.rpartition("/")
        return author.directory / "targets" / folder / f"{ref.sha256}.{name}"

    return Candidate(manifest=manifest, target=made.target), file(made.target), file(manifest.golden)


@pytest.fixture
def accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIMULATED Edge TPU, not there before a model is published."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))


@pytest.mark.usefixtures("accelerator")
def test_it_is_published_with_the_outputs_of_its_twin_and_runs_where_the_accelerator_is(
    author: Any, publish: Callable[..., authoring.AddResult], compiled: Path, twin: Path,
    measure: Callable[..., Measurement],
) -> None:  # fmt: skip
    made = publish(compiled, compiled_for="edgetpu", twin=twin)
    assert made.engine is not None and made.golden_samples > 0
    said = made.manifest["not_run"]
    assert said.startswith("compiled for edgetpu and not run where it was published; its golden outputs are of the ")
    assert check(author.directory, now=author.now).sound
    candidate, model, data = published(author, made)
    assert model.read_bytes() == compiled.read_bytes()
    assert candidate.manifest.needs.operators == ("edgetpu-custom-op",)
    assert refusal(candidate, board()) == "it is compiled for edgetpu, which is not proven here"
    assert refusal(candidate, board("edgetpu")) is None
    build_delegate(compiled.parent / "lib", "libedgetpu.so.1", operator="edgetpu-custom-op")
    result = measure(model, candidate=candidate, point=POINT, facts=board("edgetpu"), golden=data)
    assert (result.verdict, result.reason) == ("ok", None)
    assert result.golden is not None and result.golden.passed is True


def test_golden_data_alone_will_do_and_is_held_against_what_the_file_says(
    publish: Callable[..., authoring.AddResult], compiled: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"output_0 is float32 \[1, 1, 3\], not float32 \[1, \*\[1, 4\]\]"):
        publish(compiled, compiled_for="edgetpu", golden=golden_file(tmp_path / "short.npz", X[:, :, :3]))
    made = publish(compiled, compiled_for="edgetpu", golden=golden_file(tmp_path / "golden.npz", 2 * X))
    assert (made.engine, made.golden_samples) == (None, 1)
    assert made.manifest["not_run"].endswith("its golden outputs are given by the publisher")


def test_given_golden_data_that_its_twin_contradicts_is_refused(
    publish: Callable[..., authoring.AddResult], compiled: Path, twin: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="differs from the golden file"):
        publish(compiled, compiled_for="edgetpu", twin=twin, golden=golden_file(tmp_path / "golden.npz", 3 * X))


def test_what_does_not_go_together_is_refused_in_one_sentence(
    publish: Callable[..., authoring.AddResult], compiled: Path, twin: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(ModelError, match="unresolved custom op") as unasked:
        publish(compiled)
    assert unasked.value.fix is not None
    assert unasked.value.fix.startswith("it is compiled for edgetpu: say --compiled-for edgetpu --twin ")
    with pytest.raises(ConfigError, match="boards prove it by golden outputs"):
        publish(compiled, compiled_for="edgetpu")
    with pytest.raises(ConfigError, match="no accelerator called 'teflon' compiles"):
        publish(compiled, compiled_for="teflon", twin=twin)
    with pytest.raises(ConfigError, match="a twin is for a compiled model"):
        publish(twin, twin=twin)
    with pytest.raises(ModelError, match="it holds no edgetpu-custom-op"):
        publish(twin, compiled_for="edgetpu", twin=twin)
    with pytest.raises(ModelError, match="the twin is compiled, too"):
        publish(compiled, compiled_for="edgetpu", golden=golden_file(tmp_path / "golden.npz", 2 * X), twin=compiled)
    with pytest.raises(ModelError, match="the twin is onnx, and the model tflite"):
        publish(compiled, compiled_for="edgetpu", twin=onnx_model(tmp_path / "other.onnx"))
    monkeypatch.setattr(make_tiny_models, "SHAPE", (1, 2))
    two = save_model(tmp_path / "two.tflite", (Node("ADD", (0, 0), 1),))
    with pytest.raises(ModelError, match=r"other inputs than the model: float32 \[1, 2\], not float32 \[1, 4\]"):
        publish(compiled, compiled_for="edgetpu", twin=two)


def test_a_manifest_of_a_model_that_was_run_does_not_mention_it(
    publish: Callable[..., authoring.AddResult], tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    made = publish(save_model(tmp_path / "plain.tflite", ADD_THEN_MUL))
    assert "not_run" not in made.manifest
    assert "not_run" not in manifest_document(parse_manifest(made.manifest))
    with pytest.raises(ModelError, match="'not_run' is not given by hand"):
        publish(save_model(tmp_path / "plain.tflite", ADD_THEN_MUL), extra={"not_run": "trust me"}, replace=True)
