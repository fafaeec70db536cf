"""Asking a peer from the environment of `make peers`; what is not installed is said, never guessed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300.0


class PeerAbsentError(Exception):
    """The peers' environment is not there."""


def interpreter() -> Path:
    """Return the peers' Python. Raises: PeerAbsentError."""
    path = Path(os.environ.get("BOARDFIT_PEERS") or ROOT / ".peers-venv") / "bin" / "python"
    if not path.exists():
        raise PeerAbsentError("not installed: run `make peers`")
    return path


def ask(
    tool: str, model: Path, *, threads: int = 1, least_runs: int = 100, least_s: float = 0.5, only: bool = False
) -> dict[str, Any]:
    """Return what a tool says of a model, beside its own loops unless ``only``; see ``say.py``.

    Raises: PeerAbsentError. RuntimeError: it failed.
    """
    command = [
        str(interpreter()), str(Path(__file__).with_name("say.py")), tool, str(model), "--threads", str(threads),
        "--least-runs", str(least_runs), "--least-s", str(least_s), *(["--only"] if only else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S, start_new_session=True)
    if done.returncode != 0:
        raise RuntimeError(f"{tool} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
