"""``registry init | add | remove | operators | check | refresh | serve``: author a folder of static files."""

from __future__ import annotations

import argparse
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

from agent.clock import SystemClock
from agent.core.units import format_quantity, format_sizes
from agent.documents import YamlProblemError, parse_yaml
from agent.errors import ConfigError, TrustError
from agent.registry.layout import keys_beside
from agent.verbs import operators
from agent.verbs.invocation import Invocation, Verbs

_EXAMPLE = """example:
  boardfit registry init models --keys keys
  boardfit registry add models net.onnx --task digits --name net-int8 --eval test.npz --manifest net.yaml --keys keys
  boardfit registry serve models

net.yaml may hold: family, compression, parent, preprocessing, labels, label_offset, reference, licence, description;
format, operators, inputs and outputs are read from the model file itself."""


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verbs of this module."""
    raw = argparse.RawDescriptionHelpFormatter
    text = "Author a registry: signed metadata (TUF) and content-addressed files in one folder."
    top = verbs.add_parser("registry", help="author a registry", description=text, epilog=_EXAMPLE, formatter_class=raw)
    actions = top.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, summary: str, handler: object, *, signs: bool = True) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(
            name, parents=[common], help=summary, description=summary + "."
        )
        parser.add_argument("directory", type=Path, metavar="DIR", help="the registry's folder")
        if signs:
            parser.add_argument(
                "--keys", type=Path, metavar="KEYDIR", help="folder of private keys (default: DIR.keys)"
            )
        parser.set_defaults(handler=handler)
        return parser

    days = "timestamp and snapshot are valid this long before they must be refreshed (default: 30 and 90 days)"
    parser = action("init", "Make an empty registry and its keys", run_init)
    parser.add_argument("--expires-days", type=float, metavar="N", help=days)
    parser = action("add", "Inspect, check, sign and publish one candidate", run_add)
    parser.add_argument("model", type=Path, metavar="MODEL", help=".onnx or .tflite")
    parser.add_argument("--task", required=True, metavar="T")
    parser.add_argument("--name", required=True, metavar="N", help="the candidate's name, unique within the task")
    parser.add_argument("--eval", type=Path, metavar="PACK.npz", dest="evaluation", help="labelled samples")
    parser.add_argument("--golden", type=Path, metavar="GOLDEN.npz", help="golden data (default: made here)")
    parser.add_argument("--manifest", type=Path, metavar="EXTRA.yaml", help="the rest of the manifest")
    parser.add_argument(
        "--compiled-for",
        metavar="PROVIDER",
        help="the accelerator that alone can run the model, being compiled for it (edgetpu); needs --twin or --golden",
    )
    parser.add_argument(
        "--twin", type=Path, metavar="MODEL", help="the model before it was compiled: its outputs are the golden ones"
    )
    parser.add_argument("--pack", action="store_true", help="publish it packed (xz): boards unpack it once")
    parser.add_argument("--replace", action="store_true", help="replace a candidate of the same name")
    parser = action("remove", "Take one candidate out", run_remove)
    parser.add_argument("--task", required=True, metavar="T")
    parser.add_argument("--name", required=True, metavar="N")
    action("check", "Verify every signature, expiry, file and reference", run_check, signs=False)
    parser = action("refresh", "Sign timestamp and snapshot anew (for cron)", run_refresh)
    parser.add_argument("--expires-days", type=float, metavar="N", help=days)
    operators.register(actions, common, _keys)
    parser = action("serve", "Serve the folder over HTTP, for trying things", run_serve, signs=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)


def _keys(call: Invocation) -> Path:
    chosen: Path | None = call.arguments.keys
    directory: Path = call.arguments.directory
    return chosen or keys_beside(directory)


def _validity(call: Invocation, *, longer: bool) -> dict[str, timedelta] | None:
    """Return the asked-for validity of the online roles; ``longer`` lets the others hold at least as long."""
    if call.arguments.expires_days is None:
        return None
    from agent.registry.signing import DEFAULT_VALIDITY

    period = timedelta(days=call.arguments.expires_days)
    validity = {"timestamp": period, "snapshot": period}
    if longer:
        validity |= {role: max(period, usual) for role, usual in DEFAULT_VALIDITY.items() if role not in validity}
    return validity


def run_init(call: Invocation) -> int:
    """Make a registry."""
    from agent.registry import author

    made = author.init(
        call.arguments.directory, _keys(call), now=SystemClock().utc(), validity=_validity(call, longer=True)
    )
    return _said(
        call, made, f"Made {call.arguments.directory}. Install {call.arguments.directory}/root.json on every board."
    )


def run_add(call: Invocation) -> int:
    """Publish a candidate."""
    from agent.registry import author

    arguments = call.arguments
    added = author.add(
        arguments.directory,
        arguments.model,
        task=arguments.task,
        name=arguments.name,
        keys_dir=_keys(call),
        evaluation=arguments.evaluation,
        extra=_extra(arguments.manifest),
        golden=arguments.golden,
        pack=arguments.pack,
        replace=arguments.replace,
        compiled_for=arguments.compiled_for,
        twin=arguments.twin,
        now=SystemClock().utc(),
    )
    text = f"Published {arguments.name} for {arguments.task}"
    if added.target.length < added.model_bytes:
        text += f", packed: {format_sizes(added.target.length, added.model_bytes)}"
    elif arguments.pack:
        text += "; packing would not make it smaller, so it is not packed"
    if "not_run" in added.manifest:
        text += f"; {added.manifest['not_run']}"
    return _said(call, added, f"{text}.")


def run_remove(call: Invocation) -> int:
    """Take a candidate out."""
    from agent.registry import author

    arguments = call.arguments
    now = SystemClock().utc()
    removed = author.remove(
        arguments.directory, task=arguments.task, name=arguments.name, keys_dir=_keys(call), now=now
    )
    return _said(call, removed, f"Removed {arguments.name} from {arguments.task}.")


def run_check(call: Invocation) -> int:
    """Verify the whole registry; code 4 when anything does not hold."""
    from agent.registry.checking import check

    report = check(call.arguments.directory, now=SystemClock().utc())
    if call.console.as_json:
        call.console.document(report)
        return 0 if report.sound else 4
    for finding in report.findings:
        call.console.line(
            f"{finding.level}: {finding.where}: {finding.problem}" + (f" → {finding.fix}" if finding.fix else "")
        )
    if not report.sound:
        raise TrustError("boards would refuse this registry", fix="mend what is marked error above")
    size = format_quantity(report.target_bytes, "bytes")
    call.console.line(f"Sound: {report.candidates} candidates, {report.targets} signed files, {size}.")
    return 0


def run_refresh(call: Invocation) -> int:
    """Sign the online roles anew."""
    from agent.registry import author

    done = author.refresh(
        call.arguments.directory,
        keys_dir=_keys(call),
        now=SystemClock().utc(),
        validity=_validity(call, longer=False),
    )
    return _said(call, done, "Signed timestamp and snapshot anew.")


def run_serve(call: Invocation) -> int:
    """Serve until interrupted."""
    from agent.registry.serve import serve

    arguments = call.arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # the server ends by KeyboardInterrupt
    call.console.line(f"Serving {arguments.directory} at http://{arguments.host}:{arguments.port}/ (Ctrl-C ends it)")
    serve(arguments.directory, arguments.host, arguments.port)
    return 0


def _extra(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        (document,) = parse_yaml([path.read_text(encoding="utf-8")])
    except (OSError, UnicodeDecodeError, YamlProblemError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}", fix="check the file") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must be a mapping of manifest fields", fix="see `boardfit registry add --help`")
    return document


def _said(call: Invocation, document: object, text: str) -> int:
    if call.console.as_json:
        call.console.document(document)
    else:
        call.console.line(text)
    return 0
