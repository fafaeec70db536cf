"""What must not leave a board with a capture of it: values that name this very board, its network or its users.

Rules:
- Values the board itself tells (serials, MAC addresses, machine id, host and user names) are looked up first and taken
  out wherever they stand, in texts and in names of files; the same value becomes the same word everywhere.
- What has the shape of such a value (MAC, UUID, 32 and more hexadecimal digits) goes even where nobody told it.
- The kernel's command line keeps known parameters only; anything may stand there.
- Names that images ship with (pi, jetson) name nobody and stay: "raspberrypi" is also a vendor's prefix.

Sources: machine-id(5): the id is confidential; MAC and serial attributes: torvalds/linux Documentation/ABI/testing
sysfs-class-net, sysfs-class-power, sysfs-block; sys/class/dmi/id: drivers/firmware/dmi-id.c; /proc/cpuinfo "Serial":
raspberrypi/documentation raspberry-pi/revision-codes.adoc.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from agent.device.root import SysRoot

_SHIPPED = (
    "root user admin guest localhost localdomain pi raspberrypi raspberry rpi jetson nvidia tegra tegra-ubuntu ubuntu"
    " debian mendel rock radxa rock-5b beagle beaglebone bone linaro linux armbian board none cpu soc arm"
)
_SHIPPED_NAMES = frozenset(_SHIPPED.split())
_NO_SERIALS = re.compile(r"(?i)[0.x-]*|none|unknown|default.*|not .*|n/a|to be filled.*|system serial.*|.*o\.e\.m\..*")
_SHORTEST_SERIAL = 5  # chosen: a shorter one names nothing, and would take parts of other numbers with it
_MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id", "proc/sys/kernel/random/boot_id")
_HOST_NAMES = ("etc/hostname", "proc/sys/kernel/hostname", "proc/sys/kernel/domainname")
_SERIALS = (
    *("proc/device-tree/serial-number", "sys/firmware/devicetree/base/serial-number"),
    *(f"sys/class/dmi/id/{name}" for name in ("product_serial", "board_serial", "chassis_serial", "product_uuid")),
    *("sys/class/dmi/id/chassis_asset_tag", "sys/class/dmi/id/board_asset_tag", "sys/devices/soc0/serial_number"),
    *("sys/block/*/device/serial", "sys/block/*/device/cid", "sys/block/*/device/wwid", "sys/block/*/serial"),
    *("sys/block/*/wwid", "sys/class/nvme/*/serial", "sys/class/power_supply/*/serial_number"),
    "sys/bus/usb/devices/*-*/serial",  # a root hub's (usbN) is the name of its controller
)
_FIRST_USER, _LAST_USER = 1000, 59999  # login.defs(5), UID_MIN and UID_MAX
_MAC = re.compile(r"(?<![0-9A-Fa-f:])[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}(?![0-9A-Fa-f:])")
_UUID = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{8}(?:[-_][0-9A-Fa-f]{4}){3}[-_][0-9A-Fa-f]{12}(?![0-9A-Fa-f])")
_LONG_HEX = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{32,}(?![0-9A-Za-z])")
_SHAPES = (("mac", _MAC), ("uuid", _UUID), ("id", _LONG_HEX))
_CPUINFO_SERIAL = re.compile(r"(?m)^(Serial\s*:\s*)(\S+)")
_CMDLINE_KEPT = re.compile(  # what changes how a board works, and holds no name
    r"(cgroup_(enable|disable|memory|no_v1)|systemd\.unified_cgroup_hierarchy|numa(_policy)?|psi|mem|memmap|cma|isolcpus"
    r"|nohz(_full)?|rcu_nocbs|maxcpus|nr_cpus|nosmt|mitigations|(default_)?hugepagesz|hugepages|transparent_hugepage"
    r"|coherent_pool|cpufreq\.\w+|cpuidle\.\w+|intel_pstate|amd_pstate|processor\.\w+|idle|thermal\.\w+|quiet|rw|ro"
    r"|rootwait|splash|usbcore\.autosuspend|pcie_aspm|elevator|swiotlb|iommu(\.\w+)?|arm64\.\w+)(=[\w.,:@=-]*)?"
)


class Redactor:
    """Takes out what names one board. ``removed`` counts, by kind, the places something was taken from."""

    def __init__(self, root: SysRoot, also: tuple[tuple[str, str], ...] = ()) -> None:
        """Args: root: the board to ask. also: further (kind, value) to take out, such as the running user's name."""
        self.removed: Counter[str] = Counter()
        self._words: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()
        told = dict.fromkeys((kind, value) for kind, value in (*_told(root), *also) if value)
        # the longest first: a host name may hold a user's name
        self._values = [
            (kind, _pattern(kind, value)) for kind, value in sorted(told, key=lambda one: len(one[1]), reverse=True)
        ]

    def _word(self, kind: str, value: str) -> str:
        key = value.lower()
        if key not in self._words:
            self._numbers[kind] += 1
            self._words[key] = f"removed-{kind}-{self._numbers[kind]}"
        self.removed[kind] += 1
        return self._words[key]

    def text(self, text: str) -> str:
        """Return a text, or a path, without what names the board."""
        for kind, pattern in (*self._values, *_SHAPES):
            text = pattern.sub(lambda found, kind=kind: self._word(kind, found[0]), text)  # type: ignore[misc]
        return text

    def content(self, rel: str, data: bytes) -> bytes:
        """Return what may be kept of a file. Args: rel: its name, which some rules go by."""
        text = data.decode("latin-1")  # every byte has its sign, and comes back as it was
        if rel == "proc/cmdline":
            text = self._command_line(text)
        elif rel == "proc/cpuinfo":
            text = _CPUINFO_SERIAL.sub(lambda found: f"{found[1]}{self._word('serial', found[2])}", text)
        return self.text(text).encode("latin-1")

    def _command_line(self, text: str) -> str:
        words = text.split()
        kept = [word for word in words if _CMDLINE_KEPT.fullmatch(word)]
        self.removed["kernel parameter"] += len(words) - len(kept)
        return " ".join(kept) + "\n"


