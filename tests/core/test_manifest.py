from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.core.manifest import Candidate, Manifest, TargetRef, TensorSpec, manifest_document, parse_manifest
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
