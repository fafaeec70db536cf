"""``fleet keys make | add | list | revoke``: an operator's key, and its place in the registry's signed list.

The private key stays on the operator's machine; who holds the registry's keys lists the public one. ``registry
operators`` (``agent.verbs.operators``) changes the same list by public keys in hex, for scripts of a registry's author.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.operators import ROLES
from agent.core.topics import check_id
from agent.errors import ConfigError
from agent.fleet.settings import default_key, read_public, write_public
from agent.registry.layout import keys_beside
from agent.verbs import operators
from agent.verbs.invocation import Invocation, Verbs

if TYPE_CHECKING:
    from collections.abc import Callable

_DESCRIPTION = """An operator's key, by two people. An operator runs `make` on his own machine, where the private key
stays, and hands over FILE.pub. Who holds the registry's keys runs `add` with it, and `list` and `revoke` later;
`boardfit registry operators` changes the same list, by a public key in hex in place of a file. A viewer may ask
(status, profile); an operator may also bench, select, deploy, rollback, pardon, sync, leave-safe-mode and cancel; an
admin may also set desired states. Boards read the list at each sync."""


def register(actions: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the actions of this module."""
    top = actions.add_parser(
        "keys", help="Make your operator's key; list and revoke operators in a registry", description=_DESCRIPTION
    )
    verbs = top.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, summary: str, handler: Callable[[Invocation], int]) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(
            name, parents=[common], help=summary, description=summary + "."
        )
        made.set_defaults(handler=handler)
        return made

    parser = action(
        "make", "Operators: make your key; the private file stays here, FILE.pub is for the registry", run_make
    )
    parser.add_argument("name", metavar="NAME", help="your name, [a-z0-9-]")
    parser.add_argument("--key", type=Path, metavar="FILE", help="where (default: ~/.config/boardfit/operator.key)")
    parser = action("add", "Who holds the registry's keys: list an operator; one of the same name is replaced", run_add)
    _registry(parser)
    parser.add_argument("public", type=Path, metavar="FILE.pub", help="as `fleet keys make` wrote it")
    parser.add_argument("--role", required=True, choices=ROLES)
    parser.add_argument("--days", type=float, default=365.0, metavar="N", help="valid for this long (default: 365)")
    _registry(action("list", "Show who may order what, by the registry's list", operators.show_list), signs=False)
    parser = action(
        "revoke",
        "Who holds the registry's keys: take an operator out; boards obey him until their next sync",
        run_revoke,
    )
    _registry(parser)
    parser.add_argument("name", metavar="NAME")


def _registry(parser: argparse.ArgumentParser, *, signs: bool = True) -> None:
    parser.add_argument("directory", type=Path, metavar="REGISTRY", help="the registry's folder")
    if signs:
        text = "the registry's private keys (default: REGISTRY.keys)"
        parser.add_argument("--keys", type=Path, metavar="KEYDIR", help=text)


def _keys(call: Invocation) -> Path:
    directory: Path = call.arguments.directory
    chosen: Path | None = call.arguments.keys
    return chosen or keys_beside(directory)


def run_make(call: Invocation) -> int:
    """Make a key."""
    from agent.fleet.signing import OperatorKey

    name = check_id(call.arguments.name, where="operator")
    path: Path = call.arguments.key or default_key()
    path.parent.mkdir(parents=True, exist_ok=True)
    made = OperatorKey.make(path)
    public = write_public(path, name, made.public_key)
    if call.console.as_json:
        call.console.document(
            {"schema": "boardfit.fleet-key/1", "name": name, "public_key": made.public_key, "keyid": made.keyid,
             "key": str(path), "public": str(public)}
        )  # fmt: skip
        return 0
    call.console.line(f"{path}: {name}'s private key. It stays on this machine.")
    call.console.line(f"{public}: {name}'s public key {made.public_key}.")
    call.console.line(f"Who holds the registry's keys lists it: boardfit fleet keys add REGISTRY {public} --role ROLE")
    return 0


def run_add(call: Invocation) -> int:
    """List an operator."""
    arguments = call.arguments
    name, key = read_public(arguments.public)
    if not 0 < arguments.days <= 36500:
        raise ConfigError(f"--days {arguments.days:g} is out of range", fix="use up to 36500")
    return operators.enlist(call, name, key, arguments.days, _keys(call))


def run_revoke(call: Invocation) -> int:
    """Take an operator out."""
    return operators.take_out(call, _keys(call))
