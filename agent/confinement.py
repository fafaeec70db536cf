"""What a child process may not do, and how all of it is ended: the few system calls that several stages need.

Each call says whether it is in force, so that what is claimed in a record was really had. Which limits a child gets is
its stage's decision.

Source: prctl(2), setrlimit(2), kill(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from pathlib import Path

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "ORT_", "COVERAGE_")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> bool:
    """Ask the kernel to send this process a signal when its parent ends; the parent may be gone already."""
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0)


def forbid_new_privileges() -> bool:
    """Make set-user-id and file capabilities mean nothing to this process and its children."""
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def limit(which: int, value: int) -> None:
    """Set a resource limit for good, hard and soft, never above the present hard one. Raises: OSError, ValueError."""
    hard = resource.getrlimit(which)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (bound, bound))


def child_environment(home: Path | None = None) -> dict[str, str]:
    """Return the environment of a child that runs models: a short list, and this package's own place first.

    Args: home: a folder in the place of the user's own.
    """
    kept = {
        name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    if home is not None:
        kept |= {"HOME": str(home), "TMPDIR": str(home)}
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # numpy's own thread pool would start a thread per core that no model uses.
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill a child that leads its own session with everything in its group, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
