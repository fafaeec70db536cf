"""Attempts to get out of a measuring worker, one function each. Run inside the worker, after it has confined itself.

What would do harm where it is not refused is called with arguments that no kernel accepts: EINVAL is no refusal.

Each either raises OSError (refused) or returns (done). ``run`` gives a mapping of names to the error's name or "DONE".
``CONTROLS`` are done by an ordinary process of the same user, so that a refusal in the worker says something.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import socket
import stat
import sys
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import NamedTuple


class Target(NamedTuple):
    """What is reached for. ``tcp``, ``unix`` and ``abstract`` have a listener; ``agent`` is the parent."""

    secret: str
    folder: str
    tcp: int
    unix: str
    abstract: str
    agent: int
    model: str
    descriptors: tuple[int, ...]


PROBES: dict[str, Callable[[Target], object]] = {}
CONTROLS: set[str] = set()
_libc = ctypes.CDLL(None, use_errno=True)
_X86 = {
    "execve": 59, "ptrace": 101, "mount": 165, "umount2": 166, "reboot": 169, "sethostname": 170,
    "init_module": 175, "settimeofday": 164, "chroot": 161, "pivot_root": 155, "swapon": 167, "add_key": 248,
    "keyctl": 250, "unshare": 272, "setns": 308, "process_vm_readv": 310, "kcmp": 312, "bpf": 321,
    "execveat": 322, "userfaultfd": 323, "perf_event_open": 298, "open_by_handle_at": 304, "fanotify_init": 300,
    "inotify_init1": 294, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438, "clone3": 435,
    "clone": 56, "shmget": 29, "mq_open": 240, "memfd_create": 319, "memfd_secret": 447, "personality": 135,
    "acct": 163, "quotactl": 179, "kexec_load": 246, "openat2": 437, "process_madvise": 440, "move_mount": 429,
    "fsopen": 430, "syslog": 103,
}  # fmt: skip
_ARM = {
    "execve": 221, "ptrace": 117, "mount": 40, "umount2": 39, "reboot": 142, "sethostname": 161,
    "init_module": 105, "settimeofday": 170, "chroot": 51, "pivot_root": 41, "swapon": 224, "add_key": 217,
    "keyctl": 219, "unshare": 97, "setns": 268, "process_vm_readv": 270, "kcmp": 272, "bpf": 280,
    "execveat": 281, "userfaultfd": 282, "perf_event_open": 241, "open_by_handle_at": 265, "fanotify_init": 262,
    "inotify_init1": 26, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438, "clone3": 435,
    "clone": 220, "shmget": 194, "mq_open": 180, "memfd_create": 279, "memfd_secret": 447, "personality": 92,
    "acct": 89, "quotactl": 60, "kexec_load": 104, "openat2": 437, "process_madvise": 440, "move_mount": 429,
    "fsopen": 430, "syslog": 116,
}  # fmt: skip
_NUMBERS = _X86 if platform.machine() == "x86_64" else _ARM


def call(name: str, *arguments: int | bytes | None) -> int:
    """Make a system call. Raises: OSError."""
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    answer = int(_libc.syscall(ctypes.c_long(_NUMBERS[name]), *given))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def probe(name: str, *, control: bool = False) -> Callable[[Callable[[Target], object]], Callable[[Target], object]]:
    def add(function: Callable[[Target], object]) -> Callable[[Target], object]:
        PROBES[name] = function
        if control:
            CONTROLS.add(name)
        return function

    return add


def _in_a_copy(work: Callable[[], object]) -> None:
    """Fork for what cannot be taken back. Raises: OSError: no fork, or the work's own error."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


