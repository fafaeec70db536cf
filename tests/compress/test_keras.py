"""Keras model files as input: translated as Keras computes them, compressed, in both formats, or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'boardfit[compress]'")
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install 'boardfit[keras]'")

from keras import layers  # noqa: E402

from agent.compress.nets.graph import as_given  # noqa: E402
from agent.compress.nets.keras_model import load_keras  # noqa: E402
from agent.errors import ModelError  # noqa: E402

SHAPE = (9, 8, 3)


def functional() -> Any:
    given = keras.Input(SHAPE)
    x = layers.Rescaling(2.0, -1.0)(given)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = layers.Concatenate()([layers.Add()([x, y]) * 0.5 + 1.0, x])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(given, layers.Dense(4, activation="softmax")(x))


def sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input(SHAPE), layers.SeparableConv2D(6, (3, 2), padding="same", activation="hard_swish"),
            layers.MaxPooling2D(2, 2, padding="same"), layers.Flatten(), layers.Dropout(0.3),
            layers.Dense(7, activation="gelu"), layers.Dense(4), layers.Softmax(),
        ]
    )  # fmt: skip


def nested() -> Any:
    """A model inside a model, used twice, with a layer of the same name as one outside; its output is no softmax."""
    inner = keras.Sequential([keras.Input((9, 8, 3)), layers.Conv2D(3, 1, name="conv"), layers.LeakyReLU()])
    given = keras.Input(SHAPE)
    x = layers.Conv2D(3, 2, padding="same", name="conv")(given)
    once = inner(x)
    x = layers.Multiply()([once, inner(once)])
    x = layers.AveragePooling2D((3, 2), padding="valid")(x)
    x = layers.Reshape((-1,))(x)
    return keras.Model(given, x)


def written(model: Any, path: Path) -> Path:
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "kernel" not in weight.name:
            weight.assign(draw.uniform(0.5, 1.5, weight.shape))
    model.save(path)
    return path


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("make", [functional, sequential, nested])
def test_a_translation_computes_what_keras_computes(
    tmp_path: Path, make: Callable[[], Any], channels_first: bool
) -> None:
    model = make()
    path = written(model, tmp_path / "net.keras")
    inputs = np.random.default_rng(1).normal(size=(5, *SHAPE)).astype(np.float32)
    made, difference = load_keras(path, inputs, channels_first=channels_first)
    given = torch.from_numpy(inputs)
    with torch.no_grad():
        got = as_given(made)(given.permute(0, 3, 1, 2) if channels_first else given).numpy()
        logits = made(given.permute(0, 3, 1, 2) if channels_first else given).numpy()
    wanted = model.predict(inputs, verbose=0)
    assert np.allclose(got, wanted, atol=1e-5)
    assert difference < 1e-5
    assert np.allclose(logits, wanted, atol=1e-5) == (make is nested)  # elsewhere the softmax is kept apart
    assert all(type(layer).__module__.startswith(("torch.", "agent.")) for layer in made.layers.values())


class Own(layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return inputs


def lambda_model() -> Any:
    return keras.Sequential([keras.Input(SHAPE), layers.Lambda(lambda x: x + 1), layers.Flatten(), layers.Dense(4)])


def own_activation(x: Any) -> Any:
    return x


def one_of(*made: Any, shape: tuple[int | None, ...] = SHAPE) -> Any:
    return keras.Sequential([keras.Input(shape), *made])


def two_outputs() -> Any:
    given = keras.Input(SHAPE)
    flat = layers.Flatten()(given)
    return keras.Model(given, [layers.Dense(2)(flat), layers.Dense(3)(flat)])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda_model, "holds a Lambda layer (lambda"),
        (lambda: one_of(Own(), layers.Flatten()), "holds a custom object, Own"),
        (lambda: one_of(layers.Conv2D(2, 1, activation=own_activation)), "holds a custom object, own_activation"),
        (lambda: one_of(layers.Conv2DTranspose(2, 3, name="up")), "layer up (Conv2DTranspose) has no translation"),
        (lambda: one_of(layers.Reshape((9, 24)), layers.LSTM(4)), "makes 2 dimensions"),
        (lambda: one_of(layers.GlobalMaxPooling2D(), shape=(None, None, 3)), "has a dynamic shape, ? x ? x 3"),
        (two_outputs, "has 1 inputs and 2 outputs"),
        (lambda: one_of(layers.Flatten(), shape=(4, 4, 3)), "takes inputs of 4 x 4 x 3 and the training pack's are 9"),
        (
            lambda: one_of(layers.Conv2D(2, 3, data_format="channels_first")),
            "has channels first, only channels last is read",
        ),
    ],
)  # fmt: skip
def test_what_has_no_translation_is_one_sentence(tmp_path: Path, make: Callable[[], Any], sentence: str) -> None:
    model = make()
    model.save(tmp_path / "net.keras")
    with pytest.raises(ModelError) as caught:
        load_keras(tmp_path / "net.keras", np.zeros((2, *SHAPE), np.float32), channels_first=True)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lambda_is_not_run(tmp_path: Path) -> None:
    """Also where the file names another class for it."""
    path = tmp_path / "net.keras"
    lambda_model().save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    inner = next(one for one in config["config"]["layers"] if one["class_name"] == "Lambda")
    inner["registered_name"] = "Dense"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**parts, "config.json": json.dumps(config).encode()}.items():
            archive.writestr(name, data)
    with pytest.raises(ModelError, match="a program of its own, which is not run"):
        load_keras(path, np.zeros((2, *SHAPE), np.float32), channels_first=True)


def test_files_that_are_none_are_one_sentence(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(ModelError) as caught:
            load_keras(path, np.zeros((2, *SHAPE), np.float32), channels_first=True)
        return str(caught.value)

    whole = written(functional(), tmp_path / "net.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(whole[: len(whole) // 2])
    assert "half.keras is no Keras model, or was cut off" in refused(tmp_path / "half.keras")
    functional().save(tmp_path / "old.h5")
    assert "old.h5 is a file of Keras's older HDF5 format" in refused(tmp_path / "old.h5")
    (tmp_path / "renamed.keras").write_bytes((tmp_path / "old.h5").read_bytes())
    assert "older HDF5 format" in refused(tmp_path / "renamed.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as archive, zipfile.ZipFile(tmp_path / "bare.keras", "w") as bare:
        for name in ("metadata.json", "config.json"):
            bare.writestr(name, archive.read(name))
    assert "bare.keras cannot be read by Keras" in refused(tmp_path / "bare.keras")


def boardfit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, Any, np.ndarray]:
    """A folder with packs of scikit-learn's digits, a model that has begun to learn them, and the test images."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = found.images.astype(np.uint8)[..., None], found.target.astype(np.int64)
    np.savez(tmp_path / "train.npz", inputs=images[:1200], labels=labels[:1200])
    unseen = ~np.isin([one.tobytes() for one in images[1200:]], [one.tobytes() for one in images[:1200]])
    np.savez(tmp_path / "test.npz", inputs=images[1200:][unseen][:200], labels=labels[1200:][unseen][:200])
    keras.utils.set_random_seed(1)
    given = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(given)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(x)
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.Conv2D(32, 1, activation="relu")(x)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(given, layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.02
    model.fit(images[:1200] / np.float32(16), labels[:1200], epochs=4, batch_size=64, verbose=0)
    model.save(tmp_path / "net.keras")
    return tmp_path, model, images[1200:][unseen][:200]


@pytest.mark.slow
def test_a_keras_file_becomes_a_family_in_both_formats(digits: tuple[Path, Any, np.ndarray]) -> None:
    pytest.importorskip("sklearn")
    for needed in ("litert_torch", "ai_edge_quantizer", "torch_pruning", "onnxruntime"):
        pytest.importorskip(needed)
    folder, model, images = digits
    started = boardfit("compress", "init", "net.keras", "--task", "digits")
    assert started.returncode == 0, started.stderr
    document = yaml.safe_load(started.stdout)
    assert document["models"] == {"net": {"keras": "net.keras"}}
    tune = {"fine_tune": {"epochs": 1}}
    document |= {
        "data": {"training": "train.npz", "evaluation": "test.npz", "calibration": 60},
        "preprocessing": [{"op": "scale", "factor": 0.0625, "offset": 0.0}],
        "candidates": [
            {"of": "net"},
            {"of": "net", "chain": ["static_int8"]},
            {"of": "net", "chain": ["float16"], "formats": ["onnx"]},
            {"of": "net", "chain": [{"channel_pruning": {"macs": 0.6, **tune}}], "formats": ["tflite"]},
            {"of": "net", "chain": [{"low_rank": {"energy": 0.8, **tune}}, "static_int8"], "formats": ["onnx"]},
            {"of": "net", "chain": [{"qat_int8": tune}, "static_int8"], "formats": ["onnx"]},
            {"of": "cut"},
        ],
    }
    document["models"]["cut"] = {"keras": "cut.keras"}
    (folder / "cut.keras").write_bytes((folder / "net.keras").read_bytes()[:5000])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    done = boardfit("compress", "run", folder / "recipe.yaml", "--registry", folder / "models", "--json")
    assert done.returncode == 0, done.stderr
    made = {one["name"]: one for one in json.loads(done.stdout)["candidates"]}
    lost = {name: one["reason"] for name, one in made.items() if one["reason"] is not None}
    assert set(lost) == {"cut-onnx-f32", "cut-tflite-f32"}
    assert all("cut.keras is no Keras model, or was cut off" in reason for reason in lost.values())
    assert len(made) == 10
    inputs = images.astype(np.float32) / 16
    wanted = model.predict(inputs, verbose=0)
    assert np.abs(wanted - outputs_onnx(made["net-onnx-f32"]["path"], inputs.transpose(0, 3, 1, 2))).max() < 1e-4
    assert np.abs(wanted - outputs_tflite(made["net-tflite-f32"]["path"], inputs)).max() < 1e-4
    labels = np.load(folder / "test.npz")["labels"]
    own = float((wanted.argmax(1) == labels).mean())
    assert own > 0.6
    for name, one in made.items():
        if name not in lost:
            accuracy = {found["engine"]: found["accuracy"]["top1"]["value"] for found in one["judged"]}
            assert min(accuracy.values()) > own - 0.15, (name, accuracy)
    for engine in made["net-tflite-f32"]["judged"]:
        assert engine["accuracy"]["top1"]["value"] == pytest.approx(own)


def outputs_onnx(path: str, inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.shape == [1, 1, 8, 8]
    return np.concatenate([session.run(None, {given.name: one[None]})[0] for one in inputs])


def outputs_tflite(path: str, inputs: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert list(given["shape"]) == [1, 8, 8, 1]
    found = []
    for one in inputs:
        interpreter.set_tensor(given["index"], one[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(wanted["index"]))
    return np.concatenate(found)
