"""A model compiled for one accelerator, published by who cannot run it: what has to stand in for running it.

Rules:
- It is asked for, never guessed: the publisher names the accelerator, and the model must hold the operator that nothing
  but that accelerator runs.
- Boards prove it by golden outputs, so these are never left out: they are given, or made with the model's twin, which
  is the same model before it was compiled. The twin must take and give the very same tensors.
- The manifest says that it was not run where it was published, and what its golden outputs are of.

Which accelerators compile their models is ``agent.runtimes.providers``' to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agent.core.manifest import TensorSpec
from agent.errors import ConfigError, ModelError
from agent.runtimes.providers import PROVIDERS, ProviderRow

COMPILED: dict[str, ProviderRow] = {row.name: row for row in PROVIDERS if row.operator is not None}


class _Facts(Protocol):
    """What a model's file says."""

    @property
    def format(self) -> str: ...

    @property
    def operators(self) -> tuple[str, ...]: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


def check_asked(provider: str | None, *, has_golden: bool, has_twin: bool) -> None:
    """Raise ConfigError for options that do not go together. Args: provider: what it is said to be compiled for."""
    if provider is None:
        if has_twin:
            raise ConfigError("a twin is for a compiled model", fix="say --compiled-for, or leave --twin out")
        return
    if provider not in COMPILED:
        raise ConfigError(
            f"no accelerator called {provider!r} compiles its models", fix=f"one of {', '.join(COMPILED)}"
        )
    if not (has_golden or has_twin):
        raise ConfigError(
            f"a model that is compiled for {provider} cannot be run here, and boards prove it by golden outputs",
            fix="give the model before it was compiled as --twin MODEL, or golden data as --golden FILE",
        )


def check_compiled(provider: str, model: _Facts, twin: _Facts | None) -> None:
    """Raise ModelError unless the model is compiled for the provider, and its twin is the same before that."""
    operator = COMPILED[provider].operator
    if operator not in model.operators:
        raise ModelError(
            f"the model is not compiled for {provider}: it holds no {operator}", fix="leave --compiled-for out"
        )
    if twin is None:
        return
    if operator in twin.operators:
        raise ModelError("the twin is compiled, too", fix="give the model as it was before the compiler")
    if twin.format != model.format:
        raise ModelError(f"the twin is {twin.format}, and the model {model.format}", fix="give what was compiled")
    for what, own, others in (("input", model.inputs, twin.inputs), ("output", model.outputs, twin.outputs)):
        if _tensors(own) != _tensors(others):
            raise ModelError(
                f"the twin has other {what}s than the model: {_text(others)}, not {_text(own)}",
                fix="give the very model that was compiled",
            )


def note(provider: str | None, engine: str | None) -> str | None:
    """Return what the manifest says, None of a model that was run.

    Args: provider: what it is compiled for. engine: that ran the twin, None where golden data was given without.
    """
    if provider is None:
        return None
    golden = "given by the publisher" if engine is None else f"of the model before it was compiled, by {engine}"
    return f"compiled for {provider} and not run where it was published; its golden outputs are {golden}"


def _tensors(specs: Sequence[TensorSpec]) -> list[tuple[object, ...]]:
    return [(one.dtype, one.shape, one.quantization) for one in specs]


def _text(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{one.dtype} {list(one.shape)}" for one in specs)
