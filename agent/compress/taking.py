"""The first model of a chain: the user's ONNX or Keras file, or their torch module, trained here or with weights.

An ONNX file is checked for what no later step can work with: dynamic shapes, external data, operators of no standard.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from agent.compress.recipe import Model
from agent.compress.samples import Samples, read_pack
from agent.errors import ConfigError, ModelError


def first_model(
    action: str, model: Mapping[str, Any], folder: Path, target: Path, *, samples: Samples, seed: int, threads: int
) -> dict[str, Any]:
    """Write the model a chain begins with. Returns: what is known of it. Raises: ModelError, ConfigError."""
    given = msgspec.convert(model, Model)
    if given.onnx is not None:
        return _take_onnx(folder / given.onnx, target)
    if given.keras is not None:
        return _take_keras(folder / given.keras, target, samples)
    from agent.compress.nets.files import save, settle
    from agent.compress.nets.train import train

    settle(seed, threads)
    network = _built(given)
    reached: dict[str, Any] = {}
    if action == "train":
        assert given.train is not None
        reached = train(network, samples, given.train, seed)
    else:
        import torch

        assert given.weights is not None
        try:
            network.load_state_dict(torch.load(folder / given.weights, weights_only=True))
        except FileNotFoundError as error:
            raise ConfigError(f"there is no file {folder / given.weights}", fix="correct weights") from error
        except RuntimeError as error:
            text = " ".join(str(error).split())[:200]
            raise ModelError(f"the weights do not fit the model: {text}", fix="save its state_dict") from error
    save(network.eval(), target)
    return {"parameters": sum(tensor.numel() for tensor in network.parameters()), **reached}


def _take_keras(path: Path, target: Path, samples: Samples) -> dict[str, Any]:
    from agent.compress.nets.files import save
    from agent.compress.nets.keras_model import load_keras

    if not path.is_file():
        raise ConfigError(f"there is no file {path}", fix="correct the model's keras")
    pack = read_pack(samples.training)
    few = samples.inputs(pack._replace(inputs=pack.inputs[:8], labels=pack.labels[:8]), "tflite")
    network, difference = load_keras(path, few, channels_first=bool(samples.preprocessing))
    save(network, target)
    return {
        "parameters": sum(tensor.numel() for tensor in network.parameters()),
        "largest_difference": difference,
    }


def _built(model: Model) -> Any:
    assert model.torch is not None
    module, _, factory = model.torch.partition(":")
    try:
        make = getattr(import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{model.torch} cannot be loaded: {error}", fix="correct module:factory") from error
    try:
        return make(**model.settings)
    except TypeError as error:
        raise ConfigError(f"{model.torch} does not take its settings: {error}", fix="correct settings") from error


def _take_onnx(path: Path, target: Path) -> dict[str, Any]:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise ModelError(
                f"{path.name} keeps weights in another file", fix="save it with save_as_external_data=False"
            )
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}", fix="correct the model's onnx") from error
    except ModelError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"{path.name} is not a valid ONNX model: {text}", fix="export it again") from error
    for given in model.graph.input:
        if any(not size.dim_value for size in given.type.tensor_type.shape.dim):
            raise ModelError(
                f"{path.name}: input {given.name} has a dynamic shape", fix="export with a fixed shape, batch 1"
            )
    strange = {node.domain for node in model.graph.node} - {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
    if strange:
        raise ModelError(
            f"{path.name} uses operators of {', '.join(sorted(strange))}", fix="replace them by standard operators"
        )
    shutil.copyfile(path, target)
    elements = sum(_elements(tensor.dims) for tensor in model.graph.initializer)
    return {"parameters": elements, "operators": sorted({node.op_type for node in model.graph.node})}


def _elements(dims: Any) -> int:
    count = 1
    for size in dims:
        count *= size
    return count
