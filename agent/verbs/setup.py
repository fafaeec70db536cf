"""``setup``: from a bare board to one that serves: the questions in their order, each answer tried before the next."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent.config import DEFAULT_PATH
from agent.config_files import read_files
from agent.errors import BoardfitError, ConfigError, Interrupted
from agent.verbs.invocation import Invocation, Verbs

if TYPE_CHECKING:
    from agent.enrolment.proof import Finding
    from agent.setup.writing import Written
    from agent.verbs.setup_questions import Wanted

_DESCRIPTION = """Asks what this board needs to know, tries each answer by doing it (a sync, a message to the broker and
back, the sensors), shows and writes the configuration, puts the service to work and runs the first pass. Run again, it
offers what is configured. Without a terminal the answers come from --answers or from BOARDFIT_SETUP_<NAME>; README's
"First boot" has the names."""
_STYLE = {"ok": "green", "warn": "yellow", "fail": "red"}
T = TypeVar("T")


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verb."""
    parser = verbs.add_parser("setup", parents=[common], help="set this board up", description=_DESCRIPTION)
    parser.add_argument("--answers", type=Path, metavar="FILE", help="answers in YAML, for cloud-init and images")
    parser.add_argument("--force", action="store_true", help="without a terminal: replace what is configured already")
    parser.add_argument("--no-service", action="store_true", help="leave the service alone, and say what it would take")
    parser.add_argument("--no-pass", action="store_true", help="do not run the first pass")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="try the answers, or what is configured; write nothing")
    only.add_argument(
        "--golden", action="store_true", help="take this board's identity away, so that its card can be copied"
    )
    only.add_argument(
        "--take-over", action="store_true", help="this board replaces the one its card comes from, name and all"
    )
    parser.set_defaults(handler=run_setup)


def run_setup(call: Invocation) -> int:
    """Set the board up, or do the one thing that was asked for."""
    if call.arguments.golden:
        return _golden(call)
    if call.arguments.take_over:
        return _take_over(call)
    from agent.setup.answers import Questions, read_answers

    given = read_answers(call.arguments.answers, os.environ)
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not call.console.as_json and not call.arguments.check
    questions = Questions(given, terminal=terminal, say=call.console.line)
    with _stopped_by_ctrl_c():
        wanted = _ask(call, questions)
        if call.arguments.check:
            return _told(call, wanted.findings, [], None)
        files = _files(call, wanted)
        _consent(call, questions, files)
    return _carry_out(call, wanted, files)


def config_file(call: Invocation) -> Path:
    """Return where agent.yaml is, or will be."""
    path: Path = call.arguments.config or DEFAULT_PATH
    return path.absolute()


def _ask(call: Invocation, questions: Any) -> Wanted:
    from agent.verbs.setup_questions import ask_all

    found = read_files(config_file(call), wanted=False)
    present = found if isinstance(found, dict) else {}

    def until_right(step: Callable[[], T], *keys: str) -> T:
        while True:
            try:
                return step()
            except Interrupted:
                raise
            except BoardfitError as error:
                if not questions.terminal:
                    raise
                call.console.line(f"{error}", "red")
                questions.take_back(*keys)

    def show(finding: Finding) -> None:
        if not call.console.as_json:
            fix = f". {finding.fix[0].upper()}{finding.fix[1:]}" if finding.fix else ""
            call.console.line(f"{finding.state:5}{finding.subject}: {finding.text}{fix}", _STYLE[finding.state])

    return ask_all(questions, present, config_file(call), until_right, show)


def _files(call: Invocation, wanted: Wanted) -> list[Written]:
    from agent.setup.writing import Written, work_out

    files = work_out(config_file(call), wanted.sections, wanted.root)
    if wanted.password is not None and wanted.password_file is not None:
        path = wanted.password_file
        before = path.read_bytes() if path.exists() else None
        if before != wanted.password.encode():
            files.insert(0, Written(path=path, before=before, after=wanted.password.encode(), mode=0o600))
    return files


def _consent(call: Invocation, questions: Any, files: list[Written]) -> None:
    """Show what would change; on a terminal ask. Raises: ConfigError: there is none, and no --force."""
    changed = [one for one in files if one.replaces]
    say = call.console.line if not call.console.as_json else lambda text: print(text, file=sys.stderr)  # noqa: T201
    for one in [one for one in files if one.before is not None]:
        say(one.difference() if one.mode == 0o644 else f"{one.path} gets another content.")
    if questions.terminal:
        for one in files:
            if one.before is None:
                say(f"{one.path} is new.")
        if files and not questions.agree("Write this?"):
            raise Interrupted("nothing was written", fix="run `boardfit setup` again")
    elif changed and not call.arguments.force:
        raise ConfigError(
            f"{', '.join(str(one.path) for one in changed)} would change, as shown", fix="give --force to replace it"
        )


