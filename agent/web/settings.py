"""What a console is told when it is started. Its defaults show everything and let nobody sign in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from agent.web.operators import OperatorSource

Page = Callable[[], tuple[str, bytes]]


class ConsoleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one console.

    ``url``: how people reach it, where that is not what it listens on (a proxy). ``operators``: who may sign in; None:
    nobody. ``tls_cert``, ``tls_key``: PEM files, to serve https. ``more``: further addresses, each with what gives its
    content type and its bytes (Prometheus' ``/metrics``). ``period_s``: how often the store is asked what has changed.
    """

    url: str | None = None
    operators: OperatorSource | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    more: Mapping[str, Page] = {}
    period_s: float = 1.0
