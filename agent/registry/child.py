"""Runs one piece of work on a model in a fresh, confined child process; the parent never parses a model.

Rules:
- The child works on a copy of the file that this process made (new inode, one link): a hard link cannot lead elsewhere.
- Own session, no_new_privs, limits on memory, CPU time, file size and open files, no core dump, no environment of ours;
  and a wall-clock deadline here, because a CPU limit alone is no time limit on a busy machine.
- The answer is a file in the work folder, capped and read strictly: what comes back is data from a process that may
  have been taken over by the model.
- A child that dies, hangs or answers nonsense is a fault of the model (ModelError), told in one sentence.

Leaves what is done to the model to ``agent.registry.inspect_child``, which sets the limits on itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import agent
from agent.confinement import kill_group
from agent.durable import storage_error
from agent.errors import ModelError
from agent.registry.plain import open_plain

REQUEST = "request.json"
ANSWER = "answer.json"
_LOG = "stderr.txt"
_MAX_ANSWER_BYTES = 8 * 1024 * 1024
DEADLINE_S = 120.0  # chosen: the reference engine runs a handful of samples


def run_child(action: str, work: Path, request: Mapping[str, Any], *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Do ``action`` in a child whose only folder is ``work``.

    Args: request: JSON-ready; file names in it are names inside ``work``. deadline_s: wall-clock limit.
    Returns: the child's answer, a mapping.
    Raises: ModelError: what the child says is wrong with the model or data, or how it died. StorageError.
    """
    try:
        (work / REQUEST).write_text(json.dumps({"action": action, **request}))
        with (work / _LOG).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "agent.registry.inspect_child"],
                cwd=work,
                env=_environment(work),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
    except OSError as error:
        raise storage_error(error, work) from error
    try:
        code = process.wait(deadline_s)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"the model was still not done after {deadline_s:.0f} s of {action}",
            fix="check the model on your desk; it may loop without end",
        ) from error
    finally:
        # The session may hold more than the child itself.
        kill_group(process)
    return _read_answer(work, code, action)


def copy_in(source: Path, work: Path, name: str, *, max_bytes: int | None = None) -> Path:
    """Copy one regular file into the work folder as a new inode.

    Raises: ModelError: not a regular file, or larger than ``max_bytes``. StorageError: the copy cannot be written.
    """
    try:
        file = open_plain(source)
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror}", fix="give one regular file") from error
    with file:
        try:
            size = os.fstat(file.fileno()).st_size
            if max_bytes is not None and size > max_bytes:
                raise ModelError(f"{source} has {size} bytes, more than {max_bytes}", fix="publish a smaller file")
            target = work / name
            with target.open("xb") as copy:
                shutil.copyfileobj(file, copy, 1024 * 1024)
        except OSError as error:
            raise storage_error(error, work / name) from error
    return target


def _environment(work: Path) -> dict[str, str]:
    package_root = str(Path(agent.__file__).resolve().parent.parent)
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(work),
        "TMPDIR": str(work),
        "LANG": "C.UTF-8",
        "PYTHONPATH": package_root,
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }


def _read_answer(work: Path, code: int, action: str) -> dict[str, Any]:
    answer: object = None
    with suppress(OSError, ValueError, RecursionError):
        with open_plain(work / ANSWER, follow=False) as file:
            data = file.read(_MAX_ANSWER_BYTES + 1)
        if len(data) <= _MAX_ANSWER_BYTES:
            answer = json.loads(data)
    if isinstance(answer, dict) and isinstance(answer.get("problem"), str):
        fix = answer.get("fix")
        raise ModelError(answer["problem"][:1000], fix=fix[:500] if isinstance(fix, str) and fix else None)
    if code == 0 and isinstance(answer, dict):
        return answer
    raise ModelError(
        f"the process that did {action} {_describe_exit(code)}",
        fix="do not publish this model before you know why",
        exit_code=code,
        log=_log_tail(work),
    )


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with code {code} and no answer"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    meaning = {"SIGSEGV": "the model crashes the engine", "SIGABRT": "the engine gave up on the model"}.get(name)
    return f"was killed by {name}" + (f": {meaning}" if meaning else "")


def _log_tail(work: Path) -> str:
    with suppress(OSError), (work / _LOG).open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 2000))
        return file.read().decode("utf-8", "replace")
    return ""
