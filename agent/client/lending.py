"""Lends the agent one request now and then, while it tries a candidate beside what serves. Never waited for.

Rules:
- Asked for by a socket in the task's folder (``shadow.sock``); without one this is one ``stat`` at each look, and one
  attribute that is false in each call.
- A request is copied only where the agent has asked for one more; it is sent by a thread of its own. Whatever goes
  wrong ends the lending, never the call: what cannot be copied is told in its place.
- Only to the agent: a socket whose other end is another user than the folder's owner gets nothing. Nothing is written.
- A socket is tried once, so that one that a killed agent left behind costs nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from agent.core.shadow import DTYPE_BYTES, MAX_SAMPLE_BYTES, SOCKET_NAME, Ask, Sample, Tensor

log = logging.getLogger("boardfit.client")

Kind = Literal["tensors", "images"]
_Named = list[tuple[str | None, Any]]
_PATIENCE_S = 5.0
_LOOK_S = 0.25  # how soon a lending that ended is noticed
_MOST_ASK_BYTES = 4096


class Lender:
    """One model's side. ``armed``: the next call is to be handed to ``take``."""

    def __init__(self, folder: Path) -> None:
        self.armed = False
        self._folder = folder
        self._release: str | None = None
        self._tried: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._end: socket.socket | None = None
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._most_bytes = MAX_SAMPLE_BYTES
        self._slot: tuple[Kind, _Named, _Named, str | None] = ("tensors", [], [], None)

    def look(self, release: str) -> None:
        """Begin lending where the agent asks, end it where another release serves now. Args: release: that serves."""
        if self._thread is not None:
            if self._thread.is_alive() and release == self._release:
                return
            self.close()
        try:
            found = os.stat(self._folder / SOCKET_NAME)  # noqa: PTH116 - twice a second, for ever
        except OSError:
            return
        mark = (found.st_ino, found.st_ctime_ns)
        if mark == self._tried:
            return
        self._tried, self._release = mark, release
        self._ended.clear()
        self._thread = threading.Thread(target=self._lend, args=(release,), name="boardfit-shadow", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Lend no longer."""
        self.armed = False
        self._ended.set()
        if self._thread is not None:
            if (end := self._end) is not None:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # it may be sending to somebody who does not read
            self._thread.join()
            self._thread = None

    def take(self, kind: Kind, release: str, given: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        """Copy one request and its answer; never raises."""
        if release != self._release:
            return
        self.armed = False
        try:
            if len(given) == 1 and isinstance(given[0], dict):
                named = given[0]
            inputs: _Named = [(name, np.asarray(one)) for name, one in named.items()]
            inputs = inputs or [(None, np.asarray(one)) for one in given]
            answers = list(result.items()) if isinstance(result, dict) else [(None, result)]
            length = sum(int(one.nbytes) for _, one in (*inputs, *answers))
            if length > self._most_bytes:
                raise ValueError(f"a request of {length} bytes is larger than the {self._most_bytes} that are taken")
            copies = [[(name, np.array(one, order="C")) for name, one in some] for some in (inputs, answers)]
            self._slot = (kind, copies[0], copies[1], None)
        except Exception as error:  # noqa: BLE001 - the call has its answer already, and nothing here may spoil it
            self._slot = (kind, [], [], (str(error) or type(error).__name__)[:240])
        self._ready.set()

    def _lend(self, release: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as end:
                end.settimeout(_PATIENCE_S)
                self._end = end
                self._connect(end)
                ask = msgspec.json.decode(_line(end), type=Ask)
                if ask.release == release:
                    self._most_bytes = min(ask.most_bytes, MAX_SAMPLE_BYTES)
                    self._serve(end)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model serves on
            log.debug("lending ended: %s", error)
        finally:
            self.armed, self._end = False, None

    def _connect(self, end: socket.socket) -> None:
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            end.connect(f"/proc/self/fd/{folder}/{SOCKET_NAME}")  # a path of its own may be too long for the address
            owner = os.fstat(folder).st_uid
        finally:
            os.close(folder)
        peer = struct.unpack("iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if peer not in (owner, 0):
            raise ValueError("somebody else than the agent asks")

    def _serve(self, end: socket.socket) -> None:
        end.settimeout(_LOOK_S)
        while not self._ended.is_set():
            try:
                if not end.recv(1):
                    return
            except TimeoutError:
                continue
            self._ready.clear()
            self.armed = True
            while not self._ready.wait(_LOOK_S):
                if self._ended.is_set() or _gone(end):
                    return
            end.settimeout(_PATIENCE_S)
            for part in _frame(*self._slot):
                end.sendall(part)
            end.settimeout(_LOOK_S)


def _frame(kind: Kind, inputs: _Named, outputs: _Named, problem: str | None) -> list[bytes | memoryview]:
    """Return what is sent for one request: the header's length, the header, the arrays."""
    arrays = [one for _, one in (*inputs, *outputs)]
    strange = next((one.dtype.name for one in arrays if one.dtype.name not in DTYPE_BYTES), None)
    if strange is not None:
        arrays, inputs, outputs, problem = [], [], [], f"arrays of {strange} cannot be lent"
    told = [
        tuple(Tensor(name=name, dtype=one.dtype.name, shape=tuple(one.shape)) for name, one in some)
        for some in (inputs, outputs)
    ]
    header = msgspec.json.encode(Sample(kind=kind, inputs=told[0], outputs=told[1], problem=problem))
    little = [one.astype(one.dtype.newbyteorder("<"), copy=False).reshape(-1) for one in arrays if one.size]
    bodies = [memoryview(one.view(np.uint8)) for one in little]
    return [struct.pack(">I", len(header)) + header, *bodies]


def _line(end: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n"):
        one = end.recv(1)
        if not one or len(found) > _MOST_ASK_BYTES:
            raise ValueError("the agent asked for nothing")
        found += one
    return found


def _gone(end: socket.socket) -> bool:
    with suppress(BlockingIOError):
        return not end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False
