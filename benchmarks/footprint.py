"""What the idle daemon costs, beside a plain MQTT client in the same run: goal G6 of the README.

    python benchmarks/footprint.py [--seconds 60] [--json | --markdown]

Three processes, one after the other, against one real broker on loopback:

- bare Python, asleep;
- the least that our stack can be: a connected paho client that also imports json, yaml and psutil, paho's own thread;
- ``boardfit run``: one pass done and its model deployed, connected, a schedule armed for a far day.

Each is left alone until it is idle, then watched for ``--seconds``; 60 is one keep-alive period, so that what recurs is
seen. PSS shares pages with whatever else maps them (this measuring Python does, for all three alike); USS does not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.demo_broker import EmbeddedBroker  # noqa: E402
from agent.mqtt import Connection, Incoming, drive  # noqa: E402
from benchmarks.table import render  # noqa: E402

START_TIMEOUT_S = 30.0
PASS_TIMEOUT_S = 120.0
KEEPALIVE_S = 60
DAEMON, CLIENT, BARE = "boardfit run, idle", "paho + json + yaml + psutil", "bare Python, asleep"
GOALS = {"pss": 1.0, "wakeups_per_s": 0.1}

BARE_CODE = "import time\ntime.sleep(1e6)"
CLIENT_CODE = """
import json, sys, time
import psutil, yaml
import paho.mqtt.client as mqtt

protocol = mqtt.MQTTv5 if sys.argv[2] == "5" else mqtt.MQTTv311
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol)

def connected(client, data, flags, code, properties):
    client.subscribe("footprint/cmd/#", 1)
    client.publish("footprint/status", json.dumps({"state": "online"}), 1, True)

client.on_connect = connected
client.connect("127.0.0.1", int(sys.argv[1]), int(sys.argv[3]))
client.loop_start()
time.sleep(1e6)
"""
CONFIGURATION = """
registry: {{url: {registry}, root: {registry}/root.json}}
mqtt: {{url: {broker}, protocol: "{protocol}", fleet: footprint, keepalive: {keepalive} s}}
device: {{id: this-machine}}
tasks:
  add: {{budgets: {{size: 1 MiB}}, objective: [minimize size]}}
measure: {{threads: [1], min_runs: 10, min_time: 0.01 s, contended: flag}}
schedule: [{{name: yearly, action: pass, cron: "{minute} {hour} {day} {month} *"}}]
"""


class Watcher:
    """Hears what one of the processes says."""

    def __init__(self, broker: EmbeddedBroker, pattern: str) -> None:
        self.heard: list[Incoming] = []
        self._connection = Connection(broker.settings)
        self._connection.subscribe(pattern, self.heard.append)
        self._connection.connect(START_TIMEOUT_S)

    def wait(self, holds: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Raises: SystemExit: it did not come about in time."""
        if not drive(self._connection, holds, timeout_s):
            raise SystemExit(f"{what} did not happen within {timeout_s:.0f} s")

    def has(self, part: str) -> bool:
        """Return whether a message came on a topic with this part."""
        return any(part in message.topic for message in self.heard)

    def states(self) -> list[str]:
        """Return every status heard so far, in order."""
        return [json.loads(m.payload)["state"] for m in self.heard if m.topic.endswith("/status") and m.payload]


