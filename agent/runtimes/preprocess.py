"""From the evaluation pack's uint8 images to a model's float32 input, by the steps its manifest lists. Pure.

Rules:
- A step is a mapping with ``op`` and that operation's parameters; an unknown key is an error, never ignored.
- Steps run in the order listed. Image operations work on uint8 and stand first, float operations on float32 follow,
  and ``layout`` comes at most once, last. Without ``layout`` the result stays NHWC.
- The result is the same on every machine: resizing is Pillow's fixed-point one on 8-bit planes, and the float
  operations are single float32 multiplications, additions and divisions.

========================================================  =======  ==================================================
step                                                      works on  result
========================================================  =======  ==================================================
``{op: resize, height, width, method}``                   uint8    [N, height, width, C]; method nearest, bilinear,
                                                                   bicubic, box or lanczos
``{op: center_crop, height, width}``                      uint8    [N, height, width, C]; an odd pixel goes below, right
``{op: grayscale}``                                       uint8    [N, H, W, 1]; ITU-R 601 luma, as Pillow rounds it
``{op: channel_order, to}``                               uint8    channels as ``rgb`` or ``bgr``; they come as rgb
``{op: scale, factor, offset}``                           float32  x * factor + offset
``{op: normalize, mean, std}``                            float32  (x - mean[c]) / std[c] for each channel c
``{op: layout, to}``                                      either   ``nchw``, ``nhwc``, or ``nhw`` (one channel, dropped)
========================================================  =======  ==================================================

Left to others: quantizing the float32 result by the model's own input scale and zero point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.errors import ModelError

_Batch: TypeAlias = NDArray[Any]  # uint8 before the first float operation, float32 after it

MAX_SIDE = 8192  # pixels; chosen: a larger side in a manifest is a mistake, and would exhaust a board's memory

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
# ITU-R 601 luma in 16-bit fixed point; Source: Pillow, src/libImaging/Convert.c, macro L24.
_LUMA_RGB = (19595, 38470, 7471)
_LUMA_ROUND = 0x8000
_LUMA_SHIFT = 16


class _Operation(NamedTuple):
    """One known operation: when it may run, and for each parameter what it must be (None: it is so)."""

    stage: str
    parameters: Mapping[str, Callable[[object], str | None]]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _side(value: object) -> str | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SIDE
    return None if good else f"a whole number of pixels from 1 to {MAX_SIDE}"


def _number(value: object) -> str | None:
    return None if _is_number(value) else "a finite number"


def _numbers(value: object) -> str | None:
    good = isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_number(item) for item in value)
    return None if good else "a list of finite numbers, one per channel"


def _divisors(value: object) -> str | None:
    good = _numbers(value) is None and isinstance(value, (list, tuple)) and all(item > 0 for item in value)
    return None if good else "a list of numbers greater than 0, one per channel"


def _one_of(*choices: str) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        return None if isinstance(value, str) and value in choices else f"one of {', '.join(choices)}"

    return check


_STAGES = ("image", "float", "layout")
_OPERATIONS: Mapping[str, _Operation] = {
    "resize": _Operation("image", {"height": _side, "width": _side, "method": _one_of(*_RESAMPLING)}),
    "center_crop": _Operation("image", {"height": _side, "width": _side}),
    "grayscale": _Operation("image", {}),
    "channel_order": _Operation("image", {"to": _one_of("bgr", "rgb")}),
    "scale": _Operation("float", {"factor": _number, "offset": _number}),
    "normalize": _Operation("float", {"mean": _numbers, "std": _divisors}),
    "layout": _Operation("layout", {"to": _one_of("nchw", "nhwc", "nhw")}),
}


def _fault(index: int, problem: str, **facts: object) -> ModelError:
    return ModelError(
        f"preprocessing step {index}: {problem}",
        fix=f"correct the manifest; known operations: {', '.join(_OPERATIONS)}",
        step=index,
        **facts,
    )


def check_steps(steps: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a list of steps that ``apply_steps`` could not carry out on any images.

    Args:    steps: the manifest's ``preprocessing``, in order; may be empty.
    Raises:  ModelError: an unknown operation, key or order, or a missing or wrong parameter; the sentence and
             ``facts['step']`` name the step, counted from 0.
    """
    reached = 0
    for index, step in enumerate(steps):
        if not isinstance(step, Mapping):
            raise _fault(index, f"{step!r} is not a mapping with the key 'op'")
        name = step.get("op")
        if not isinstance(name, str) or name not in _OPERATIONS:
            raise _fault(index, f"unknown operation {name!r}")
        operation = _OPERATIONS[name]
        for key in step:
            if key != "op" and key not in operation.parameters:
                taken = ", ".join(operation.parameters) or "no parameters"
                raise _fault(index, f"unknown key {key!r}; {name} takes {taken}")
        for key, problem in operation.parameters.items():
            if key not in step:
                raise _fault(index, f"{name} needs {key!r}")
            wanted = problem(step[key])
            if wanted is not None:
                raise _fault(index, f"{name}.{key} must be {wanted}, not {step[key]!r}")
        if name == "normalize" and len(step["mean"]) != len(step["std"]):
            raise _fault(index, "normalize.mean and normalize.std must have the same length")
        stage = _STAGES.index(operation.stage)
        if stage < reached or (stage == reached and name == "layout"):
            after = "layout" if reached == _STAGES.index("layout") else "scale or normalize"
            raise _fault(index, f"{name} cannot stand after {after}")
        reached = stage


