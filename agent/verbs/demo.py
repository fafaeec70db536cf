"""``demo``: the whole pass on the bundled registry with an embedded broker; no configuration, no network.

The registry's keys are public: its candidates are for trying the tool, and an installed agent never trusts them.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

import msgspec

from agent import pipeline
from agent.config import load_config
from agent.core.units import format_quantity
from agent.demo_broker import EmbeddedBroker
from agent.errors import BoardfitError, ConfigError, NoFeasibleCandidateError, ReportError
from agent.mqtt import Connection, Incoming, drive
from agent.pipeline import PassResult
from agent.resources import demo_registry
from agent.select.explain import explain, untried_text
from agent.site import DEMO_MARKER, Site
from agent.tables import show_decision
from agent.verbs.invocation import Invocation, Verbs
from agent.verbs.publishing import drain
from agent.verbs.views import write_report

log = logging.getLogger("boardfit")

NOTHING_FITS = 3  # the exit code
_MAX_WATCH_S = 15.0
_CONFIGURATION = """# Made by `boardfit demo`: a small configuration to start from.
registry: {{url: {registry}, root: {registry}/root.json}}   # demo keys: never for an installed agent
mqtt: {{url: {broker}, protocol: "{protocol}", fleet: demo}}
device: {{id: this-machine}}
tasks:
  digits:
    budgets:
      latency_p95: 5 ms
      memory_peak: 160 MiB
      size: 512 KiB
      accuracy_top1: ">= 0.95"
    objective: [maximize accuracy_top1, minimize latency_p95]
measure: {{threads: [1, 2], min_time: 0.3 s, max_time: 3 s}}   # kept short for the demo
"""


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verb."""
    text = (
        "Does the main job on this machine: profiles it, pulls the bundled signed candidates (small digit "
        "classifiers), measures them, selects, deploys, reports to a broker of its own, and shows everything."
    )
    parser = verbs.add_parser("demo", parents=[common], help="try it: no configuration, no network", description=text)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw what is printed as a picture")
    parser.add_argument(
        "--broker", choices=("mosquitto", "amqtt"), help="which broker (default: mosquitto if installed)"
    )
    parser.set_defaults(handler=run_demo)


def run_demo(call: Invocation) -> int:
    """Run the demo; code 3 when nothing fits this machine."""
    registry = demo_registry()
    if registry is None:
        raise ConfigError("the demo registry is not installed", fix="run it from a source tree: git clone, make demo")
    folder = Path(call.arguments.state_dir) if call.arguments.state_dir else call.state_dir / "demo"
    _make_folder(folder)
    page = folder.resolve() / "report.html"
    with EmbeddedBroker(call.arguments.broker) as broker:
        path = folder / "agent.yaml"
        path.write_text(_CONFIGURATION.format(registry=registry, broker=broker.url, protocol=broker.protocol))
        with call.site(load_config(path), folder) as site:
            failure: BoardfitError | None = None
            try:
                result = pipeline.once(site, fresh=True)
            except NoFeasibleCandidateError as error:
                failure, result = error, _partial(error)
            write_report(site, page)
            seen = _publish_and_watch(broker, call, site)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.demo/1", "pass": result, "messages": seen, "report": str(page)})
    else:
        _show(call, result, seen, page, broker)
    if call.arguments.svg is not None:
        call.console.save_svg(call.arguments.svg, "boardfit demo")
    if failure is not None and not call.console.as_json:
        raise failure
    return 0 if failure is None else NOTHING_FITS


class SeenMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message as an operator's subscriber saw it."""

    topic: str
    bytes: int
    retained: bool
    says: str