# files
probe("read a secret of the same user", control=True)(lambda t: Path(t.secret).read_bytes())
probe("list the folder of the secret", control=True)(lambda t: os.listdir(t.folder))
probe("read /etc/passwd", control=True)(lambda _: Path("/etc/passwd").read_bytes())
probe("list /", control=True)(lambda _: os.listdir("/"))
probe("list the temporary folder", control=True)(lambda _: os.listdir("/tmp"))
probe("read a secret by way of /proc/self/root", control=True)(
    lambda t: Path(f"/proc/self/root{t.secret}").read_bytes()
)
probe("read a secret by way of ..", control=True)(lambda t: Path(f"/usr/../{t.secret}").read_bytes())
probe("make a file beside the secret", control=True)(lambda t: Path(t.folder, "new").write_text("x"))
probe("make a file in the temporary folder", control=True)(
    lambda _: os.close(os.open("/tmp", os.O_TMPFILE | os.O_RDWR))
)
probe("open the model for writing", control=True)(lambda t: os.close(os.open(t.model, os.O_RDWR)))
probe("write into the package", control=True)(lambda _: os.close(os.open(__file__, os.O_WRONLY)))
probe("append to the secret", control=True)(lambda t: os.close(os.open(t.secret, os.O_WRONLY | os.O_APPEND)))
probe("truncate the secret", control=True)(lambda t: os.truncate(t.secret, 6))
probe("change the secret's mode", control=True)(lambda t: os.chmod(t.secret, 0o600))
probe("change the secret's owner", control=True)(lambda t: os.chown(t.secret, os.getuid(), os.getgid()))
probe("change the secret's times", control=True)(lambda t: os.utime(t.secret))
probe("set an attribute on the secret")(lambda t: os.setxattr(t.secret, "user.x", b"1"))
probe("hard link to the secret", control=True)(lambda t: os.link(t.secret, f"{t.folder}/link-{time.monotonic_ns()}"))
probe("symbolic link to the secret", control=True)(
    lambda t: os.symlink(t.secret, f"{t.folder}/s-{time.monotonic_ns()}")
)
probe("make a folder", control=True)(lambda t: os.mkdir(f"{t.folder}/d-{time.monotonic_ns()}"))
probe("make a FIFO", control=True)(lambda t: os.mkfifo(f"{t.folder}/f-{time.monotonic_ns()}"))
probe("rename the secret's folder", control=True)(lambda t: os.rename(t.folder, t.folder))
probe("remove a file", control=True)(lambda t: os.unlink(f"{t.folder}/to-remove"))
probe("open a device", control=True)(lambda _: os.close(os.open("/dev/full", os.O_RDONLY)))
probe("read the kernel's log")(lambda _: os.close(os.open("/dev/kmsg", os.O_RDONLY)))
probe("open a terminal", control=True)(lambda _: os.close(os.open("/dev/ptmx", os.O_RDWR)))
probe("make shared memory by name", control=True)(
    lambda _: os.close(os.open("/dev/shm/boardfit-probe", os.O_RDWR | os.O_CREAT))
)
probe("open by file handle")(lambda _: call("open_by_handle_at", -100, bytes(128), 0))
probe("openat2 (its flags cannot be seen)", control=True)(
    lambda t: call("openat2", -100, t.secret.encode(), bytes(24), 24)
)


def _leave_the_cgroup(_: Target) -> None:
    places = [Path("/sys/fs/cgroup", below, "cgroup.procs") for below in ("", "unified", "memory", "systemd")]
    mounted = [place for place in places if place.exists()]
    if not mounted:
        raise OSError(errno.EACCES, "no cgroup is mounted: there is none to leave")
    os.close(os.open(mounted[0], os.O_WRONLY))


probe("leave the cgroup")(_leave_the_cgroup)


# network
def _connect(kind: int, family: int, address: object) -> None:
    with socket.socket(family, kind) as sock:
        sock.connect(address)  # type: ignore[arg-type]


