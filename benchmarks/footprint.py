"""What the idle daemon costs, beside a plain MQTT client and Mender's client in the same run.

    python benchmarks/footprint.py [--seconds 60] [--rounds 10] [--passes 1000] [--reconnects 200] [--json | --markdown]

Against one real broker on loopback:

- idle: all at once, so that pages shared with others count alike for each: bare Python; the least that our stack can
  be, a connected paho client that also imports json, yaml and psutil, twice (one over the other is the noise floor);
  Debian's mender-client with a server that is not there; ``boardfit run``, a pass done, its model deployed, a schedule
  armed for a far day. They are left alone until idle, then watched for ``--seconds``; 60 is one keep-alive period. PSS
  shares pages among those that map them; USS does not.
- start: client, daemon and client again in turn, ``--rounds`` times, from exec to the status that the broker delivers.
  The daemon's state directory is that of a board that did its work before.
- growth: the daemon's own loop over simulated passes and cut lines (``footprint_growth``): how far the straight line
  through its RSS rises, in shares of where it began.

Exits with 1 when a figure is missed. A verdict is withheld where the noise floor is above half the margin.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.demo_broker import EmbeddedBroker  # noqa: E402
from benchmarks.footprint_growth import Watcher, as_document, measure_growth  # noqa: E402
from benchmarks.table import render  # noqa: E402

START_TIMEOUT_S = 30.0
PASS_TIMEOUT_S = 120.0
KEEPALIVE_S = 60
START_GOAL = 1.5
DAEMON, BARE, MENDER = "boardfit run, idle", "bare Python, asleep", "mender-client daemon"
CLIENT, CLIENT_AGAIN = "paho + json + yaml + psutil", "the same once more"
NOT_INSTALLED = "not installed"

Rows = dict[str, dict[str, float]]
Starts = dict[str, list[float]]

BARE_CODE = "import time\ntime.sleep(1e6)"
CLIENT_CODE = """
import json, sys, time
import psutil, yaml
import paho.mqtt.client as mqtt

protocol = mqtt.MQTTv5 if sys.argv[2] == "5" else mqtt.MQTTv311
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol)

def connected(client, data, flags, code, properties):
    client.subscribe(sys.argv[4] + "/cmd/#", 1)
    client.publish(sys.argv[4] + "/status", json.dumps({"state": "online"}), 1, True)

client.on_connect = connected
client.connect("127.0.0.1", int(sys.argv[1]), int(sys.argv[3]))
client.loop_start()
time.sleep(1e6)
"""
MENDER_CONFIGURATION = {
    "ServerURL": "http://127.0.0.1:1",
    "UpdatePollIntervalSeconds": 1800,  # as in the package's mender.conf.production
    "InventoryPollIntervalSeconds": 28800,
    "RetryPollIntervalSeconds": 300,
    "DBus": {"Enabled": False},
}
CONFIGURATION = """
mqtt: {{url: {broker}, protocol: "{protocol}", fleet: footprint, keepalive: {keepalive} s}}
device: {{id: this-machine}}
tasks:
  add: {{budgets: {{size: 1 MiB}}, objective: [minimize size]}}
measure: {{threads: [1], min_runs: 10, min_time: 0.01 s, contended: flag}}
schedule: [{{name: yearly, action: pass, cron: "{minute} {hour} {day} {month} *"}}]
"""


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


def watch(pids: dict[str, int], settle_s: float, seconds: float) -> dict[str, dict[str, float]]:
    """Leave processes alone, all at once, then count what each of them does."""
    time.sleep(settle_s)
    before, begin = {name: activity(pid) for name, pid in pids.items()}, time.monotonic()
    time.sleep(seconds)
    after, elapsed = {name: activity(pid) for name, pid in pids.items()}, time.monotonic() - begin
    return {
        name: {
            **memory_bytes(pid),
            "threads": after[name][2],
            "wakeups_per_s": (after[name][0] - before[name][0]) / elapsed,
            "cpu_us_per_s": (after[name][1] - before[name][1]) / 1e3 / elapsed,
        }
        for name, pid in pids.items()
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


@contextmanager
def client_started(broker: EmbeddedBroker, said: str) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Start the plain client; yields it and how long it took until its status came, in seconds."""
    watcher = Watcher(broker.settings, f"{said}/#")
    begin = time.monotonic()
    arguments = [str(broker.port), broker.protocol, str(KEEPALIVE_S), said]
    with started([sys.executable, "-c", CLIENT_CODE, *arguments]) as process:
        watcher.wait(lambda: "online" in watcher.states(), START_TIMEOUT_S, "the client's status")
        yield process, time.monotonic() - begin


@contextmanager
def daemon_started(broker: EmbeddedBroker, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], float, Watcher]]:
    """Start the daemon; yields it, how long it took until its status came, in seconds, and who hears it."""
    watcher = Watcher(broker.settings, "boardfit/#")
    files = ["--config", str(folder / "agent.yaml"), "--state-dir", str(folder / "state")]
    begin = time.monotonic()
    with started([sys.executable, "-m", "agent", "run", *files], folder / "log") as process:
        watcher.wait(lambda: _came_online(watcher), START_TIMEOUT_S, "the daemon's status")
        yield process, time.monotonic() - begin, watcher


