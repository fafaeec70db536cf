"""Which class runs which engine, and for which formats. Imports no runtime.

A new engine is a row here and a class with the verbs of ``Runtime``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from agent.core.manifest import TensorSpec
from agent.core.measurement import OperatingPoint, Placement
from agent.runtimes.providers import provider_row

if TYPE_CHECKING:
    from numpy.typing import NDArray


_AND = "+"  # between the providers of a mixed point


class EngineUnavailableError(Exception):
    """The engine cannot be imported here, or does not offer the provider that was asked for."""


class PlacementError(Exception):
    """The provider that was asked for runs no node of the model."""


class Runtime(Protocol):
    """A loaded model. Arrays are C-contiguous and carry the batch dimension first.

    ``inputs`` and ``outputs`` are the model's own: -1 is a dynamic dimension, dtype is numpy's name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def prepare(cls) -> None:
        """Import the engine. Raises: ImportError, OSError: it is not installed, or its library does not load."""

    @classmethod
    def providers(cls) -> tuple[str, ...]:
        """Return the providers this build offers; offered is not proven."""

    @classmethod
    def load(cls, path: Path, point: OperatingPoint, keep: Path | None = None) -> Runtime:
        """Open a model file at an operating point.

        Args: keep: where a provider that builds an engine for the model keeps it, and finds it again.
        Raises: EngineUnavailableError: the provider is not offered. PlacementError: it takes no node of the model.
            The engine's own exceptions: it refused the model.
        """

    def resize(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Fix the input shapes (no -1), once, before the first ``set_input``. Raises: the engine's own exceptions."""

    def reset(self) -> None:
        """Forget what earlier runs left in the model's state; a model without state has nothing to forget."""

    def set_input(self, index: int, array: NDArray[Any]) -> None:
        """Set input ``index``: the dtype and shape of ``inputs[index]``, batch included."""

    def run(self) -> None:
        """Run one inference on what was set: nothing else happens here, it is what is timed."""

    def output(self, index: int) -> NDArray[Any]:
        """Return output ``index`` of the last run; the array is the caller's."""

    def placement(self) -> Placement:
        """Say which provider or delegate really runs the nodes."""


class EngineRow(NamedTuple):
    """One engine: the distributions that carry it, its class, its formats and its provider without accelerator."""

    name: str
    distributions: tuple[str, ...]
    target: str
    formats: tuple[str, ...]
    cpu_provider: str
    plain_provider: str | None = None  # the engine's own kernels, where the CPU provider may take no node of a model


ENGINES: tuple[EngineRow, ...] = (
    EngineRow(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
        "agent.runtimes.onnx:OnnxRuntime",
        ("onnx",),
        "CPUExecutionProvider",
    ),
    EngineRow("ai-edge-litert", ("ai-edge-litert",), "agent.runtimes.tflite:LiteRt", ("tflite",), "XNNPACK", "builtin"),
    EngineRow(
        "tflite-runtime", ("tflite-runtime",), "agent.runtimes.tflite:TfliteRuntime", ("tflite",), "XNNPACK", "builtin"
    ),
)


def engine_row(name: str) -> EngineRow:
    """Return an engine's row. Raises: EngineUnavailableError: no such engine is known."""
    for row in ENGINES:
        if row.name == name:
            return row
    raise EngineUnavailableError(f"no engine is called {name!r}")


def is_cpu(engine: str, provider: str) -> bool:
    """Tell whether a provider runs on the CPU's cores, where threads and an address-space cap mean something."""
    own = _own(engine_row(engine))
    return all(name in own or provider_row(name).on_processor for name in split_provider(provider))


def is_own(engine: str, provider: str) -> bool:
    """Tell whether a provider is of the engine's own kernels, which golden outputs are made with and need no proof."""
    return provider in _own(engine_row(engine))


def _own(row: EngineRow) -> tuple[str | None, ...]:
    return (row.cpu_provider, row.plain_provider)


def split_provider(provider: str) -> tuple[str, ...]:
    """Return the providers that a point's provider names: the one asked for first, then what stands behind it."""
    return tuple(provider.split(_AND))


def mixed_provider(provider: str, behind: str) -> str:
    """Name the provider of a point at which ``behind`` runs what ``provider`` does not take.

    Such a point is another one than that of ``provider`` alone, and can be asked for by this name.
    """
    return f"{split_provider(provider)[0]}{_AND}{behind}"


def plain_point(point: OperatingPoint) -> OperatingPoint | None:
    """Return the point that a run at ``point`` really was where ``point.provider`` did not take every node.

    XNNPACK of TFLite took none, and the built-in kernels ran all of it. An accelerator took some, and the engine's own
    kernels the others. None where ``point`` has no such other point, being that one already.
    """
    row = engine_row(point.engine)
    if point.provider == row.cpu_provider:
        other = row.plain_provider
    elif point.provider != row.plain_provider and len(split_provider(point.provider)) == 1:
        other = mixed_provider(point.provider, row.plain_provider or row.cpu_provider)
    else:
        other = None
    return None if other is None else msgspec.structs.replace(point, provider=other)


def runtime_class(name: str) -> type[Runtime]:
    """Import an engine and return its class; only a measuring child may call this.

    Raises: EngineUnavailableError: unknown, not installed, or its library does not load.
    """
    module, _, attribute = engine_row(name).target.partition(":")
    try:
        loaded = importlib.import_module(module)
        found: type[Runtime] = getattr(loaded, attribute)
        found.prepare()
    except (ImportError, OSError, AttributeError) as error:
        raise EngineUnavailableError(f"{name} cannot be imported: {error}") from error
    return found
