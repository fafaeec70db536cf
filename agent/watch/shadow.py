"""One shadow run: a socket that applications find, requests one by one to the candidate, and the rule's verdict.

Rules:
- The socket in the task's folder is the request; it is gone when the run is over. For the agent's user and group alone
  (mode 0660): what comes over it can keep a candidate from being switched in, or let it be, so whoever is in the group
  is trusted with that, as with the watch.
- A sample comes only for a byte that was sent for it, so that the agent's time sets the pace: after each the run rests
  so long that the worker uses at most ``share`` of one core, and ``LEAST_GAP_S`` at least. At most ``MOST_PEERS``
  applications lend at a time.
- A sample is held in memory, one of each peer, until it is answered; nothing of it is written or sent on.
- Asked to stop, or to give way, it ends at once: nothing is switched yet.

Leaves the rule to ``agent.core.trial``, when a run is asked for and what a refusal does to ``agent.rehearsal``.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from agent.core.deployment import Deployment
from agent.core.ports import ProgressEvent
from agent.core.shadow import CREDIT, MAX_HEADER_BYTES, SOCKET_NAME, Ask, ShadowPlan, Verdict, read_sample
from agent.core.trial import Trial
from agent.site import Site
from agent.watch.understudies import Stopped, Understudy, UnderstudyEnded

MOST_PEERS = 4  # each may hold one sample here
LEAST_GAP_S = 0.05  # chosen: twenty copies a second are no load, and frames further apart have more to tell
_SLICE_S = 0.2
_SHORTEST_S = 1e-3  # of a request, for the pace
_MODE = 0o660


class _Peer:
    """One application. ``asked``: a credit is out."""

    def __init__(self, end: socket.socket) -> None:
        self.end, self.asked, self.buffer = end, False, bytearray()
        self._needed: int | None = None
        self.problem: str | None = None

    def read(self) -> bytes | None:
        """Return a whole frame; None: not yet. Raises: OSError, ValueError: it is gone, or sends what is no sample."""
        try:
            part = self.end.recv(1 << 20)
        except BlockingIOError:
            return None
        if not part or not self.asked:
            raise ValueError("it ended, or sent what nobody asked for")
        self.buffer += part
        if self._needed is None and len(self.buffer) >= 4:
            (length,) = struct.unpack(">I", self.buffer[:4])
            if length > MAX_HEADER_BYTES:
                raise ValueError("a header that is too long")
            if len(self.buffer) < 4 + length:
                return None
            sample = read_sample(bytes(self.buffer[4 : 4 + length]))
            if isinstance(sample, str):
                raise ValueError(sample)
            self.problem = sample.problem
            self._needed = 4 + length + (0 if sample.problem is not None else sample.length)
        if self._needed is None or len(self.buffer) < self._needed:
            return None
        if len(self.buffer) > self._needed:
            raise ValueError("more than one sample")
        frame = bytes(self.buffer)
        self.buffer, self._needed, self.asked = bytearray(), None, False
        return frame


class Desk:
    """Where applications lend: the socket and whoever has connected. A context manager."""

    def __init__(self, folder: Path, ask: Ask) -> None:
        """Open it. Raises: OSError."""
        self.problem: str | None = None  # why the last request could not be lent
        self._folder, self._ask = folder, msgspec.json.encode(ask) + b"\n"
        self._peers: list[_Peer] = []
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                os.unlink(SOCKET_NAME, dir_fd=place)
            self._end.bind(f"/proc/self/fd/{place}/{SOCKET_NAME}")
            os.chmod(SOCKET_NAME, _MODE, dir_fd=place)
            self._end.listen(MOST_PEERS)
        except OSError:
            self._end.close()
            raise
        finally:
            os.close(place)

    def __enter__(self) -> Desk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self._peers:
            peer.end.close()
        self._end.close()
        with suppress(OSError):
            (self._folder / SOCKET_NAME).unlink()

    def ask_all(self) -> None:
        """Let every application that lends send one more."""
        for peer in [one for one in self._peers if not one.asked]:
            try:
                peer.end.send(CREDIT)
                peer.asked = True
            except OSError:
                self._drop(peer)

    def frames(self, patience_s: float) -> list[bytes]:
        """Return what has come, within ``patience_s``; newcomers are let in."""
        waiting = [self._end, *(peer.end for peer in self._peers)]
        readable, _, _ = select.select(waiting, [], [], patience_s)
        found = []
        if self._end in readable:
            self._accept()
        for peer in [one for one in self._peers if one.end in readable]:
            try:
                frame = peer.read()
            except (OSError, ValueError):
                self._drop(peer)
                continue
            if frame is not None and peer.problem is None:
                found.append(frame)
            elif frame is not None:
                self.problem = peer.problem
        return found

    def _accept(self) -> None:
        with suppress(OSError):
            end, _ = self._end.accept()
            if len(self._peers) >= MOST_PEERS:
                end.close()
                return
            end.setblocking(False)
            end.send(self._ask)
            self._peers.append(_Peer(end))

    def _drop(self, peer: _Peer) -> None:
        peer.end.close()
        self._peers.remove(peer)


class Ran:
    """How a run ended. ``problem``: why it came to no end of its own; ``blame``: the candidate's."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.verdict: Verdict = "not_enough"
        self.problem: str | None = None
        self.duration_s = 0.0


