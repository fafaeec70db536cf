"""Commands given to forks of one warm process, each with a disk that refuses something, or none that does.

``python -m tests.faults.storage.at_work`` is that process; ``Works`` is it as seen from a test. One line of JSON in,
``{"words": [...], "below": FOLDER, "number": ERRNO or null, "when": N, "spell": ...}``, one line out; with ``cuts`` the
command is watched for what a power cut would leave (``promised``). A fork costs a fiftieth of an interpreter that loads
everything anew.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.storage.promised import Promises
from tests.faults.storage.refusing import Refusals, Spell, be_supervised, receive, send, supervise

ROOT = Path(__file__).resolve().parents[3]
LONGEST_S = 60


@dataclass(frozen=True)
class End:
    """How a command ended. ``calls`` that would change the folder; ``first``: the one that was refused first.

    Of a command that was watched: ``commits``, after how many calls each was done; ``unkept``, what it has made and a
    power cut may take.
    """

    code: int
    out: str
    err: str
    calls: int = 0
    refused: int = 0
    first: str | None = None
    commits: tuple[int, ...] = ()
    unkept: tuple[str, ...] = ()


class Works:
    """The warm process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.storage.at_work"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(
        self, words: Sequence[str], below: Path, number: int | None = None, when: int = 0, spell: Spell = "one"
    ) -> End:
        """Carry out a command. Raises: RuntimeError: it cannot be supervised here."""
        return self._ask({"words": list(words), "below": str(below), "number": number, "when": when, "spell": spell})

    def unwatched(self, words: Sequence[str]) -> End:
        """Carry out a command with nobody looking at its calls."""
        return self._ask({"words": list(words), "below": None})

    def cut(self, words: Sequence[str], below: Path, at: Collection[int] = (), *, into: Path, seed: str = "") -> End:
        """Carry out a command and put together what power cuts would leave: before the calls ``at``, and at its end.

        Args: as of ``promised.Promises``; the notes are ``into``'s, with ``.notes`` at its end.
        Raises: RuntimeError: it cannot be supervised here.
        """
        cuts = {"into": str(into), "notes": f"{into}.notes", "at": sorted(at), "seed": seed}
        return self._ask({"words": list(words), "below": str(below), "cuts": cuts})

    def _ask(self, asked: dict[str, Any]) -> End:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "cannot" in answer:
            raise RuntimeError(answer["cannot"])
        return End(**answer)

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    from tests.faults.storage.ground import stand_in

    main = stand_in()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        watcher = _watcher(asked)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            ours, theirs = socket.socketpair()
            child = os.fork()
            if child == 0:
                ours.close()
                _carry_out(main, asked, theirs, out.fileno(), err.fileno())
            theirs.close()
            try:
                if asked["below"] is not None:
                    supervise(receive(ours), watcher)
            except OSError as error:
                os.kill(child, signal.SIGKILL)
                answer: dict[str, object] = {"cannot": str(error)}
                os.waitpid(child, 0)
            else:
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                out.seek(0)
                err.seek(0)
                answer = {"code": code, "out": out.read().decode(), "err": err.read().decode()}
                answer |= {"calls": watcher.calls, "refused": watcher.refused, "first": watcher.first}
                if isinstance(watcher, Promises):
                    answer |= {"commits": watcher.commits, "unkept": watcher.end()}
            ours.close()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _watcher(asked: dict[str, Any]) -> Refusals | Promises:
    if asked["below"] is None:
        return Refusals(Path("/"), None, 0, "one")
    below = Path(asked["below"])
    if "cuts" not in asked:
        return Refusals(below, asked["number"], asked["when"], asked["spell"])
    cuts = asked["cuts"]
    return Promises(below, Path(cuts["notes"]), cuts["at"], Path(cuts["into"]), random.Random(cuts["seed"]))


def _carry_out(main: object, asked: dict[str, Any], channel: socket.socket, out: int, err: int) -> None:
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        signal.alarm(LONGEST_S)
        if asked["below"] is not None:
            send(channel, be_supervised())
        channel.close()
        if "cuts" in asked:
            from tests.faults.storage.acknowledging import acknowledge

            acknowledge(Path(asked["cuts"]["notes"]), lambda: 0)
        code = main(asked["words"])  # type: ignore[operator]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:  # noqa: BLE001 - it must not come back to the loop
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


if __name__ == "__main__":
    serve()
