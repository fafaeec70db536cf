"""``enroll``: a board's key, request and certificate; for operators, a small authority and the broker's access file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.clock import SystemClock
from agent.config import DEFAULT_PATH, Config
from agent.config_files import FOLDER, read_files
from agent.durable import storage_error, write_file
from agent.endpoints import broker_of
from agent.enrolment.access import mosquitto_acl
from agent.enrolment.names import Member, board_name, parse_name
from agent.errors import ConfigError, ReportError
from agent.verbs.invocation import Invocation, Verbs

if TYPE_CHECKING:
    from agent.enrolment.identity import Installed
    from agent.enrolment.proof import Finding

_DESCRIPTION = """On a board: makes its key, which never leaves it, and a request to be signed by who runs the fleet.
With --certificate: takes the signed certificate, tries the connection, and writes the mqtt part of the configuration.
The same two calls renew a certificate; the key stays, unless --new-key."""
_PART = "mqtt.yaml"


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verb."""
    parser = verbs.add_parser("enroll", parents=[common], help="give this board its identity", description=_DESCRIPTION)
    parser.add_argument("--fleet", metavar="F", help="the fleet this board belongs to (default: mqtt.fleet)")
    parser.add_argument("--device", metavar="D", help="this board's name in it (default: device.id)")
    parser.add_argument(
        "--name", metavar="N", help="operator/N or collector/N: a request for somebody else than a board"
    )
    parser.add_argument("--new-key", action="store_true", help="make another key, e.g. after a card was copied")
    parser.add_argument("--dir", type=Path, help="where keys and certificates lie (default: mqtt/ beside agent.yaml)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="the signed certificate")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the authority that signed the broker's certificate")
    parser.add_argument("--broker", metavar="URL", help="mqtts://host[:port]")
    parser.add_argument(
        "--group", action="append", metavar="G", help="a group of boards this one belongs to; repeatable"
    )
    parser.add_argument("--no-check", action="store_true", help="write the configuration without trying the connection")
    parser.set_defaults(handler=_board)
    actions = parser.add_subparsers(metavar="ACTION", title="for the operator")

    def action(of: Any, name: str, summary: str, handler: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = of.add_parser(name, parents=[common], help=summary, description=summary + ".")
        added.set_defaults(handler=handler)
        return added

    top = actions.add_parser("ca", help="a small authority, for those who have none")
    authority = top.add_subparsers(metavar="ACTION", required=True)
    made = action(authority, "init", "Make an authority in a new folder, for ten years", _ca_init)
    made.add_argument("directory", type=Path, metavar="DIR")
    made.add_argument("--authority-name", default="boardfit fleet", metavar="N", help="as certificates show it")
    made.add_argument("--days", type=float, default=3650.0, metavar="N")
    served = action(authority, "broker", "Make the broker's own key and certificate", _ca_broker)
    served.add_argument("directory", type=Path, metavar="DIR")
    served.add_argument("hosts", nargs="+", metavar="HOST", help="every name and address that boards reach it by")
    served.add_argument("--days", type=float, default=730.0, metavar="N", help="for how long (default: 730)")
    listed = action(authority, "list", "Show what was signed last for each name", _ca_list)
    listed.add_argument("directory", type=Path, metavar="DIR")
    signed = action(actions, "sign", "Sign a request", _sign)
    signed.add_argument("request", type=Path, metavar="REQUEST.csr")
    signed.add_argument(
        "--ca", type=Path, required=True, metavar="DIR", dest="authority", help="the authority's folder"
    )
    signed.add_argument("--days", type=float, default=730.0, metavar="N", help="for how long (default: 730)")
    signed.add_argument(
        "--trusted", action="store_true", help="sign operator/... or collector/..., who read every fleet"
    )
    signed.add_argument("--replace", action="store_true", help="the name had another key, which is gone")
    access = action(actions, "acl", "Print mosquitto's access file", _acl)
    access.add_argument("names", nargs="*", metavar="NAME", help="<fleet>/<device>, operator/<name>, collector/<name>")
    access.add_argument("--ca", type=Path, metavar="DIR", dest="authority", help="and all that this authority signed")
    access.add_argument(
        "--home-assistant", metavar="PREFIX", nargs="?", const="homeassistant",
        help="also what is needed to tell Home Assistant of boards, and a user home-assistant; its discovery prefix"
    )  # fmt: skip


def _board(call: Invocation) -> int:
    _need_cryptography()
    if call.arguments.certificate is None:
        return _request(call)
    return _install(call)


def _request(call: Invocation) -> int:
    from agent.enrolment.identity import request_certificate

    arguments = call.arguments
    if arguments.name is not None:
        member = parse_name(arguments.name, where="--name")
        if arguments.dir is None:
            raise ConfigError("--name needs --dir", fix="name a folder for this key")
    else:
        member = _member(call)
    made = request_certificate(_folder(call), member, new_key=arguments.new_key)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.enroll-request/1", **msgspec.to_builtins(made, enc_hook=str)})
        return 0
    say = call.console.line
    say(f"{'A new key' if made.new_key else 'The key'} {made.key_id} lies in {made.key}. It never leaves this machine.")
    say(f"The request for {made.name} is {made.request}. Have it signed:")
    say(f"  boardfit enroll sign {made.request.name} --ca DIR{' --trusted' if member.role != 'board' else ''}")
    if member.role == "board":
        say("and bring back the certificate and the authority's ca.pem:")
        say("  boardfit enroll --certificate FILE --ca ca.pem --broker mqtts://HOST")
    return 0


def _install(call: Invocation) -> int:
    from agent.enrolment.identity import install_certificate
    from agent.enrolment.proof import prove_connection

    config, arguments = call.config(), call.arguments
    part, before = _own_part(call, config)
    url = arguments.broker or (config.mqtt.url if config.mqtt else None)
    ca = arguments.ca or (config.mqtt.ca if config.mqtt else None)
    if url is None or ca is None:
        raise ConfigError("--broker and --ca are missing", fix="give mqtts://HOST and the authority's ca.pem")
    if not url.startswith("mqtts://"):
        raise ConfigError(f"{url} is not mqtts://: a certificate is shown over TLS only", fix="write mqtts://HOST")
    installed = install_certificate(_folder(call), arguments.certificate, ca, now=SystemClock().utc())
    document = _document(before, config, installed, url, arguments.group)
    written = msgspec.structs.replace(_parsed(document, config), path=config.path)
    assert written.mqtt is not None
    member = parse_name(installed.name)
    findings: list[Finding] = []
    if not arguments.no_check:
        try:
            findings = prove_connection(broker_of(written.mqtt), member.address, written.mqtt.groups)
        except ReportError as error:
            said = f"{installed.doubt}. " if installed.doubt else ""
            raise ReportError(
                f"{said}The certificate is in place, the connection is not: {error.problem}",
                fix=f"{error.fix or 'look into the broker'}; then the same again, or --no-check to set it up as it is",
            ) from error
    _write_part(part, document)
    _tell(call, installed, part, findings)
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def _member(call: Invocation) -> Member:
    """Return whom a request is for: the options, else what is configured, else the board's own id."""
    config = call.config()
    fleet = call.arguments.fleet or (config.mqtt.fleet if config.mqtt else None)
    device = call.arguments.device or config.device_id
    if fleet is None:
        raise ConfigError("which fleet this board belongs to is not known", fix="give --fleet")
    if config.device_id is not None and device != config.device_id:
        raise ConfigError(
            f"device.id is {config.device_id!r} in the configuration", fix="leave --device out, or change it"
        )
    if device is None:
        from agent.device.board import this_board

        device = this_board().device_id or ""
    return board_name(fleet, device)


def _folder(call: Invocation) -> Path:
    chosen: Path | None = call.arguments.dir
    return (chosen or (call.arguments.config or DEFAULT_PATH).parent / "mqtt").absolute()


def _own_part(call: Invocation, config: Config) -> tuple[Path, dict[str, Any]]:
    """Return conf.d/mqtt.yaml and what it says now. Raises: ConfigError: agent.yaml itself names a broker."""
    part = (call.arguments.config or DEFAULT_PATH).parent.absolute() / FOLDER / _PART
    before = read_files(part, wanted=False)
    before = before if isinstance(before, dict) else {}
    if config.mqtt is not None and "mqtt" not in before:
        raise ConfigError(
            "the configuration has a section `mqtt:` already", fix=f"take it out: enroll writes {part} in its place"
        )
    return part, before


def _document(
    before: dict[str, Any], config: Config, installed: Installed, url: str, groups: list[str] | None
) -> dict[str, Any]:
    at = parse_name(installed.name).address
    mqtt = {**before.get("mqtt", {}), "url": url, "fleet": at.fleet, "ca": str(installed.ca)}
    mqtt |= {"cert": str(installed.certificate), "key": str(installed.key)}
    if groups:
        mqtt["group"] = groups
    document = {**before, "mqtt": mqtt}
    if config.device_id is None:
        document["device"] = {"id": at.device}
    elif config.device_id != at.device:
        raise ConfigError(
            f"the certificate is for {installed.name}, and device.id is {config.device_id!r} in the configuration",
            fix="have a request for that name signed, or correct device.id",
        )
    return document


def _parsed(document: dict[str, Any], config: Config) -> Config:
    from agent.config import parse_config

    return parse_config(document, path=config.path)


def _write_part(part: Path, document: dict[str, Any]) -> None:
    import yaml

    try:
        part.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, part) from error
    head = (
        "# Written by `boardfit enroll`, which keeps what is added here. Relative paths start at agent.yaml's folder.\n"
    )
    write_file(part, (head + yaml.safe_dump(document, sort_keys=False)).encode())


