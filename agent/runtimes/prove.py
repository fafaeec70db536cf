"""Which engines truly run here: each one runs a tiny bundled model in a child of its own, per provider.

An import proves nothing: with numpy 2, tflite-runtime 2.14 imports and its ``Interpreter()`` fails; a provider that an
engine offers may need a library that the board lacks; and one that loads may leave every node to the processor. This
module imports no runtime; its children do::

    python -m agent.runtimes.prove onnxruntime CPUExecutionProvider PARENT_PID      one JSON line on stdout

Rules:
- A child is confined as a worker is, and its home is an empty folder that goes with it: engines leave files behind.
- Proven is a right result with every node where it was asked for. A provider that takes only models made for it must
  open its device; anything else is refused, with the reason and what to do.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import msgspec

from agent.confinement import child_environment, die_with_parent, forbid_new_privileges, kill_group, limit
from agent.core.facts import EngineFacts, ProviderFacts
from agent.core.measurement import OperatingPoint
from agent.runtimes.providers import drivers_mapped, find_library, provider_row
from agent.runtimes.table import (
    ENGINES,
    EngineRow,
    EngineUnavailableError,
    PlacementError,
    engine_row,
    is_cpu,
    is_own,
    runtime_class,
)

TINY = Path(__file__).parent / "tiny"
ANSWER_BYTES = 64 * 1024  # of the child's output, read and no more
_NOT_LOCAL = frozenset({"AzureExecutionProvider"})  # calls a remote service; it runs nothing here
_DEVICE_FILE_BYTES = 64 << 20  # compiled kernels; on the processor nothing is written
_OPEN_FILES = 256
#: Chosen: a small, busy board takes tens of seconds to read an engine from its card, and an engine that was not proven
#: in time is not used for a whole pass.
DEADLINE_S = 60.0
_FIX = "leave it: models run on the processor without it"


class ProofAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a proving child says. ``offered`` are the providers the engine's build lists.

    ``opened``: not proven, but it opened its device for a model that is not for it. ``drivers``: what it ran with.
    """

    proven: bool
    offered: tuple[str, ...] = ()
    reason: str | None = None
    opened: bool = False
    drivers: tuple[str, ...] = ()


def prove_engines(deadline_s: float = DEADLINE_S) -> tuple[EngineFacts, ...]:
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
    beyond = tuple(
        _judge(provider, _ask_child(row.name, provider, deadline_s))
        for provider in first.offered
        if provider != row.cpu_provider and provider not in _NOT_LOCAL
    )
    proven = [row.cpu_provider] if first.proven else []
    proven += [found.name for found in beyond if found.state != "refused"]
    reasons = [] if first.proven else [f"{row.cpu_provider}: {first.reason}"]
    reasons += [f"{found.name}: {found.reason}" for found in beyond if found.state == "refused"]
    return EngineFacts(
        name=row.name,
        formats=row.formats,
        version=version,
        providers=tuple(proven),
        proven=bool(proven),
        reason="; ".join(reasons) or None,
        beyond=beyond,
    )


def _judge(provider: str, answer: ProofAnswer) -> ProviderFacts:
    row = provider_row(provider)
    library = find_library(row.library) if row.library else None
    facts = ProviderFacts(
        name=provider, state="proven", library=None if library is None else str(library), drivers=answer.drivers
    )
    if answer.proven:
        return facts
    if answer.opened:
        wanted = f"models that hold {row.operator}" if row.operator else "quantized models"
        return msgspec.structs.replace(facts, state="opened", reason=f"it takes only {wanted}; each proves itself")
    return msgspec.structs.replace(facts, state="refused", reason=answer.reason, fix=row.fix or _FIX)


def installed_version(row: EngineRow) -> str | None:
    """Return the installed version of an engine's distribution, None without one."""
    for distribution in row.distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return None


def _ask_child(engine: str, provider: str, deadline_s: float) -> ProofAnswer:
    """Run one proof in a fresh session; a crash, a hang and a wrong answer are answers too."""
    command = [sys.executable, "-m", "agent.runtimes.prove", engine, provider, str(os.getpid())]
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory(prefix="boardfit-proof-") as home,
    ):
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=child_environment(Path(home)),
            cwd="/", start_new_session=True,
        )  # fmt: skip
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
    row = provider_row(provider)
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
    except PlacementError as error:
        opened = row.is_choosy  # it was loaded and asked, and there was nothing for it in the model
        return ProofAnswer(proven=False, offered=offered, reason=str(error), opened=opened, drivers=_drivers(provider))
    except EngineUnavailableError as error:
        return ProofAnswer(proven=False, offered=offered, reason=str(error))
    except Exception as error:  # noqa: BLE001 - engines raise classes of their own; the text becomes the recorded reason
        return ProofAnswer(proven=False, offered=offered, reason=f"{type(error).__name__}: {error}"[:400])
    if not right:
        return ProofAnswer(proven=False, offered=offered, reason="the tiny model gave a wrong result")
    if placement.fallback and not is_own(engine, provider):
        others = ", ".join(f"{count} on {name}" for name, count in placement.nodes.items() if name != provider)
        reason = f"of {placement.nodes_total} nodes of the tiny model it left {others or 'some to others'}"
        return ProofAnswer(proven=False, offered=offered, reason=reason)
    return ProofAnswer(proven=True, offered=offered, drivers=_drivers(provider))


def _drivers(provider: str) -> tuple[str, ...]:
    return drivers_mapped(provider_row(provider), Path("/proc/self/maps").read_text(errors="replace"))


def _confine(engine: str, provider: str, parent_pid: int) -> None:
    """Do to this process what is done to a worker, before an engine is imported. Raises: SystemExit."""
    from agent.sandbox.entry import enter

    die_with_parent()
    if os.getppid() != parent_pid:
        raise SystemExit("the parent is gone")
    forbid_new_privileges()
    on_processor = is_cpu(engine, provider)
    for which, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, ANSWER_BYTES if on_processor else _DEVICE_FILE_BYTES),  # its output is a file
    ):
        limit(which, value)
    enter((), devices=not on_processor)


def main(arguments: list[str]) -> int:
    """Answer for one engine and provider on stdout."""
    engine, provider, parent_pid = arguments
    _confine(engine, provider, int(parent_pid))
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(run_tiny(engine, provider)) + b"\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # engines have been seen to hang or crash at exit
