"""Making a registry: init, add, remove, refresh. Run on a workstation, beside the private keys.

Rules:
- What a model's file can say itself is read from it and not believed otherwise: format, operators, inputs, outputs.
- A target is published under its SHA-256, and bytes are never changed once they are published.
- A candidate's name is unique within its task; a new file for a name has to be asked for (``replace``).
- A packed candidate is inspected, run and checked unpacked: packing changes how it travels and nothing else.
- A model that is compiled for an accelerator is published without being run, where that is asked for; ``compiled``
  says what stands in for it.
- Whatever fails before the metadata is signed leaves at most files nobody refers to.

Leaves reading the model to ``inspect``, the manifest to ``describe``, packing to ``packing``, and signing and the order
of publication to ``signing``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # re-exported without saying so

from agent.core.manifest import Packing, TargetRef, manifest_document
from agent.durable import storage_error
from agent.errors import ConfigError
from agent.registry import layout
from agent.registry.catalogue import candidate_manifest, candidate_of, data_kind
from agent.registry.compiled import check_asked, check_compiled, note
from agent.registry.describe import build_manifest, with_files
from agent.registry.inspect import ModelFacts, inspect_model, prepared_data
from agent.registry.keys import check_keys_folder, create_key, create_keys, load_signer
from agent.registry.packing import METHOD, SUFFIX, packed
from agent.registry.signing import (
    DEFAULT_VALIDITY,
    SignedState,
    check_issue_time,
    create_state,
    load_state,
    locked,
    public_keys,
    publish,
)
from agent.registry.staging import Staged, Staging


class InitResult(msgspec.Struct, frozen=True, kw_only=True):
    """A new registry. ``root`` is the file that is installed on every board, by hand or in its image."""

    directory: str
    keys_dir: str
    root: str
    root_sha256: str
    expires: dict[str, str]


class AddResult(msgspec.Struct, frozen=True, kw_only=True):
    """One published candidate. ``model_bytes``: the model file's length; ``target`` is shorter where it is packed."""

    target: TargetRef
    manifest: dict[str, Any]
    golden_samples: int
    evaluation_samples: int | None
    engine: str | None  # that ran the model, or its twin before it was compiled; None: neither was run
    versions: dict[str, int]
    model_bytes: int


class ChangeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a removal or refresh changed: target paths removed, new versions and expiries per role."""

    removed: tuple[str, ...]
    versions: dict[str, int]
    expires: dict[str, str]


def init(
    directory: Path, keys_dir: Path, *, now: datetime, validity: Mapping[str, timedelta] | None = None
) -> InitResult:
    """Make an empty registry and its keys.

    Args:
        directory: the folder to publish; made when missing.
        keys_dir: where the private keys go; outside of ``directory``.
        now: time of issue, aware.
        validity: how long each role (root, targets, snapshot, timestamp) holds, where it is not the default.

    Raises: ConfigError: there is a registry or a key already, or the keys would be published. StorageError.
    """
    _check_aware(now)
    periods = {**DEFAULT_VALIDITY, **(validity or {})}
    if unknown := set(periods) - set(DEFAULT_VALIDITY):
        raise ConfigError(f"no such role: {', '.join(sorted(unknown))}", fix=f"roles are {', '.join(DEFAULT_VALIDITY)}")
    if any(period <= timedelta(0) for period in periods.values()):
        raise ConfigError("a role's validity must be longer than nothing", fix="give a positive time")
    check_keys_folder(keys_dir, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / layout.TARGETS_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(error, directory) from error
    with locked(directory):
        if (directory / layout.METADATA_FOLDER).exists():
            raise ConfigError(f"{directory} holds a registry already", fix="choose another folder")
        create_state(directory, create_keys(keys_dir), now=now, validity=periods)
        state = load_state(directory)
        root = directory / layout.ROOT_FILE
        return InitResult(
            directory=str(directory),
            keys_dir=str(keys_dir),
            root=str(root),
            root_sha256=hashlib.sha256(root.read_bytes()).hexdigest(),
            expires=_expires(state),
        )


def add(
    directory: Path,
    model_path: Path,
    *,
    task: str,
    name: str,
    keys_dir: Path,
    now: datetime,
    evaluation: Path | None = None,
    extra: Mapping[str, Any] | None = None,
    golden: Path | None = None,
    pack: bool = False,
    replace: bool = False,
    compiled_for: str | None = None,
    twin: Path | None = None,
) -> AddResult:
    """Inspect, check, sign and publish one model.

    Args:
        task, name: ``[a-z0-9._-]``, the candidate's task and its name there.
        evaluation: ``.npz`` with ``inputs`` and ``labels`` (see ``agent.registry.pack_child``), or None.
        extra: what the manifest says beyond the file: family, compression, preprocessing, labels, licence ...
        golden: golden data (see ``agent.core.golden``); made with the reference engine where it is None.
        pack: publish it packed, where that makes it smaller.
        replace: take the place of a candidate of the same name.
        compiled_for: the accelerator that alone can run it; ``golden`` is given then, or made with ``twin``, the model
            before it was compiled.

    Raises: ModelError: the model, its data or its manifest is unusable. ConfigError: a bad name, a name that is taken,
        a missing key, no registry. TrustError: the registry on disk is damaged. BusyError. StorageError.
    """
    _check_aware(now)
    _check_name(task, "task")
    _check_name(name, "candidate")
    check_asked(compiled_for, has_golden=golden is not None, has_twin=twin is not None)
    with locked(directory):
        state = load_state(directory)
        check_issue_time(state, now)
        if not replace and _paths_of(state, task, name):
            raise ConfigError(f"{task} has a candidate {name} already", fix="choose another name, or say --replace")
        with Staging(directory / layout.TARGETS_FOLDER) as staging:
            model = staging.take(model_path)
            facts = _read(model.path, compiled_for, twin)
            manifest = build_manifest(task, name, facts, extra or {})
            with prepared_data(
                model.path if compiled_for is None else twin, facts, evaluation=evaluation, golden=golden,
                preprocessing=manifest.preprocessing, label_offset=manifest.label_offset,
                label_count=len(manifest.labels) or None,
            ) as prepared:  # fmt: skip
                files = {"golden": prepared.golden_file, "evaluation": evaluation}
                data = {kind: staging.take(file).publish_data(task, kind) for kind, file in files.items() if file}
            plain = layout.is_file_name(model_path.name + SUFFIX)
            path = f"{task}/{name}/{model_path.name if plain else f'model.{facts.format}'}"
            target, packing = _publish_model(staging, model, path, pack=pack)
        not_run = note(compiled_for, prepared.engine)
        document = manifest_document(with_files(manifest, data["golden"], data.get("evaluation"), packing, not_run))
        targets = state.targets.signed.targets
        for old in _paths_of(state, task, name):
            del targets[old]
        targets[target.path] = _target(target, {layout.MANIFEST_FIELD: msgspec.json.encode(document).decode()})
        targets |= {ref.path: _target(ref, {layout.DATA_FIELD: {"kind": kind}}) for kind, ref in data.items()}
        _drop_unused_data(state)
        publish(state, keys_dir, ("targets",), now=now)
        return AddResult(
            target=target,
            manifest=document,
            golden_samples=prepared.golden_samples,
            evaluation_samples=prepared.evaluation_samples,
            engine=prepared.engine,
            versions=_versions(state),
            model_bytes=model.length,
        )


def add_file(directory: Path, source: Path, target_path: str, *, kind: str, keys_dir: Path, now: datetime) -> TargetRef:
    """Publish a signed file that is no model, such as the list of operator keys; one of the same path is replaced.

    Args: target_path: where it is found, such as ``_fleet/operators.json``. kind: what it is, in one word.
    Raises: like ``add``.
    """
    _check_aware(now)
    if not layout.is_target_path(target_path):
        raise ConfigError(f"{target_path!r} is not a target path", fix="use plain parts, like _fleet/operators.json")
    with locked(directory):
        state = load_state(directory)
        old = state.targets.signed.targets.get(target_path)
        if old is not None and candidate_of(old) is not None:
            raise ConfigError(f"{target_path} is a candidate", fix="choose another path")
        with Staging(directory / layout.TARGETS_FOLDER) as staging:
            ref = staging.take(source).publish(target_path)
        state.targets.signed.targets[ref.path] = _target(ref, {layout.DATA_FIELD: {"kind": kind}})
        publish(state, keys_dir, ("targets",), now=now)
    return ref


def remove(directory: Path, *, task: str, name: str, keys_dir: Path, now: datetime) -> ChangeResult:
    """Take a candidate out of the registry; boards that run it go on until another is selected.

    Its files stay on disk, for boards that still hold the older metadata; ``check`` lists them as unused.
    Raises: ConfigError: there is no such candidate, or a key is missing. TrustError. BusyError. StorageError.
    """
    _check_aware(now)
    with locked(directory):
        state = load_state(directory)
        targets = state.targets.signed.targets
        before = set(targets)
        for path in _paths_of(state, task, name):
            del targets[path]
        if before == set(targets):
            raise ConfigError(f"{task} has no candidate {name}", fix="see `boardfit registry check`")
        _drop_unused_data(state)
        publish(state, keys_dir, ("targets",), now=now)
        return ChangeResult(
            removed=tuple(sorted(before - set(targets))), versions=_versions(state), expires=_expires(state)
        )


def refresh(
    directory: Path,
    *,
    keys_dir: Path,
    now: datetime,
    roles: tuple[str, ...] = ("snapshot", "timestamp"),
    validity: Mapping[str, timedelta] | None = None,
) -> ChangeResult:
    """Sign roles anew with a new expiry, nothing else changed. For cron, before the timestamp expires.

    Args: roles: ``targets`` and ``root`` too where they come near their end; each needs its own key only.
    Raises: ConfigError: no registry, no such role or a missing key. TrustError. BusyError. StorageError.
    """
    _check_aware(now)
    if not roles or (unknown := set(roles) - set(DEFAULT_VALIDITY)):
        raise ConfigError(f"no such role: {', '.join(sorted(unknown)) if roles else 'none given'}", fix="see --help")
    with locked(directory):
        state = load_state(directory)
        publish(state, keys_dir, roles, now=now, validity=validity)
        return ChangeResult(removed=(), versions=_versions(state), expires=_expires(state))


def rotate(directory: Path, role: str, *, keys_dir: Path, now: datetime) -> ChangeResult:
    """Give a role a new key and revoke the old one; boards follow by themselves from the root they have.

    The new key is written to ``keys_dir`` first, as ``<role>-<id>.pem``; the old file can be destroyed afterwards.
    Needs the root's key, and the keys of what the role leads to (targets: snapshot and timestamp). One that broke off
    in the middle leaves a registry that holds together, and can be done again.
    Raises: ConfigError: no such role or a missing key. TrustError. BusyError. StorageError.
    """
    _check_aware(now)
    if role not in DEFAULT_VALIDITY:
        raise ConfigError(f"no such role: {role}", fix=f"roles are {', '.join(DEFAULT_VALIDITY)}")
    with locked(directory):
        state = load_state(directory)
        check_issue_time(state, now)
        root = state.root.signed
        old = list(root.roles[role].keyids)
        former = load_signer(keys_dir, "root", public_keys(root, "root"))
        signer = create_key(keys_dir, role)
        root.add_key(signer.public_key, role)
        if role != "root":
            # A board may look between any two of these: both keys hold, then the role is signed, then the old one goes.
            publish(state, keys_dir, ("root",), now=now)
            publish(state, keys_dir, (role,), now=now, new_keys={role: signer})
        for keyid in old:
            root.revoke_key(keyid, role)
        publish(state, keys_dir, ("root",), now=now, former_root=former if role == "root" else None)
        return ChangeResult(removed=(), versions=_versions(state), expires=_expires(state))


def _read(model: Path, compiled_for: str | None, twin: Path | None) -> ModelFacts:
    """Return what a model's file says, held against what it is said to be compiled for. Raises: ModelError."""
    facts = inspect_model(model, compiled=compiled_for is not None)
    if compiled_for is not None:
        check_compiled(compiled_for, facts, None if twin is None else inspect_model(twin, compiled=True))
    return facts


