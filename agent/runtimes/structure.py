"""What a model file's own structure says, looked at before an engine sees it. In a confined child only.

An engine trusts counts, sizes and references that a file states. Here the file is walked without building anything from
it: what is read is bounded by the file's length, and nothing is believed that its bytes do not bear out.

Refused: weights outside of the file; more tensors, nodes, ends or nesting than any known model has; tensors that claim
more than is there; references to what is not there. Whether a model makes sense is for its engine to say.

Leaves the two formats to ``structure_onnx`` and ``structure_tflite``. Needs no package that a board may lack.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

MAX_BYTES = 2 << 30  # protobuf's own limit, and flatbuffers'
MAX_TENSORS = 200_000  # chosen: large language models have a few thousand, and no board runs them
MAX_NODES = 200_000
MAX_DEPTH = 16  # of graphs within graphs; chosen: exported control flow has two or three
MAX_CHAIN = 64  # of functions that call functions; chosen: 3,000 overflow onnxruntime's stack
MAX_ENDS = 1024  # inputs, and outputs, of a model; chosen: known ones have below a hundred
MAX_NAME_BYTES = 4096
MAX_ELEMENTS = 1 << 40


class StructureError(Exception):
    """The file is refused; the text is one sentence's end: what is wrong with it."""


def check_structure(path: Path, model_format: str) -> None:
    """Walk a model file. Args: model_format: onnx or tflite. Raises: StructureError. OSError: it cannot be read."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise StructureError("the file is empty")
        if size > MAX_BYTES:
            raise StructureError(f"the file has {size} bytes, more than {MAX_BYTES}")
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            try:
                _walker(model_format)(data, size)
            except RecursionError as error:
                raise StructureError("its parts are nested too deep") from error


def _walker(model_format: str) -> Callable[[mmap.mmap, int], None]:
    if model_format == "onnx":
        from agent.runtimes.structure_onnx import walk
    else:
        from agent.runtimes.structure_tflite import walk
    return walk
