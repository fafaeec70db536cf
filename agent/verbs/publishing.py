"""Sends the outbox at the end of a command; where a daemon runs on the same state, it does that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agent.errors import BoardfitError, BusyError
from agent.locks import exclusive
from agent.site import Site

if TYPE_CHECKING:
    from agent.console import Console
    from agent.report.publisher import DrainResult

log = logging.getLogger("boardfit")

DRAIN_TIMEOUT_S = 10.0  # chosen: what is left stays in the outbox and goes with the next connection


def drain(site: Site, console: Console, *, settings: bool = False) -> DrainResult | None:
    """Send what waits and say how it went; a broker that is away is no failure of the command.

    Args: settings: tell those in force too; a daemon does so itself.
    Returns: None without a broker, when a daemon publishes, or when the broker settings cannot be used.
    """
    site.report.release()
    try:
        with exclusive(site.state_dir / "daemon.lock", "a daemon"):
            if settings:
                site.report.settings(site.config, site.settings)
            publisher = site.publisher()
            if publisher is None:
                return None
            try:
                result = publisher.drain(DRAIN_TIMEOUT_S)
            finally:
                publisher.close()
    except BusyError:
        return None
    except BoardfitError as error:
        log.warning("nothing was sent to the fleet: %s", error)
        return None
    if not result.complete and not console.as_json:
        console.line(
            f"Not all was sent to the fleet ({result.left} messages wait in the outbox): {result.error}", "yellow"
        )
    return result
