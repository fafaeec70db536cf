"""The power mode of a Jetson, as nvpmodel left it on disk: cheaper than starting ``nvpmodel -q`` and needs no root.

Mode 0 is not "maximum" on every board, and names carry ``MODE_`` on some only, so id and name are reported together.
Over SSH the file may lag behind a mode change that waits for a reboot.

Sources: /etc/nvpmodel.conf as in LineageOS/android_device_nvidia_* nvpmodel/*.conf; status file as read by
rbonghi/jetson_stats.
"""

from __future__ import annotations

import re

import msgspec

from agent.device.profiles import PowerModes
from agent.device.root import SysRoot

_STATUS = "var/lib/nvpmodel/status"
_CONF = "etc/nvpmodel.conf"
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")
_DEFAULT = re.compile(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>")
_PMODE = re.compile(r"pmode:(\d+)")


class PowerMode(msgspec.Struct, frozen=True, kw_only=True):
    """The mode in force; ``is_default`` is None where the default is not known."""

    id: int
    name: str | None = None
    is_default: bool | None = None

    @property
    def text(self) -> str:
        """Id and name, as reports show it."""
        return f"{self.id} {self.name}" if self.name else str(self.id)


def parse_conf(text: str) -> tuple[dict[int, str], int | None]:
    """Return the names by id and the default id of an nvpmodel.conf; comments are left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    default = _DEFAULT.search(lines)
    return {int(number): name for number, name in _MODE.findall(lines)}, int(default[1]) if default else None


def read_power_mode(root: SysRoot, published: tuple[PowerModes, ...] = ()) -> PowerMode | None:
    """Return the mode in force, None on boards without nvpmodel.

    Args: published: tables of the profile, used for the name only where the board's own file is missing and there is
        exactly one (tables of different releases give one id different names).
    """
    match = _PMODE.search(root.try_text(_STATUS) or "")
    if match is None:
        return None
    number = int(match[1])
    names, default = parse_conf(root.try_text(_CONF) or "")
    if not names and len(published) == 1:
        table = published[0]
        names = {int(key): name for key, name in table.names.items() if key.isdecimal()}
        default = int(table.default) if table.default and table.default.isdecimal() else None
    return PowerMode(id=number, name=names.get(number), is_default=None if default is None else number == default)