def apply_steps(steps: Sequence[Mapping[str, Any]], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Carry out the steps on a batch of images.

    Args:    steps: as ``check_steps`` accepts them.
             images: uint8 [N, H, W, C], C-order of channels RGB where C is 3. Not changed.
    Returns: float32, C-contiguous: [N, H, W, C], [N, C, H, W] or [N, H, W] as ``layout`` says.
    Raises:  ModelError: the steps are not valid, the images are not of that type and shape, or a step does not fit
             them (a crop larger than the image, a number of channels it cannot treat).
    """
    check_steps(steps)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        given = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ModelError(
            f"preprocessing needs images as uint8 [N, H, W, C], not {given}",
            fix="store the evaluation pack's inputs so",
        )
    batch: _Batch = images
    order = "rgb"
    for index, step in enumerate(steps):
        name = step["op"]
        channels = batch.shape[3]
        if name == "resize":
            batch = _resize(batch, step["height"], step["width"], _RESAMPLING[step["method"]])
        elif name == "center_crop":
            batch = _center_crop(index, batch, step["height"], step["width"])
        elif name == "grayscale":
            batch = _grayscale(index, batch, order)
        elif name == "channel_order":
            if channels != 3:
                raise _fault(index, f"channel_order needs 3 channels, these images have {channels}", channels=channels)
            batch = batch if step["to"] == order else batch[..., ::-1]
            order = step["to"]
        elif name == "scale":
            batch = batch.astype(np.float32) * np.float32(step["factor"]) + np.float32(step["offset"])
        elif name == "normalize":
            if len(step["mean"]) != channels:
                problem = f"normalize has {len(step['mean'])} values, these images have {channels} channel(s)"
                raise _fault(index, problem, channels=channels)
            mean = np.asarray(step["mean"], dtype=np.float32)
            std = np.asarray(step["std"], dtype=np.float32)
            batch = (batch.astype(np.float32) - mean) / std
        else:
            batch = _lay_out(index, batch, step["to"])
    return np.ascontiguousarray(batch, dtype=np.float32)


def _resize(batch: _Batch, height: int, width: int, method: Image.Resampling) -> _Batch:
    """Resize each channel plane on its own: the same as whole RGB images, and any number of channels goes."""
    count, _, _, channels = batch.shape
    resized = np.empty((count, height, width, channels), dtype=np.uint8)
    for number in range(count):
        for channel in range(channels):
            plane = Image.fromarray(np.ascontiguousarray(batch[number, :, :, channel]))
            resized[number, :, :, channel] = np.asarray(plane.resize((width, height), method))
    return resized


def _center_crop(index: int, batch: _Batch, height: int, width: int) -> _Batch:
    _, rows, columns, _ = batch.shape
    if height > rows or width > columns:
        raise _fault(index, f"center_crop {height}x{width} is larger than the image, {rows}x{columns}")
    top, left = (rows - height) // 2, (columns - width) // 2
    return batch[:, top : top + height, left : left + width, :]


def _grayscale(index: int, batch: _Batch, order: str) -> _Batch:
    channels = batch.shape[3]
    if channels == 1:
        return batch
    if channels != 3:
        raise _fault(index, f"grayscale needs 1 or 3 channels, these images have {channels}", channels=channels)
    weights = np.asarray(_LUMA_RGB if order == "rgb" else _LUMA_RGB[::-1], dtype=np.uint32)
    luma = (batch.astype(np.uint32) * weights).sum(axis=3, dtype=np.uint32, keepdims=True)
    return ((luma + np.uint32(_LUMA_ROUND)) >> np.uint32(_LUMA_SHIFT)).astype(np.uint8)


def _lay_out(index: int, batch: _Batch, layout: str) -> _Batch:
    if layout == "nchw":
        return batch.transpose(0, 3, 1, 2)
    if layout == "nhw":
        if batch.shape[3] != 1:
            raise _fault(index, f"layout nhw needs one channel, these images have {batch.shape[3]}")
        return batch[..., 0]
    return batch