def memory_bytes(pid: int) -> dict[str, int]:
    """Return RSS, PSS and USS. Source: Documentation/filesystems/proc.rst, smaps_rollup, in kB."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) * 1024
    return {"rss": fields["Rss"], "pss": fields["Pss"], "uss": fields["Private_Clean"] + fields["Private_Dirty"]}


def activity(pid: int) -> tuple[int, int, int]:
    """Return context switches, CPU nanoseconds and threads, summed over all threads."""
    switches = cpu_ns = threads = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "voluntary_ctxt_switches" in line:  # and nonvoluntary
                switches += int(line.split()[1])
        cpu_ns += int((task / "schedstat").read_text().split()[0])
        threads += 1
    return switches, cpu_ns, threads


def watch(pid: int, settle_s: float, seconds: float) -> dict[str, float]:
    """Leave a process alone, then count what it does."""
    time.sleep(settle_s)
    (switches, cpu_ns, _), begin = activity(pid), time.monotonic()
    time.sleep(seconds)
    (switches_after, cpu_after, threads), elapsed = activity(pid), time.monotonic() - begin
    return {
        **memory_bytes(pid),
        "threads": threads,
        "wakeups_per_s": (switches_after - switches) / elapsed,
        "cpu_us_per_s": (cpu_after - cpu_ns) / 1e3 / elapsed,
    }


@contextmanager
def started(command: list[str], log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own and no terminal, as a service manager starts it.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with (log or Path(os.devnull)).open("wb") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    except SystemExit as error:
        raise SystemExit(f"{error}\n{log.read_text()[-2000:] if log else ''}") from error
    finally:
        process.terminate()
        process.wait(timeout=60)


def measure_bare(settle_s: float, seconds: float) -> dict[str, float]:
    with started([sys.executable, "-c", BARE_CODE]) as process:
        return watch(process.pid, settle_s, seconds)


def measure_client(broker: EmbeddedBroker, settle_s: float, seconds: float) -> dict[str, float]:
    watcher = Watcher(broker, "footprint/#")
    begin = time.monotonic()
    with started([sys.executable, "-c", CLIENT_CODE, str(broker.port), broker.protocol, str(KEEPALIVE_S)]) as process:
        watcher.wait(lambda: "online" in watcher.states(), START_TIMEOUT_S, "the client's status")
        online_s = time.monotonic() - begin
        return {**watch(process.pid, settle_s, seconds), "start_to_online_s": online_s}


def measure_daemon(broker: EmbeddedBroker, folder: Path, settle_s: float, seconds: float) -> dict[str, float]:
    config = folder / "agent.yaml"
    far = time.localtime(time.time() + 180 * 86400)  # neither soon nor just missed
    config.write_text(
        CONFIGURATION.format(
            registry=make_registry(folder), broker=broker.url, protocol=broker.protocol, keepalive=KEEPALIVE_S,
            minute=far.tm_min, hour=far.tm_hour, day=min(far.tm_mday, 28), month=far.tm_mon,
        )
    )  # fmt: skip
    watcher = Watcher(broker, "boardfit/#")
    command = [sys.executable, "-m", "agent", "run", "--config", str(config), "--state-dir", str(folder / "state")]
    begin = time.monotonic()
    with started(command, folder / "log") as process:
        watcher.wait(lambda: bool(watcher.states()), START_TIMEOUT_S, "the daemon's status")
        online_s = time.monotonic() - begin
        watcher.wait(lambda: _idle_again(watcher), PASS_TIMEOUT_S, "the end of the daemon's first pass")
        watcher.wait(lambda: watcher.has("/deployment/"), START_TIMEOUT_S, "the deployment of its first pass")
        return {**watch(process.pid, settle_s, seconds), "start_to_online_s": online_s}


def _idle_again(watcher: Watcher) -> bool:
    states = watcher.states()
    return "busy" in states and states[-1] == "online"


def make_registry(folder: Path) -> Path:
    """Publish one tiny model, so that the daemon's first pass is short."""
    registry, model = folder / "registry", ROOT / "agent" / "runtimes" / "tiny" / "add.onnx"
    for arguments in (
        ("init", registry, "--keys", folder / "keys"),
        ("add", registry, model, "--task", "add", "--name", "add", "--keys", folder / "keys"),
    ):
        command = [sys.executable, "-m", "agent", "registry", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command[1:])}: {done.stderr}")
    return registry


def verdicts(rows: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Hold the daemon against its goals."""
    daemon, client = rows[DAEMON], rows[CLIENT]
    ratio = daemon["pss"] / client["pss"]
    return {
        "pss_over_client": ratio,
        "pss_goal": GOALS["pss"],
        "pss_met": ratio <= GOALS["pss"],
        "wakeups_goal_per_s": GOALS["wakeups_per_s"],
        "wakeups_met": daemon["wakeups_per_s"] <= GOALS["wakeups_per_s"],
    }


def table(rows: dict[str, dict[str, float]], *, markdown: bool) -> str:
    heads = ("process", "RSS MB", "PSS MB", "USS MB", "threads", "wake-ups/s", "CPU µs/s", "start to online s")
    body = []
    for name, row in rows.items():
        start = f"{row['start_to_online_s']:.2f}" if "start_to_online_s" in row else "–"
        megabytes = [f"{row[key] / 1e6:.1f}" for key in ("rss", "pss", "uss")]
        rates = [f"{row['threads']:.0f}", f"{row['wakeups_per_s']:.2f}", f"{row['cpu_us_per_s']:.0f}"]
        body.append([name, *megabytes, *rates, start])
    return render(heads, body, markdown=markdown)


def conclusion(rows: dict[str, dict[str, float]]) -> str:
    found = verdicts(rows)
    pss = f"PSS of the idle daemon is {found['pss_over_client']:.2f} of the client's (goal {GOALS['pss']:.2f})"
    said = {True: "met", False: "missed"}
    wakeups = f"{rows[DAEMON]['wakeups_per_s']:.2f} wake-ups/s (goal {GOALS['wakeups_per_s']:.2f})"
    return f"{pss}: {said[found['pss_met']]}. {wakeups}: {said[found['wakeups_met']]}."


def main() -> int:
    parser = argparse.ArgumentParser(description="memory and wake-ups of the idle daemon beside a plain client")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each is watched (default: %(default)s)")
    parser.add_argument("--settle", type=float, default=8.0, help="seconds left alone before (default: %(default)s)")
    parser.add_argument("--broker", choices=("mosquitto", "amqtt"), help="default: mosquitto where it is installed")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the table for the README")
    options = parser.parse_args()
    # As an installation does: a start that compiles is larger by a megabyte.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "agent")], check=False)
    with EmbeddedBroker(options.broker) as broker, tempfile.TemporaryDirectory(prefix="boardfit-footprint-") as folder:
        rows = {
            BARE: measure_bare(options.settle, options.seconds),
            CLIENT: measure_client(broker, options.settle, options.seconds),
            DAEMON: measure_daemon(broker, Path(folder), options.settle, options.seconds),
        }
        kind = broker.kind
    if options.json:
        document = {"schema": "boardfit.footprint/1", "broker": kind, "seconds": options.seconds, "rows": rows}
        print(json.dumps({**document, **verdicts(rows)}, indent=1))
        return 0
    print(table(rows, markdown=options.markdown))
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"\n{conclusion(rows)}\n\nPython {version}, {kind} on loopback, each watched for {options.seconds:g} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
