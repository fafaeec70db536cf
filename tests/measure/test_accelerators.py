"""An accelerator's point from the outside: proven before it is measured, its engine built once. All SIMULATED."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.core.facts import EngineFacts, ProviderFacts
from agent.core.manifest import Needs, Quantization, TargetRef, TensorSpec
from agent.core.measurement import Measurement
from agent.core.ports import never_stop
from agent.measure import engine_cache, proving
from agent.measure.bench import record_refusal
from agent.measure.engine_cache import EngineCache, size_bytes
from agent.measure.plan import operating_points, plan, refusal
from agent.measure.release import prove_with_kept
from agent.measure.settings import MeasureSettings
from agent.measure.sustained import measure_sustained
from agent.runtimes.providers import provider_row
from tests.measure import models
from tests.measure.board import RealClock, TestBoard
from tests.measure.test_prove_release import deployed, deployment
from tests.runtimes.delegates import ADD_THEN_MUL, ADDS, Node, build_delegate, save_model

Measure = Callable[..., Measurement]
X = np.array([[[1.0, 2.0, 3.0, 4.0]], [[-1.0, 0.5, 0.0, 9.0]]], np.float32)  # two samples
ARMNN = "libarmnnDelegate.so"
POINT = msgspec.structs.replace(models.LITERT_POINT, provider="armnn-CpuAcc")
GOLDEN = TargetRef(path="golden.npz", sha256="0" * 64, length=1)


def board(*providers: str, drivers: tuple[str, ...] = (), **changes: Any) -> Any:
    """Facts of a board on which these delegates of LiteRT are said to be proven."""
    engine = EngineFacts(
        name="ai-edge-litert", formats=("tflite",), version="0", providers=("XNNPACK", *providers), proven=True,
        beyond=tuple(ProviderFacts(name=name, state="proven", drivers=drivers) for name in providers),
    )  # fmt: skip
    return models.facts(engines=(engine,), **changes)


def golden(path: Path, outputs: np.ndarray) -> Path:
    np.savez(path, input_0=X, output_0=outputs)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    (tmp_path / "lib").mkdir()
    return tmp_path


def measured(measure: Measure, here: Path, mode: str, nodes: tuple[Node, ...], outputs: np.ndarray) -> Measurement:
    build_delegate(here / "lib", ARMNN, mode)
    model = save_model(here / "model.tflite", nodes)
    return measure(model, point=POINT, facts=board("armnn-CpuAcc"), golden=golden(here / "golden.npz", outputs))


def test_a_model_that_runs_whole_on_it_is_measured_under_its_name(measure: Measure, here: Path) -> None:
    result = measured(measure, here, "right", ADDS, 3 * X)
    assert (result.verdict, result.reason, result.point) == ("ok", None, POINT)
    assert result.golden is not None and result.golden.passed is True
    assert result.placement is not None and result.placement.nodes == {"armnn-CpuAcc": 2}
    assert result.latency is not None and result.load_time_s is not None
    assert result.engine_build_s is None
    assert "armnn-CpuAcc keeps nothing that it builds" in (result.engine_build_reason or "")


def test_one_that_runs_in_part_on_it_stands_under_both_names(measure: Measure, here: Path) -> None:
    result = measured(measure, here, "right", ADD_THEN_MUL, 3 * X * X)
    assert (result.verdict, result.point.provider) == ("ok", "armnn-CpuAcc+builtin")
    assert result.placement is not None and result.placement.left == {"MUL": 1}


@pytest.mark.parametrize(
    ("mode", "verdict", "words"),
    [
        ("wrong", "wrong_output", "golden outputs differ by 1 where"),
        ("dies", "crashed", "it died by SIGSEGV while its first inference"),
        ("takes_none", "load_failed", "armnn-CpuAcc takes none of its 2 nodes"),
    ],
)
def test_one_that_is_not_right_is_never_timed(
    measure: Measure, here: Path, mode: str, verdict: str, words: str
) -> None:
    result = measured(measure, here, mode, ADDS, 3 * X)
    assert result.verdict == verdict
    assert words in (result.reason or "")
    assert result.latency is result.memory is result.load_time_s is None
    assert result.point == POINT


def test_without_golden_outputs_it_is_refused_and_nothing_is_started(measure: Measure, here: Path) -> None:
    model = save_model(here / "model.tflite", ADDS)  # and there is no delegate to be loaded
    result = measure(model, point=POINT, facts=board("armnn-CpuAcc"))
    assert result.verdict == "refused"
    assert "without golden outputs nobody can say whether armnn-CpuAcc computes right" in (result.reason or "")
    unfit = golden(here / "unfit.npz", X[:, :, :2])
    build_delegate(here / "lib", ARMNN)
    with np.load(unfit) as arrays:
        np.savez(unfit, output_0=arrays["output_0"])
    again = measure(model, point=POINT, facts=board("armnn-CpuAcc"), golden=unfit)
    assert again.verdict == "refused"
    assert again.reason == "its outputs are not known to be right: golden data: there is no array input_0"


def test_the_plan_offers_an_accelerator_what_it_can_take() -> None:
    facts = board("armnn-CpuAcc", "armnn-GpuAcc", "edgetpu", "teflon")

    def offered(**manifest: Any) -> list[str]:
        one = models.candidate(Path(__file__), **{"format": "tflite", "golden": GOLDEN, **manifest})
        return [f"{point.provider} x{point.threads}" for point in operating_points(one, facts)]

    own = ["XNNPACK x1", "XNNPACK x2", "armnn-CpuAcc x1", "armnn-CpuAcc x2", "armnn-GpuAcc x1"]
    assert offered() == own
    step = TensorSpec(name="x", dtype="int8", shape=(1, 4), quantization=Quantization(scale=0.5, zero_point=0))
    assert offered(inputs=(step,)) == [*own, "teflon x1"]
    needs = Needs(operators=("edgetpu-custom-op",))
    assert offered(needs=needs) == ["edgetpu x1"]
    one = models.candidate(Path(__file__), format="tflite", needs=needs)
    assert refusal(one, facts) is None
    assert refusal(one, board("armnn-CpuAcc")) == "it is compiled for edgetpu, which is not proven here"


def test_a_candidate_without_golden_data_is_planned_with_its_refusal() -> None:
    facts = board("armnn-GpuAcc")
    one = models.candidate(Path(__file__), format="tflite")
    runs = plan([one], facts, MeasureSettings(), (), RealClock().utc())
    refused = [run for run in runs if run.refusal is not None]
    assert [run.point.provider for run in refused] == ["armnn-GpuAcc"]
    record = record_refusal(
        one, refused[0].point, facts=facts, board=TestBoard(), clock=RealClock(), refused=refused[0].refusal
    )
    assert (record.verdict, record.reason) == ("refused", refused[0].refusal)


BUILDS = """
import os, sys
from pathlib import Path
if 'agent.measure.worker' in sys.orig_argv:
    import agent.runtimes.tflite as module
    load = module._Interpreter.load.__func__
    def simulated(cls, path, point, keep=None):
        if keep is not None and not (keep / 'engine').exists():
            (keep / 'engine').write_bytes(os.urandom(64))
        elif keep is not None:
            (keep / 'cuda').mkdir(exist_ok=True)
            (keep / 'cuda' / 'found').open('a').write('.')
            if (keep / 'engine').read_bytes() == b'damaged':
                raise ValueError('the engine is damaged')
        return load(cls, path, point)
    module._Interpreter.load = classmethod(simulated)
