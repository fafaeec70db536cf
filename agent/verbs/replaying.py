"""``replay``: run the golden inputs of what serves again and compare."""

from __future__ import annotations

import argparse

from agent.core.drift import line
from agent.errors import ConfigError
from agent.locks import exclusive
from agent.replay import replay
from agent.verbs.invocation import Invocation, Verbs
from agent.verbs.publishing import drain


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verb."""
    text = (
        "Checks the files of what serves, runs its golden inputs in a confined child at the engine, provider and "
        "threads that serve, and compares with the outputs it was proven with. The daemon does this at idle; what it "
        "found last is in `boardfit status`."
    )
    parser = verbs.add_parser(
        "replay", parents=[common], help="whether what serves still gives the outputs it was proven with",
        description=text,
    )  # fmt: skip
    parser.add_argument("--task", metavar="T", help="one task (default: every one that is served)")
    parser.set_defaults(handler=run_replay)


def run_replay(call: Invocation) -> int:
    """Replay and print; an outcome that disagrees is an outcome, and no failure of the verb."""
    with call.site() as site, exclusive(site.state_dir / "pass.lock", "a pass"):
        wanted = call.arguments.task
        names = (wanted,) if wanted else tuple(sorted({*site.config.tasks, *site.records.tasks()}))
        found = [one for one in (replay(site, name) for name in names) if one is not None]
        drain(site, call.console)
    if wanted and not found:
        raise ConfigError(f"nothing serves the task {wanted!r} here", fix="run `boardfit once` first")
    if call.console.as_json:
        call.console.document({"schema": "boardfit.replays/1", "replays": found})
        return 0
    for one in found:
        bad = one.changed or one.outcome in ("differs", "fails", "damaged")
        call.console.line(f"{line(one)}.", style="yellow" if bad else None)
    if not found:
        call.console.line("Nothing is deployed here.")
    return 0
