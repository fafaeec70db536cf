"""What the manifest of a new candidate says: the model's file first, its publisher for the rest. Pure.

Leaves reading the file to ``inspect``; what a valid manifest is, to ``agent.core.manifest``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.core.manifest import PACKED_SCHEMA, SCHEMA, Manifest, Packing, TargetRef, TensorSpec, parse_manifest
from agent.errors import ModelError
from agent.registry.inspect import ModelFacts


def build_manifest(task: str, name: str, facts: ModelFacts, given: Mapping[str, Any]) -> Manifest:
    """Put together what the file says and what the publisher says. Raises: ModelError: they contradict each other."""
    extra = dict(given)
    fixed = {"schema": SCHEMA, "task": task, "name": name, "golden": None, "evaluation": None, "packing": None,
             "not_run": None}  # fmt: skip
    for key, own in fixed.items():
        if extra.pop(key, own) != own:
            raise ModelError(f"the manifest's {key!r} is not given by hand", fix=f"leave {key} out of the file")
    needs = dict(extra.pop("needs", None) or {})
    for key in ("opset", "ir_version", "operators"):
        needs.pop(key, None)
    inputs = _with_layout(facts.inputs, extra.pop("inputs", None), "inputs")
    outputs = _with_layout(facts.outputs, extra.pop("outputs", None), "outputs")
    if extra.pop("format", facts.format) != facts.format:
        raise ModelError(f"the file is {facts.format}, the manifest says otherwise", fix="leave format out of the file")
    document = {
        **extra,
        "task": task,
        "name": name,
        "format": facts.format,
        "inputs": msgspec.to_builtins(inputs),
        "outputs": msgspec.to_builtins(outputs),
        "needs": {
            **needs,
            "opset": facts.opset,
            "ir_version": facts.ir_version,
            "operators": list(facts.operators),
        },
    }
    return parse_manifest(document)


def with_files(
    manifest: Manifest, golden: TargetRef, evaluation: TargetRef | None, packing: Packing | None, not_run: str | None
) -> Manifest:
    """Return the manifest with the signed files beside the model, how the model is packed, and why it was not run."""
    schema = SCHEMA if packing is None else PACKED_SCHEMA
    return msgspec.structs.replace(
        manifest, golden=golden, evaluation=evaluation, packing=packing, schema=schema, not_run=not_run
    )


def _with_layout(specs: tuple[TensorSpec, ...], given: object, what: str) -> tuple[TensorSpec, ...]:
    """Take over layouts by tensor name; everything else must agree with the file."""
    if given is None:
        return specs
    known = {spec.name: spec for spec in specs}
    if not isinstance(given, list) or not all(isinstance(item, dict) and item.get("name") in known for item in given):
        raise ModelError(
            f"{what} must be a list of mappings with the names the file has: {', '.join(known)}",
            fix="correct the names",
        )
    for item in given:
        spec = known[item["name"]]
        own = msgspec.to_builtins(spec)
        for key, value in item.items():
            if key != "layout" and own.get(key, value) != value:
                raise ModelError(
                    f"{what} {spec.name!r}: the manifest says {key} {value!r}, the file {own[key]!r}",
                    fix=f"leave {key} out",
                )
        known[spec.name] = msgspec.structs.replace(spec, layout=item.get("layout", spec.layout))
    return tuple(known[spec.name] for spec in specs)
