"""Which engines truly run here: each one runs a tiny bundled model in a child of its own, per provider.

An import proves nothing: with numpy 2, tflite-runtime 2.14 imports and its ``Interpreter()`` fails; and a provider
that an engine offers may need a library that the board lacks. This module imports no runtime; its children do::

    python -m agent.runtimes.prove onnxruntime CPUExecutionProvider      one JSON line on stdout
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import msgspec

from agent.confinement import kill_group
from agent.core.facts import EngineFacts
from agent.core.measurement import OperatingPoint
from agent.runtimes.table import ENGINES, EngineRow, EngineUnavailableError, PlacementError, engine_row, runtime_class

TINY = Path(__file__).parent / "tiny"
ANSWER_BYTES = 64 * 1024  # of the child's output, read and no more
_NOT_LOCAL = frozenset({"AzureExecutionProvider"})  # calls a remote service; it runs nothing here


class ProofAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a proving child says. ``offered`` are the providers the engine's build lists."""

    proven: bool
    offered: tuple[str, ...] = ()
    reason: str | None = None


def prove_engines(deadline_s: float = 20.0) -> tuple[EngineFacts, ...]:
    """Prove every engine of the table, one child after the other.

    Args: deadline_s: wall clock allowed to each child.
    Returns: one entry per engine, in the table's order; what failed carries ``proven`` False and the reason.
    """
    return tuple(_prove_engine(row, deadline_s) for row in ENGINES)


def _prove_engine(row: EngineRow, deadline_s: float) -> EngineFacts:
    version = installed_version(row)
    if version is None:
        names = " or ".join(row.distributions)
        return EngineFacts(name=row.name, formats=row.formats, reason=f"{names} is not installed")
    first = _ask_child(row.name, row.cpu_provider, deadline_s)
    proven = [row.cpu_provider] if first.proven else []
    reasons = [] if first.proven else [f"{row.cpu_provider}: {first.reason}"]
    for provider in first.offered:
        if provider == row.cpu_provider or provider in _NOT_LOCAL:
            continue
        answer = _ask_child(row.name, provider, deadline_s)
        if answer.proven:
            proven.append(provider)
        else:
            reasons.append(f"{provider}: {answer.reason}")
    return EngineFacts(
        name=row.name,
        formats=row.formats,
        version=version,
        providers=tuple(proven),
        proven=bool(proven),
        reason="; ".join(reasons) or None,
    )


def installed_version(row: EngineRow) -> str | None:
    """Return the installed version of an engine's distribution, None without one."""
    for distribution in row.distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return None


def _ask_child(engine: str, provider: str, deadline_s: float) -> ProofAnswer:
    """Run one proof in a fresh session; a crash, a hang and a wrong answer are answers too."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "agent.runtimes.prove", engine, provider]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment, start_new_session=True
        )
        try:
            code = child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return ProofAnswer(proven=False, reason=f"it did not answer within {deadline_s:g} s")
        finally:
            if child.returncode is None:
                kill_group(child)
        output.seek(0)
        text = output.read(ANSWER_BYTES)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 400))
        tail = errors.read().decode(errors="replace").strip().splitlines()
    if code < 0:
        return ProofAnswer(proven=False, reason=f"it died by {signal.Signals(-code).name} running a tiny model")
    try:
        return msgspec.json.decode(text.strip().split(b"\n")[-1], type=ProofAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        last = tail[-1] if tail else "nothing on standard error"
        return ProofAnswer(proven=False, reason=f"it exited with {code} and no answer: {last}")


def run_tiny(engine: str, provider: str) -> ProofAnswer:
    """Run the tiny model once: y = x + x on float32 [1, 4]. Imports the engine: for a child only."""
    offered: tuple[str, ...] = ()
    try:
        runtime = runtime_class(engine)
        offered = runtime.providers()
        import numpy as np

        point = OperatingPoint(engine=engine, engine_version="", provider=provider, threads=1)
        model = runtime.load(TINY / f"add.{engine_row(engine).formats[0]}", point)
        value = np.array([[1.0, -2.0, 0.5, 4.0]], dtype=np.float32)
        model.resize((value.shape,))
        model.set_input(0, value)
        model.run()
        right = bool(np.array_equal(model.output(0), value + value))
        placement = model.placement()
    except (EngineUnavailableError, PlacementError) as error:
        return ProofAnswer(proven=False, offered=offered, reason=str(error))
    except Exception as error:  # noqa: BLE001 - engines raise classes of their own; the text becomes the recorded reason
        return ProofAnswer(proven=False, offered=offered, reason=f"{type(error).__name__}: {error}"[:400])
    if not right:
        return ProofAnswer(proven=False, offered=offered, reason="the tiny model gave a wrong result")
    if placement.fallback and provider != engine_row(engine).cpu_provider:
        return ProofAnswer(proven=False, offered=offered, reason=f"the tiny model ran on {', '.join(placement.actual)}")
    return ProofAnswer(proven=True, offered=offered)


def main(arguments: list[str]) -> int:
    """Answer for one engine and provider on stdout."""
    engine, provider = arguments
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(run_tiny(engine, provider)) + b"\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
