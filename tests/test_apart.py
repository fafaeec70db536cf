"""Work done by a copy of the process: its answer comes back, its weight, its faults and its signals do not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", f"from agent.apart import done_apart\n{code}"], check=True, cwd=ROOT)


def test_the_answer_comes_back_and_what_was_loaded_does_not() -> None:
    run(
        "import os, sys\n"
        "def work():\n"
        "    import decimal, shelve\n"
        "    return str(os.getpid()).encode() + b'x' * 200_000\n"
        "answer = done_apart(work)\n"
        "assert answer.endswith(b'x' * 200_000) and not answer.startswith(str(os.getpid()).encode() + b'x')\n"
        "assert 'shelve' not in sys.modules"
    )


def test_a_copy_that_fails_or_dies_gives_no_answer() -> None:
    run(
        "import os, signal\n"
        "assert done_apart(lambda: 1 / 0) is None\n"
        "assert done_apart(lambda: os.kill(os.getpid(), signal.SIGKILL)) is None\n"
        "assert done_apart(lambda: os._exit(0)) == b''"
    )


def test_a_signal_to_the_copy_is_not_taken_for_one_of_ours() -> None:
    run(
        "import os, signal, socket\n"
        "ours, theirs = socket.socketpair(); ours.setblocking(False); theirs.setblocking(False)\n"
        "signal.signal(signal.SIGTERM, lambda *_: None); signal.set_wakeup_fd(theirs.fileno())\n"
        "assert done_apart(lambda: os.kill(os.getpid(), signal.SIGTERM) or b'done') == b'done'\n"
        "try: raise SystemExit(f'heard {ours.recv(1)}')\n"
        "except BlockingIOError: pass"
    )


def test_other_threads_forbid_a_copy() -> None:
    from agent.apart import done_apart

    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert done_apart(lambda: str(os.getpid()).encode()) is None
    finally:
        stop.set()
        thread.join()
