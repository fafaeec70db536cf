"""Checking a registry as it lies on disk: signatures, expiry, every target's bytes, every reference.

Reads only. What is wrong is a finding, not an error, so that one run lists everything.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # re-exported without saying so

from agent.core.manifest import Candidate
from agent.errors import DeviceError, ModelError, StorageError, TrustError
from agent.registry import layout
from agent.registry.cache import hash_file
from agent.registry.catalogue import data_kind, read_catalogue
from agent.registry.packing import unpacked
from agent.registry.signing import SignedState, load_state, read_validity

Level = Literal["error", "warning", "note"]
_WARN_SHARE = 4  # warned of when less than a quarter of a role's validity is left


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing found. ``error``: boards refuse it; ``warning``: they soon will; ``note``: it does no harm."""

    level: Level
    where: str
    problem: str
    fix: str | None = None


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, worst first. ``sound`` is False when one is an error."""

    sound: bool
    findings: tuple[Finding, ...]
    versions: dict[str, int]
    expires: dict[str, str]
    candidates: int
    targets: int
    target_bytes: int


def check(directory: Path, *, now: datetime) -> CheckReport:
    """Check a whole registry.

    Raises: ConfigError: the folder holds no registry.
    """
    try:
        state = load_state(directory)
    except (TrustError, StorageError) as error:
        finding = Finding(level="error", where="metadata", problem=error.problem, fix=error.fix)
        return CheckReport(
            sound=False, findings=(finding,), versions={}, expires={}, candidates=0, targets=0, target_bytes=0
        )
    targets = state.targets.signed.targets
    candidates, refused = read_catalogue(targets)
    findings = [
        *_check_times(state, now),
        *_check_root_copy(state),
        *(
            Finding(level="error", where=item.path, problem=item.reason, fix="publish it again, or remove it")
            for item in refused
        ),
    ]
    for path in sorted(targets):
        findings += _check_target(directory, path, targets[path])
    wrong = {finding.where for finding in findings}
    findings += [item for one in candidates if one.target.path not in wrong for item in _check_packed(directory, one)]
    findings += _find_unused(directory, targets)
    used = {ref.path for item in candidates for ref in (item.manifest.golden, item.manifest.evaluation) if ref}
    for path, target in targets.items():
        if data_kind(target) in ("golden", "evaluation") and path not in used:
            findings.append(Finding(level="note", where=path, problem="no candidate refers to it"))
    order = {"error": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda finding: (order[finding.level], finding.where))
    roles = ("root", "targets", "snapshot", "timestamp")
    return CheckReport(
        sound=all(finding.level != "error" for finding in findings),
        findings=tuple(findings),
        versions={role: state.signed(role).version for role in roles},
        expires={role: layout.format_time(state.signed(role).expires) for role in roles},
        candidates=len(candidates),
        targets=len(targets),
        target_bytes=sum(target.length for target in targets.values()),
    )


def _check_times(state: SignedState, now: datetime) -> list[Finding]:
    findings = []
    for role in ("root", "targets", "snapshot", "timestamp"):
        signed = state.signed(role)
        left = signed.expires - now
        validity = read_validity(signed)
        fix = f"run `boardfit registry refresh` for {role}"
        end = layout.format_time(signed.expires)
        if left <= timedelta(0):
            findings.append(Finding(level="error", where=role, problem=f"it expired at {end}", fix=fix))
        elif validity is not None and left * _WARN_SHARE < validity:
            findings.append(Finding(level="warning", where=role, problem=f"it expires at {end}", fix=fix))
        issued = layout.parse_time(signed.unrecognized_fields.get(layout.ISSUED_FIELD))
        if issued is None:
            problem = "it has no time of issue: boards with a wrong clock are not helped"
            findings.append(Finding(level="warning", where=role, problem=problem, fix=fix))
        elif issued > now:
            problem = f"it was issued at {layout.format_time(issued)}, in the future"
            findings.append(Finding(level="error", where=role, problem=problem, fix="check the clock of the author"))
    return findings


def _check_root_copy(state: SignedState) -> list[Finding]:
    copy = state.directory / layout.ROOT_FILE
    newest = state.directory / layout.metadata_file("root", state.root.signed.version)
    if copy.is_file() and copy.read_bytes() == newest.read_bytes():
        return []
    return [
        Finding(
            level="warning",
            where=layout.ROOT_FILE,
            problem=f"it is not the newest root, version {state.root.signed.version}",
            fix=f"copy {newest} to it",
        )
    ]


def _check_target(directory: Path, path: str, target: TargetFile) -> list[Finding]:
    sha256 = target.hashes.get("sha256", "")
    if not layout.is_sha256(sha256) or not layout.is_target_path(path):
        return [Finding(level="error", where=path, problem="it has no SHA-256, or a path that is not plain")]
    file_path = directory / layout.target_file(path, sha256)
    fix = "restore the file from its copy, or publish it again"
    try:
        with file_path.open("rb") as file:
            length = file_path.stat().st_size
            if length != target.length:
                problem = f"its file has {length} bytes, {target.length} are signed"
                return [Finding(level="error", where=path, problem=problem, fix=fix)]
            if hash_file(file) != sha256:
                return [Finding(level="error", where=path, problem="its file is not the signed one", fix=fix)]
    except FileNotFoundError:
        return [Finding(level="error", where=path, problem="its file is missing", fix=fix)]
    except OSError as error:
        return [Finding(level="error", where=path, problem=f"its file cannot be read: {error.strerror}", fix=fix)]
    return []


def _check_packed(directory: Path, candidate: Candidate) -> list[Finding]:
    """Unpack a packed candidate as a board would, keeping nothing."""
    ref, packing = candidate.target, candidate.manifest.packing
    if packing is None:
        return []
    try:
        with (directory / layout.target_file(ref.path, ref.sha256)).open("rb") as file:
            for _ in unpacked(file, packing, candidate.name):
                pass
    except (ModelError, DeviceError) as error:
        return [Finding(level="error", where=ref.path, problem=error.problem, fix=error.fix)]
    except OSError as error:
        return [Finding(level="error", where=ref.path, problem=f"its file cannot be read: {error.strerror}")]
    return []


def _find_unused(directory: Path, targets: dict[str, TargetFile]) -> list[Finding]:
    known = {layout.target_file(path, target.hashes.get("sha256", "")) for path, target in targets.items()}
    folder = directory / layout.TARGETS_FOLDER
    return [
        Finding(
            level="note",
            where=str(path.relative_to(directory)),
            problem="no signed target leads to this file",
            fix="delete it once no board holds the older metadata",
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and str(path.relative_to(directory)) not in known
    ]
