"""Attempts to get out of a real measuring worker: all are refused. An ordinary process shows that they can succeed."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.measurement import Measurement
from agent.core.ports import never_stop
from agent.measure.protocol import Job, Started
from agent.measure.supervisor import Child, ChildEndedError
from agent.sandbox import landlock
from agent.sandbox.syscalls import ARCHITECTURES
from tests.faults.probes import CONTROLS, PROBES
from tests.faults.table import show
from tests.measure import models
from tests.measure.board import RealClock

pytestmark = pytest.mark.skipif(
    platform.machine() not in ARCHITECTURES or not isinstance(landlock.abi(), int),
    reason=f"this kernel cannot confine a worker: {landlock.abi()}, {platform.machine()}",
)
REFUSALS = {"EPERM", "EACCES", "ENOSYS"}
# What Landlock refuses without the filter, by the version that began to.
_BY_LANDLOCK = {
    1: {
        "read a secret of the same user", "list the folder of the secret", "read /etc/passwd", "list /",
        "list the temporary folder", "read a secret by way of /proc/self/root", "read a secret by way of ..",
        "make a file beside the secret", "make a file in the temporary folder", "open the model for writing",
        "write into the package", "append to the secret", "hard link to the secret", "symbolic link to the secret",
        "make a folder", "make a FIFO", "remove a file", "open a device", "make shared memory by name",
        "trace the agent", "read the agent's memory (/proc/PID/mem)", "read the agent's environment",
        "read the agent's mappings", "read the agent's command line", "list the agent's descriptors",
        "read init's status", "be spared by the out-of-memory killer", "run a program",
    },
    3: {"truncate the secret"},
    4: {"connect by TCP", "listen for TCP"},
    6: {"signal the agent", "connect to an abstract socket"},
}  # fmt: skip
_PROBE = """
import agent.measure.confine as stage
whole = stage.confine
def confine(job, parent):
    import json, os
    from tests.faults.probes import Target, run
    files = tuple(int(name.rpartition('/')[2]) for name in (job.model,))
    names = whole(job, parent)
    target = Target(*{target!r}, agent=os.getppid(), model=job.model, descriptors=(0, 1, 2, *files, int(sys.argv[1])))
    return (*names, json.dumps(run(target{only})))
stage.confine = confine
"""


@pytest.fixture
def reachable(tmp_path: Path) -> Iterator[tuple[str, str, int, str, str]]:
    """A secret, and listeners: secret, folder, TCP port, unix socket, abstract socket."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0o600)
    (folder / "to-remove").write_text("x")
    unix, abstract = str(folder / "socket"), f"\0boardfit-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as named:
        named.bind(unix)
        named.listen()
        with socket.socket(socket.AF_UNIX) as nameless:
            nameless.bind(abstract)
            nameless.listen()
            yield str(folder / "secret"), str(folder), tcp.getsockname()[1], unix, abstract


def first_words(job: Job) -> tuple[str, ...]:
    """Start a worker and return what it says it is confined by."""
    with Child(job, clock=RealClock(), stop=never_stop, deadline_s=60.0) as child:
        event = child.next_event()
    assert isinstance(event, Started)
    return event.confinement


