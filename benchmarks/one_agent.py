"""One real agent on this machine, for benchmarks and the fleet demo: its registry, its operator, its daemon.

Rules:
- The registry is a copy of the bundled demo registry, signed anew with the demo's public keys: the state directory is
  marked as a demo's, since an installed agent refuses that root of trust.
- The daemon is ``boardfit run`` in a process of its own; what it says goes into a file beside its state.
- The operator's machine is ``boardfit fleet`` in a process of its own, as a user runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "benchmarks" / "zoo" / "registry"
DEMO_KEYS = ROOT / "benchmarks" / "zoo" / "demo-keys"
BUDGETS = {"latency_p95": "500 ms", "memory_peak": "512 MiB", "accuracy_top1": ">= 0.9"}  # a busy machine meets them
#: Short: its figures are looked at by nobody.
SHORT = {"threads": [1], "min_time": "0.05 s", "max_time": "2 s", "contended": "flag"}


class Ended(NamedTuple):
    """How one call of ``boardfit`` ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.out)


class Operator:
    """An operator's machine: a key that the registry lists, and where the broker is, each at its usual place.

    Args: folder: stands for his home. url: the broker. fleet: whose.
    """

    def __init__(self, folder: Path, name: str, url: str, fleet: str) -> None:
        from agent.fleet.settings import write_public
        from agent.fleet.signing import OperatorKey

        mine = folder / "boardfit"
        mine.mkdir(parents=True)
        self.folder, self.name = folder, name
        self.key = OperatorKey.make(mine / "operator.key")
        write_public(mine / "operator.key", name, self.key.public_key)
        (mine / "fleet.yaml").write_text(yaml.safe_dump({"mqtt": {"url": url, "fleet": fleet}}))
        #: What makes this the home of `boardfit fleet`.
        self.home = {"XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}

    @property
    def state(self) -> Path:
        """Where `boardfit fleet` keeps what it must know later."""
        return self.folder / "state" / "boardfit"

    @property
    def environment(self) -> dict[str, str]:
        """The environment to run it in."""
        return {**os.environ, **self.home, "PYTHONPATH": str(ROOT)}

    @staticmethod
    def words(*words: str | Path) -> list[str]:
        """Return the command line of ``boardfit fleet``."""
        return [sys.executable, "-m", "agent", "fleet", *map(str, words)]

    def __call__(self, *words: str | Path, timeout_s: float = 300.0) -> Ended:
        """Run ``boardfit fleet`` to its end. Raises: subprocess.TimeoutExpired."""
        done = subprocess.run(
            self.words(*words), cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)


def sign_registry(folder: Path, operator: Operator, role: str = "admin") -> Path:
    """Copy the bundled registry and sign the operator into its list, for a day. Returns: the copy."""
    from agent.registry.operators import add_operator

    copy, now = folder / "models", datetime.now(timezone.utc)
    shutil.copytree(BUNDLED, copy)
    until, key = now + timedelta(days=1), operator.key.public_key
    add_operator(copy, name=operator.name, public_key=key, role=role, valid_until=until, keys_dir=DEMO_KEYS, now=now)
    return copy


class Agent:
    """A board's configuration, state and daemon.

    Args: folder: the board's. name: its device id. registry: address of the models; root: its root of trust.
        broker: address; fleet: whose. more: further sections of agent.yaml.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        registry: str,
        root: Path,
        broker: str,
        fleet: str,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        from agent.site import DEMO_MARKER

        self.folder, self.name = folder, name
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        (self.state / DEMO_MARKER).touch()
        document = {
            "device": {"id": name},
            "registry": {"url": registry, "root": str(root)},
            "mqtt": {"url": broker, "fleet": fleet},
            "tasks": {"digits": {"budgets": BUDGETS}},
            "measure": SHORT,
            **(more or {}),
        }
        self.config = folder / "agent.yaml"
        self.config.write_text(yaml.safe_dump(document))
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str] | None = None) -> Agent:
        """Start the daemon; it does not outlive this process. Args: environment: what is added to ours."""
        from agent.confinement import die_with_parent

        command = [sys.executable, "-m", "agent", "run", "--config", self.config, "--state-dir", self.state]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                start_new_session=True,  # Ctrl-C is ours to pass on
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
            )
        return self

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ask the daemon to stop, and wait."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
