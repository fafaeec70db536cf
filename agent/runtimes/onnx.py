"""ONNX Runtime. Imported in a measuring child only.

Rules:
- One provider is asked for by name; the CPU provider stands behind it only for nodes that it cannot run. The engine's
  own fallback is off: it would open the session anew on other providers, at load or in the middle of a run, and go on.
- A provider that takes no node of a model does not run it: that is a refusal and never a figure under its name.
- A model of which it takes some runs at a point of its own, named after both (``mixed_provider``); ``placement`` says
  how many nodes each of them has. Which nodes is ``onnx_nodes``' to find out.
- Threads are those of the operating point: intra-op as asked, inter-op 1. Spinning stays at the engine's default (off
  costs up to half as much again in latency at two threads), but for a provider with threads of its own (XNNPACK), for
  which its maker says one thread of the session and no spinning.
- Optimisation is the engine's highest level: without it a MobileNetV2 takes 2.5 times as long.
- Telemetry is off and the log shows errors only, so that the standard error tail is the reason of a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.core.manifest import TensorSpec
from agent.core.measurement import OperatingPoint, Placement
from agent.runtimes import onnx_nodes
from agent.runtimes.onnx_nodes import FORBID_CPU, RECORD, Nodes
from agent.runtimes.providers import provider_row
from agent.runtimes.table import EngineUnavailableError, PlacementError, split_provider

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = "CPUExecutionProvider"
_EVERYTHING, _ERRORS_ONLY = 0, 3
_SPINNING = "session.intra_op.allow_spinning"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def _specs(nodes: list[Any]) -> tuple[TensorSpec, ...]:
    """Describe inputs or outputs; a named dimension is a dynamic one."""
    return tuple(
        TensorSpec(
            name=node.name,
            dtype=_DTYPES.get(node.type, node.type),
            shape=tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape),
        )
        for node in nodes
    )


class OnnxRuntime:
    """One ``InferenceSession``."""

    def __init__(self, session: Any, placement: Placement) -> None:
        self._session = session
        self._placement = placement
        self.inputs = _specs(session.get_inputs())
        self.outputs = _specs(session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        self._feeds: dict[str, NDArray[Any]] = {}
        self._results: list[NDArray[Any]] = []

    @classmethod
    def prepare(cls) -> None:
        """Import the engine, quiet and without telemetry."""
        engine = import_module("onnxruntime")
        engine.set_default_logger_severity(_ERRORS_ONLY)
        engine.disable_telemetry_events()

    @classmethod
    def providers(cls) -> tuple[str, ...]:
        """Return the providers this build offers; offered is not proven."""
        return tuple(import_module("onnxruntime").get_available_providers())

    @classmethod
    def load(cls, path: Path, point: OperatingPoint, keep: Path | None = None) -> OnnxRuntime:
        """Open a model.

        Raises: EngineUnavailableError: a provider is not offered or was dropped. PlacementError: it takes no node of
            this model. onnxruntime's own: the model was refused.
        """
        provider = split_provider(point.provider)[0]
        for name in split_provider(point.provider):
            if name not in cls.providers():
                raise EngineUnavailableError(f"onnxruntime here offers {', '.join(cls.providers())}, not {name}")
        if provider == CPU:
            placement = Placement(requested=CPU, actual=(CPU,), share=1.0, method="the session has no other provider")
            return cls(cls._open(path, point, [CPU]), placement)
        if onnx_nodes.can_tell(import_module("onnxruntime").InferenceSession):
            session = cls._open_on(path, point, provider, RECORD, keep=keep)
            return cls(session, _placement(point.provider, onnx_nodes.nodes_told(session)))
        return cls._load_untold(path, point, provider, keep)

    @classmethod
    def _open_on(
        cls, path: Path, point: OperatingPoint, provider: str, *switches: str, keep: Path | None = None
    ) -> Any:
        """Open a session with a provider and the CPU behind it.

        Raises: EngineUnavailableError: the provider cannot be had; of the engine's words only its log holds the cause.
        """
        try:
            session = cls._open(path, point, [provider, CPU], *switches, keep=keep)
            if provider in session.get_providers():
                return session
            said = f"would run on {', '.join(session.get_providers())}"
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # the engine's own classes say that it refused the model
                raise
            said = " ".join(str(error).split())[-200:]
        why = None
        with suppress(OSError), onnx_nodes.engine_log() as log:  # nowhere to write: it is not known then
            with suppress(RuntimeError):
                cls._open(path, point, [provider, CPU])
            why = onnx_nodes.why_dropped(onnx_nodes.read_log(log))
        raise EngineUnavailableError(f"onnxruntime dropped {provider}: {why or said}")

    @classmethod
    def _load_untold(cls, path: Path, point: OperatingPoint, provider: str, keep: Path | None) -> OnnxRuntime:
        """Open a model with an onnxruntime before 1.24; a partly placed one is loaded three times."""
        try:
            session = cls._open(path, point, [provider], FORBID_CPU, keep=keep)
        except cls._refusals():
            found = None
            with suppress(OSError), onnx_nodes.engine_log() as log:  # nowhere to write: it is not known then
                cls._open(path, point, [provider, CPU], severity=_EVERYTHING, keep=keep)
                found = onnx_nodes.nodes_logged(onnx_nodes.read_log(log))
            return cls(cls._open_on(path, point, provider, keep=keep), _placement(point.provider, found))
        cls._require(session, provider)
        method = f"it loads with {FORBID_CPU}"
        return cls(session, Placement(requested=point.provider, actual=(provider,), share=1.0, method=method))

    @classmethod
    def _require(cls, session: Any, provider: str) -> None:
        actual = session.get_providers()
        if provider not in actual:
            raise EngineUnavailableError(f"onnxruntime dropped {provider} and would run on {', '.join(actual)}")

    @classmethod
    def _refusals(cls) -> tuple[type[Exception], ...]:
        state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        return (state.Fail, state.RuntimeException, state.NotImplemented, state.InvalidGraph, RuntimeError)

    @classmethod
    def _open(
        cls,
        path: Path,
        point: OperatingPoint,
        providers: list[str],
        *switches: str,
        severity: int = _ERRORS_ONLY,
        keep: Path | None = None,
    ) -> Any:
        engine = import_module("onnxruntime")
        options = engine.SessionOptions()
        options.intra_op_num_threads = point.threads
        options.inter_op_num_threads = 1
        options.execution_mode = engine.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = severity
        for name in switches:
            options.add_session_config_entry(name, "1")
        row = provider_row(providers[0])
        if row.on_processor and row.options:  # it has threads of its own, which the session's would spin against
            options.intra_op_num_threads = 1
            options.add_session_config_entry(_SPINNING, "0")
        given = [provider_row(name).options_for(point.threads, keep) for name in providers]
        session = engine.InferenceSession(
            str(path), options, providers=providers, provider_options=given, enable_fallback=0
        )
        session.disable_fallback()  # 1.20 does not know the argument
        return session

    def resize(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Do nothing: a session takes its shapes from what is fed."""

    def reset(self) -> None:
        """Do nothing: state, if any, is an input and an output here."""

    def set_input(self, index: int, array: NDArray[Any]) -> None:
        """Set input ``index``; checked by the engine when it runs."""
        self._feeds[self.inputs[index].name] = array

    def run(self) -> None:
        """Run one inference. Raises: onnxruntime's own exceptions."""
        self._results = self._session.run(self._output_names, self._feeds)

    def output(self, index: int) -> NDArray[Any]:
        """Return output ``index`` of the last run."""
        return self._results[index]

    def placement(self) -> Placement:
        """Return what the session told after load."""
        return self._placement


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


def _placement(requested: str, nodes: Nodes | None) -> Placement:
    """Say where the nodes are. Raises: PlacementError: none is where it was asked for."""
    provider = split_provider(requested)[0]
    if nodes is None:
        reason = "this onnxruntime does not say which nodes run where"
        return Placement(requested=requested, actual=(provider, CPU), fallback=True, reason=reason)
    taken, total = nodes.by_provider.get(provider, 0), sum(nodes.by_provider.values())
    if taken == 0:
        raise PlacementError(f"{provider} takes none of its {total} nodes")
    others = tuple(sorted(set(nodes.by_provider) - {provider}))
    return Placement(
        requested=requested,
        actual=(provider, *others),
        nodes_delegated=taken,
        nodes_total=total,
        fallback=bool(set(others) - set(split_provider(requested))),
        nodes=nodes.by_provider,
        left=_added((nodes.operators or {}).get(name, {}) for name in others),
        share=taken / total if nodes.comparable or not others else None,
        method=nodes.method,
        reason=None if nodes.comparable or not others else "a compiled part counts as one node",
    )
