"""Finding hwmon chips by name: numbers move between boots and kernels, names do not.

Source: torvalds/linux Documentation/hwmon/sysfs-interface.rst.
"""

from __future__ import annotations

import msgspec

from agent.device.root import SysRoot

_BASE = "sys/class/hwmon"


class Chip(msgspec.Struct, frozen=True, kw_only=True):
    """One chip: its folder, its name, and the bus device it hangs on where the kernel tells."""

    path: str
    name: str
    device: str | None = None

    @property
    def tag(self) -> str:
        """What tells two chips of one name apart."""
        return self.device or self.path.rsplit("/", 1)[-1]


def find_chips(root: SysRoot, *names: str) -> tuple[Chip, ...]:
    """Return the chips with one of these names; one whose name cannot be read is passed over."""
    chips: list[Chip] = []
    for path in root.glob(f"{_BASE}/hwmon*"):
        name = root.try_text(f"{path}/name")
        if name in names:
            chips.append(Chip(path=path, name=name, device=root.link_name(f"{path}/device")))
    return tuple(chips)