def _came_online(watcher: Watcher) -> bool:
    fresh = [m for m in watcher.heard if m.topic.endswith("/status") and not m.retain]  # not what is kept of before
    return any(json.loads(m.payload)["state"] in ("online", "busy") for m in fresh)


@contextmanager
def mender_started(folder: Path) -> Iterator[subprocess.Popen[bytes] | None]:
    """Start Debian's mender-client and wait until it rests between its polls; None where it is not installed."""
    binary = shutil.which("mender")
    if binary is None:
        yield None
        return
    config, data, log = folder / "mender.conf", folder / "mender", folder / "mender.log"
    config.write_text(json.dumps(MENDER_CONFIGURATION))
    data.mkdir()
    options = ["--no-syslog", "--config", str(config), "--fallback-config", str(folder / "none"), "--data", str(data)]
    with started([binary, *options, "daemon"], log) as process:
        end = time.monotonic() + PASS_TIMEOUT_S  # it makes a key of 3,072 bits first
        while "check-wait" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.2)
        yield process


def configuration_for(broker_url: str, protocol: str, registry: Path | None) -> str:
    """Return agent.yaml with a schedule for a day that is neither soon nor just missed."""
    far = time.localtime(time.time() + 180 * 86400)
    text = CONFIGURATION.format(
        broker=broker_url, protocol=protocol, keepalive=KEEPALIVE_S,
        minute=far.tm_min, hour=far.tm_hour, day=min(far.tm_mday, 28), month=far.tm_mon,
    )  # fmt: skip
    return text if registry is None else f"registry: {{url: {registry}, root: {registry}/root.json}}\n{text}"


def measure_idle(broker: EmbeddedBroker, folder: Path, settle_s: float, seconds: float) -> dict[str, dict[str, float]]:
    """Have them all run beside each other, and watch them."""
    (folder / "agent.yaml").write_text(configuration_for(broker.url, broker.protocol, make_registry(folder)))
    with ExitStack() as stack:
        daemon, _, watcher = stack.enter_context(daemon_started(broker, folder))
        watcher.wait(lambda: watcher.has("/deployment/"), PASS_TIMEOUT_S, "the deployment of the daemon's first pass")
        watcher.wait(lambda: watcher.has("/profile"), START_TIMEOUT_S, "the end of its first pass")
        pids = {BARE: stack.enter_context(started([sys.executable, "-c", BARE_CODE])).pid}
        for name, said in ((CLIENT, "footprint/one"), (CLIENT_AGAIN, "footprint/two")):
            pids[name] = stack.enter_context(client_started(broker, said))[0].pid
        mender = stack.enter_context(mender_started(folder))
        if mender is not None:
            pids[MENDER] = mender.pid
        return watch({**pids, DAEMON: daemon.pid}, settle_s, seconds)


