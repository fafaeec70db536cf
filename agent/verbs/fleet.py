"""``fleet``: operate a fleet from one's own machine over MQTT. The actions, their options, and how a console opens.

Leaves what each action does to ``fleet_views``, ``fleet_orders``, ``fleet_desired`` and ``fleet_keys``.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from agent.core.topics import Kind, fleet_filter
from agent.errors import ConfigError
from agent.fleet.addressing import FIELDS, Selection, parse_selection
from agent.fleet.link import Link
from agent.fleet.settings import FleetSettings, Options, load_settings, state_folder
from agent.fleet.view import BoardView, FleetView
from agent.verbs.invocation import Invocation, Verbs

Handler = Callable[[Invocation], int]
#: What boards keep retained, and what each kind is needed for.
RETAINED: tuple[Kind, ...] = ("status", "profile", "reported", "decision", "deployment")
#: Of these, what a list of boards shows; of agents that tell less of themselves in their status, ``complete`` gets it.
SHORT: tuple[Kind, ...] = ("status", "deployment")
#: What may be compared by that alone.
SHORT_FIELDS = frozenset({"name", "status", "group", "class", "soc", "ram", "agent", "candidate", "phase"})
_ALLOCATIONS = 100_000  # between looks for cycles: what boards have told has none, and stays
_ONE_BY_ONE = 100  # boards whose documents are asked for by name; of more, all are heard

_DESCRIPTION = """Operates a fleet over MQTT: lists boards, orders them about with signed commands and follows each
board's job. The broker and the operator's key are named in ~/.config/boardfit/fleet.yaml or by options."""
_ADDRESSES = """boards are addressed by
  all   NAME   group:NAME   class:FINGERPRINT (its beginning)   or an expression, in quotes:
  'soc=bcm2712 and ram>=4GiB and status=online'    'group:line-2 and not model~"*zero*"'
fields: """ + ", ".join(FIELDS)


class Console(msgspec.Struct, frozen=True, kw_only=True):
    """What an action works with: the settings, the line to the broker, and what boards have told."""

    settings: FleetSettings
    link: Link
    view: FleetView

    def addressed(self, words: Sequence[str]) -> tuple[Selection, list[BoardView]]:
        """Return an address and the boards that it means.

        Raises: ConfigError: it cannot be read, names a board nobody has heard of, or means none.
        """
        selection = parse_selection(words)
        for name in selection.names:
            if name not in self.view.boards:
                import difflib

                near = difflib.get_close_matches(name, self.view.boards, n=1)
                fix = f"did you mean {near[0]}" if near else "see `boardfit fleet list`"
                raise ConfigError(f"there is no board {name} in {self.settings.fleet}", fix=fix)
        found = selection.of(self.view.sorted())
        if not found:
            problem = f"no board of {self.settings.fleet} is meant by {selection.text}"
            if not self.view.boards:
                problem = f"no board has told of itself in the fleet {self.settings.fleet}"
            raise ConfigError(problem, fix="see `boardfit fleet list`")
        return selection, found

    def complete(self) -> None:
        """Get what older agents do not tell in their status: class and groups. Raises: ReportError."""
        less = [b.name for b in self.view.boards.values() if b.class_fingerprint is None or b.groups is None]
        kinds: tuple[Kind, ...] = ("profile", "reported")
        if len(less) > _ONE_BY_ONE:
            self.link.replay(kinds, self.view.take)
        elif less:
            for kind in kinds:
                for name in less:
                    self.link.hear(fleet_filter(self.settings.fleet, kind, device=name), self.view.take)
            self.link.settle()


def settings_of(call: Invocation) -> FleetSettings:
    """Return the settings of one call. Raises: ConfigError."""
    arguments = call.arguments
    return load_settings(
        Options(**{name: getattr(arguments, name, None) for name in Options.__struct_fields__ if name != "config"},
                config=arguments.config)
    )  # fmt: skip


def ledger_folder(call: Invocation) -> Path:
    """Return the folder of the operator's state."""
    return Path(call.arguments.state_dir) if call.arguments.state_dir else state_folder()


def kinds_for(words: Sequence[str]) -> tuple[Kind, ...]:
    """Return what must be heard to know which boards are meant; no words mean all. Raises: ConfigError."""
    fields = parse_selection(words).fields if words else frozenset()
    return SHORT if fields <= SHORT_FIELDS else RETAINED


@contextmanager
def console(call: Invocation, kinds: Sequence[Kind] = RETAINED) -> Iterator[Console]:
    """Connect and take in what boards have retained. Raises: ConfigError. ReportError."""
    settings = settings_of(call)
    view = FleetView(settings.fleet)
    gc.set_threshold(_ALLOCATIONS)
    with Link(settings.broker, settings.fleet, call.stop) as link:
        link.connect()
        link.replay(kinds, view.take)
        opened = Console(settings=settings, link=link, view=view)
        if kinds == SHORT:
            opened.complete()
        yield opened


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verb and its actions."""
    raw = argparse.RawDescriptionHelpFormatter
    top = verbs.add_parser(
        "fleet", help="operate a fleet over MQTT", description=_DESCRIPTION, epilog=_ADDRESSES, formatter_class=raw
    )
    actions = top.add_subparsers(metavar="ACTION", required=True)
    parents = [common, _connection_options()]
    add = partial(_action, actions, parents)
    from agent.verbs import (
        fleet_classes,
        fleet_desired,
        fleet_jobs,
        fleet_keys,
        fleet_orders,
        fleet_rollout,
        fleet_serve,
        fleet_sign_in,
        fleet_views,
    )

    for module in (fleet_views, fleet_classes, fleet_orders, fleet_jobs, fleet_serve, fleet_sign_in):
        module.register(add)
    text = "Settings that operators ask for in place of those in agent.yaml, signed and retained at the broker."
    desired = actions.add_parser("desired", help="Show and set what is asked for", description=text)
    below = desired.add_subparsers(metavar="ACTION", required=True)
    fleet_desired.register(add, partial(_action, below, parents))
    fleet_keys.register(actions, common)
    rollout = actions.add_parser("rollout", help="Bring a candidate to boards in waves", description=fleet_rollout.TEXT)
    fleet_rollout.register(partial(_action, rollout.add_subparsers(metavar="ACTION", required=True), parents))


def _action(
    actions: Verbs,
    parents: list[argparse.ArgumentParser],
    name: str,
    summary: str,
    handler: Handler,
    *,
    boards: str | None = None,
) -> argparse.ArgumentParser:
    """Add one action. Args: boards: ``+`` or ``*`` where it takes addresses."""
    raw = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = actions.add_parser(
        name, parents=parents, help=summary, description=summary + ".", epilog=_ADDRESSES, formatter_class=raw
    )
    if boards is not None:
        parser.add_argument("boards", nargs=boards, metavar="BOARDS", help="whom it is for, see below")
    parser.set_defaults(handler=handler)
    return parser


def _connection_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("the fleet and its broker")
    group.add_argument("--broker", metavar="URL", help="mqtt://host[:port] or mqtts://[user@]host[:port]")
    group.add_argument("--fleet", metavar="NAME", help="the fleet's name")
    group.add_argument("--ca", type=Path, metavar="FILE", help="certificates that the broker's is signed by")
    group.add_argument("--cert", type=Path, metavar="FILE", help="our certificate")
    group.add_argument("--key-file", type=Path, metavar="FILE", help="our certificate's private key")
    group.add_argument("--username", metavar="NAME")
    group.add_argument("--password-file", type=Path, metavar="FILE")
    return parser
