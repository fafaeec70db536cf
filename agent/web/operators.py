"""Who may sign in: the operator list of the registry, or a file. ``agent.core.operators`` says what it means.

Rules:
- The list is read again after ``FRESH_S``, so that a revoked operator is out within that time.
- One that cannot be read lets nobody in, and says why.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from agent.clock import SystemClock
from agent.core.operators import OperatorList, parse_operators
from agent.errors import ConfigError, OrderError

FRESH_S = 30.0


class OperatorSource(Protocol):
    """Where the operator list comes from."""

    def current(self) -> OperatorList:
        """Return the list. Raises: BoardfitError: there is none, or it cannot be read."""
        ...


class OperatorsFile:
    """A file of the registry's format; whoever can write it decides who may sign in."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def current(self) -> OperatorList:
        """Return the list as the file has it now. Raises: ConfigError."""
        try:
            return parse_operators(self._path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"the operator list {self._path} cannot be read: {error}", fix="check --operators"
            ) from error
        except OrderError as error:
            raise ConfigError(f"{self._path}: {error.problem}", fix="check --operators") from error


class OperatorsOfRegistry:
    """The signed list of a registry. Args: state_dir: where verified metadata is kept."""

    def __init__(self, url: str, root: Path, state_dir: Path) -> None:
        from agent.registry.cache import Cache
        from agent.registry.client import RegistryClient

        self._client = RegistryClient(url, root, state_dir, Cache(state_dir / "cache"), clock=SystemClock())
        self._list: OperatorList | None = None
        self._read_at = -FRESH_S

    def current(self) -> OperatorList:
        """Return the list, asking the registry when it was not asked for a while. Raises: TrustError. DownloadError."""
        from agent.registry.operators import fetch_operators

        if self._list is None or time.monotonic() - self._read_at >= FRESH_S:
            self._client.refresh()
            data = fetch_operators(self._client)
            if data is None:
                raise ConfigError("the registry has no operator list", fix="add one with `boardfit fleet keys add`")
            self._list, self._read_at = parse_operators(data), time.monotonic()
        return self._list