def _publish_model(staging: Staging, model: Staged, path: str, *, pack: bool) -> tuple[TargetRef, Packing | None]:
    """Publish a model packed where that is asked for and makes it smaller, as it is otherwise."""
    data = packed(model.path) if pack else None
    if data is None:
        return model.publish(path), None
    target = staging.write(io.BytesIO(data)).publish(path + SUFFIX)
    return target, Packing(method=METHOD, sha256=model.sha256, length=model.length)


def _target(ref: TargetRef, custom: dict[str, Any]) -> TargetFile:
    return TargetFile(ref.length, {"sha256": ref.sha256}, ref.path, {"custom": custom})


def _paths_of(state: SignedState, task: str, name: str) -> list[str]:
    targets = state.targets.signed.targets
    return [path for path, target in targets.items() if candidate_of(target) == (task, name)]


def _drop_unused_data(state: SignedState) -> None:
    targets = state.targets.signed.targets
    used = set()
    for target in targets.values():
        manifest = candidate_manifest(target)
        if manifest is not None:
            used |= {ref.path for ref in (manifest.golden, manifest.evaluation) if ref is not None}
    for path, target in list(targets.items()):
        if data_kind(target) in ("golden", "evaluation") and path not in used:
            del targets[path]


def _check_name(text: str, what: str) -> None:
    if not layout.is_name(text):
        raise ConfigError(
            f"{text!r} cannot name a {what}",
            fix="use a-z, 0-9, dot, dash and underscore, starting with a letter or digit",
        )


def _check_aware(now: datetime) -> None:
    if now.tzinfo is None:
        raise ConfigError("the time of issue has no time zone", fix="give an aware time")


def _versions(state: SignedState) -> dict[str, int]:
    return {role: state.signed(role).version for role in DEFAULT_VALIDITY}


def _expires(state: SignedState) -> dict[str, str]:
    return {role: layout.format_time(state.signed(role).expires) for role in DEFAULT_VALIDITY}
