"""Records what a real agent sends over a real broker in its first pass, for the tests beside this file.

    python -m tests.integrations.record

writes ``recorded/board.jsonl``: one message a line, in order, as topic, retain flag and payload. The agent is the
daemon with three small real models on this machine; it is stopped in the end, and started and killed once more, so
that its goodbye and its last will are there too. To be run anew when the messages change; a test says when.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import CANDIDATES, ROOT, Installation, publish

RECORDED = Path(__file__).with_name("recorded") / "board.jsonl"
TASKS = {
    "digits": {
        "budgets": {"accuracy_top1": ">= 0.9", "size": "1 MiB", "latency_p95": "500 ms"},
        "objective": ["maximize accuracy_top1", "minimize size"],
    }
}
WAIT_S = 240.0


def record(folder: Path) -> list[dict[str, object]]:
    """Return what was heard."""
    publish(folder / "models", CANDIDATES)
    broker = Mosquitto(folder, "allow_anonymous true").start()
    mqtt = {"url": broker.settings().url, "fleet": "plant-7"}
    board = Installation(folder, str(folder / "models"), folder / "models" / "root.json", tasks=TASKS)
    board.write(mqtt=mqtt, device={"id": "recorded-board"})
    command = [sys.executable, "-m", "agent", "run", "--config", str(board.config), "--state-dir", str(board.state)]
    listener = Listener(broker.settings())
    try:
        daemon = subprocess.Popen(command, cwd=ROOT)
        listener.wait(lambda: bool(listener.topic("/deployment/digits") and listener.topic("/telemetry/board")), WAIT_S)
        daemon.terminate()
        listener.wait(lambda: b'"offline"' in listener.topic("/status")[-1].payload, WAIT_S)
        daemon.wait()
        daemon = subprocess.Popen(command, cwd=ROOT)
        listener.wait(lambda: b'"offline"' not in listener.topic("/status")[-1].payload, WAIT_S)
        daemon.kill()
        listener.wait(lambda: b'"connection lost"' in listener.topic("/status")[-1].payload, WAIT_S)
        daemon.wait()
    finally:
        broker.kill()
    return [
        {"topic": one.topic, "retain": one.retain, "payload": json.loads(one.payload)}
        for one in listener.got
        if one.payload
    ]


def main() -> None:
    """Record, and write."""
    with tempfile.TemporaryDirectory() as folder:
        heard = record(Path(folder))
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in heard))
    print(f"{len(heard)} messages")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
