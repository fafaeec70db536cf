"""ONNX Runtime. Imported in a measuring child only.

Rules:
- One provider is asked for by name, the CPU provider stands behind it only for nodes that it cannot run, and
  ``placement`` says so: a model that partly falls back never carries the accelerator's label alone.
- Threads are those of the operating point: intra-op as asked, inter-op 1. Spinning stays at the engine's default (off
  costs up to half as much again in latency at two threads).
- Optimisation is the engine's highest level: without it a MobileNetV2 takes 2.5 times as long.
- Telemetry is off and the log shows errors only, so that the standard error tail is the reason of a failure.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.core.manifest import TensorSpec
from agent.core.measurement import OperatingPoint, Placement
from agent.runtimes.table import EngineUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3
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
    def load(cls, path: Path, point: OperatingPoint) -> OnnxRuntime:
        """Open a model.

        For a provider other than the CPU's it is first opened with the CPU fallback forbidden: what then loads runs on
        that provider whole. What does not is opened again with the fallback, and is marked as such.

        Raises: EngineUnavailableError: the provider is not offered or was dropped. onnxruntime's own: it was refused.
        """
        if point.provider not in cls.providers():
            raise EngineUnavailableError(f"onnxruntime here offers {', '.join(cls.providers())}, not {point.provider}")
        if point.provider == CPU:
            session = cls._open(path, point, [CPU], strict=False)
            return cls(session, Placement(requested=CPU, actual=(CPU,)))
        try:
            session = cls._open(path, point, [point.provider], strict=True)
        except cls._refusals():
            session = cls._open(path, point, [point.provider, CPU], strict=False)
            fallback = True
        else:
            fallback = False
        actual = tuple(session.get_providers())
        if point.provider not in actual:
            raise EngineUnavailableError(f"onnxruntime dropped {point.provider} and would run on {', '.join(actual)}")
        placed = actual if fallback else (point.provider,)
        return cls(session, Placement(requested=point.provider, actual=placed, fallback=fallback))

    @classmethod
    def _refusals(cls) -> tuple[type[Exception], ...]:
        state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        return (state.Fail, state.RuntimeException, state.NotImplemented, state.InvalidGraph, RuntimeError)

    @classmethod
    def _open(cls, path: Path, point: OperatingPoint, providers: list[str], *, strict: bool) -> Any:
        engine = import_module("onnxruntime")
        options = engine.SessionOptions()
        options.intra_op_num_threads = point.threads
        options.inter_op_num_threads = 1
        options.execution_mode = engine.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        if strict:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return engine.InferenceSession(str(path), options, providers=providers)

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
