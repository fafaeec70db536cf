"""Golden data of a candidate: inputs and the outputs the publisher's reference engine gave for them. Pure.

A ``.npz`` read with ``allow_pickle=False``:

=================  ===================================================================================================
array              what
=================  ===================================================================================================
``input_0`` ...    [K, *shape of that model input], the batch dimension of 1 left out or kept; the model's own dtype
``output_0`` ...   [K, *shape of that model output], likewise
``tolerance``      scalar, optional: largest absolute difference allowed, in the stored units of the outputs
=================  ===================================================================================================

Samples are independent: a model's state (an LSTM's) is reset before each, when they are made and when they are checked.
"""

from __future__ import annotations

INPUT_PREFIX = "input_"
OUTPUT_PREFIX = "output_"
TOLERANCE = "tolerance"
FLOAT_TOLERANCE_RATIO = 1e-3  # of the range of that golden output; chosen: engines differ in the order of sums only
QUANTIZED_TOLERANCE_STEPS = 2  # chosen: two quantization steps, what differing roundings of two layers make