def _pattern(kind: str, value: str) -> re.Pattern[str]:
    inner = re.escape(value.encode("utf-8", "surrogateescape").decode("latin-1"))
    if kind in {"host", "user"}:  # a word of its own: these are short, and may be part of other words
        inner = f"(?<![0-9A-Za-z]){inner}(?![0-9A-Za-z])"
    return re.compile(inner, re.IGNORECASE)


def _told(root: SysRoot) -> Iterator[tuple[str, str]]:
    for rel in _MACHINE_IDS:
        if len(value := root.try_text(rel) or "") >= _SHORTEST_SERIAL:
            yield "id", value
    for rel in _HOST_NAMES:
        value = root.try_text(rel) or ""
        for name in (value, value.partition(".")[0]):
            if names_somebody(name):
                yield "host", name
    for pattern in _SERIALS:
        for rel in root.glob(pattern):
            yield from _serial(root.try_text(rel))
    yield from _serial(next((m[2] for m in _CPUINFO_SERIAL.finditer(root.try_text("proc/cpuinfo") or "")), None))
    for rel in root.glob("sys/class/net/*/address"):
        if _MAC.fullmatch(value := root.try_text(rel) or ""):
            yield "mac", value
            yield "mac", value.replace(":", "")  # as enx001122334455 has it
    for line in (root.try_text("etc/passwd") or "").splitlines():
        yield from _user(line.split(":"))


def _user(fields: list[str]) -> Iterator[tuple[str, str]]:
    if len(fields) == 7 and fields[2].isdecimal() and _FIRST_USER <= int(fields[2]) <= _LAST_USER:
        for name in (fields[0], fields[4].partition(",")[0], fields[5].rpartition("/")[2]):
            if names_somebody(name):
                yield "user", name


def names_somebody(name: str) -> bool:
    """Tell whether a host's or user's name is one that somebody chose."""
    return len(name) > 1 and name.lower() not in _SHIPPED_NAMES and name != "(none)"


def _serial(value: str | None) -> Iterator[tuple[str, str]]:
    if value and len(value) >= _SHORTEST_SERIAL and not _NO_SERIALS.fullmatch(value):
        yield "serial", value
