"""The golden file of a candidate: inputs, and the outputs the publisher's engine gave for them. Pure.

A golden file is a ``.npz`` without pickles (``numpy.load(..., allow_pickle=False)``). Its arrays:

- ``schema``: 0-d text, ``boardfit.golden/1``.
- ``input_0``, ``input_1`` ...: [K, *shape]; K samples of the model's i-th input, each exactly as it is fed to one run:
  full shape with its batch dimension, the model's own dtype, preprocessed and quantized already.
- ``output_0``, ``output_1`` ...: [K, *shape]; what that run gave, in the model's own output dtype.
- ``engine``: 0-d text, name and version of the engine that made the outputs, such as ``ai-edge-litert 2.3.0``.
- ``tolerance``: float64 [number of outputs], the largest absolute difference that still agrees, for each output in its
  own stored unit (quantization steps where the dtype is an integer).

A reader feeds ``input_i[k]``, takes the outputs in the model's order, and compares them in float64 with
``output_j[k]``: they agree when ``abs(got - golden) <= tolerance[j]`` everywhere. A NaN or an infinity
agrees only with its like.

History: ``boardfit.golden/1`` first version.
"""

from __future__ import annotations

SCHEMA = "boardfit.golden/1"
SCHEMA_ARRAY = "schema"
ENGINE_ARRAY = "engine"
TOLERANCE_ARRAY = "tolerance"
DEFAULT_SAMPLES = 4
MAX_BYTES = 64 * 1024 * 1024  # chosen: four samples of a large image model are 2.4 MB

# Golden data finds an engine that computes garbage, not one that rounds differently. Measured on x86-64 with LiteRT
# 2.3, XNNPACK against the reference kernels, both equally accurate: 22 of 256 steps (MLPerf Tiny keyword int8), 11
# (digits LSTM int8), 9 of 191 (MobileNetV1 uint8), 0.16 of 1 (keyword float with int8 weights); float models: 2e-6.
FLOAT_RELATIVE = 1e-3  # of the output's range; chosen
QUANTIZED_RELATIVE = 0.1  # of the output's range; chosen, and widened by what the publisher's own engines differ
SPREAD_FACTOR = 2.0  # times the difference seen between kernels where the file was made; chosen
FLOAT_FLOOR = 1e-6  # absolute: an output that is constant over the samples has no range
INTEGER_STEPS = 2.0  # quantization steps, the least for an integer output of a quantized model
_STEPPED = frozenset({"int8", "uint8", "int16", "uint16"})


def input_array(index: int) -> str:
    """Return the array's name of the model's input number ``index``, from 0."""
    return f"input_{index}"


def output_array(index: int) -> str:
    """Return the array's name of the model's output number ``index``, from 0."""
    return f"output_{index}"


def default_tolerance(dtype: str, low: float, high: float, *, quantized: bool, spread: float = 0.0) -> float:
    """Choose the tolerance of one output, where the publisher gives none.

    Args:
        dtype: numpy's name of the output's dtype.
        low, high: least and greatest finite value of the output over the golden samples, in its stored unit.
        quantized: the model computes with integers inside.
        spread: largest absolute difference between the kernels tried where the file was made, same unit.

    Returns: the largest absolute difference that agrees, in the output's stored unit. Indices, counts and bools must
        agree exactly unless the kernels tried already differ.
    """
    widened = SPREAD_FACTOR * spread
    if dtype.startswith(("float", "bfloat")):
        relative = QUANTIZED_RELATIVE if quantized else FLOAT_RELATIVE
        return max(relative * (high - low), FLOAT_FLOOR, widened)
    if dtype in _STEPPED:
        return max(QUANTIZED_RELATIVE * (high - low), INTEGER_STEPS, widened)
    return widened
