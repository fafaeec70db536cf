"""Asks the daemon for its windows, from another process: what ``boardfit status`` shows. Nothing is written."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from agent.core.deployment import SOCKET_NAME
from agent.core.live import LiveAnswer, LiveQuestion

PATIENCE_S = 1.0  # chosen: a daemon that is at work answers between two of its steps
_MOST_BYTES = 128 * 1024


def ask_live(state_dir: Path, patience_s: float = PATIENCE_S) -> LiveAnswer | str:
    """Return the daemon's answer; a text says why there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
            end.bind("")  # the kernel gives it an abstract name to be answered at; unix(7), autobind
            end.settimeout(patience_s)
            folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                end.sendto(msgspec.json.encode(LiveQuestion()), f"/proc/self/fd/{folder}/{SOCKET_NAME}")
            finally:
                os.close(folder)
            return msgspec.json.decode(end.recv(_MOST_BYTES), type=LiveAnswer)
    except (FileNotFoundError, ConnectionRefusedError):
        return "the agent is not running"
    except TimeoutError:
        return "the agent did not answer"
    except PermissionError:
        return "this user may not ask the agent: its group may"
    except (OSError, msgspec.DecodeError) as error:
        return f"the agent could not be asked: {error}"
