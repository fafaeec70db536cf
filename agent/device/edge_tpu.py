"""The Edge TPU on PCIe: its temperature, and whether it has slowed itself down.

The driver halves the TPU's clock at each trip point it passes. The TPU of a USB stick shows neither.
Source: sys/class/apex/apex_N/{temp,trip_point0_temp} in millidegrees, gasket/apex driver.
"""

from __future__ import annotations

from functools import partial

import msgspec

from agent.core.facts import SensorFacts
from agent.device.root import SysRoot
from agent.device.sensor_state import try_sensor


class EdgeTpu(msgspec.Struct, frozen=True, kw_only=True):
    """One TPU, named as its device node."""

    name: str
    path: str


def find_edge_tpus(root: SysRoot) -> tuple[EdgeTpu, ...]:
    """List the TPUs the apex driver has bound."""
    return tuple(EdgeTpu(name=path.rsplit("/", 1)[-1], path=path) for path in root.glob("sys/class/apex/apex_*"))


def is_slowed(root: SysRoot, tpu: EdgeTpu) -> bool | None:
    """Whether it is at or above its first trip point; None when the driver does not say."""
    now, trip = root.try_int(f"{tpu.path}/temp"), root.try_int(f"{tpu.path}/trip_point0_temp")
    return None if now is None or trip is None else now >= trip


def describe(root: SysRoot) -> tuple[SensorFacts, ...]:
    """State each TPU's temperature sensor."""
    return tuple(
        try_sensor(
            f"edge_tpu:{tpu.name}",
            "temperature",
            partial(root.read_int, path := f"{tpu.path}/temp"),
            source=path,
            unit="°C",
        )
        for tpu in find_edge_tpus(root)
    )
