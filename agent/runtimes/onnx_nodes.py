"""Which provider of an ONNX Runtime session runs which nodes. In a measuring child only.

Rules:
- From 1.24 on the session itself tells: the nodes each provider was given, of the graph after basic optimisation. One
  load is enough, and nothing is switched on that would still run when the model is timed.
- Before that, a session that loads with the CPU fallback forbidden runs whole on its provider; of one that does not,
  the placement is read from the verbose log of a session opened for nothing else. It counts a part that a provider
  compiles as one node, so it says that a provider runs something, and no share.
- Profiling is never used: it makes a model of 1 ms half as slow again.

Source: onnxruntime_session_options_config_keys.h (session.record_ep_graph_assignment_info,
session.disable_cpu_ep_fallback), core/framework/session_state.cc (VerifyEachNodeIsAssignedToAnEp writes the log).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

RECORD = "session.record_ep_graph_assignment_info"
FORBID_CPU = "session.disable_cpu_ep_fallback"
_PLACED = re.compile(rb"[Nn]ode(?:\(s\)|s) placed on \[(\w+)\]\. Number of nodes: (\d+)")
_MISSING = re.compile(rb"(\S+?\.so[\w.]*): cannot open shared object file")
_LAST_WORDS = re.compile(rb"\[E:[^\]]*\] (?:.*?\] : \d+ : \w+ : )?(.*)")
_LOG_BYTES = 32 << 20  # below what a worker on an accelerator may write


class Nodes(NamedTuple):
    """How many nodes each provider runs; ``comparable`` is False where a compiled part counts as one."""

    by_provider: dict[str, int]
    comparable: bool
    method: str
    operators: dict[str, dict[str, int]] | None = None  # by provider: how many nodes of which operator; None: not told


def can_tell(session_class: Any) -> bool:
    """Whether sessions of this onnxruntime tell their placement themselves (1.24 and later)."""
    return hasattr(session_class, "get_provider_graph_assignment_info")


def nodes_told(session: Any) -> Nodes:
    """Count what a session says, that was opened with ``RECORD``."""
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    method = "get_provider_graph_assignment_info: nodes after basic optimisation"
    operators = {name: dict(sorted(count.items())) for name, count in sorted(found.items())}
    return Nodes({name: sum(count.values()) for name, count in operators.items()}, True, method, operators)


def nodes_logged(log: bytes) -> Nodes | None:
    """Count what a verbose log of loading a session says; None where it says nothing."""
    found = {name.decode(): int(count) for name, count in _PLACED.findall(log)}
    if not found:
        return None
    return Nodes(dict(sorted(found.items())), False, "verbose log of a load apart: nodes as they run")


def why_dropped(log: bytes) -> str | None:
    """Return why a provider could not be made, from the log of the try; None where it does not say.

    Mostly a library that is missing: CUDA's, cuDNN's or TensorRT's own, of the version that this build wants.
    """
    missing = _MISSING.search(log)
    if missing is not None:
        return f"{missing[1].decode(errors='replace').rpartition('/')[2]} is not here"
    errors = _LAST_WORDS.findall(log)
    return " ".join(errors[-1].decode(errors="replace").split())[:200] or None if errors else None


@contextlib.contextmanager
def engine_log() -> Iterator[BinaryIO]:
    """Catch what the engine writes to standard error meanwhile; read the file afterwards, from its start.

    In memory: a worker may make no file. Raises: OSError: it may not make this either.
    """
    with os.fdopen(os.memfd_create("engine-log", os.MFD_CLOEXEC), "w+b") as log:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(log.fileno(), 2)
            yield log
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def read_log(log: BinaryIO) -> bytes:
    """Return the last ``_LOG_BYTES`` of a caught log: the placement stands near its end."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
    return log.read()
