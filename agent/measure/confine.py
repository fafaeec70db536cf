"""What a measuring child may not do: set by the child itself before it opens a model. In the child only.

A model is a program, and small files are known that kill every engine. What is set here bounds the damage of a faulty
or a hostile one; each measure that is in force is named in the measurement. Which files and calls remain is
``agent.sandbox``'s to say; that time and memory are bounded from outside too, the supervisor's.

Source: proc_pid_oom_score_adj(5), getrlimit(2), and ``agent.confinement``.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from agent.confinement import die_with_parent, forbid_new_privileges, limit
from agent.measure.protocol import Job
from agent.runtimes.table import is_cpu
from agent.sandbox.entry import enter

_MORE_THREADS = (
    64  # beyond those of this user now: engines start a few, a model that took one over must not fill the board
)
_OOM_SCORE = "500"  # chosen: the kernel takes a worker long before the agent (0) or the application


def confine(job: Job, parent_pid: int) -> tuple[str, ...]:
    """Apply everything but the address-space limit and return the names of what is in force.

    Raises: SystemExit: the parent is already gone.
    """
    names = []
    if os.getsid(0) == os.getpid():
        names.append("session")
    if die_with_parent():
        names.append("parent_death_signal")
    if os.getppid() != parent_pid:  # it died before the line above; nobody would ever end us
        raise SystemExit("the parent is gone")
    if forbid_new_privileges():
        names.append("no_new_privs")
    limits = [("core", resource.RLIMIT_CORE, 0), ("nofile", resource.RLIMIT_NOFILE, job.open_files)]
    if job.file_size_bytes is not None:
        limits.append(("fsize", resource.RLIMIT_FSIZE, job.file_size_bytes))
    if job.cpu_s is not None:
        limits.append(("cpu", resource.RLIMIT_CPU, job.cpu_s))
    if os.getuid() != 0:  # the kernel does not count root's
        limits.append(("nproc", resource.RLIMIT_NPROC, count_threads(os.getuid()) + _MORE_THREADS + job.point.threads))
    for name, which, value in limits:
        names.append(_limit(name, which, value))
    try:
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
        names.append("oom_score_adj")
    except OSError:
        pass  # not named, so not claimed
    files = [Path(name) for name in (job.model, job.golden, job.evaluation) if name is not None]
    writable = () if job.keep is None else (Path(job.keep),)
    level = enter(files, writable=writable, devices=not is_cpu(job.point.engine, job.point.provider))
    return (*names, *level.in_force)


def count_threads(user: int) -> int:
    """Return how many threads a user has, of the processes that can be seen. Source: proc(5), num_threads of stat."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if folder.stat().st_uid == user:
                    total += int((folder / "stat").read_text().rpartition(")")[2].split()[17])
            except (OSError, ValueError, IndexError):
                continue  # it ended meanwhile
    return total


def limit_address_space(growth_bytes: int) -> None:
    """Allow ``growth_bytes`` of address space beyond what is mapped now, which is the imported engine.

    Address space, not resident memory: a model that would need more gets a clean allocation error.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit("as", resource.RLIMIT_AS, pages * resource.getpagesize() + growth_bytes)


def _limit(name: str, which: int, value: int) -> str:
    limit(which, value)
    return f"rlimit_{name}"