def _carry_out(call: Invocation, wanted: Wanted, files: list[Written]) -> int:
    from agent.setup import service
    from agent.setup.writing import write_all

    write_all(files)
    if any(one.mode == 0o600 for one in files):
        _give_away([one.path for one in files if one.mode == 0o600])
    serves = not call.arguments.no_service and service.is_installed()
    code = None if call.arguments.no_pass else _first_pass(call, as_service=serves)
    say = call.console.line if not call.console.as_json else lambda _text: None
    for one in files:
        say(f"{one.path} is written.")
    if not files:
        say("The configuration is as it was.")
    for line in wanted.left:
        say(line)
    if serves:
        service.start()
        say(f"{service.UNIT} is enabled and runs.")
    else:
        commands = [" ".join(words) for words in service.to_start()]
        run = f"boardfit run --config {config_file(call)}"
        say(f"The service was left alone. It would take: {'; '.join(commands)}; or, without systemd: {run}")
    _told(call, wanted.findings, files, code)
    return code or 0


def _first_pass(call: Invocation, *, as_service: bool) -> int:
    """Run the first pass in a process of its own, as whom the service runs as. Returns: its exit code."""
    from agent.setup import service

    words = [sys.executable, "-m", "agent", "once", "--config", str(config_file(call))]
    words += ["--state-dir", str(call.state_dir)]
    user = service.its_user() if as_service else None
    whose: dict[str, Any] = {}
    if user is not None:
        call.state_dir.mkdir(parents=True, exist_ok=True)
        os.chown(call.state_dir, user.pw_uid, user.pw_gid)
        whose = {
            "cwd": "/",
            "user": user.pw_uid,
            "group": user.pw_gid,
            "extra_groups": os.getgrouplist(user.pw_name, user.pw_gid),
        }
    out = sys.stderr if call.console.as_json else None
    if not call.console.as_json:
        call.console.heading("The first pass")
        sys.stdout.flush()
    child = subprocess.Popen(words, stdout=out, **whose)
    try:
        return child.wait()
    except KeyboardInterrupt:
        return child.wait()  # the terminal has told it, too


def _told(call: Invocation, findings: list[Finding], files: list[Written], code: int | None) -> int:
    failed = any(one.state == "fail" for one in findings)
    if call.console.as_json:
        written = [str(one.path) for one in files]
        call.console.document(
            {"schema": "boardfit.setup/1", "findings": findings, "written": written, "first_pass_exit_code": code}
        )
    return 1 if failed else 0


def _golden(call: Invocation) -> int:
    from agent.setup.image import prepare_image

    done = prepare_image(config_file(call), call.state_dir)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.setup-golden/1", "done": done})
        return 0
    for line in done:
        call.console.line(f"{line}.")
    call.console.line("This card may be copied: each board takes a name of its own when it first starts.")
    call.console.line("Empty the system's own id too, as for any image: truncate -s 0 /etc/machine-id")
    return 0


def _take_over(call: Invocation) -> int:
    from agent.ownership import Holder, read_holder, write_holder

    config = call.config()
    with call.site(config) as site:
        before = read_holder(site.database)
        name = config.device_id or (before.name if before is not None else site.device_id)
        key = None if config.mqtt is None or config.mqtt.key is None else str(config.mqtt.key)
        hardware = site.board.hardware()
        write_holder(site.database, Holder(hardware=hardware, name=name, given=config.device_id is not None, key=key))
    if call.console.as_json:
        call.console.document({"schema": "boardfit.setup-take-over/1", "name": name})
    else:
        call.console.line(f"This board is {name} now. The one its card comes from must not be started again.")
        call.console.line("A daemon that runs takes it with: systemctl reload boardfit")
    return 0


def _give_away(paths: list[Path]) -> None:
    from agent.setup import service

    user = service.its_user()
    for path in paths if user is not None else []:
        os.chown(path, user.pw_uid, user.pw_gid)  # type: ignore[union-attr]


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end a question at once, since nothing has been written yet."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as error:
        fix = "run `boardfit setup` again"
        raise Interrupted("stopped by Ctrl-C; nothing was configured", fix=fix) from error
    finally:
        signal.signal(signal.SIGINT, before)
