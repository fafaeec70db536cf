"""TensorFlow Lite: ``ai-edge-litert`` and its predecessor ``tflite-runtime``, one class API. In a measuring child only.

Rules:
- XNNPACK is the delegate of both by default and is left on: without it float models take four to nine times as long.
  What it does not take runs in the built-in kernels on the same cores, and ``placement`` counts both.
- A model of which XNNPACK takes no node runs in the built-in kernels alone: that is the point ``builtin``.
- An external delegate is loaded from its library by name (``providers``), and what it does not take runs in the
  built-in kernels, not in XNNPACK: the engine does not say which delegate took a node, so there is only one. One that
  takes no node is refused.
- Shapes and quantization come from the engine as numpy scalars; they leave here as plain int and float.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from agent.core.manifest import Quantization, TensorSpec
from agent.core.measurement import OperatingPoint, Placement
from agent.runtimes.providers import delegates, find_library, provider_row
from agent.runtimes.table import EngineUnavailableError, PlacementError, split_provider

if TYPE_CHECKING:
    from numpy.typing import NDArray

XNNPACK = "XNNPACK"
BUILTIN = "builtin"


def _spec(detail: dict[str, Any]) -> TensorSpec:
    import numpy as np

    scale, zero_point = detail["quantization"]
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None or len(signature) == 0 else signature
    return TensorSpec(
        name=str(detail["name"]),
        dtype=np.dtype(detail["dtype"]).name,
        shape=tuple(int(size) for size in shape),
        quantization=Quantization(scale=float(scale), zero_point=int(zero_point)) if scale else None,
    )


def _delegate(module: Any, point: OperatingPoint) -> Any:
    """Load the external delegate of a point. Raises: EngineUnavailableError."""
    row = provider_row(split_provider(point.provider)[0])
    library = find_library(row.library)
    if library is None:
        known = f"there is no {row.library[0]}" if row.library else "it is none that is known here"
        raise EngineUnavailableError(f"{row.name} is no delegate of this board: {known}")
    try:
        return module.load_delegate(str(library), row.options_for(point.threads))
    except (ValueError, OSError, RuntimeError) as error:
        raise EngineUnavailableError(f"{library.name} loads no delegate: {' '.join(str(error).split())}") from error


class _Interpreter:
    """One ``Interpreter``; the subclasses say whose."""

    module: ClassVar[str]

    def __init__(self, interpreter: Any, requested: str) -> None:
        self._interpreter = interpreter
        self._requested = requested
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = tuple(_spec(detail) for detail in inputs)
        self.outputs = tuple(_spec(detail) for detail in outputs)
        self._input_index = [int(detail["index"]) for detail in inputs]
        self._output_index = [int(detail["index"]) for detail in outputs]
        self._input_shape = [tuple(int(size) for size in detail["shape"]) for detail in inputs]

    @classmethod
    def prepare(cls) -> None:
        """Import the engine."""
        import_module(cls.module)

    @classmethod
    def providers(cls) -> tuple[str, ...]:
        """Return the delegate that is built in, and those whose library is here."""
        return (XNNPACK, *(row.name for row, _ in delegates()))

    @classmethod
    def load(cls, path: Path, point: OperatingPoint, keep: Path | None = None) -> _Interpreter:
        """Open a model and allocate its tensors; nothing is kept.

        Raises: EngineUnavailableError: no such delegate is here, or it does not open its device. PlacementError: it
            takes no node. ValueError, RuntimeError: refused.
        """
        del keep
        module = import_module(cls.module)
        resolver = module.OpResolverType.AUTO
        more: dict[str, Any] = {}
        if point.provider != XNNPACK:
            resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if point.provider not in (XNNPACK, BUILTIN):
            more["experimental_delegates"] = [_delegate(module, point)]
        interpreter = module.Interpreter(
            model_path=str(path), num_threads=point.threads, experimental_op_resolver_type=resolver, **more
        )
        interpreter.allocate_tensors()
        made = cls(interpreter, point.provider)
        if more and (found := made.placement()).nodes_delegated == 0:
            raise PlacementError(f"{point.provider} takes none of its {found.nodes_total} nodes")
        return made

    def resize(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Fix input shapes that differ from those the model was allocated with. Raises: ValueError, RuntimeError."""
        if tuple(shapes) == tuple(self._input_shape):
            return
        for index, shape in zip(self._input_index, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, list(shape))
        self._interpreter.allocate_tensors()
        self._input_shape = list(shapes)

    def reset(self) -> None:
        """Zero the variable tensors: an LSTM otherwise carries its state from one sample into the next.

        Source: a uint8 LSTM digit model of google-coral/test_data has 97.1 % with it and 85.9 % without.
        """
        self._interpreter.reset_all_variables()

    def set_input(self, index: int, array: NDArray[Any]) -> None:
        """Copy ``array`` into input ``index``. Raises: ValueError: its dtype or shape is not the model's."""
        self._interpreter.set_tensor(self._input_index[index], array)

    def run(self) -> None:
        """Run one inference. Raises: RuntimeError."""
        self._interpreter.invoke()

    def output(self, index: int) -> NDArray[Any]:
        """Return a copy of output ``index``."""
        copy: NDArray[Any] = self._interpreter.get_tensor(self._output_index[index])
        return copy

    def placement(self) -> Placement:
        """Count the nodes XNNPACK took, by walking back from what each delegate node writes to what it reads.

        The engine lists the nodes a delegate replaced beside the delegate node itself, and does not say which they
        are. Source: seen in tflite-runtime 2.14.0 and ai-edge-litert 2.3.0.
        """
        listing = getattr(self._interpreter, "_get_ops_details", None)
        if listing is None:
            reason = "this version does not list its nodes"
            return Placement(requested=self._requested, actual=(self._requested,), reason=reason)
        nodes = listing()
        delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
        plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
        writer = {int(tensor): number for number, node in enumerate(plain) for tensor in node["outputs"]}
        taken: set[int] = set()
        for delegate in delegates:
            reads = {int(tensor) for tensor in delegate["inputs"]}
            pending = [int(tensor) for tensor in delegate["outputs"]]
            while pending:
                number = writer.get(pending.pop())
                if number is not None and number not in taken:
                    taken.add(number)
                    pending.extend(int(tensor) for tensor in plain[number]["inputs"] if int(tensor) not in reads)
        names = split_provider(self._requested)
        delegate_name = XNNPACK if self._requested in (XNNPACK, BUILTIN) else names[0]
        counts = {delegate_name: len(taken), BUILTIN: len(plain) - len(taken)}
        actual = ((delegate_name,) if taken else ()) + ((BUILTIN,) if len(taken) < len(plain) else ())
        external = delegate_name != XNNPACK
        left = Counter(str(node["op_name"]) for number, node in enumerate(plain) if number not in taken)
        return Placement(
            requested=self._requested,
            actual=actual,
            nodes_delegated=len(taken),
            nodes_total=len(plain),
            fallback=bool(set(actual) - set(names)) if external else not taken and self._requested == XNNPACK,
            nodes={name: count for name, count in counts.items() if count},
            share=counts[names[0]] / len(plain) if plain else None,
            method="_get_ops_details: the nodes each delegate replaced",
            left=dict(sorted(left.items())) if external else {},
        )


class LiteRt(_Interpreter):
    """``ai-edge-litert``, the maintained one."""

    module = "ai_edge_litert.interpreter"


class TfliteRuntime(_Interpreter):
    """``tflite-runtime``, whose last release is 2.14."""

    module = "tflite_runtime.interpreter"