def _tell(call: Invocation, installed: Installed, part: Path, findings: list[Finding]) -> None:
    console = call.console
    if console.as_json:
        document = {"schema": "boardfit.enroll/1", "written": str(part), "findings": msgspec.to_builtins(findings)}
        console.document({**document, **msgspec.to_builtins(installed, enc_hook=str)})
        return
    if installed.doubt:
        console.line(f"{installed.doubt[0].upper()}{installed.doubt[1:]}.", "yellow")
    for finding in findings:
        fix = f". {finding.fix[0].upper()}{finding.fix[1:]}" if finding.fix else ""
        console.line(f"{finding.state:5}{finding.subject}: {finding.text}{fix}")
    console.line(f"This board is {installed.name} until {installed.not_after:%Y-%m-%d}; {part} says so to boardfit.")
    console.line("A daemon that runs takes it with: systemctl reload boardfit")


def _ca_init(call: Invocation) -> int:
    _need_cryptography()
    from agent.enrolment.authority import Authority

    arguments = call.arguments
    made = Authority.make(
        arguments.directory, name=arguments.authority_name, now=SystemClock().utc(), days=arguments.days
    )
    text = (
        f"{made.folder}/ca.key signs until {made.not_after:%Y-%m-%d}: keep it off the broker and boards, a copy safe."
    )
    return _say(
        call, {"folder": str(made.folder), "not_after": made.not_after}, text, f"{made.folder}/ca.pem is for all."
    )


