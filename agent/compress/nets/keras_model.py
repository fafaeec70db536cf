"""A Keras model file as a torch module: read by Keras 3 on its torch backend, then translated layer by layer.

Rules:
- The file is looked at before Keras reads it: a Lambda layer is a program of its own, and a custom object is one that
  is not in the file. Neither is run.
- A softmax at the end is kept apart (``graph``). The result is compared with Keras's own on samples: nothing that
  computes something else goes on.

Which layer becomes what is ``keras_layers``'s. Source of the file's format: keras/src/saving/saving_lib.py, Keras 3.12.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.compress.nets import graph as net
from agent.compress.nets.building import Builder, Value
from agent.compress.nets.keras_layers import apply
from agent.errors import ModelError

TOLERANCE = 1e-4  # chosen: of the largest output; float32 sums in another order differ by less
_HDF5 = b"\x89HDF\r\n\x1a\n"


def load_keras(path: Path, samples: NDArray[np.float32], *, channels_first: bool) -> tuple[nn.Module, float]:
    """Return the model and by how much of the largest output it differs from Keras's own.

    Args:
        samples: float32 [N, ...], prepared, images channels last.
        channels_first: whether the module is to be given images channels first.
    Raises: ModelError: the file is none, or holds what cannot be taken.
    """
    _look_at(path)
    model = _read(path)
    shape = _input_shape(path.name, model)
    if samples.shape[1:] != shape:
        raise ModelError(
            f"{path.name} takes inputs of {_text(shape)} and the training pack's are {_text(samples.shape[1:])}",
            fix="correct the recipe's preprocessing or the pack",
        )
    made = _translated(path.name, model, shape, channels_first=channels_first)
    with torch.no_grad():
        wanted = np.asarray(model(samples, training=False).numpy())
        got = net.as_given(made)(_given(samples, channels_first=channels_first)).numpy()
    difference = float(np.abs(got - wanted).max() / max(1.0, float(np.abs(wanted).max())))
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{path.name} translated gives other outputs than Keras, off by {difference:.2g} of the largest",
            fix="export the model to ONNX and name that file",
        )
    return made, difference


def _given(samples: NDArray[np.float32], *, channels_first: bool) -> Tensor:
    inputs = torch.from_numpy(np.ascontiguousarray(samples))
    return inputs.permute(0, 3, 1, 2).contiguous() if channels_first and inputs.ndim == 4 else inputs


def _look_at(path: Path) -> None:
    """Raise ModelError where a file is no Keras 3 file, or needs programs that are not Keras's."""
    with path.open("rb") as file:
        begin = file.read(8)
    if begin == _HDF5 or path.suffix in (".h5", ".hdf5"):
        raise ModelError(
            f"{path.name} is a file of Keras's older HDF5 format", fix="load it in Keras 3 and save it as .keras"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise ModelError(f"{path.name} is no Keras model, or was cut off", fix="save it again as .keras") from error
    for one in _objects(config):
        kind, module = str(one["class_name"]), one.get("module")
        name = (one.get("config") or {}).get("name", kind) if isinstance(one.get("config"), dict) else kind
        if kind in ("Lambda", "__lambda__"):
            raise ModelError(
                f"{path.name} holds a Lambda layer ({name}), a program of its own, which is not run",
                fix="replace it by layers of Keras",
            )
        known = isinstance(module, str) and module.split(".")[0] in ("keras", "builtins")
        called = one.get("registered_name") or kind
        if kind == "function":  # Keras's own functions are written as their names alone
            known, called = module != "builtins", one.get("config")
        if "module" in one and not known and not kind.startswith("__"):
            raise ModelError(
                f"{path.name} holds a custom object, {called}, whose program is not in it",
                fix="replace it by layers of Keras, or export the model to ONNX",
            )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every serialized object inside a configuration."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _read(path: Path) -> Any:
    os.environ["KERAS_BACKEND"] = "torch"  # this process's own; whatever the user's Keras computes with
    with tempfile.TemporaryDirectory() as home:  # Keras writes its settings where there are none, and reads the user's
        os.environ["KERAS_HOME"] = home
        import keras

    keras.config.set_image_data_format("channels_last")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"{path.name} cannot be read by Keras {keras.__version__}: {text}",
                         fix="save it again as .keras, with this version or an older one") from error  # fmt: skip


def _input_shape(name: str, model: Any) -> tuple[int, ...]:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ModelError(
            f"{name} is a subclassed model, whose layers are a program", fix="build it as Sequential or Functional"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs", fix="give a model with one of each"
        )
    shape = tuple(inputs[0].shape)[1:]
    if any(size is None for size in shape):
        raise ModelError(
            f"{name}: its input has a dynamic shape, {_text(shape)}", fix="build it with a fixed shape of the input"
        )
    return shape


def _text(shape: Any) -> str:
    return " x ".join("?" if size is None else str(size) for size in shape) or "nothing"


def _translated(name: str, model: Any, shape: tuple[int, ...], *, channels_first: bool) -> nn.Module:
    example = _given(np.zeros((1, *shape), np.float32), channels_first=channels_first)
    build = Builder(name, example)
    value = build.input
    if len(shape) == 3 and not channels_first:
        value = build.call("channels_first", lambda: net.Turned(0, 3, 1, 2), value)
    value = build.settled("output", _through(build, model, value))
    if value.example.ndim == 4:
        value = build.call("channels_last", lambda: net.Turned(0, 2, 3, 1), value)
    made = build.graph
    made.output = value.number
    last = made.calls[-1] if made.calls else None
    if last is not None and value.number == len(made.calls) and isinstance(made.layers[last.layer], nn.Softmax):
        made.output, made.softmax = last.reads[0], True
        made.calls.pop()
        del made.layers[last.layer]
    return made


def _through(build: Builder, model: Any, value: Value) -> Value:
    """Follow a Sequential or Functional model, and models inside it."""
    if type(model).__name__ == "Sequential":
        for layer in model.layers:
            value = _applied(build, layer, (value,), {})
        return value

    def follow(operation: Any) -> Any:
        return lambda *args, **kwargs: _applied(build, operation, args, kwargs)

    # _run_through_graph: what keras.models.clone_model follows a model by; Keras has no public way.
    result = model._run_through_graph([value], operation_fn=follow)
    while isinstance(result, list | tuple | dict):
        (result,) = result.values() if isinstance(result, dict) else result
    assert isinstance(result, Value)
    return result


def _applied(build: Builder, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
    given: list[Value] = []
    constants: list[float] = []
    for one in (*args, *kwargs.values()):
        for item in one if isinstance(one, list | tuple) else (one,):
            if isinstance(item, Value):
                given.append(item)
            elif isinstance(item, int | float) and not isinstance(item, bool):
                constants.append(float(item))
            elif item is not None and not isinstance(item, bool):
                raise build.refuse(layer, f"is given a constant of {type(item).__name__}")
    if type(layer).__name__ in ("Sequential", "Functional"):
        (value,) = given
        return _through(build, layer, value)
    return apply(build, layer, given, constants)
