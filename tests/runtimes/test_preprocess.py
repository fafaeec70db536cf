"""Preprocessing steps: exact values, shapes, and one case per way to write a step wrongly."""

import re

import numpy as np
import pytest
from PIL import Image

from agent.errors import ModelError
from agent.runtimes.preprocess import apply_steps, check_steps

RGB = np.random.default_rng(7).integers(0, 256, size=(3, 9, 7, 3), dtype=np.uint8)
GRAY = RGB[..., :1]
RESIZE = {"op": "resize", "height": 4, "width": 6, "method": "bilinear"}
SCALE = {"op": "scale", "factor": 2, "offset": -1}
NORMALIZE = {"op": "normalize", "mean": [1, 2, 3], "std": [1, 2, 4]}
NCHW = {"op": "layout", "to": "nchw"}


def test_no_steps_only_change_the_type():
    result = apply_steps([], RGB)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, RGB.astype(np.float32))


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "box", "lanczos"])
def test_resize_equals_pillow_on_whole_images(method):
    result = apply_steps([{**RESIZE, "method": method}], RGB)
    whole = [np.asarray(Image.fromarray(image).resize((6, 4), Image.Resampling[method.upper()])) for image in RGB]
    np.testing.assert_array_equal(result, np.stack(whole).astype(np.float32))


def test_resize_takes_any_number_of_channels():
    two = apply_steps([RESIZE], RGB[..., :2])
    np.testing.assert_array_equal(two, apply_steps([RESIZE], RGB)[..., :2])


def test_center_crop_leaves_the_odd_pixel_below_and_right():
    result = apply_steps([{"op": "center_crop", "height": 4, "width": 4}], RGB)
    np.testing.assert_array_equal(result, RGB[:, 2:6, 1:5, :].astype(np.float32))


def test_grayscale_equals_pillow():
    result = apply_steps([{"op": "grayscale"}], RGB)
    luma = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in RGB])
    np.testing.assert_array_equal(result, luma[..., None].astype(np.float32))


def test_grayscale_does_not_depend_on_the_channel_order():
    swapped = [{"op": "channel_order", "to": "bgr"}, {"op": "grayscale"}]
    np.testing.assert_array_equal(apply_steps(swapped, RGB), apply_steps([{"op": "grayscale"}], RGB))


def test_grayscale_leaves_one_channel_as_it_is():
    np.testing.assert_array_equal(apply_steps([{"op": "grayscale"}], GRAY), GRAY.astype(np.float32))


@pytest.mark.parametrize(
    ("orders", "channels"),
    [(["rgb"], [0, 1, 2]), (["bgr"], [2, 1, 0]), (["bgr", "bgr"], [2, 1, 0]), (["bgr", "rgb"], [0, 1, 2])],
)
def test_channel_order_names_the_result_not_the_swap(orders, channels):
    result = apply_steps([{"op": "channel_order", "to": order} for order in orders], RGB)
    np.testing.assert_array_equal(result, RGB[..., channels].astype(np.float32))


def test_scale_is_one_float32_product_and_sum():
    factor, offset = 1 / 127.5, -1.0
    result = apply_steps([{"op": "scale", "factor": factor, "offset": offset}], RGB)
    np.testing.assert_array_equal(result, RGB.astype(np.float32) * np.float32(factor) + np.float32(offset))
    assert result.dtype == np.float32


def test_normalize_is_per_channel():
    result = apply_steps([NORMALIZE], RGB)
    for channel, (mean, std) in enumerate([(1, 1), (2, 2), (3, 4)]):
        np.testing.assert_array_equal(result[..., channel], (RGB[..., channel].astype(np.float32) - mean) / std)


@pytest.mark.parametrize(
    ("layout", "images", "shape"),
    [("nchw", RGB, (3, 3, 9, 7)), ("nhwc", RGB, (3, 9, 7, 3)), ("nhw", GRAY, (3, 9, 7)), ("nchw", GRAY, (3, 1, 9, 7))],
)
def test_layout_moves_the_channels(layout, images, shape):
    result = apply_steps([{"op": "layout", "to": layout}], images)
    assert result.shape == shape
    assert result.flags["C_CONTIGUOUS"]


def test_steps_run_in_order_and_leave_the_images_alone():
    before = RGB.copy()
    result = apply_steps([RESIZE, {"op": "grayscale"}, SCALE, NCHW], RGB)
    np.testing.assert_array_equal(result[:, 0], apply_steps([RESIZE, {"op": "grayscale"}], RGB)[..., 0] * 2 - 1)
    np.testing.assert_array_equal(RGB, before)


def test_no_images_give_no_results():
    assert apply_steps([RESIZE, SCALE, NCHW], RGB[:0]).shape == (0, 3, 4, 6)


@pytest.mark.parametrize(
    ("steps", "step", "words"),
    [
        ([RESIZE, {"op": "rotate"}], 1, "unknown operation 'rotate'"),
        ([{}], 0, "unknown operation None"),
        (["resize"], 0, "not a mapping"),
        ([{"op": ["resize"]}], 0, "unknown operation"),
        ([{"op": "resize", "height": 4, "width": 4}], 0, "resize needs 'method'"),
        ([{**RESIZE, "antialias": True}], 0, "unknown key 'antialias'"),
        ([{"op": "grayscale", "to": "rgb"}], 0, "grayscale takes no parameters"),
        ([{**RESIZE, "height": 4.0}], 0, "resize.height"),
        ([{**RESIZE, "height": True}], 0, "resize.height"),
        ([{**RESIZE, "width": 0}], 0, "resize.width"),
        ([{**RESIZE, "width": 10**9}], 0, "resize.width"),
        ([{**RESIZE, "method": "cubic"}], 0, "one of nearest, bilinear, bicubic, box, lanczos"),
        ([{**SCALE, "factor": "1/255"}], 0, "scale.factor must be a finite number"),
        ([{**SCALE, "offset": float("nan")}], 0, "scale.offset"),
        ([{**NORMALIZE, "mean": 0.5}], 0, "normalize.mean"),
        ([{**NORMALIZE, "std": [1, 0, 1]}], 0, "greater than 0"),
        ([{**NORMALIZE, "std": [1]}], 0, "same length"),
        ([{"op": "layout", "to": "chwn"}], 0, "one of nchw, nhwc, nhw"),
        ([SCALE, RESIZE], 1, "resize cannot stand after scale or normalize"),
        ([NCHW, SCALE], 1, "scale cannot stand after layout"),
        ([NCHW, NCHW], 1, "layout cannot stand after layout"),
    ],
)
def test_a_wrong_step_is_named(steps, step, words):
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        check_steps(steps)
    assert caught.value.facts["step"] == step
    assert "known operations: resize, center_crop" in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "images", "words"),
    [
        ([{"op": "center_crop", "height": 10, "width": 4}], RGB, "larger than the image, 9x7"),
        ([{"op": "channel_order", "to": "bgr"}], GRAY, "needs 3 channels"),
        ([{"op": "grayscale"}], RGB[..., :2], "1 or 3 channels"),
        ([NORMALIZE], GRAY, "3 values, these images have 1 channel"),
        ([{"op": "layout", "to": "nhw"}], RGB, "needs one channel"),
        ([], RGB.astype(np.float32), "not float32 [3, 9, 7, 3]"),
        ([], RGB[0], "not uint8 [9, 7, 3]"),
    ],
)
def test_images_that_do_not_fit_are_refused(steps, images, words):
    with pytest.raises(ModelError, match=re.escape(words)):
        apply_steps(steps, images)
