"""The ``shadow`` part of a task in agent.yaml. What a run does, others decide."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from agent.config_values import positive
from agent.core.shadow import ShadowPlan
from agent.errors import ConfigError

_MOST_REQUESTS = 10_000


class RawShadow(msgspec.Struct, kw_only=True):
    """``shadow`` as written."""

    requests: int = 200
    agreement: float = 0.9
    tolerance: float = 0.05
    time: Any = "10 min"
    share: float = 0.1
    without_traffic: Literal["skip", "require"] = "skip"


def shadow_config(raw: RawShadow | None, where: str) -> ShadowPlan | None:
    """Return what is asked for before a switch; None: nothing. Raises: ConfigError."""
    if raw is None:
        return None
    if not 1 <= raw.requests <= _MOST_REQUESTS:
        raise ConfigError(f"{where}.requests is {raw.requests}, which must be 1 to {_MOST_REQUESTS}")
    for name in ("agreement", "tolerance", "share"):
        value = getattr(raw, name)
        if not 0.0 < value <= 1.0:
            raise ConfigError(f"{where}.{name} is {value:g}", fix="write a share above 0 and up to 1, such as 0.9")
    return ShadowPlan(
        requests=raw.requests, agreement=raw.agreement, tolerance=raw.tolerance, share=raw.share,
        time_s=positive(raw.time, "time", f"{where}.time"), without_traffic=raw.without_traffic,
    )  # fmt: skip
