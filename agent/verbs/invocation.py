"""One call of the command line: its arguments, where to print, whether a stop was asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.child import PROGRESS_VARIABLE
from agent.config import Config, load_config
from agent.core.ports import StopRequested
from agent.errors import BoardfitError, StorageError
from agent.site import Site, default_state_dir

if TYPE_CHECKING:
    import argparse
    from types import SimpleNamespace

    from agent.console import Console

Verbs = Any  # argparse's action of sub-parsers has no public name


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler gets."""

    arguments: argparse.Namespace | SimpleNamespace
    console: Console
    stop: StopRequested
    halt: StopRequested | None = None

    @property
    def state_dir(self) -> Path:
        """The state directory in force."""
        return Path(self.arguments.state_dir) if self.arguments.state_dir else default_state_dir()

    def config(self) -> Config:
        """Read the configuration. Raises: ConfigError."""
        return load_config(self.arguments.config)

    @contextmanager
    def site(self, config: Config | None = None, state_dir: Path | None = None) -> Iterator[Site]:
        """Open the state directory, with progress shown while the block runs."""
        with self.console.progress() as shown:
            progress = shown
            if PROGRESS_VARIABLE in os.environ:  # a daemon does this
                from agent.orders.progress import told_to_parent

                progress = told_to_parent(shown)
            site = Site(
                config or self.config(),
                state_dir or self.state_dir,
                progress=progress,
                stop=self.stop,
                halt=self.halt,
            )
            with site:
                try:
                    yield site
                except StorageError as error:
                    with suppress(BoardfitError):  # the disk may well refuse that too; the exit code says so as well
                        site.report.failure("storage_failed", error)
                    raise