def run_beside(site: Site, wanted: Deployment, model: Path, serving: Deployment, plan: ShadowPlan) -> Ran:
    """Try a candidate on the application's requests until the rule is certain or the time is over.

    Args: wanted: the candidate as an application would open it; model: its verified file; serving: the incumbent.
    Raises: Stopped: a stop was asked for. OSError: there can be no socket.
    """
    budgets = site.config.task(wanted.task).budgets
    limit = next((budget.limit for budget in budgets if budget.metric == "latency_p95"), None)
    ran = Ran(Trial(plan, limit))
    begin_s = site.clock.monotonic_s()
    classifies = all(one.labels or one.expected.get("accuracy_top1") is not None for one in (wanted, serving))
    also: dict[str, object] = {
        "classifies": classifies, "tolerance": plan.tolerance, "incumbent_label_offset": serving.label_offset,
    }  # fmt: skip
    folder = site.state_dir / "deploy" / wanted.task
    growth = site.measure_settings.memory_growth_bytes
    try:
        with (
            Understudy(wanted, model, also, clock=site.clock, stop=site.stop, growth_bytes=growth) as understudy,
            Desk(folder, Ask(task=wanted.task, release=serving.release)) as desk,
        ):
            ran.verdict = _run(site, understudy, desk, ran.trial, begin_s + plan.time_s)
            ran.problem = desk.problem
    except UnderstudyEnded as error:
        ran.verdict = "refused" if error.blame else ran.trial.verdict() or "not_enough"
        ran.problem = error.reason
    ran.duration_s = site.clock.monotonic_s() - begin_s
    return ran


def _run(site: Site, understudy: Understudy, desk: Desk, trial: Trial, end_s: float) -> Verdict:
    clock: Callable[[], float] = site.clock.monotonic_s
    next_s = clock()
    while (verdict := trial.verdict()) is None and (now_s := clock()) < end_s:
        if site.stop():
            raise Stopped
        if now_s >= next_s:
            desk.ask_all()
        for frame in desk.frames(min(_SLICE_S, max(0.0, end_s - now_s), max(0.0, next_s - now_s) or _SLICE_S)):
            begin_s = clock()
            one = understudy.compare(frame)
            spent_s = max(_SHORTEST_S, clock() - begin_s - (one.waited_s or 0.0))
            next_s = max(next_s, clock()) + max(LEAST_GAP_S, spent_s * (1.0 / trial.plan.share - 1.0))
            trial.add(one)
            if trial.requests % 10 == 0:
                text = f"{trial.agreed} of {trial.requests} requests agree"
                site.progress(ProgressEvent(stage="shadow", text=text, done=trial.requests, total=trial.plan.requests))
    return verdict or trial.close()
