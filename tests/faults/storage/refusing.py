"""Refuses the Nth call of a process that would change something below a folder, as a disk in trouble would.

The kernel hands every such call of the process, its threads and its children to a supervisor (seccomp user
notification, Linux 5.5), which knows the file it is about and lets it through or answers with an error number. It
costs no stops for other calls, as a tracer would, and counts all processes together. Needs neither root nor strace.

``spell``: ``one`` refuses the Nth call only, ``lasting`` that one and all later ones. A full disk still removes and
shortens files, so ENOSPC leaves these calls alone; EIO and EROFS refuse every one.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Spell = Literal["one", "lasting"]

_MACHINES = {
    "x86_64": (0xC000003E, 317, {
        "write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "fsync": 74, "fdatasync": 75, "ftruncate": 77,
        "fallocate": 285, "fchmod": 91, "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86, "unlink": 87, "symlink": 88,
        "chmod": 90, "open": 2, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264, "linkat": 265,
        "symlinkat": 266, "fchmodat": 268, "utimensat": 280, "renameat2": 316,
    }),
    "aarch64": (0xC00000B7, 277, {
        "write": 64, "pwrite64": 68, "writev": 66, "pwritev": 70, "fsync": 82, "fdatasync": 83, "ftruncate": 46,
        "fallocate": 47, "fchmod": 52, "openat": 56, "mkdirat": 34, "unlinkat": 35, "renameat": 38, "linkat": 37,
        "symlinkat": 36, "fchmodat": 53, "utimensat": 88, "renameat2": 276,
    }),
}  # fmt: skip
_BY_DESCRIPTOR = {"write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate", "fchmod"}
# Which arguments are a path; with a folder's descriptor before it.
_BY_PATH = {
    "rename": (0, 1), "mkdir": (0,), "rmdir": (0,), "link": (1,), "unlink": (0,), "symlink": (1,), "chmod": (0,),
    "open": (0,),
}  # fmt: skip
_BY_FOLDER = {
    "openat": ((0, 1),), "mkdirat": ((0, 1),), "unlinkat": ((0, 1),), "renameat": ((0, 1), (2, 3)),
    "renameat2": ((0, 1), (2, 3)), "linkat": ((2, 3),), "symlinkat": ((1, 2),), "fchmodat": ((0, 1),),
    "utimensat": ((0, 1),),
}  # fmt: skip
_NEEDS_NO_SPACE = {"unlink", "unlinkat", "rmdir", "ftruncate", "fchmod", "chmod", "fchmodat", "utimensat"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_AT_FDCWD = -100


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _filter(audit: int, numbers: dict[str, int]) -> bytes:
    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF)

    notify, allow = step(0x06, _NOTIFY), step(0x06, _ALLOW)
    steps = step(0x20, 4) + step(0x15, audit, 1, 0) + allow + step(0x20, 0)
    for name, number in numbers.items():
        if name in ("open", "openat"):
            flags = 16 + 8 * (1 if name == "open" else 2)
            steps += step(0x15, number, 0, 4) + step(0x20, flags) + step(0x45, _WRITING, 0, 1) + notify + allow
        else:
            steps += step(0x15, number, 0, 1) + notify
    return steps + allow


def be_supervised() -> int:
    """Hand this process and all it starts to a supervisor. Returns: the descriptor that it listens on. Raises: OSError.

    A call that is supervised waits until somebody listens: pass the descriptor on by ``send`` before anything else.
    """
    audit, number, numbers = _MACHINES[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    steps = _filter(audit, numbers)
    program = _Program(len(steps) // 8, steps)
    new_listener = 8
    answer = int(libc.syscall(ctypes.c_long(number), 1, new_listener, ctypes.byref(program)))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def send(channel: socket.socket, descriptor: int) -> None:
    """Pass a descriptor on; by no call that is supervised."""
    channel.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])


def receive(channel: socket.socket) -> int:
    """Take a descriptor. Raises: OSError: the other side had none."""
    _, given, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
    if not given:
        raise OSError(errno.ENOTSUP, "the kernel has no seccomp user notification")
    return array.array("i", given[0][2])[0]


@dataclass
class Refusals:
    """What to refuse, and what was asked. Args: number: None for an error that never comes; when: from 1."""

    below: Path
    number: int | None
    when: int
    spell: Spell = "one"
    calls: int = 0
    refused: int = 0
    first: str | None = None
    seen: list[str] = field(default_factory=list)

    def answer(self, name: str, paths: list[str]) -> int | None:
        """Return the error to answer with, None to let it through."""
        mine = [path for path in paths if path.startswith(f"{self.below}/")]
        if not mine or (self.number == errno.ENOSPC and name in _NEEDS_NO_SPACE):
            return None
        self.calls += 1
        due = self.calls == self.when or (self.spell == "lasting" and self.calls > self.when)
        if not due or self.number is None:
            return None
        self.refused += 1
        self.first = self.first or f"{name} {mine[0].removeprefix(f'{self.below}/')}"
        return self.number


def supervise(listener: int, refusals: Refusals) -> None:
    """Answer until every supervised process has ended."""
    names = {number: name for name, number in _MACHINES[platform.machine()][2].items()}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for _, events in poll.poll():
            if not events & select.POLLIN:
                os.close(listener)
                return
            notice = bytearray(80)
            try:
                fcntl.ioctl(listener, _RECEIVE, notice)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):  # it was killed meanwhile
                    continue
                raise
            key, process, _, number = struct.unpack_from("=QIIi", notice)
            arguments = struct.unpack_from("=6Q", notice, 32)
            name = names[number]
            error_number = refusals.answer(name, _paths(process, name, arguments))
            reply = struct.pack(
                "=QqiI", key, 0, -(error_number or 0), 0 if error_number is not None else _CONTINUE
            )  # fmt: skip
            try:
                fcntl.ioctl(listener, _SEND, reply)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    raise


def _paths(process: int, name: str, arguments: tuple[int, ...]) -> list[str]:
    """Return the files a call is about; none where they cannot be told, such as of a process that is gone."""
    try:
        if name in _BY_DESCRIPTOR:
            return [os.readlink(f"/proc/{process}/fd/{arguments[0]}")]
        if name in _BY_PATH:
            return [_absolute(process, _AT_FDCWD, _text(process, arguments[n])) for n in _BY_PATH[name]]
        return [
            _absolute(process, ctypes.c_int(arguments[folder] & 0xFFFFFFFF).value, _text(process, arguments[n]))
            for folder, n in _BY_FOLDER[name]
        ]
    except OSError:
        return []


def _absolute(process: int, folder: int, path: str) -> str:
    if path.startswith("/"):
        return path
    base = f"/proc/{process}/cwd" if folder == _AT_FDCWD else f"/proc/{process}/fd/{folder}"
    return f"{os.readlink(base)}/{path}"


def _text(process: int, address: int) -> str:
    if address == 0:
        return ""
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        found = b""
        while b"\0" not in found and len(found) < 4096:
            room = 4096 - (address + len(found)) % 4096  # what follows the page may not be there
            found += memory.read(room)
    return found.partition(b"\0")[0].decode("utf-8", "surrogateescape")
