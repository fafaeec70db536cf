"""What signed targets mean to boardfit: candidates, their data, and other files. Pure.

One target that cannot be read never hides the others: it is listed as refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # re-exported without saying so

from agent.core.manifest import MAX_IR_VERSION, MAX_OPSET, Candidate, Manifest, TargetRef, parse_manifest
from agent.errors import ModelError
from agent.registry import layout


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A signed target that this version cannot take for a candidate, and why."""

    path: str
    reason: str


def target_ref(target: TargetFile) -> TargetRef | None:
    """Return path, digest and length of a target; None where it has no SHA-256 or an unsafe path."""
    sha256 = target.hashes.get("sha256", "")
    if not layout.is_sha256(sha256) or not layout.is_target_path(target.path):
        return None
    return TargetRef(path=target.path, sha256=sha256, length=target.length)


def candidate_manifest(target: TargetFile) -> Manifest | None:
    """Read a target's manifest; None where the target is no candidate. Raises: ModelError: it is not valid."""
    custom = target.custom
    text = custom.get(layout.MANIFEST_FIELD) if isinstance(custom, dict) else None
    if text is None:
        return None
    if not isinstance(text, str):
        raise ModelError(f"the manifest of {target.path} is not text", fix="publish it again")
    try:
        return parse_manifest(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ModelError(f"the manifest of {target.path} is not JSON", fix="publish it again") from error


def candidate_of(target: TargetFile) -> tuple[str, str] | None:
    """Return a target's task and candidate name, None where it is no candidate or unreadable."""
    try:
        manifest = candidate_manifest(target)
    except ModelError:
        return None
    return None if manifest is None else (manifest.task, manifest.name)


def data_kind(target: TargetFile) -> str | None:
    """Return what a data target is (evaluation, golden ...), None where it is none."""
    custom = target.custom
    field = custom.get(layout.DATA_FIELD) if isinstance(custom, dict) else None
    kind = field.get("kind") if isinstance(field, dict) else None
    return kind if isinstance(kind, str) else None


def read_catalogue(targets: Mapping[str, TargetFile]) -> tuple[tuple[Candidate, ...], tuple[Refused, ...]]:
    """Sort verified targets into candidates (by task and name) and those that cannot be one."""
    candidates: dict[tuple[str, str], Candidate] = {}
    refused: list[Refused] = []
    for path in sorted(targets):
        try:
            candidate = _read_candidate(targets[path], targets)
        except ModelError as error:
            refused.append(Refused(path=path, reason=error.problem))
            continue
        if candidate is None:
            continue
        key = (candidate.task, candidate.name)
        if key in candidates:
            refused.append(Refused(path=path, reason=f"{candidates[key].target.path} has the same task and name"))
        else:
            candidates[key] = candidate
    return tuple(candidates[key] for key in sorted(candidates)), tuple(refused)


def _read_candidate(target: TargetFile, targets: Mapping[str, TargetFile]) -> Candidate | None:
    manifest = candidate_manifest(target)
    if manifest is None:
        return None
    ref = target_ref(target)
    if ref is None:
        raise ModelError("it has no SHA-256, or a path that is not plain")
    if not layout.is_name(manifest.task) or not layout.is_name(manifest.name):
        raise ModelError(f"{manifest.task!r} or {manifest.name!r} is not a name")
    if not ref.path.startswith(f"{manifest.task}/{manifest.name}/"):
        raise ModelError(f"its manifest says {manifest.task}/{manifest.name}")
    if (manifest.needs.opset or 0) > MAX_OPSET or (manifest.needs.ir_version or 0) > MAX_IR_VERSION:
        raise ModelError(f"it needs more than opset {MAX_OPSET} and IR version {MAX_IR_VERSION}")
    for data in (manifest.golden, manifest.evaluation):
        if data is not None and (data.path not in targets or target_ref(targets[data.path]) != data):
            raise ModelError(f"it refers to {data.path}, which is not signed as it says")
    return Candidate(manifest=manifest, target=ref)
