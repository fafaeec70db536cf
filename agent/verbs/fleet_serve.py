"""``fleet serve``: keeps what boards tell, confirms it to them, and shows it in a browser.

Leaves collecting to ``agent.collector`` and the web part to ``agent.web``.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.clock import SystemClock
from agent.core.topics import check_id
from agent.core.units import parse_quantity
from agent.errors import ConfigError, StorageError
from agent.fleet.settings import FleetSettings, state_folder
from agent.notify import Notifier
from agent.verbs.fleet import settings_of
from agent.verbs.invocation import Invocation

if TYPE_CHECKING:
    from agent.collector.intake import Intake
    from agent.collector.store_keeping import Keeping
    from agent.web import OperatorSource

DEFAULT_LISTEN = "127.0.0.1:8470"
KEEP, KEEP_ROWS = "90d", 100_000

_EPILOG = """Several collectors may serve one fleet: give them names of their own, one --share-group and one PostgreSQL.
Boards with `receipts: signed` believe receipts that a key listed by the registry has signed: say --sign-key."""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the action of this module."""
    parser = add("serve", "Keep what boards tell, confirm it to them, and show it in a browser", run_serve)
    parser.epilog = _EPILOG
    option = parser.add_argument_group("the collector").add_argument
    option("--database", metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/NAME (default: a SQLite file)")
    option("--name", metavar="NAME", help="of this collector, as boards hear of it (default: this host's)")
    option("--share-group", metavar="NAME", default="boardfit", help="collectors of one group share the work")
    option("--sign-key", type=Path, metavar="FILE", help="an operator's key, which signs the receipts")
    option("--keep", metavar="TIME", default=KEEP, help=f"how long history is kept, like 90d, or all (default: {KEEP})")
    option(
        "--keep-rows", metavar="N", type=int, default=KEEP_ROWS,
        help=f"how many rows of one board in one table, 0 for all (default: {KEEP_ROWS}); telemetry older than a week "
        "is thinned to one an hour",
    )  # fmt: skip
    option("--retire", action="store_true", help="take the announcement away, so that boards wait for it no more; ends")
    option("--listen", metavar="HOST:PORT", default=DEFAULT_LISTEN, help=f"of the web part ({DEFAULT_LISTEN})")
    option(
        "--home-assistant", metavar="PREFIX", nargs="?", const="homeassistant",
        help="tell Home Assistant of each board, below its discovery prefix (default: homeassistant)",
    )  # fmt: skip
    option("--no-web", action="store_true", help="collect only")
    option = parser.add_argument_group("the console").add_argument
    option("--url", metavar="URL", help="how people reach it, where that is not --listen (a proxy)")
    option("--tls-cert", type=Path, metavar="FILE", help="serve https with this certificate")
    option("--tls-key", type=Path, metavar="FILE", help="its private key")
    option("--registry", metavar="URL", help="whose operator list says who may sign in")
    option("--root", type=Path, metavar="FILE", help="that registry's root of trust, root.json")
    option("--operators", type=Path, metavar="FILE", help="an operator list as a file, in place of a registry's")


def run_serve(call: Invocation) -> int:
    """Collect until told to stop."""
    from agent.collector.intake import Intake
    from agent.collector.store import Store
    from agent.collector.store_keeping import Keep, Keeping

    arguments, settings, clock = call.arguments, settings_of(call), SystemClock()
    name = check_id(arguments.name, where="--name") if arguments.name else _own_name()
    group = check_id(arguments.share_group, where="--share-group")
    keep = Keep(age_s=_age(arguments.keep), rows=_rows(arguments.keep_rows))
    key = None
    if arguments.sign_key is not None:
        from agent.fleet.signing import OperatorKey

        key = OperatorKey.load(arguments.sign_key)
    url = arguments.database or f"sqlite:///{_state_folder(call) / 'collector.sqlite'}"
    notifier = Notifier(os.environ)
    with Store(url) as store:
        intake = Intake(store, settings.broker, settings.fleet, clock, name=name, group=group, key=key)
        if arguments.retire:
            intake.retire()
            call.console.line(f"The collector {name} of {settings.fleet} is retired: boards wait for it no more.")
            return 0
        store.open()
        with _web(call, url, settings, intake) as shown, _home_assistant(call, url, settings):
            keeping = Keeping(store, settings.fleet, keep, clock)

            def ready() -> None:
                call.console.line(f"Collecting {settings.fleet} as {name} into {store.name}.{shown}")
                notifier.send("READY=1", f"STATUS=collecting {settings.fleet} into {store.name}")

            intake.run(call.stop, ready, lambda: _keep(keeping, intake))
            notifier.send("STOPPING=1")
    counts = intake.counts
    call.console.line(f"Stored {counts.stored} documents, confirmed {counts.receipts}, refused {counts.refused}.")
    if call.console.as_json:
        call.console.document({"schema": "boardfit.fleet-serve/1", **msgspec.structs.asdict(counts)})
    return 0


def _keep(keeping: Keeping, intake: Intake) -> None:
    if intake.counts.database is None:
        try:
            keeping.step()
        except StorageError as error:
            intake.counts.database = str(error)  # until the next batch is stored, or is not


@contextmanager
def _web(call: Invocation, url: str, settings: FleetSettings, intake: Intake) -> Iterator[str]:
    """Serve the web part while the block runs. Yields: a sentence about where it is."""
    arguments = call.arguments
    if arguments.no_web:
        yield ""
        return
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the web part cannot be loaded: {error}", fix="pip install 'boardfit[fleet]', or say --no-web"
        ) from error
    from agent.collector.metrics import FleetMetrics
    from agent.collector.store_reading import StoredReader
    from agent.web import ConsoleSettings, start

    with StoredReader(url) as reader:
        metrics = FleetMetrics(reader, own=intake.counts, fleets=[settings.fleet])
        shown = ConsoleSettings(
            url=arguments.url, operators=_operators(call), tls_cert=arguments.tls_cert, tls_key=arguments.tls_key,
            more={"/metrics": metrics.page},
        )  # fmt: skip
        with start(reader, shown, arguments.listen) as served:
            yield f" Shown at {served.url}."


