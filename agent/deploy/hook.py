"""The user's hook: a program run after a switch, so that the application takes the new model.

Rules:
- Its own session and process group; past its deadline the whole group is killed.
- Its standard output goes where our log goes (standard error): standard output may be a JSON document.
- It must exit with 0. Anything else is a failure, told as a sentence.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agent.confinement import kill_group
from agent.core.deployment import Deployment

_LOG_DESCRIPTOR = 2


class HookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The hook's command as a list of arguments (no shell), and how long it may take in seconds."""

    argv: tuple[str, ...]
    deadline_s: float = 30.0


def run_hook_for(hook: HookSettings, deployment: Deployment, link: Path, event: str) -> str | None:
    """Run the hook for what serves through ``link``. Returns: None, or why it failed."""
    environment = {
        "BOARDFIT_EVENT": event,
        "BOARDFIT_TASK": deployment.task,
        "BOARDFIT_CANDIDATE": deployment.candidate,
        "BOARDFIT_RELEASE": deployment.release,
        "BOARDFIT_PATH": str(link),
        "BOARDFIT_MODEL": str(link / deployment.model.path),
    }
    return run_hook(hook, environment)


def run_hook(hook: HookSettings, environment: Mapping[str, str]) -> str | None:
    """Run the hook with ``environment`` added to ours. Returns: None, or why it failed."""
    try:
        process = subprocess.Popen(
            hook.argv, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=_LOG_DESCRIPTOR,
            start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return f"hook {hook.argv[:1]} cannot be started: {error}"
    try:
        code = process.wait(timeout=hook.deadline_s)
    except subprocess.TimeoutExpired:
        return f"hook {hook.argv[0]} was killed after its deadline of {hook.deadline_s:g} s"
    finally:
        if process.returncode is None:
            kill_group(process)
    if code < 0:
        return f"hook {hook.argv[0]} died by signal {-code}"
    return f"hook {hook.argv[0]} exited with {code}" if code else None
