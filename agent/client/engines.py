"""Where an application keeps what an accelerator builds for a model, so that it is not built again at each load.

Rules:
- A folder of the application's own, named by it; nothing is kept unasked. What the agent keeps is not taken: a confined
  worker wrote it, and a provider trusts the engines it finds.
- One folder within it for a model with its engine's version and its options; the ``KEPT`` last used stay.
- What is kept may be refused by a driver that was changed: a load that fails with it is tried again from nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.core.deployment import Deployment
from agent.errors import DeploymentError
from agent.runtimes.providers import provider_row
from agent.runtimes.table import split_provider

KEPT = 4  # chosen: what serves and what served before, of two tasks
_T = TypeVar("_T")


def load_keeping(engines: Path, document: Deployment, version: str | None, load: Callable[[Path | None], _T]) -> _T:
    """Load a model with what is kept for it. Args: engines: the application's folder. version: the engine's own.

    Raises: DeploymentError: the folder cannot be made. What ``load`` raises.
    """
    provider = split_provider(document.point.provider)[0]
    if not provider_row(provider).cache_options:
        return load(None)
    point = document.point
    told = [document.model.sha256, point.engine, version, provider, point.threads, point.batch]
    kept = engines / hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:32]
    try:
        kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = any(kept.iterdir())
    except OSError as error:
        raise DeploymentError(
            f"{engines} cannot keep what {provider} builds: {error.strerror}",
            fix="name a folder of the application's own",
        ) from error
    try:
        loaded = load(kept)
    except Exception:
        if not found:
            raise
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o700)
        loaded = load(kept)
    _forget_old(engines, kept)
    return loaded


def _forget_old(engines: Path, kept: Path) -> None:
    with suppress(OSError):
        now = time.time_ns()
        os.utime(kept, ns=(now, now))
        ours = [one for one in engines.iterdir() if len(one.name) == 32 and one.is_dir() and not one.is_symlink()]
        for old in sorted(ours, key=lambda one: one.stat().st_mtime_ns)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