def _ca_broker(call: Invocation) -> int:
    _need_cryptography()
    from agent.enrolment.authority import Authority

    arguments = call.arguments
    made = Authority(arguments.directory).sign_broker(arguments.hosts, now=SystemClock().utc(), days=arguments.days)
    certificate, key = made
    text = f"Take {certificate} and {key} to the broker, beside {arguments.directory}/ca.pem, and delete the key here."
    return _say(call, {"certificate": str(certificate), "key": str(key)}, text)


def _ca_list(call: Invocation) -> int:
    _need_cryptography()
    from agent.enrolment.authority import Authority

    issued = Authority(call.arguments.directory).issued()
    if call.console.as_json:
        rows = [msgspec.to_builtins(one, enc_hook=str) for one in issued]
        call.console.document({"schema": "boardfit.enroll-issued/1", "issued": rows})
    elif issued:
        rows = [(one.name, one.key_id, f"{one.not_after:%Y-%m-%d}") for one in issued]
        call.console.table(("name", "key", "until"), rows)
    else:
        call.console.line("Nothing was signed yet.")
    return 0


def _sign(call: Invocation) -> int:
    _need_cryptography()
    from agent.enrolment.authority import Authority

    arguments = call.arguments
    signed = Authority(arguments.authority).sign(
        arguments.request,
        now=SystemClock().utc(),
        days=arguments.days,
        trusted=arguments.trusted,
        replace=arguments.replace,
    )
    text = f"{signed.name} with the key {signed.key_id} is certified until {signed.not_after:%Y-%m-%d}."
    back = f"Bring back {signed.certificate} and {arguments.authority}/ca.pem; then renew the broker's access file:"
    again = f"  boardfit enroll acl --ca {arguments.authority}"
    return _say(call, msgspec.to_builtins(signed, enc_hook=str), text, back, again)


def _acl(call: Invocation) -> int:
    members = [parse_name(name) for name in call.arguments.names]
    if call.arguments.authority is not None:
        _need_cryptography()
        from agent.enrolment.authority import Authority

        members += Authority(call.arguments.authority).members()
    prefix = call.arguments.home_assistant
    if prefix is not None:
        from agent.collector.home_assistant import check_prefix

        check_prefix(prefix)
    text = mosquitto_acl(members, prefix)
    return _say(call, {"acl": text}, text.rstrip("\n"))


def _say(call: Invocation, document: dict[str, Any], *lines: str) -> int:
    if call.console.as_json:
        call.console.document({"schema": "boardfit.enroll/1", **msgspec.to_builtins(document, enc_hook=str)})
    else:
        for line in lines:
            call.console.line(line)
    return 0


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "enrolling needs the package cryptography", fix="install it with: pip install 'boardfit[enroll]'"
        ) from error