def measure_starts(broker: EmbeddedBroker, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Start client, daemon and client again in turn. Returns: seconds to the status, by process."""
    seen: dict[str, list[float]] = {CLIENT: [], DAEMON: [], CLIENT_AGAIN: []}
    for number in range(rounds):
        for name in (CLIENT, DAEMON, CLIENT_AGAIN):
            if name == DAEMON:
                with daemon_started(broker, folder) as (_, took_s, _watcher):
                    seen[name].append(took_s)
            else:
                with client_started(broker, f"footprint/{number}/{'a' if name == CLIENT else 'b'}") as (_, took_s):
                    seen[name].append(took_s)
    return seen


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


class Verdict(NamedTuple):
    """One figure against its goal; ``noise`` is how far it may be off, by the noise floor or its own spread."""

    name: str
    value: float | None
    goal: float
    noise: float | None = None
    absence: str | None = None

    @property
    def text(self) -> str:
        """Met, missed, or why there is none."""
        if self.value is None:
            return self.absence or "not measured"
        if self.noise is not None and self.noise > abs(self.goal - self.value) / 2:
            return "withheld: noise"
        return "met" if self.value <= self.goal else "missed"


def verdicts(rows: Rows, starts: Starts, growth: dict[str, Any]) -> list[Verdict]:
    """Hold the daemon against its goals."""
    daemon, client, again = rows[DAEMON], rows[CLIENT], rows[CLIENT_AGAIN]
    mender = rows[MENDER]["pss"] if MENDER in rows else None
    over_client = [ours * 2 / (a + b) for a, ours, b in zip(*starts.values(), strict=True)]
    noise = [b / a for a, _, b in zip(*starts.values(), strict=True)]
    found = [
        Verdict(
            "PSS over the client's", daemon["pss"] * 2 / (client["pss"] + again["pss"]), 1.0,
            abs(again["pss"] / client["pss"] - 1),
        ),
        Verdict(
            "PSS over mender-client's", None if mender is None else daemon["pss"] / mender, 0.6, absence=NOT_INSTALLED
        ),
        Verdict("wake-ups per second", daemon["wakeups_per_s"], 0.1),
        Verdict("CPU µs per second", daemon["cpu_us_per_s"], 20.0),
        Verdict("start to online over the client's", *_median_and_noise(over_client, noise)),
    ]  # fmt: skip
    return found + [
        Verdict(f"growth over {one['count']} {'simulated ' * (name == 'passes')}{name}", one["line"], 0.02)
        for name, one in growth.items()
    ]


def _median_and_noise(ratios: list[float], noise: list[float]) -> tuple[float | None, float, float | None]:
    if len(ratios) < 2:
        return None, START_GOAL, None
    spread = max(_quartiles_apart(ratios), _quartiles_apart(noise))
    # The standard error of a median is 1.25 sigma / sqrt(n); a normal distribution's quartiles are 1.35 sigma apart.
    return median(ratios), START_GOAL, max(abs(median(noise) - 1), 0.93 * spread / len(ratios) ** 0.5)


def _quartiles_apart(values: list[float]) -> float:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low


def table(rows: Rows, starts: Starts, *, markdown: bool) -> str:
    heads = ("process", "RSS MB", "PSS MB", "USS MB", "threads", "wake-ups/s", "CPU µs/s", "start to online s")
    body = []
    for name, row in rows.items():
        took = starts.get(name)
        start = f"{median(took):.2f} ({min(took):.2f} to {max(took):.2f})" if took else "–"
        megabytes = [f"{row[key] / 1e6:.1f}" for key in ("rss", "pss", "uss")]
        rates = [f"{row['threads']:.0f}", f"{row['wakeups_per_s']:.2f}", f"{row['cpu_us_per_s']:.0f}"]
        body.append([name, *megabytes, *rates, start])
    if MENDER not in rows:
        body.append([MENDER, NOT_INSTALLED, *["–"] * 6])
    return render(heads, body, markdown=markdown)


def verdict_table(found: list[Verdict], *, markdown: bool) -> str:
    body = []
    for one in found:
        value = "–" if one.value is None else f"{one.value:.4f}" if one.goal < 0.05 else f"{one.value:.2f}"
        noise = "–" if one.noise is None else f"{one.noise:.3f}"
        body.append([one.name, value, f"{one.goal:g}", noise, one.text])
    return render(("figure", "value", "at most", "noise", "verdict"), body, markdown=markdown)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="memory, wake-ups, start and growth of the daemon beside plain clients")
    made.add_argument("--seconds", type=float, default=60.0, help="how long all are watched (default: %(default)s)")
    made.add_argument("--settle", type=float, default=8.0, help="seconds left alone before (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=10, help="starts of each (default: %(default)s)")
    made.add_argument("--passes", type=int, default=1000, help="simulated passes, 0 for none (default: %(default)s)")
    made.add_argument("--reconnects", type=int, default=200, help="lines cut (default: %(default)s)")
    made.add_argument("--broker", choices=("mosquitto", "amqtt"), help="default: mosquitto where it is installed")
    form = made.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the tables for the README")
    return made


def main() -> int:
    options = parser().parse_args()
    # As an installation does: a start that compiles is larger by a megabyte.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "agent")], check=False)
    with EmbeddedBroker(options.broker) as broker, tempfile.TemporaryDirectory(prefix="boardfit-footprint-") as name:
        folder = Path(name)
        rows = measure_idle(broker, folder, options.settle, options.seconds)
        starts = measure_starts(broker, folder, options.rounds)
        growth: dict[str, Any] = {}
        if options.passes:
            (folder / "growth").mkdir()
            configuration = partial(configuration_for, protocol=broker.protocol, registry=None)
            grown = measure_growth(
                broker.settings, configuration, folder / "growth", passes=options.passes, cuts=options.reconnects
            )
            growth = as_document(grown)
        kind = broker.kind
    found = verdicts(rows, starts, growth)
    missed = any(one.text == "missed" for one in found)
    if options.json:
        document = {"schema": "boardfit.footprint/2", "broker": kind, "seconds": options.seconds, "rows": rows}
        judged = {one.name: {**one._asdict(), "verdict": one.text} for one in found}
        print(json.dumps({**document, "starts_s": starts, "growth": growth, "verdicts": judged}, indent=1))
        return int(missed)
    print(table(rows, starts, markdown=options.markdown), "", sep="\n")
    print(verdict_table(found, markdown=options.markdown))
    version = (
        f"Python {platform.python_version()}, {kind} on loopback, Linux {platform.release()}, {os.cpu_count()} CPUs"
    )
    watched = f"All run beside each other, watched for {options.seconds:g} s; {options.rounds} interleaved starts"
    print(f"\n{version}. {watched}: median (least to most).")
    print(
        "Noise: how far one plain client is from another in the same run; for starts, or the median's standard error."
    )
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