def test_every_way_out_of_a_worker_is_refused(
    in_worker: Callable[[str], None], reachable: tuple[str, str, int, str, str], tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    in_worker(_PROBE.format(target=reachable, only=""))
    model = models.identity_classifier(tmp_path / "model.onnx")
    *_, said = first_words(Job(model=str(model), point=models.ONNX_POINT))
    told: dict[str, str] = json.loads(said)
    folder = Path(reachable[1])
    assert sorted(path.name for path in folder.iterdir()) == ["secret", "socket", "to-remove"], "nothing was changed"
    control = as_usual(reachable, model)
    show(
        record_property,
        "Ways out of a measuring worker",
        ("attempt", "in the worker", "in an ordinary process"),
        [(name, told[name], control.get(name, "not tried")) for name in PROBES],
    )
    assert len(told) >= 30
    assert {name: how for name, how in told.items() if how not in REFUSALS and name != "inherited descriptors"} == {}
    assert told["inherited descriptors"] == "EBADF"
    assert {name: how for name, how in control.items() if how != "DONE"} == {}, (
        "a probe that never succeeds shows nothing"
    )


# What a worker on an accelerator may do besides; its ioctl finds no terminal behind a pipe.
_WIDENED = {"memory without a name": "DONE", "type into a terminal (TIOCSTI)": "ENOTTY"}


def test_with_an_accelerator_no_more_is_open_than_is_said(
    in_worker: Callable[[str], None], reachable: tuple[str, str, int, str, str], tmp_path: Path
) -> None:
    in_worker(_PROBE.format(target=reachable, only="") + "\nstage.is_cpu = lambda engine, provider: False")
    model = models.identity_classifier(tmp_path / "model.onnx")
    *names, said = first_words(Job(model=str(model), point=models.ONNX_POINT, file_size_bytes=64 << 20))
    assert {f"landlock_abi_{landlock.abi()}_devices", "seccomp_devices"} <= set(names)
    told: dict[str, str] = json.loads(said)
    left = {name: how for name, how in told.items() if how not in REFUSALS and name != "inherited descriptors"}
    assert left == _WIDENED
    assert (Path(reachable[1]) / "secret").read_text() == "secret"


def test_landlock_alone_refuses_its_part(
    in_worker: Callable[[str], None], reachable: tuple[str, str, int, str, str], tmp_path: Path
) -> None:
    """Where a kernel has no filter, and so that a mistake in one of the two is not hidden by the other."""
    version = landlock.abi()
    assert isinstance(version, int)
    names = {name for since, part in _BY_LANDLOCK.items() if since <= version for name in part}
    in_worker(REFUSING.format(refused=_NO_SECCOMP) + _PROBE.format(target=reachable, only=f", {names!r}"))
    model = models.identity_classifier(tmp_path / "model.onnx")
    *_, said = first_words(Job(model=str(model), point=models.ONNX_POINT))
    told: dict[str, str] = json.loads(said)
    assert {name: how for name, how in told.items() if how not in REFUSALS} == {}
    assert set(told) == names


def as_usual(reachable: tuple[str, str, int, str, str], model: Path) -> dict[str, str]:
    """Do those probes that do no harm in an ordinary child of this process."""
    code = (
        "import json, os, sys\n"
        "from tests.faults import probes\n"
        "for name in set(probes.PROBES) - probes.CONTROLS: del probes.PROBES[name]\n"
        f"target = probes.Target(*{reachable!r}, agent=os.getppid(), model={str(model)!r}, descriptors=())\n"
        "print(json.dumps(probes.run(target)))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    told: dict[str, str] = json.loads(done.stdout)
    assert set(told) == CONTROLS
    Path("/dev/shm/boardfit-probe").unlink(missing_ok=True)
    return told


# mov eax, 20 (getpid of i386); int 0x80; ret
_INT_80 = (
    "m = mmap.mmap(-1, 4096, prot=7); m.write(bytes.fromhex('b814000000cd80c3')); "
    "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"
)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="i386 and x32 calls are of x86-64 processors")
@pytest.mark.parametrize(
    ("convention", "call"),
    [
        ("x32", "libc.syscall(ctypes.c_long(0x40000000 + 39))"),
        ("i386", _INT_80),
    ],
)
def test_a_call_by_another_convention_ends_the_worker(
    in_worker: Callable[[str], None], tmp_path: Path, convention: str, call: str
) -> None:
    in_worker(
        "import agent.measure.confine as stage\n"
        "whole = stage.confine\n"
        "def confine(job, parent):\n"
        "    import ctypes, mmap\n"
        "    libc, names = ctypes.CDLL(None), whole(job, parent)\n"
        f"    {call}\n"
        "    return names\n"
        "stage.confine = confine"
    )
    model = models.identity_classifier(tmp_path / "model.onnx")
    with pytest.raises(ChildEndedError, match="it died by SIGSYS"):
        first_words(Job(model=str(model), point=models.ONNX_POINT))
    assert convention


REFUSING = """
import ctypes, struct
from agent.confinement import forbid_new_privileges
from agent.sandbox import seccomp
forbid_new_privileges()
refused = {refused!r}
step = lambda code, value, yes=0, no=0: struct.pack('=HBBI', code, yes, no, value)
steps = step(0x20, 0)
for number, code, argument in refused:
    if argument is None:
        steps += step(0x15, number, 0, 1) + step(0x06, 0x00050000 | code)
    else:
        steps += step(0x15, number, 0, 4) + step(0x20, 16) + step(0x15, argument, 0, 1) \\
            + step(0x06, 0x00050000 | code) + step(0x20, 0)
assert seccomp.install(steps + step(0x06, 0x7fff0000)) is None
"""
_PRCTL, _SECCOMP = (157, 317) if platform.machine() == "x86_64" else (167, 277)
_NO_LANDLOCK = [(number, 38, None) for number in (444, 445, 446)]  # ENOSYS
_NO_SECCOMP = [(_SECCOMP, 22, None), (_PRCTL, 22, 22)]  # EINVAL; prctl(PR_SET_SECCOMP)


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        (_NO_LANDLOCK, ("seccomp",)),
        (_NO_SECCOMP, (f"landlock_abi_{landlock.abi()}",)),
        ([*_NO_LANDLOCK, *_NO_SECCOMP], ()),
    ],
    ids=["no landlock", "no seccomp", "neither"],
)
def test_a_kernel_that_lacks_a_part_is_told_of_honestly(
    in_worker: Callable[[str], None], measure: Callable[..., Measurement], tmp_path: Path,
    refused: list[tuple[int, int, int | None]], left: tuple[str, ...],
) -> None:  # fmt: skip
    """A filter that stands in for the kernel refuses the calls as one without that part does."""
    in_worker(REFUSING.format(refused=refused))
    result = measure(models.identity_classifier(tmp_path / "model.onnx"))
    assert (result.verdict, result.reason) == ("ok", None), "it is measured all the same"
    assert tuple(name for name in result.confinement if name.startswith(("landlock", "seccomp"))) == left
    assert "no_new_privs" in result.confinement


def test_what_is_missing_is_told_with_what_to_do() -> None:
    code = REFUSING.format(refused=[*_NO_LANDLOCK, *_NO_SECCOMP]) + "from agent.sandbox.__main__ import main; main()"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    level = json.loads(done.stdout)
    assert [(part, reason) for part, reason, _ in level["missing"]] == [
        ("landlock", "the kernel has no Landlock (Linux 5.13 on, CONFIG_SECURITY_LANDLOCK)"),
        ("seccomp", "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)"),
    ]
    assert all(fix for _, _, fix in level["missing"])
    assert not [name for name in level["in_force"] if name.startswith(("landlock", "seccomp"))]


def test_a_measurement_says_what_was_in_force(measure: Callable[..., Measurement], tmp_path: Path) -> None:
    result = measure(models.identity_classifier(tmp_path / "model.onnx"))
    assert {"capabilities_dropped", f"landlock_abi_{landlock.abi()}", "seccomp"} <= set(result.confinement)
