"""What is deployed: the document an application reads, and the record of how it came there. Pure.

``current/deployment.json`` is a ``Deployment``: everything an application needs to open the model, paths relative to
the release folder so that it stays true behind the symlink.

History: ``boardfit.deployment/1`` first version.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from agent.core.manifest import CompressionStep, TensorSpec
from agent.core.measurement import OperatingPoint

SCHEMA = "boardfit.deployment/1"
SOCKET_NAME = "live.sock"  # in the state directory: where an application tells the agent how the model fares


class DeployedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file inside the release folder."""

    path: str
    sha256: str
    length: int


class RungPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Which rung of a task's ladder a release is: 0 is the model that was chosen, the further the lighter."""

    index: int
    count: int  # of the ladder as it was when this release was made


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an application needs to open and feed the model."""

    release: str  # sha256 of the canonical form of this document without this field
    task: str
    candidate: str
    format: str
    model: DeployedFile
    point: OperatingPoint
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    schema: str = SCHEMA
    golden: DeployedFile | None = None
    preprocessing: tuple[dict[str, Any], ...] = ()
    labels: tuple[str, ...] = ()
    label_offset: int = 0
    family: str | None = None
    compression: tuple[CompressionStep, ...] = ()
    licence: str | None = None
    expected: dict[str, float | None] = {}  # figures of the deciding measurement, SI suffixes in the names
    rung: RungPlace | UnsetType = UNSET  # left out where the task has no ladder: this is what was chosen

    @property
    def rung_index(self) -> int:
        """Which rung of the ladder this is: 0 is what was chosen."""
        return self.rung.index if isinstance(self.rung, RungPlace) else 0


class StagedRung(msgspec.Struct, frozen=True, kw_only=True):
    """A rung that lies in the release store and has been proven there."""

    release: str
    candidate: str
    point: str  # its label
    latency_p95_s: float | None = None  # when measured


class StagedLadder(msgspec.Struct, frozen=True, kw_only=True):
    """The rungs that can be stepped to at once, what was chosen first. ``<task>/ladder.json`` in the release store."""

    task: str
    rungs: tuple[StagedRung, ...]
    laying: tuple[str, ...] = ()  # releases that are being staged and proven as its next rungs
    schema: str = "boardfit.ladder/1"

    def index(self, release: str | None) -> int | None:
        """Return which rung a release is, None for none of them."""
        return next((number for number, rung in enumerate(self.rungs) if rung.release == release), None)


class DeploymentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one task's deployment: what serves now and how the last attempt ended."""

    task: str
    phase: str
    changed_at: str
    current: Deployment | None = None
    previous_release: str | None = None
    outcome: str | None = None  # deployed | unchanged | rolled_back | failed | stepped | none
    reason: str | None = None
    path: str | None = None  # the `current` link on this board
    ladder: tuple[StagedRung, ...] = ()  # what can be stepped to at once, what was chosen first
    rung: int | None = None  # which of them serves; None: no ladder
    withheld: dict[str, str] = {}  # candidate -> why no pass may try it: quarantined, or rolled back by hand
    schema: str = "boardfit.deployment-status/1"
