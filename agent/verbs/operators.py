"""``registry operators add | list | remove``: who may give commands to the boards that trust a registry."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec

from agent.clock import SystemClock
from agent.core.operators import OperatorList
from agent.errors import ConfigError
from agent.verbs.invocation import Invocation

_DESCRIPTION = """For who holds the registry's keys: lists, in a signed file of the registry, who may order boards about
and with which key, given in hex. Operators make theirs with `boardfit fleet keys make` on their own machine, and
`boardfit fleet keys add` lists the file that it writes: the same list, and the shorter way by hand. A viewer may
ask (status, profile); an operator may also bench, select, deploy, rollback, pardon, sync, leave-safe-mode and cancel;
an admin may also set budgets, objectives, schedules and pins. Boards read the list at each sync."""


def register(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    keys_of: Callable[[Invocation], Path],
) -> None:
    """Add the action. Args: keys_of: where the registry's own private keys lie."""
    top = actions.add_parser("operators", help="say who may give commands to boards", description=_DESCRIPTION)
    verbs = top.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, summary: str, *, signs: bool = True) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, parents=[common], help=summary, description=summary + ".")
        parser.add_argument("directory", type=Path, metavar="DIR", help="the registry's folder")
        if signs:
            parser.add_argument(
                "--keys", type=Path, metavar="KEYDIR", help="the registry's private keys (default: DIR.keys)"
            )
            parser.add_argument("--name", required=True, metavar="N", help="[a-z0-9-], as commands name their issuer")
        return parser

    parser = action("add", "List an operator's key; one of the same name is replaced")
    parser.add_argument("--role", required=True, choices=("viewer", "operator", "admin"))
    parser.add_argument("--key", metavar="HEX", help="the operator's public key: Ed25519, 64 hex digits")
    parser.add_argument("--make", type=Path, metavar="FILE.pem", help="make a private key here and hand it over")
    parser.add_argument("--valid-days", type=float, default=365.0, metavar="N", help="for how long (default: 365)")
    parser.set_defaults(handler=lambda call: _add(call, keys_of(call)))
    parser = action("remove", "Take an operator out; boards obey him until their next sync")
    parser.set_defaults(handler=lambda call: take_out(call, keys_of(call)))
    action("list", "Show who may order what", signs=False).set_defaults(handler=show_list)


def _add(call: Invocation, keys_dir: Path) -> int:
    from agent.fleet.signing import OperatorKey

    arguments = call.arguments
    if (arguments.key is None) == (arguments.make is None):
        raise ConfigError("give one of --key and --make", fix="--make FILE.pem makes a key, --key takes one that is")
    key = arguments.key.lower() if arguments.make is None else OperatorKey.make(arguments.make).public_key
    return enlist(call, arguments.name, key, arguments.valid_days, keys_dir)


def enlist(call: Invocation, name: str, public_key: str, days: float, keys_dir: Path) -> int:
    """List a key in the registry of the call, in its role, for some days from now; show the list."""
    from agent.registry.operators import add_operator

    arguments, now = call.arguments, SystemClock().utc()
    listed = add_operator(
        arguments.directory,
        name=name,
        public_key=public_key,
        role=arguments.role,
        valid_until=now + timedelta(days=days),
        keys_dir=keys_dir,
        now=now,
    )
    return _show(call, listed)


def take_out(call: Invocation, keys_dir: Path) -> int:
    """Take the operator of the call out of its registry; show the list."""
    from agent.registry.operators import remove_operator

    now = SystemClock().utc()
    return _show(call, remove_operator(call.arguments.directory, name=call.arguments.name, keys_dir=keys_dir, now=now))


def show_list(call: Invocation) -> int:
    """Show who is listed in the registry of the call."""
    from agent.registry.operators import list_operators

    return _show(call, list_operators(call.arguments.directory))


def _show(call: Invocation, listed: OperatorList) -> int:
    if call.console.as_json:
        rows = [msgspec.to_builtins(one) | {"keyid": one.keyid} for one in listed.operators]
        call.console.document({"schema": listed.schema, "operators": rows})
        return 0
    if not listed.operators:
        call.console.line("Nobody is listed: boards take no commands.")
        return 0
    rows = [(one.name, one.role, one.valid_until, one.public_key) for one in listed.operators]
    call.console.table(("name", "role", "valid until", "public key"), rows)
    return 0