def _publish_and_watch(broker: EmbeddedBroker, call: Invocation, site: Site) -> list[SeenMessage]:
    """Subscribe as the fleet would, publish the outbox, and return what arrived."""
    arrived: list[Incoming] = []
    watcher = Connection(msgspec.structs.replace(broker.settings, client_id="fleet-watcher"))
    try:
        watcher.subscribe("boardfit/#", arrived.append)
        watcher.connect(10.0)
        drive(watcher, lambda: watcher.listening, 10.0)
        drain(site, call.console, settings=True)
        # The publisher's goodbye on the status topic is the last of all.
        drive(watcher, lambda: any(_says_goodbye(message) for message in arrived), _MAX_WATCH_S)
    except ReportError as error:  # what was measured and deployed is worth showing without it
        log.warning("the demo's broker is gone: %s", error)
    finally:
        watcher.close()
    return [
        SeenMessage(topic=m.topic, bytes=len(m.payload), retained=m.retain, says=_summary(m.topic, m.payload))
        for m in arrived
    ]


def _says_goodbye(message: Incoming) -> bool:
    return message.topic.endswith("/status") and msgspec.json.decode(message.payload)["state"] == "offline"


def _summary(topic: str, payload: bytes) -> str:
    document = msgspec.json.decode(payload)
    kind = topic.split("/")[4]
    if kind == "measurement":
        measured = document["measurements"]
        valid = sum(one["verdict"] == "ok" for one in measured)
        first = measured[0]
        p50 = format_quantity(first.get("latency_p50_s"), "time")
        text = f"{first['candidate']} on {first['engine']} x{first['threads']}: {first['verdict']}, p50 {p50}"
        return f"{len(measured)} measurements, {valid} ok; {text} ..."
    if kind == "status":
        return str(document["state"]) + (f" ({document['reason']})" if document.get("reason") else "")
    if kind == "profile":
        return str(document.get("model") or document["profile"])
    if kind == "reported":
        return "; ".join(", ".join(task["budgets"]) for task in document["tasks"].values())
    return str(document.get("reason") or document.get("text") or document.get("outcome") or "")


def _partial(error: BoardfitError) -> PassResult:
    result = error.facts.get("result")
    if not isinstance(result, PassResult):
        raise error
    return result


def _make_folder(folder: Path) -> None:
    """Make the demo's state anew; a folder that the demo did not make is never emptied. Raises: ConfigError."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / DEMO_MARKER).exists():
            raise ConfigError(f"{folder} is not empty and not the demo's", fix="choose another --state-dir")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DEMO_MARKER).touch()


def _show(call: Invocation, result: PassResult, seen: list[SeenMessage], page: Path, broker: EmbeddedBroker) -> None:
    console, facts = call.console, result.facts
    console.heading(f"This machine: {facts.board.model or facts.board.profile}")
    engines = ", ".join(f"{engine.name} {engine.version}" for engine in facts.engines if engine.proven)
    memory = format_quantity(facts.memory.usable_bytes, "bytes")
    console.line(f"{facts.cpu.worker_threads} usable cores, {memory}, engines proven: {engines}")
    for decision in result.decisions:
        console.heading(f"Task {decision.task}: what was measured here just now")
        console.line("Budgets: " + ", ".join(budget.text for budget in decision.budgets))
        console.line("Objective: " + ", then ".join(objective.text for objective in decision.objectives))
        show_decision(console, decision)
        console.heading("The decision")
        console.line(explain(decision).split("\n\n")[0])
        if decision.untried:
            console.line(untried_text(decision.untried))
    console.heading(f"What the fleet saw over MQTT {broker.protocol} ({broker.kind}): {len(seen)} messages")
    rows = [(m.topic, f"{m.bytes} B", m.says) for m in seen]
    console.table(("topic", "size", "says"), rows, right=("size",))
    console.heading("What is in place")
    for status in result.deployments:
        if status.current is not None and status.path is not None:
            console.line(f"deployed model   {Path(status.path).absolute() / status.current.model.path}")
            console.line(f"how to open it   {Path(status.path).absolute() / 'deployment.json'}")
    console.line(f"report           {page}  (open it in a browser)")
    console.line(f"configuration    {page.parent / 'agent.yaml'}")
