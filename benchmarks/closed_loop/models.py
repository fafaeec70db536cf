"""Digit readers of one kind whose accuracy is bought with time: trained here, in closed form, in seconds.

Rules:
- A request is a burst of ``FRAMES`` frames of one digit: 16 x 16 pixels, the zoo's 8 x 8 ones doubled, shaken by up to
  two pixels and with normal noise of ``NOISE``, clipped to 0..1. Shake and noise are simulated and seeded; the digits
  are those of the zoo's test split, half of which trains here and the other half is fed and judged.
- A reader looks at the first so many frames of a burst, each through the same filters, and answers for their mean: a
  real trade of time for accuracy. The filters are random (a 5 x 5 convolution, a threshold, means over 6 x 6); only the
  last layer is trained, by ridge regression on single frames. Source: Rahimi and Recht 2008, Weighted Sums of Random
  Kitchen Sinks; random convolutions as in Saxe et al. 2011, On Random Weights and Unsupervised Feature Learning.
- How many filters is chosen on the machine, so that the first model takes ``LARGEST`` of the period between requests;
  accuracy is whatever comes of that.
- ``better`` has learnt from twice the digits; of what ``worse`` has learnt from, four labels in ten were drawn by lot,
  and its manifest claims an accuracy that it has not.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.zoo.files import evaluation_pack

Floats = NDArray[np.float32]

FRAMES, SIZE, NOISE, SHAKE = 16, 16, 0.5, 2
LARGEST = 0.5
_KERNEL, _POOL = 5, 6
_LEAST_FILTERS, _MOST_FILTERS, _STEP = 32, 4096, 32
_TRAINED_ON = 0.5  # the noise of the frames that are learnt from
_COPIES = 10  # frames of each digit that are learnt from
_RIDGE = 1e-2
_WRONG_LABELS = 0.4


class Recipe(NamedTuple):
    """One model: how many frames it looks at, which share of the training half it has learnt from, and its labels."""

    frames: int
    share: float
    wrong_labels: bool = False
    claims: float | None = None


#: The four of the beginning, largest first; then what is published while the application runs.
FIRST = {
    "first": Recipe(16, 0.5),
    "middle": Recipe(6, 0.5),
    "small": Recipe(2, 0.5),
    "smallest": Recipe(1, 0.5),
}
WORSE, BETTER = "worse", "better"
RECIPES = {**FIRST, WORSE: Recipe(12, 0.5, wrong_labels=True, claims=0.999), BETTER: Recipe(11, 1.0)}


class Digits(NamedTuple):
    """Digits [N, SIZE, SIZE] and labels [N] to learn from; bursts [M, FRAMES, SIZE, SIZE] and labels [M] to feed."""

    learnt: Floats
    learnt_labels: NDArray[np.int64]
    fed: Floats
    fed_labels: NDArray[np.int64]


def load_digits(seed: int) -> Digits:
    """Split the zoo's test digits in half, and make bursts of the half that is fed."""
    pack = np.load(evaluation_pack(), allow_pickle=False)
    small = pack["inputs"].astype(np.float32)[..., 0] / 255
    digits, labels = np.kron(small, np.ones((1, 2, 2), np.float32)), pack["labels"]
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(digits))
    own, others = order[: len(order) // 2], order[len(order) // 2 :]
    fed = _shaken(digits[others], FRAMES, NOISE, draw)
    return Digits(digits[own], labels[own], fed, labels[others])


def write_models(folder: Path, digits: Digits, period_s: float, seed: int) -> dict[str, Path]:
    """Size, train and write every model of ``RECIPES``. Returns: the files by name."""
    draw = np.random.default_rng(seed)
    filters = _filters(_MOST_FILTERS, draw)
    count = fitting_count(LARGEST * period_s, filters)
    kernel, threshold = filters[0][:count], filters[1][:count]
    trained: dict[tuple[float, bool], tuple[Floats, Floats]] = {}
    written = {}
    for name, recipe in RECIPES.items():
        key = (recipe.share, recipe.wrong_labels)
        if key not in trained:
            trained[key] = _train(digits, kernel, threshold, recipe, seed)
        written[name] = folder / f"{name}.onnx"
        _write(written[name], kernel, threshold, *trained[key], frames=recipe.frames)
    return written


def fitting_count(wanted_s: float, filters: tuple[Floats, Floats]) -> int:
    """Return how many filters make the first model take so long here: by two tries, as time is about in proportion."""
    count = _LEAST_FILTERS * 4
    for _ in range(2):
        taken = _time_of(count, filters)
        count = round(count * wanted_s / taken / _STEP) * _STEP
        count = min(max(count, _LEAST_FILTERS), _MOST_FILTERS)
    return count


def _time_of(count: int, filters: tuple[Floats, Floats]) -> float:
    burst = np.zeros((1, FRAMES, SIZE, SIZE), np.float32)
    last = (np.zeros((4 * count, 10), np.float32), np.zeros(10, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "timed.onnx"
        _write(path, filters[0][:count], filters[1][:count], *last, frames=FRAMES)
        session = _session(path)
        taken = []
        for _ in range(40):
            begin = time.perf_counter()
            session.run(None, {"burst": burst})
            taken.append(time.perf_counter() - begin)
    return sorted(taken)[len(taken) // 10]  # a machine that is busy just then is no slower for good


def _filters(count: int, draw: np.random.Generator) -> tuple[Floats, Floats]:
    """Return random filters [count, 1, 5, 5] without a mean and of length one, and their thresholds [count]."""
    kernel = draw.standard_normal((count, 1, _KERNEL, _KERNEL)).astype(np.float32)
    kernel -= kernel.mean((1, 2, 3), keepdims=True)
    kernel /= np.sqrt((kernel**2).sum((1, 2, 3), keepdims=True))
    return kernel, -0.5 * draw.random(count).astype(np.float32)


def _shaken(digits: Floats, frames: int, noise: float, draw: np.random.Generator) -> Floats:
    """Return [N, frames, SIZE, SIZE]."""
    wide = np.pad(digits, ((0, 0), (SHAKE, SHAKE), (SHAKE, SHAKE)))
    made = np.empty((len(digits), frames, SIZE, SIZE), np.float32)
    for number in range(len(digits)):
        for frame in range(frames):
            down, right = draw.integers(0, 2 * SHAKE + 1, 2)
            made[number, frame] = wide[number, down : down + SIZE, right : right + SIZE]
    made += noise * draw.standard_normal(made.shape, np.float32)
    return np.round(np.clip(made, 0, 1) * 255) / np.float32(255)


def _train(digits: Digits, kernel: Floats, threshold: Floats, recipe: Recipe, seed: int) -> tuple[Floats, Floats]:
    """Return the last layer, [features, 10] and [10]: ridge regression in its dual form."""
    draw = np.random.default_rng(seed + 1)
    count = round(recipe.share * len(digits.learnt))
    frames = _shaken(digits.learnt[:count], _COPIES, _TRAINED_ON, draw).reshape(-1, 1, SIZE, SIZE)
    labels = digits.learnt_labels[:count].copy()
    if recipe.wrong_labels:
        wrong = draw.random(count) < _WRONG_LABELS
        labels[wrong] = draw.integers(0, 10, int(wrong.sum()))
    labels = np.repeat(labels, _COPIES)
    features = _features(kernel, threshold, frames)
    mean, scale = features.mean(0), features.std()
    features = (features - mean) / scale
    wanted = np.eye(10, dtype=np.float32)[labels] - np.float32(0.1)
    inner = features @ features.T
    inner[np.diag_indices(len(inner))] += _RIDGE * features.shape[1]
    weights = (features.T @ np.linalg.solve(inner, wanted) / scale).astype(np.float32)
    return weights, (np.float32(0.1) - mean @ weights).astype(np.float32)


def _features(kernel: Floats, threshold: Floats, frames: Floats) -> Floats:
    """Return [N, 4 * filters], computed by the very graph that is published."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.onnx"
        _write(path, kernel, threshold, None, None, frames=1)
        session = _session(path)
        found: list[Any] = [session.run(None, {"burst": frame[None]})[0] for frame in frames]
    return np.concatenate(found)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _write(
    path: Path, kernel: Floats, threshold: Floats, weights: Floats | None, bias: Floats | None, *, frames: int
) -> None:
    """Write a model that looks at the first frames; without weights it gives the features of its only one."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    tensors: dict[str, Any] = {"kernel": kernel, "threshold": threshold, "shape": np.array([frames, 1, SIZE, SIZE])}
    nodes = []
    last = "burst"
    given = 1 if weights is None else FRAMES

    def add(kind: str, *inputs: str, **attributes: Any) -> None:
        nonlocal last
        output = f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, [last, *inputs], [output], **attributes))
        last = output

    if frames < given:
        tensors |= {"begin": np.array([0]), "end": np.array([frames]), "axis": np.array([1])}
        add("Slice", "begin", "end", "axis")
    add("Reshape", "shape")
    add("Conv", "kernel", "threshold", kernel_shape=[_KERNEL, _KERNEL])
    add("Relu")
    add("AveragePool", kernel_shape=[_POOL, _POOL], strides=[_POOL, _POOL])
    add("Flatten")
    width = 4 * len(kernel)
    if weights is not None:
        tensors |= {"weights": weights, "bias": bias}
        add("ReduceMean", axes=[0], keepdims=1)
        add("Gemm", "weights", "bias")
        width = 10
    shapes = ([1, given, SIZE, SIZE], [1, width])
    model = helper.make_model(
        helper.make_graph(
            nodes, "burst_reader",
            [helper.make_tensor_value_info("burst", TensorProto.FLOAT, shapes[0])],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, shapes[1])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)], ir_version=8,
    )  # fmt: skip
    checker.check_model(model)
    save(model, path)
