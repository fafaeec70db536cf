"""Run the fleet demo: ``python -m benchmarks.fleet_demo [--once] [--folder DIR] [--quick]``, or ``make fleet-demo``.

Exit codes: 0 all happened as told; 1 it did not, or a part would not start; 130 Ctrl-C in the middle of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path

from agent.errors import BoardfitError, ConfigError
from benchmarks.fleet_demo.scene import Scene, Sizes
from benchmarks.fleet_demo.story import Outcome, tell
from benchmarks.fleet_demo.telling import Telling

MARKER = "made-by-the-fleet-demo"
QUICK = Sizes(boards=8, work_s=0.2, soak="1s", waves="1,100%")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="fleet-demo", description="a fleet in one command, on this machine alone")
    parser.add_argument("--once", action="store_true", help="end when the story ends; default: stay until Ctrl-C")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep everything there (default: forgotten)")
    parser.add_argument("--quick", action="store_true", help="fewer boards, shorter waits: for tests")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    telling = Telling()
    try:
        with tempfile.TemporaryDirectory(prefix="boardfit-fleet-demo-") as made:
            folder = Path(made) if options.folder is None else _emptied(options.folder)
            with Scene(folder.resolve(), QUICK if options.quick else Sizes()) as scene:
                outcome = _told(scene, telling)
                if not options.once:
                    _stay(scene, telling)
                return 1 if outcome.amiss else 0
    except BoardfitError as error:
        sys.stderr.write(f"fleet-demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nfleet-demo: stopped.\n")
        return 130


def _told(scene: Scene, telling: Telling) -> Outcome:
    telling.title(
        "boardfit: a fleet in one command",
        f"{scene.sizes.boards} simulated boards of 4 classes and one real agent, with a broker, a signed registry and "
        "an operator, all on this machine and gone afterwards. $ marks what the operator types.",
    )
    outcome = tell(scene, telling)
    telling.chapter("What is left", f"The story took {telling.seconds:.0f} s.")
    telling.line(f"first rollout:  {outcome.bad.status.replace('_', ' ')}: {outcome.bad.reason}")
    telling.line(f"second rollout: {outcome.good.status.replace('_', ' ')}: {outcome.good.reason}")
    if outcome.amiss is not None:
        telling.line(f"This is not how it was meant to end: {outcome.amiss}.", good=False)
    return outcome


def _stay(scene: Scene, telling: Telling) -> None:
    telling.line(f"The console, while this runs: {telling.address}", good=True)
    if telling.address is not None and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(telling.address)
    telling.line("The fleet goes on until Ctrl-C. Try, in another terminal:")
    home = " ".join(f"{name}={value}" for name, value in scene.operator.home.items())
    telling.raw(f"  $ export {home} PATH={Path(sys.executable).parent}:$PATH")
    for words in (
        "list",
        "show real-agent",
        "rollout show",
        "bench 'soc=bcm2712' --task digits",
        f"sign-in {telling.address}",
    ):
        telling.command(f"boardfit fleet {words}")
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    while not over.wait(3600):
        pass
    telling.line("Goodbye.")


def _emptied(folder: Path) -> Path:
    """Make the demo's folder anew; one that the demo did not make is never emptied. Raises: ConfigError."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise ConfigError(f"{folder} is not empty and not the fleet demo's", fix="choose another --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
