from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.core.manifest import (
    PACKED_SCHEMA,
    Candidate,
    Manifest,
    Packing,
    TargetRef,
    TensorSpec,
    manifest_document,
    parse_manifest,
)
from agent.core.measurement import Measurement, OperatingPoint, as_listed
from agent.errors import ModelError

SPEC = {"name": "x", "dtype": "float32", "shape": [1, -1]}


def document(**changes: Any) -> dict[str, Any]:
    return {"task": "digits", "name": "int8", "format": "onnx", "inputs": [SPEC], "outputs": [SPEC]} | changes


def test_read() -> None:
    found = parse_manifest(document())
    spec = TensorSpec(name="x", dtype="float32", shape=(1, -1))
    assert found == Manifest(task="digits", name="int8", format="onnx", inputs=(spec,), outputs=(spec,))
    candidate = Candidate(manifest=found, target=TargetRef(path="a.onnx", sha256="0" * 64, length=7))
    assert (candidate.name, candidate.task, candidate.sha256, candidate.size_bytes) == ("int8", "digits", "0" * 64, 7)


def test_unknown_fields_at_the_top_survive() -> None:
    found = parse_manifest(document(colour="blue", extra={"a": 1}))
    assert found.extra == {"colour": "blue", "extra": {"a": 1}}
    written = manifest_document(found)
    assert (written["colour"], written["extra"]) == ("blue", {"a": 1})
    assert parse_manifest(msgspec.json.decode(msgspec.json.encode(written))) == found


@pytest.mark.parametrize(
    "lie",
    [
        [], "text", None, document(schema="boardfit.manifest/3"), document(format="pt"), document(inputs=7),
        {"task": "digits"}, document(name=5), document(task="../etc"), document(task=".."), document(name="a/b"),
        document(name=""), document(name="a b"), document(task="a+"), document(task="#"), document(name="x" * 129),
        document(name="a\n"),
    ],
)  # fmt: skip
def test_refused(lie: object) -> None:
    with pytest.raises(ModelError) as caught:
        parse_manifest(lie)
    assert caught.value.fix


PACKING = {"method": "xz", "sha256": "a" * 64, "length": 900}


def test_a_packed_candidate_is_its_model_file() -> None:
    manifest = parse_manifest(document(schema=PACKED_SCHEMA, packing=PACKING))
    assert manifest.packing == Packing(method="xz", sha256="a" * 64, length=900)
    candidate = Candidate(manifest=manifest, target=TargetRef(path="a.onnx.xz", sha256="0" * 64, length=7))
    assert (candidate.sha256, candidate.size_bytes) == ("a" * 64, 7)
    assert (candidate.model_bytes, candidate.size_unpacked_bytes) == (900, 900)
    assert manifest_document(manifest)["packing"] == PACKING
    assert "packing" not in manifest_document(parse_manifest(document()))


def test_a_packing_of_tomorrow_says_what_is_needed() -> None:
    with pytest.raises(ModelError, match="needs a newer boardfit"):
        parse_manifest(document(schema=PACKED_SCHEMA, packing={**PACKING, "method": "zstd", "level": 3}))
    with pytest.raises(ModelError, match="needs a newer boardfit"):
        parse_manifest(document(schema="boardfit.manifest/3", packing=PACKING))


def test_a_measurement_follows_how_its_model_is_published_now() -> None:
    point = OperatingPoint(engine="onnxruntime", engine_version="1", provider="CPUExecutionProvider", threads=1)
    measured = Measurement(
        id="1", task="digits", candidate="int8", artifact_sha256="a" * 64, size_bytes=900, point=point,
        class_fingerprint="c", verdict="ok", started_at="2026-01-01T00:00:00Z", duration_s=1.0,
    )  # fmt: skip
    packed = Candidate(
        manifest=parse_manifest(document(schema=PACKED_SCHEMA, packing=PACKING)),
        target=TargetRef(path="a.onnx.xz", sha256="0" * 64, length=7),
    )
    plain = Candidate(
        manifest=parse_manifest(document(name="other")), target=TargetRef(path="a", sha256="a" * 64, length=900)
    )
    for listed in ([packed], [packed, plain], [plain, packed]):
        (now,) = as_listed([measured], listed)
        assert (now.size_bytes, now.size_unpacked_bytes, now.key) == (7, 900, measured.key)
    assert as_listed([now], [plain]) == (measured,)
    assert as_listed([measured], []) == (measured,)
