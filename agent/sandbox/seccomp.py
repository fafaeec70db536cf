"""The filter of system calls of a process that opens models: put together here, given to the kernel for good.

Rules:
- What is not on the list gets EPERM; a call newer than the list, and those whose arguments lie in memory where no
  filter can look (clone3, openat2), get ENOSYS, upon which a libc uses the older call.
- A call by another calling convention (i386 or x32 on x86-64, arm on arm64) ends the process: its numbers mean others.
- Files open for reading only; threads may begin and processes not; signals go to this process alone.
- No socket, so no network, no D-Bus and no other agent; no exec, so nothing else is ever run.
- ``writes`` lets files be made and written: Landlock then says where.
- ``devices`` widens it for accelerators: the same, any ioctl, memory without a name and its policy. With both, modes of
  files are said to be changed and are not: OpenVINO gives up what it built where it may not set the file's mode, and
  Landlock bounds no chmod.
  Sockets, exec, ptrace, mounts and namespaces stay refused.
- Speculation is left as it was: kernels before 5.16 slow a filtered process down by default, and would be measured.

Sources: seccomp(2), linux/seccomp.h, linux/bpf_common.h, Documentation/userspace-api/seccomp_filter.rst. Which calls
the engines make: strace of onnxruntime 1.31, ai-edge-litert 2.3 and tflite-runtime 2.14 measuring real models, and what
glibc 2.31 to 2.41 and CPython 3.10 to 3.13 call besides.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

from agent.sandbox.syscalls import ARCHITECTURES, NEWEST, Architecture

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06  # BPF_*, all of 32 bits, by K
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
_PR_SET_SECCOMP, _MODE_FILTER, _SET_MODE_FILTER, _SPEC_ALLOW = 22, 2, 1, 1 << 2

# fmt: off
# Those that are called while a model runs come first.
_ALLOWED = (
    "futex", "read", "write", "clock_nanosleep", "nanosleep", "sched_yield", "clock_gettime", "madvise", "munmap",
    "mmap", "mprotect", "brk", "close", "lseek", "pread64", "readv", "writev", "fstat", "newfstatat", "stat", "lstat",
    "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd",
    "statfs", "fstatfs", "fadvise64", "dup", "dup2", "dup3", "poll", "ppoll", "select", "pselect6", "epoll_create1",
    "epoll_ctl", "epoll_wait", "epoll_pwait", "pipe2", "eventfd2", "mremap", "msync", "mincore", "membarrier",
    "set_robust_list", "get_robust_list", "rseq", "set_tid_address", "exit", "exit_group", "restart_syscall",
    "arch_prctl", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "clock_getres", "gettimeofday",
    "time", "times", "getrusage", "uname", "sysinfo", "getuid", "geteuid", "getgid", "getegid", "getresuid",
    "getresgid", "getpid", "gettid", "getppid", "getpgrp", "getpgid", "getsid", "getrlimit", "getrandom",
    "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min",
    "getpriority", "getcpu",
)
_WRITES = ("open", "openat", "ftruncate", "pwrite64", "mkdir", "mkdirat", "unlink", "unlinkat", "fsync", "fdatasync")
_DEVICES = (
    "ioctl", "memfd_create", "mlock", "mlock2", "munlock", "mbind",
    "get_mempolicy", "set_mempolicy", "timerfd_create", "timerfd_settime",
)
# fmt: on
_PRETENDED = ("chmod", "fchmod", "fchmodat")
_UNSEEN = ("clone3", "openat2")  # their arguments lie in memory

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # and __O_TMPFILE
_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020080  # NEWNS, CGROUP, UTS, IPC, USER, PID, NET; and NEWTIME
# F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_DUPFD_CLOEXEC
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
# PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS, PR_SVE_GET_VL,
# PR_SME_GET_VL, PR_SET_VMA (a name for anonymous memory, of glibc's malloc)
_PRCTL = (2, 3, 15, 16, 21, 39, 51, 64, 0x53564D41)


def _step(code: int, value: int, on_true: int = 0, on_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, on_true, on_false, value & 0xFFFFFFFF)  # struct sock_filter


_YES, _NO = _step(_RETURN, _ALLOW), _step(_RETURN, _ERRNO | errno.EPERM)


def _argument(index: int) -> bytes:
    """Load the low half of an argument: both architectures here are little-endian."""
    return _step(_LOAD, _ARGUMENTS_AT + 8 * index)


def _one_of(index: int, values: Iterable[int]) -> bytes:
    tests = b"".join(_step(_EQUAL, value, 0, 1) + _YES for value in values)
    return _argument(index) + tests + _NO


def _without(index: int, bits: int) -> bytes:
    return _argument(index) + _step(_ANY_BIT, bits, 1, 0) + _YES + _NO


def _thread_only() -> bytes:
    flags = _argument(0)
    return flags + _step(_ANY_BIT, _CLONE_NEW, 2, 0) + _step(_ANY_BIT, _CLONE_THREAD, 0, 1) + _YES + _NO


def program(architecture: Architecture, own_pid: int, *, writes: bool = False, devices: bool = False) -> bytes:
    """Return the filter as an array of ``struct sock_filter``. Pure. Args: own_pid: the only one to be signalled."""
    numbers = architecture.numbers
    free = (*(_WRITES if writes or devices else ()), *(_DEVICES if devices else ()))
    steps = [
        _step(_LOAD, _ARCHITECTURE_AT), _step(_EQUAL, architecture.audit, 1, 0), _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
    ]  # fmt: skip
    if architecture.x32_bit is not None:
        steps += [_step(_AT_LEAST, architecture.x32_bit, 0, 1), _step(_RETURN, _KILL)]
    for name in (*_ALLOWED, *free):
        if name in numbers:
            steps += [_step(_EQUAL, numbers[name], 0, 1), _YES]
    for name in _PRETENDED if devices and writes else ():
        if name in numbers:
            steps += [_step(_EQUAL, numbers[name], 0, 1), _step(_RETURN, _ERRNO)]
    looked_at = {
        "openat": _without(2, _WRITING),
        "open": _without(1, _WRITING),
        "clone": _thread_only(),
        "ioctl": _one_of(1, _IOCTL),
        "fcntl": _one_of(1, _FCNTL),
        "prctl": _one_of(0, _PRCTL),
        "prlimit64": _one_of(0, (0, own_pid)),
        "tgkill": _one_of(0, (own_pid,)),
        "kill": _one_of(0, (own_pid,)),
        "sched_setaffinity": _one_of(0, (0, own_pid)),
    }
    for name, block in looked_at.items():
        if name in numbers and name not in free:
            steps += [_step(_EQUAL, numbers[name], 0, len(block) // 8), block]
    nowhere = _step(_RETURN, _ERRNO | errno.ENOSYS)
    for name in _UNSEEN:
        steps += [_step(_EQUAL, numbers[name], 0, 1), nowhere]
    return b"".join([*steps, _step(_AT_LEAST, NEWEST, 0, 1), nowhere, _NO])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def install(steps: bytes) -> str | None:
    """Put a filter in force for this thread and all it starts; needs no_new_privs. Returns: None, or why it is not."""
    libc = ctypes.CDLL(None, use_errno=True)
    given = _Program(len(steps) // 8, steps)
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is not None:
        for flags in (_SPEC_ALLOW, 0):  # the flag is of Linux 4.17
            number = ctypes.c_long(architecture.numbers["seccomp"])
            if libc.syscall(number, _SET_MODE_FILTER, ctypes.c_ulong(flags), ctypes.byref(given)) == 0:
                return None
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(given), 0, 0) == 0:
        return None  # where a filter of ours, systemd's, refuses the other call
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)"
    return f"the kernel refuses a filter: {os.strerror(code)}"


def enter(*, writes: bool = False, devices: bool = False) -> str | None:
    """Filter this process's calls from here on; call before any thread. Returns: None, or why there is no filter."""
    machine = platform.machine()
    architecture = ARCHITECTURES.get(machine)
    if architecture is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return f"there are no rules for {machine} with {8 * ctypes.sizeof(ctypes.c_void_p)} bits"
    return install(program(architecture, os.getpid(), writes=writes, devices=devices))
