"""The operator list in a registry: boards fetch it, the author changes it. ``agent.core.operators`` says what it means.

Rules:
- What is read is verified before it is changed and signed again.
- A name or a key stands in it once; adding a name again changes its role, key and end.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.clock import iso
from agent.core.operators import (
    MAX_LIST_BYTES,
    OPERATORS_KIND,
    OPERATORS_PATH,
    Operator,
    OperatorList,
    check_operators,
    parse_operators,
)
from agent.errors import ConfigError, OrderError, TrustError

if TYPE_CHECKING:
    from agent.registry.client import RegistryClient


def fetch_operators(client: RegistryClient) -> bytes | None:
    """Return the signed list's bytes; None where the registry has none.

    Raises: TrustError: what lies there is not what was signed, or not a list. DownloadError. StorageError.
    """
    ref = client.find(OPERATORS_PATH)
    if ref is None or client.kind(OPERATORS_PATH) != OPERATORS_KIND:
        return None
    if ref.length > MAX_LIST_BYTES:
        raise TrustError(f"the operator list has {ref.length} bytes, more than {MAX_LIST_BYTES}")
    return client.fetch(ref).read_bytes()


def list_operators(directory: Path) -> OperatorList:
    """Return the list an author's registry holds, verified; an empty one where it has none.

    Raises: ConfigError: no registry there. TrustError: it is damaged.
    """
    from tuf.api.exceptions import RepositoryError

    from agent.registry import layout
    from agent.registry.signing import load_state

    target = load_state(directory).targets.signed.targets.get(OPERATORS_PATH)
    if target is None:
        return OperatorList()
    try:
        data = (directory / layout.target_file(OPERATORS_PATH, target.hashes["sha256"])).read_bytes()
        target.verify_length_and_hashes(data)
        return parse_operators(data)
    except (OSError, OrderError, RepositoryError) as error:
        raise TrustError(f"the operator list is damaged: {error}", fix="restore the registry from its copy") from error


def add_operator(
    directory: Path, *, name: str, public_key: str, role: str, valid_until: datetime, keys_dir: Path, now: datetime
) -> OperatorList:
    """Sign a list with one more operator; one of the same name is replaced.

    Args: public_key: Ed25519, 64 hex digits. role: viewer, operator or admin. valid_until, now: aware.
    Raises: ConfigError: a bad name, role, key or time, a key that is another's, no registry, no signing key.
        TrustError. BusyError. StorageError.
    """
    from agent.core.operators import ROLES

    if role not in ROLES:
        raise ConfigError(f"no such role: {role}", fix=f"roles are {', '.join(ROLES)}")
    if valid_until <= now:
        raise ConfigError(f"{name}'s key would be valid until {iso(valid_until)}, which is past", fix="give it time")
    added = Operator(name=name, public_key=public_key, role=role, valid_until=iso(valid_until))
    others = [operator for operator in list_operators(directory).operators if operator.name != name]
    return _publish(directory, [*others, added], keys_dir, now)


def remove_operator(directory: Path, *, name: str, keys_dir: Path, now: datetime) -> OperatorList:
    """Sign a list without one operator; boards obey him until their next sync. Raises: like ``add_operator``."""
    before = list_operators(directory).operators
    after = [operator for operator in before if operator.name != name]
    if len(after) == len(before):
        known = ", ".join(operator.name for operator in before) or "none"
        raise ConfigError(f"there is no operator {name}", fix=f"operators are: {known}")
    return _publish(directory, after, keys_dir, now)


def _publish(directory: Path, operators: list[Operator], keys_dir: Path, now: datetime) -> OperatorList:
    import tempfile

    from agent.registry.author import add_file

    made = OperatorList(operators=tuple(sorted(operators, key=lambda operator: operator.name)))
    try:
        check_operators(made)
    except OrderError as error:
        raise ConfigError(error.problem, fix=error.fix) from error
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "operators.json"
        source.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1))
        add_file(directory, source, OPERATORS_PATH, kind=OPERATORS_KIND, keys_dir=keys_dir, now=now)
    return made
