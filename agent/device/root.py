"""The sole owner of absolute paths: everything this stage reads lies below one replaceable root.

Rules:
- Other modules name files relative to the root (``proc/meminfo``) and never open anything themselves.
- Reads go through os.open and os.read. Sensors answer EAGAIN while their block is power-gated, and a text-mode
  ``open().read()`` turns that into a TypeError instead of an OSError. O_NONBLOCK keeps a stray FIFO from hanging us.
- Absent, denied and broken are three answers: the board has no such file, we may not read it, or it fails.

Source: sysfs reads that fail with EAGAIN on Orin's gated zones: prometheus/node_exporter issue 3071.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
from pathlib import Path

from agent.core.facts import SensorStatus
from agent.errors import SensorUnavailableError

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO})
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_STRIP = "\0 \t\r\n"
_READ_LIMIT_BYTES = 1 << 20  # chosen: the largest file read here, cpuinfo of a large server, is far below
_DEVICE_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")


def classify(error: OSError) -> SensorStatus:
    """Return which of absent, denied and broken an OSError means for a kernel file."""
    if error.errno in _ABSENT:
        return "absent"
    return "denied" if error.errno in _DENIED else "broken"


def state_of(error: SensorUnavailableError) -> SensorStatus:
    """Return the state an error carries; broken where it carries none."""
    state = error.facts.get("state")
    return "absent" if state == "absent" else "denied" if state == "denied" else "broken"


def unavailable(what: str, state: SensorStatus, *, why: str, fix: str | None = None) -> SensorUnavailableError:
    """Build the error for a source that exists as a file or not, but gives no usable value."""
    return SensorUnavailableError(f"{what}: {why}", fix=fix, state=state)


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)


class SysRoot:
    """One root below which kernel, configuration and device files lie; ``/`` on a real board."""

    def __init__(self, path: Path = Path("/")) -> None:
        self.path = path

    @property
    def is_real(self) -> bool:
        """Whether this is the running machine and not a copied tree."""
        return self.path == Path("/")

    def locate(self, rel: str) -> Path:
        """Return where a relative name lies. Raises: ValueError: it is absolute or climbs out."""
        if rel.startswith("/") or ".." in rel.split("/"):
            raise ValueError(f"{rel!r} is not relative to the root")
        return self.path / rel

    def read_bytes(self, rel: str) -> bytes:
        """Read a small file whole. Raises: OSError."""
        handle = os.open(self.locate(rel), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            parts: list[bytes] = []
            size = 0
            while size < _READ_LIMIT_BYTES:
                part = os.read(handle, 65536)
                if not part:
                    break
                parts.append(part)
                size += len(part)
            return b"".join(parts)
        finally:
            os.close(handle)

    def read_text(self, rel: str) -> str:
        """Read a text file without surrounding NULs and whitespace.

        Raises: SensorUnavailableError: ``facts`` hold state (absent, denied, broken), errno and path.
        """
        try:
            return self.read_bytes(rel).decode("utf-8", "replace").strip(_STRIP)
        except OSError as error:
            state = classify(error)
            name = errno.errorcode.get(error.errno or 0, "unknown error")
            raise SensorUnavailableError(
                f"{rel}: {state} ({name})", state=state, errno=error.errno, path=rel
            ) from error

    def try_text(self, rel: str) -> str | None:
        """Read a text file; None when it cannot be read for whatever reason."""
        try:
            return self.read_text(rel)
        except SensorUnavailableError:
            return None

    def read_int(self, rel: str) -> int:
        """Read one decimal number, or a hexadecimal one that says 0x. Raises: SensorUnavailableError."""
        text = self.read_text(rel)
        try:
            number = int(text, 16 if text.lower().startswith("0x") else 10)
        except ValueError as error:
            raise SensorUnavailableError(
                f"{rel}: broken ({text[:40]!r} is not a number)", state="broken", errno=None, path=rel
            ) from error
        if abs(number) >= 1 << 64:
            raise SensorUnavailableError(
                f"{rel}: broken ({text[:40]} is more than a kernel counts to)", state="broken", errno=None, path=rel
            )
        return number

    def try_int(self, rel: str) -> int | None:
        """Read one number; None when there is none to be had."""
        try:
            return self.read_int(rel)
        except SensorUnavailableError:
            return None

    def write_text(self, rel: str, text: str) -> bool:
        """Write to an existing kernel file; False when the kernel refuses."""
        try:
            handle = os.open(self.locate(rel), os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.write(handle, text.encode()) == len(text)
        except OSError:
            return False
        finally:
            os.close(handle)

    def exists(self, rel: str) -> bool:
        """Whether the name leads to something; a dangling link does not."""
        return os.path.exists(self.locate(rel))  # noqa: PTH110 - Path.exists raises on EACCES before Python 3.12

    def list_dir(self, rel: str) -> tuple[str, ...]:
        """Return a folder's entries in natural order; empty when it is absent or not permitted."""
        try:
            return tuple(sorted(os.listdir(self.locate(rel)), key=_natural))  # noqa: PTH208 - names, not Paths
        except OSError:
            return ()

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Return the relative names that match, one wildcard level per path component, in natural order."""
        found = [""]
        for part in pattern.split("/"):
            if any(mark in part for mark in "*?["):
                found = [
                    _join(parent, name)
                    for parent in found
                    for name in self.list_dir(parent)
                    if fnmatch.fnmatchcase(name, part)
                ]
            else:
                found = [_join(parent, part) for parent in found]
        return tuple(name for name in found if self.exists(name))

    def device_tree(self, name: str) -> tuple[str, ...]:
        """Return a device-tree property's strings (NUL-separated); empty when there is no such property."""
        for base in _DEVICE_TREES:
            text = self.try_text(f"{base}/{name}")
            if text:
                return tuple(part.strip(_STRIP) for part in text.split("\0") if part.strip(_STRIP))
        return ()

    def device_tree_names(self) -> tuple[str, ...]:
        """Return the top-level node and property names of the device tree."""
        return next((names for base in _DEVICE_TREES if (names := self.list_dir(base))), ())

    def link_name(self, rel: str) -> str | None:
        """Return the last component of what a symbolic link leads to, None when it is no link."""
        try:
            return os.readlink(self.locate(rel)).rstrip("/").rsplit("/", 1)[-1]  # noqa: PTH115 - text is wanted
        except OSError:
            return None


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name