def _operators(call: Invocation) -> OperatorSource | None:
    """Return who may sign in; None: nobody, and the console only shows. Raises: ConfigError."""
    from agent.web import OperatorsFile, OperatorsOfRegistry

    arguments = call.arguments
    if arguments.operators is not None:
        if arguments.registry or arguments.root:
            raise ConfigError("there are two operator lists", fix="say --operators, or --registry and --root")
        listed = OperatorsFile(arguments.operators)
        listed.current()  # what is wrong with it is said now
        return listed
    if (arguments.registry is None) != (arguments.root is None):
        raise ConfigError("--registry and --root go together", fix="give the registry's address and its root.json")
    if arguments.registry is None:
        return None
    return OperatorsOfRegistry(arguments.registry, arguments.root, _state_folder(call) / "console-registry")


@contextmanager
def _home_assistant(call: Invocation, url: str, settings: FleetSettings) -> Iterator[None]:
    """Tell Home Assistant of boards while the block runs, where that is asked for."""
    if call.arguments.home_assistant is None:
        yield
        return
    from agent.collector.announcing import announcing
    from agent.collector.home_assistant import Discovery
    from agent.collector.store_reading import StoredReader

    with StoredReader(url) as reader:
        discovery = Discovery(reader, settings.fleet, call.arguments.home_assistant)
        with announcing(settings.broker, discovery, logging.getLogger("boardfit").warning):
            yield


def _state_folder(call: Invocation) -> Path:
    if call.arguments.state_dir:
        return Path(call.arguments.state_dir).absolute()
    return Path(os.environ["STATE_DIRECTORY"]) if "STATE_DIRECTORY" in os.environ else state_folder()


def _own_name() -> str:
    """Return this host's name as it can stand in a topic."""
    letters = [letter if letter.isascii() and letter.isalnum() else "-" for letter in socket.gethostname().lower()]
    return "".join(letters)[:64].strip("-") or "collector"


def _age(text: str) -> float | None:
    if text == "all":
        return None
    age_s = parse_quantity(text, "time", where="--keep")
    if age_s <= 0:
        raise ConfigError(f"--keep: {text} keeps nothing", fix=f"write it like {KEEP}, or all")
    return age_s


def _rows(rows: int) -> int | None:
    if rows < 0:
        raise ConfigError(f"--keep-rows: {rows} is less than none", fix="give a number of rows, 0 for all")
    return rows or None