probe("connect by TCP", control=True)(lambda t: _connect(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", t.tcp)))
probe("send by UDP", control=True)(lambda _: _connect(socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", 9)))
probe("connect to a unix socket", control=True)(lambda t: _connect(socket.SOCK_STREAM, socket.AF_UNIX, t.unix))
probe("connect to an abstract socket", control=True)(lambda t: _connect(socket.SOCK_STREAM, socket.AF_UNIX, t.abstract))
probe("open a netlink socket", control=True)(lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close())
probe("open a packet socket")(lambda _: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
probe("listen for TCP", control=True)(lambda _: socket.create_server(("127.0.0.1", 0)).close())
probe("make a pair of sockets", control=True)(lambda _: [one.close() for one in socket.socketpair()])


# other processes
def _own_signal_handling(_: Target) -> None:
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())


def _read_agent(path: str) -> Callable[[Target], object]:
    return lambda t: os.read(os.open(f"/proc/{t.agent}/{path}", os.O_RDONLY), 1)


probe("signal the agent", control=True)(lambda t: os.kill(t.agent, 0))
probe("signal the agent's group", control=True)(lambda t: os.killpg(os.getpgid(t.agent), 0))
probe("signal everybody")(lambda _: os.kill(-1, 0))
probe("have the kernel signal the agent (F_SETOWN)")(_own_signal_handling)
probe("open a descriptor of the agent's process", control=True)(lambda t: os.close(call("pidfd_open", t.agent, 0)))
probe("take a descriptor from the agent")(lambda t: call("pidfd_getfd", -1, 0, 0))
probe("trace the agent")(lambda t: call("ptrace", 0x4206, t.agent, 0, 0))
probe("read the agent's memory (process_vm_readv)")(lambda t: call("process_vm_readv", t.agent, None, 0, None, 0, 0))
probe("read the agent's memory (/proc/PID/mem)", control=True)(
    lambda t: os.close(os.open(f"/proc/{t.agent}/mem", os.O_RDONLY))
)
probe("read the agent's environment", control=True)(_read_agent("environ"))
probe("read the agent's mappings", control=True)(_read_agent("maps"))
probe("read the agent's command line", control=True)(_read_agent("cmdline"))
probe("list the agent's descriptors", control=True)(lambda t: os.listdir(f"/proc/{t.agent}/fd"))
probe("read init's status", control=True)(lambda _: Path("/proc/1/status").read_text())
probe("compare with the agent's descriptors")(lambda t: call("kcmp", os.getpid(), t.agent, 0, 0, 0))
probe("change the agent's limits", control=True)(lambda t: resource.prlimit(t.agent, resource.RLIMIT_CORE))
probe("move the agent to one core", control=True)(lambda t: os.sched_setaffinity(t.agent, os.sched_getaffinity(0)))
probe("change the agent's priority")(lambda t: os.setpriority(os.PRIO_PROCESS, t.agent, 19))


# new programs and processes
def _execute_from_memory(_: Target) -> None:
    descriptor = os.memfd_create("x")
    os.write(descriptor, Path("/bin/true").read_bytes())
    _in_a_copy(lambda: call("execveat", descriptor, b"", None, None, 0x1000))


probe("run a program", control=True)(lambda _: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0))
probe("execve without a fork")(lambda _: call("execve", b"/no/such/program", None, None))
probe("run a program from memory", control=True)(_execute_from_memory)
probe("execveat")(lambda _: call("execveat", -1, b"", None, None, 0x1000))
probe("fork", control=True)(lambda _: _in_a_copy(lambda: None))
probe("clone3 (its flags cannot be seen)")(lambda _: call("clone3", bytes(64), 64))
probe("start a process that outlives the worker", control=True)(lambda _: _in_a_copy(os.setsid))


# privileges and the kernel
_NEW_USER, _NEW_NET, _NEW_MOUNT = 0x10000000, 0x40000000, 0x00020000
probe("a user namespace", control=True)(lambda _: _in_a_copy(lambda: call("unshare", _NEW_USER)))
probe("a user namespace (unshare, no fork)")(lambda _: call("unshare", _NEW_USER))
probe("a network namespace")(lambda _: call("unshare", _NEW_NET))
probe("a thread in a mount namespace (clone)")(lambda _: call("clone", _NEW_MOUNT | 17, 0, 0, 0, 0))
probe("join init's namespaces")(lambda _: call("setns", -1, 0))
probe("mount")(lambda t: call("mount", b"none", t.folder.encode(), b"nosuchfs", 0, None))
probe("mount (new calls)")(lambda _: call("fsopen", b"tmpfs", 0))
probe("move a mount")(lambda _: call("move_mount", -1, b"", -1, b"", 0))
probe("unmount")(lambda _: call("umount2", b"/no/such/mount", 0))
probe("chroot")(lambda _: call("chroot", b"/no/such/folder"))
probe("pivot_root")(lambda _: call("pivot_root", b"/no/such/folder", b"/"))
probe("become root again")(lambda _: (os.setresuid(0, 0, 0), Path("/etc/shadow").read_bytes()))
probe("set the clock")(lambda _: call("settimeofday", b"\xff" * 16, None))
probe("set the host name")(lambda _: call("sethostname", b"x", -1))
probe("reboot")(lambda _: call("reboot", 0, 0, 0, 0))  # wrong magic numbers: nothing happens wherever it runs
probe("load a kernel module")(lambda _: call("init_module", None, 0, b""))
probe("load a kernel")(lambda _: call("kexec_load", 0, 0, None, 0))
probe("read the kernel's log by syslog")(lambda _: call("syslog", 10, None, 0))
probe("process accounting")(lambda _: call("acct", b"/no/such/file"))
probe("bpf")(lambda _: call("bpf", 0, bytes(64), 64))
probe("perf_event_open")(lambda _: call("perf_event_open", bytes(112), 0, -1, -1, 0))
probe("io_uring")(lambda _: call("io_uring_setup", 1, bytes(120)))
probe("userfaultfd")(lambda _: os.close(call("userfaultfd", 1)))
probe("a key ring")(lambda _: call("keyctl", 0, -3, 1, 0, 0))
probe("add a key")(lambda _: call("add_key", b"user", b"x", b"y", 1, -3))
probe("System V shared memory")(lambda _: call("shmget", 0, 4096, 0o1600))
probe("a message queue")(lambda _: call("mq_open", b"boardfit-probe", os.O_CREAT | os.O_RDWR, 0o600, None))
probe("watch files (inotify)", control=True)(lambda _: os.close(call("inotify_init1", 0)))
probe("watch files (fanotify)")(lambda _: os.close(call("fanotify_init", 0, 0)))
probe("another personality")(lambda _: call("personality", 0x0400000))
probe("memory without a name", control=True)(lambda _: os.close(os.memfd_create("x")))


# its own bounds
def _raise(which: int) -> None:
    soft, hard = resource.getrlimit(which)
    more = resource.RLIM_INFINITY if hard != resource.RLIM_INFINITY else hard
    if soft == more:
        raise OSError(errno.EINVAL, "it is unlimited: the probe says nothing")
    try:
        resource.setrlimit(which, (more, more))
    except ValueError as error:  # what Python makes of EPERM here
        raise OSError(errno.EPERM, str(error)) from error


def _inherited(t: Target) -> None:
    """Find descriptors that the worker was not meant to have."""
    found = []
    for number in (int(name) for name in os.listdir("/proc/self/fd")):
        try:
            mode = os.fstat(number).st_mode
            flags = fcntl.fcntl(number, fcntl.F_GETFL)
        except OSError:
            continue  # the listing itself
        place = os.readlink(f"/proc/self/fd/{number}")
        named_only = flags & os.O_PATH and place == f"/proc/{os.getpid()}"
        if number not in t.descriptors and not named_only and not stat.S_ISFIFO(mode):
            found.append(place)
        elif stat.S_ISFIFO(mode) and number not in t.descriptors:
            found.append(f"pipe {number}")
    if not found:
        raise OSError(errno.EBADF, "none")
    raise RuntimeError(f"inherited: {found}")


def _forget_parent(_: Target) -> None:
    if _libc.prctl(1, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "refused")


probe("raise its file size limit")(lambda _: _raise(resource.RLIMIT_FSIZE))
probe("raise its limit of open files")(lambda _: _raise(resource.RLIMIT_NOFILE))
probe("leave core dumps")(lambda _: _raise(resource.RLIMIT_CORE))
probe("outlive the agent")(_forget_parent)
probe("be spared by the out-of-memory killer", control=True)(
    lambda _: os.close(os.open("/proc/self/oom_score_adj", os.O_WRONLY))
)
probe("type into a terminal (TIOCSTI)")(lambda _: fcntl.ioctl(0, 0x5412, b"x"))
probe("inherited descriptors")(_inherited)


def run(target: Target, only: Container[str] = PROBES) -> dict[str, str]:
    """Try everything, or what is named."""
    told = {}
    for name, function in PROBES.items():
        if name not in only:
            continue
        try:
            function(target)
        except OSError as error:
            told[name] = errno.errorcode.get(error.errno or 0, str(error.errno))
        except Exception as error:  # noqa: BLE001 - a probe that fails otherwise was not refused
            told[name] = f"{type(error).__name__}: {error}"[:120]
        else:
            told[name] = "DONE"
    return told


if __name__ == "__main__":
    sys.exit("run by tests/faults/test_escape.py")
