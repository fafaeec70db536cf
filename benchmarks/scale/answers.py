"""One real agent: how soon it answers, and how many messages a pass of its costs.

- answer: a signed ``status`` to one board, from publishing to its job's document, ``boardfit run`` on the other side.
  An agent verifies 200 signatures at once and then 20 in a second, so no more are asked for.
- pass: what the agent publishes from its start to the end of the pass that it begins with, first as a new board and
  then once more with nothing new; what it says of its connection (status, reported) and telemetry are beside it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles

from agent.clock import SystemClock, iso
from agent.core.command import Audience, Command
from agent.core.messages import decode
from agent.core.payloads import Job, Origin
from agent.core.topics import address, fleet_filter, parse_topic, topic_for
from agent.fleet.link import Link
from agent.fleet.sending import new_id
from benchmarks.scale.ground import FLEET, ROOT, Broker, Operators
from benchmarks.scale.judging import Figure

ANSWER_GOAL_MS, MESSAGES_GOAL = 3.0, 4.0
BOARD, WARM, MOST = "real-agent", 20, 180
WAIT_S = 120.0
_CONFIGURATION = """
registry: {{url: {registry}, root: {registry}/root.json}}
mqtt: {{url: "mqtt://127.0.0.1:{port}", fleet: {fleet}}}
device: {{id: {board}}}
tasks:
  add: {{budgets: {{size: 1 MiB}}, objective: [minimize size]}}
measure: {{threads: [1], min_runs: 10, min_time: 0.01 s, contended: flag}}
"""


def _boardfit(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"boardfit {words[0]}: {done.stderr[-1000:]}")


def _prepared(folder: Path, broker: Broker, key: str) -> list[str]:
    """Make a registry with one tiny model and an agent's configuration. Returns: options that name it."""
    registry, model = folder / "registry", ROOT / "agent" / "runtimes" / "tiny" / "add.onnx"
    _boardfit("registry", "init", registry, "--keys", folder / "keys")
    _boardfit("registry", "add", registry, model, "--task", "add", "--name", "add", "--keys", folder / "keys")
    public = ("--name", "anna", "--key", key, "--role", "admin")
    _boardfit("registry", "operators", "add", registry, *public, "--keys", folder / "keys")
    (folder / "agent.yaml").write_text(
        _CONFIGURATION.format(registry=registry, port=broker.port, fleet=FLEET, board=BOARD)
    )
    return ["--config", str(folder / "agent.yaml"), "--state-dir", str(folder / "agent-state")]


@contextmanager
def agent_running(folder: Path, options: list[str]) -> Iterator[None]:
    """Run the agent, from the end of its first pass to its goodbye."""
    path = folder / f"notify-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(WAIT_S)
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", *options], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "NOTIFY_SOCKET": str(path)},
        )  # fmt: skip
        try:
            for wanted in (b"STATUS=pass", b"STATUS=serving"):
                while wanted not in told.recv(4096):
                    pass
            yield
        except TimeoutError:
            raise SystemExit("the agent did not come to the end of its pass") from None
        finally:
            process.terminate()
            process.wait(timeout=60)


def measure(broker: Broker, operators: Operators) -> list[Figure]:
    """Run the agent twice, and ask it the second time."""
    options = _prepared(operators.folder, broker, operators.key.public_key)
    heard: list[str] = []
    passes: list[list[str]] = []
    known: set[tuple[str, int]] = set()

    def take(topic: str, payload: bytes) -> None:
        """Note a message; one that comes once more, since its acknowledgement was not awaited, is named so."""
        message = decode(topic, payload)
        assert isinstance(message, Origin)
        key = (topic, message.seq)
        heard.append(f"{parse_topic(topic).kind}{' again' * (message.seq > 0 and key in known)}")
        known.add(key)

    with Link(operators.settings.broker, FLEET, lambda: False) as link:
        link.connect()
        for kind in ("measurement", "decision", "deployment", "profile", "event", "job"):
            link.hear(fleet_filter(FLEET, kind, device=BOARD), take)
        link.settle()
        for number in range(2):
            heard.clear()
            with agent_running(operators.folder, options):
                if number:
                    took = asked(operators, link)
            link.settle()  # its goodbye has sent what waited
            passes.append([kind for kind in heard if kind != "job"])
    print(f"  first pass: {', '.join(passes[0])}; second: {', '.join(passes[1]) or 'none'}", flush=True)
    return [
        Figure(
            "one agent", f"signed status to its answer, p50 of {len(took)}", [median(took) * 1e3], ANSWER_GOAL_MS, "ms"
        ),
        Figure("one agent", "the same, p99", [quantiles(took, n=100)[98] * 1e3], unit="ms"),
        Figure("one agent", "messages of a new board's first pass", [float(len(passes[0]))], MESSAGES_GOAL),
        Figure("one agent", "messages of a pass with nothing new", [float(len(passes[1]))], MESSAGES_GOAL),
    ]


def asked(operators: Operators, link: Link) -> list[float]:
    """Ask the agent for its status again and again. Returns: seconds until each answer."""
    at, counter = address(FLEET, BOARD), int(time.time() * 1000)
    clock = SystemClock()
    ended: dict[str, str] = {}

    def take(topic: str, payload: bytes) -> None:
        job = decode(topic, payload)
        assert isinstance(job, Job)
        ended[job.id] = job.state

    link.hear(fleet_filter(FLEET, "job", device=BOARD), take)
    link.settle()
    took = []
    for number in range(WARM + MOST):
        now = clock.utc()
        command = Command(
            schema="boardfit.command/1", id=new_id(), verb="status", issuer="anna",
            audience=Audience(fleet=FLEET, device=BOARD), counter=counter + number, issued_at=iso(now),
            expires_at=iso(now + timedelta(seconds=60)),
        )  # fmt: skip
        envelope = operators.key.sign_command(command)
        begin = time.perf_counter()
        link.publish(topic_for(at, "cmd", "status"), envelope, expiry_s=60)
        if not link.wait(lambda job=command.id: job in ended, 10.0):  # type: ignore[misc]
            raise SystemExit("the agent did not answer")
        if number >= WARM:
            took.append(time.perf_counter() - begin)
        if ended[command.id] != "SUCCEEDED":
            raise SystemExit(f"the agent refused: {ended[command.id]}")
    return took
