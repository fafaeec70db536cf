"""Whether the board is fed from mains, as far as its power supply classes say.

Rules:
- A supply of type Mains, USB or Wireless that is online feeds the board; those of peripherals (scope Device) do not.
- Where only a battery is seen, its status decides: it discharges, or something feeds it.
- A board that lists no supply at all (most single-board computers) is unknown: a power bank looks the same from inside.

Source: torvalds/linux Documentation/ABI/testing/sysfs-class-power: ``online`` 0 offline, 1 fixed, 2 programmable;
``status`` Unknown, Charging, Discharging, Not charging, Full; ``scope`` System or Device.
"""

from __future__ import annotations

from agent.device.root import SysRoot

_BASE = "sys/class/power_supply"
_FEEDS = frozenset({"Mains", "USB", "Wireless"})
_FED = frozenset({"Charging", "Full", "Not charging"})


def read_on_mains(root: SysRoot) -> bool | None:
    """Return whether something other than a battery feeds the board, None when that cannot be known."""
    online: list[bool] = []
    batteries: list[str | None] = []
    for path in root.glob(f"{_BASE}/*"):
        if root.try_text(f"{path}/scope") == "Device":
            continue
        kind = root.try_text(f"{path}/type")
        if kind in _FEEDS:
            value = root.try_int(f"{path}/online")
            if value is not None:
                online.append(value > 0)
        elif kind == "Battery":
            batteries.append(root.try_text(f"{path}/status"))
    if any(online):
        return True
    if "Discharging" in batteries:
        return False
    if online and not batteries:
        return None  # nothing is plugged in that it sees, and yet it runs
    if batteries and all(status in _FED for status in batteries):
        return True
    return None