"""


@pytest.fixture
def builder(here: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[str], None]) -> Path:
    """A SIMULATED provider that builds an engine: 64 random bytes, written where it is told to keep them."""
    build_delegate(here / "lib", ARMNN)
    row = provider_row("armnn-CpuAcc")._replace(cache_options=(("folder", "{folder}"),))
    for module in (proving, engine_cache):
        monkeypatch.setattr(module, "provider_row", lambda name: row)
    fault(BUILDS)
    return here


def test_an_engine_is_built_once_and_timed_apart(measure: Measure, builder: Path) -> None:
    cache = EngineCache(builder / "engines")
    model = save_model(builder / "model.tflite", ADDS)
    given = {"point": POINT, "golden": golden(builder / "golden.npz", 3 * X), "engines": cache}
    first = measure(model, facts=board("armnn-CpuAcc"), **given)
    assert (first.verdict, first.reason) == ("ok", None)
    assert first.engine_build_s is not None and first.engine_build_reason is None
    (engine,) = (builder / "engines").rglob("engine")
    made = engine.read_bytes()
    again = measure(model, facts=board("armnn-CpuAcc"), **given)
    assert (again.verdict, again.engine_build_s) == ("ok", first.engine_build_s), "what it took when it was built"
    assert engine.read_bytes() == made, "it was found again"


def test_what_was_built_is_found_by_the_proof_of_a_deployment_and_by_a_sustained_run(
    measure: Measure, builder: Path
) -> None:
    cache, facts = EngineCache(builder / "engines"), board("armnn-CpuAcc")
    model = save_model(builder / "model.tflite", ADDS)
    data = golden(builder / "golden.npz", 3 * X)
    result = measure(model, point=POINT, facts=facts, golden=data, engines=cache)
    assert result.engine_build_s is not None
    (engine,) = (builder / "engines").rglob("engine")
    made, found = engine.read_bytes(), engine.parent / "cuda" / "found"
    before = len(found.read_text())

    release = deployment(deployed(model), deployed(data), point=result.point)
    prove = partial(prove_with_kept, builder, release, engines=cache, facts=lambda: facts, stop=never_stop)
    assert prove(clock=RealClock()).reason == "it loads, runs, and gives the golden outputs"
    assert (len(found.read_text()), engine.read_bytes()) == (before + 1, made)

    settings = MeasureSettings(contended="flag", sustained_max_s=0.5)
    sustained = measure_sustained(
        models.candidate(model), POINT, model, facts=facts, board=TestBoard(), clock=RealClock(), settings=settings,
        engines=cache, block_s=0.1,
    )  # fmt: skip
    assert sustained is not None and (sustained.reason or "").startswith("not steady within"), sustained
    assert (len(found.read_text()), engine.read_bytes()) == (before + 2, made)

    engine.write_bytes(b"damaged")
    assert prove(clock=RealClock()).passed is True, "what was kept is not the model"
    assert list((builder / "engines").rglob("engine")) == []


def test_an_engine_that_is_built_at_every_load_is_not_timed_apart(
    measure: Measure, builder: Path, tmp_path: Path
) -> None:
    planted = tmp_path / "fault" / "sitecustomize.py"
    planted.write_text(planted.read_text().replace("and not (keep / 'engine').exists()", ""))
    result = measure(
        save_model(builder / "model.tflite", ADDS), point=POINT, facts=board("armnn-CpuAcc"),
        golden=golden(builder / "golden.npz", 3 * X), engines=EngineCache(builder / "engines"),
    )  # fmt: skip
    assert (result.verdict, result.engine_build_s) == ("ok", None)
    assert "built it again at the next load" in (result.engine_build_reason or "")
    assert list((builder / "engines").rglob("engine")) == []


def test_an_engine_that_computes_wrong_is_not_kept(measure: Measure, builder: Path) -> None:
    build_delegate(builder / "lib", ARMNN, "wrong")
    model = save_model(builder / "model.tflite", ADDS)
    result = measure(
        model, point=POINT, facts=board("armnn-CpuAcc"), golden=golden(builder / "golden.npz", 3 * X),
        engines=EngineCache(builder / "engines"),
    )  # fmt: skip
    assert result.verdict == "wrong_output"
    assert (result.engine_build_s, result.engine_build_reason) == (None, "it was not proven")
    assert list((builder / "engines").rglob("engine")) == []


def test_entries_are_told_apart_bounded_and_dropped_when_anything_changes(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, quota_bytes=1000)
    facts = board("armnn-CpuAcc")
    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(3)]

    def fill(digest: str, size: int, point: Any = POINT, facts: Any = facts) -> Path:
        entry = cache.entry(facts, point, digest)
        assert entry.build_s is None
        (entry.folder / "engine").write_bytes(b"x" * size)
        entry.built(2.5)
        return entry.folder

    folders = [fill(digest, 300) for digest in digests[:2]]
    assert cache.entry(facts, POINT, digests[0]).build_s == 2.5, "and it is the one used last"
    fill(digests[2], 400)
    assert [folder.exists() for folder in folders] == [True, False], "the least lately used went"
    assert size_bytes(tmp_path) <= 1000
    other_point = msgspec.structs.replace(POINT, threads=2)
    assert fill(digests[0], 10, other_point).parent.parent != folders[0].parent.parent
    for changed in (
        {"facts": board("armnn-CpuAcc", class_fingerprint="another class")},
        {"facts": board("armnn-CpuAcc", drivers=("libarmnn.so (9 bytes)",))},
        {"point": msgspec.structs.replace(POINT, engine_version="1")},
    ):
        digest = hashlib.sha256(repr(changed).encode()).hexdigest()
        fill(digest, 10)
        fill(digest, 10, **changed)
        assert cache.entry(facts, POINT, digest).build_s is None, changed
    half = cache.entry(facts, POINT, digests[1])
    (half.folder / "engine").write_bytes(b"half")
    assert list(cache.entry(facts, POINT, digests[1]).folder.iterdir()) == [], "its build did not end"
    too_large = cache.entry(facts, POINT, digests[1])
    (too_large.folder / "engine").write_bytes(b"x" * 2000)
    too_large.built(1.0)
    assert not too_large.folder.exists()
