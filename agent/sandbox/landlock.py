"""Which files a process that opens models may read: Landlock, by its three system calls.

Rules:
- All rights that this kernel knows are taken away, and given back for the paths named; what no rule names is refused.
- Ports, devices, signals and abstract sockets follow the kernel: TCP from ABI 4, ioctl on devices from 5, signals to
  others and abstract sockets from 6.
- A path that is not there needs no rule. A rule is of the file that was opened for it, not of its name.

Sources: Documentation/userspace-api/landlock.rst, linux/landlock.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from agent.sandbox.syscalls import LANDLOCK_ADD_RULE, LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF

_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
READ = _READ_FILE | _READ_DIR
USE_DEVICE = READ | _WRITE_FILE | _IOCTL_DEV
WRITE = USE_DEVICE | _TRUNCATE | (1 << 5) | (1 << 7) | (1 << 8)  # remove and make files, make folders
_OF_FILES = (1 << 0) | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract unix sockets, signals


def abi() -> int | str:
    """Return the kernel's version of Landlock, or why there is none."""
    version = _call(LANDLOCK_CREATE_RULESET, None, 0, _VERSION)
    if version > 0:
        return version
    return {
        errno.ENOSYS: "the kernel has no Landlock (Linux 5.13 on, CONFIG_SECURITY_LANDLOCK)",
        errno.EOPNOTSUPP: "Landlock is built into the kernel and off",
        errno.EPERM: "a filter on this service refuses Landlock's calls",
    }.get(-version, f"Landlock answers: {os.strerror(-version)}")


def _handled_files(version: int) -> int:
    """Return the rights over files that a version knows: 13 at first, then REFER, TRUNCATE and, at 5, IOCTL_DEV."""
    return (1 << (13 + min(version - 1, 2) + (version >= 5))) - 1


class Ruleset:
    """Rules that are put together and then put in force.

    Raises: OSError: the kernel refuses one of the calls.
    """

    def __init__(self, version: int) -> None:
        self._files = _handled_files(version)
        fields = [self._files]
        if version >= 4:
            fields.append(_TCP)
        if version >= 6:
            fields.append(_SCOPES)
        attributes = struct.pack(f"={len(fields)}Q", *fields)
        self._fd = _checked(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)

    def allow(self, path: Path | int, rights: int) -> None:
        """Allow rights over a file, or a folder and all below it; nothing where there is no such file.

        Args: path: a name, or the descriptor of the open file. Raises: OSError.
        """
        if isinstance(path, int):
            self._add(path, rights)
            return
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # not there, or not ours to enter: then it could not be read either
            return
        try:
            self._add(descriptor, rights)
        finally:
            os.close(descriptor)

    def _add(self, descriptor: int, rights: int) -> None:
        allowed = rights & self._files
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            allowed &= _OF_FILES
        _checked(LANDLOCK_ADD_RULE, self._fd, _PATH_BENEATH, struct.pack("=Qi", allowed, descriptor), 0)

    def enter(self) -> None:
        """Put the rules in force for this thread and all it starts; needs no_new_privs. Raises: OSError."""
        _checked(LANDLOCK_RESTRICT_SELF, self._fd, 0)

    def close(self) -> None:
        """Give back the descriptor; rules in force stay."""
        os.close(self._fd)


def restrict(version: int, allowed: Iterable[tuple[Path | int, int]]) -> None:
    """Allow these paths with these rights and nothing else, for good. Raises: OSError."""
    with contextlib.closing(Ruleset(version)) as rules:
        for path, rights in allowed:
            rules.allow(path, rights)
        rules.enter()


def _call(number: int, *arguments: bytes | int | None) -> int:
    """Return what the kernel answers, the error negative."""
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    answer = int(libc.syscall(ctypes.c_long(number), *given))
    return answer if answer >= 0 else -ctypes.get_errno()


def _checked(number: int, *arguments: bytes | int | None) -> int:
    answer = _call(number, *arguments)
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return answer
