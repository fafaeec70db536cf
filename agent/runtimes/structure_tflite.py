"""Walks a TFLite file: a flatbuffer read table by table, every offset checked. In a confined child only.

Fields by number, of tensorflow/lite/schema/schema.fbs (version 3c) and LiteRT's, which adds external buffers.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from math import prod

from agent.runtimes.structure import (
    MAX_ELEMENTS,
    MAX_ENDS,
    MAX_NAME_BYTES,
    MAX_NODES,
    MAX_TENSORS,
    StructureError,
)

_MARK = b"TFL3"
_OPTIONAL = -1  # an input that is left out
_EXTERNAL_GROUPS, _EXTERNAL_BUFFERS = 8, 9  # of Model: weights in other files
_MOST_DIMENSIONS = 64


def walk(data: mmap.mmap, size: int) -> None:
    """Walk a Model of ``size`` bytes. Raises: StructureError."""
    _Walk(data, size).model()


class _Walk:
    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data = data
        self._size = size
        self._tensors = 0
        self._nodes = 0

    def model(self) -> None:
        if self._size < 8 or self._data[4:8] != _MARK:
            raise StructureError("it is no TFLite file")
        root = self._number("<I", 0)
        if any(self._length(root, field) for field in (_EXTERNAL_GROUPS, _EXTERNAL_BUFFERS)):
            raise StructureError("it keeps weights outside of its file: save it as one file")
        codes = self._length(root, 1)
        buffers = list(self._tables(root, 4))
        for table in buffers:
            self._buffer(table)
        subgraphs = list(self._tables(root, 2))
        if not subgraphs:
            raise StructureError("it has no graph")
        for table in subgraphs:
            self._subgraph(table, codes, len(buffers))

    def _number(self, code: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(code) > self._size:
            raise StructureError("it is truncated: an offset leads past its end")
        return int(struct.unpack_from(code, self._data, at)[0])

    def _field(self, table: int, field: int) -> int | None:
        """Return where a field's value lies, None where the table leaves it out."""
        vtable = table - self._number("<i", table)
        length = self._number("<H", vtable)
        slot = 4 + 2 * field
        offset = self._number("<H", vtable + slot) if slot + 2 <= length else 0
        return table + offset if offset else None

    def _vector(self, table: int, field: int, item_bytes: int) -> tuple[int, int]:
        """Return a vector's first item and its count, and that it lies in the file."""
        at = self._field(table, field)
        if at is None:
            return 0, 0
        begin = at + self._number("<I", at)
        count = self._number("<I", begin)
        if count * item_bytes > self._size - begin - 4:
            raise StructureError(f"it is truncated: a list claims {count} items")
        return begin + 4, count

    def _length(self, table: int, field: int) -> int:
        return self._vector(table, field, 4)[1]

    def _tables(self, table: int, field: int) -> Iterator[int]:
        begin, count = self._vector(table, field, 4)
        if count > MAX_TENSORS:
            raise StructureError(f"it has a list of more than {MAX_TENSORS} parts")
        for at in range(begin, begin + 4 * count, 4):
            yield at + self._number("<I", at)

    def _integers(self, table: int, field: int) -> tuple[int, ...]:
        begin, count = self._vector(table, field, 4)
        if count > MAX_TENSORS:
            raise StructureError(f"it has a list of more than {MAX_TENSORS} numbers")
        return struct.unpack_from(f"<{count}i", self._data, begin) if count else ()

    def _buffer(self, table: int) -> None:
        self._vector(table, 0, 1)
        offset, length = (
            0 if (at := self._field(table, field)) is None else self._number("<Q", at) for field in (1, 2)
        )
        if length > 1 and offset + length > self._size:  # 1 stands for none; such a buffer lies behind the tables
            raise StructureError(f"a buffer of {length} bytes lies past its end")

    def _subgraph(self, table: int, codes: int, buffers: int) -> None:
        tensors = list(self._tables(table, 0))
        self._tensors += len(tensors)
        if self._tensors > MAX_TENSORS:
            raise StructureError(f"it has more than {MAX_TENSORS} tensors")
        for tensor in tensors:
            self._tensor(tensor, buffers)
        for field in (1, 2):
            ends = self._integers(table, field)
            if len(ends) > MAX_ENDS:
                raise StructureError(f"it has more than {MAX_ENDS} inputs or outputs")
            self._references(ends, len(tensors), optional=False)
        for operator in self._tables(table, 3):
            self._nodes += 1
            if self._nodes > MAX_NODES:
                raise StructureError(f"it has more than {MAX_NODES} nodes")
            at = self._field(operator, 0)
            if (0 if at is None else self._number("<I", at)) >= codes:
                raise StructureError("a node names an operator that the file does not list")
            self._references(self._integers(operator, 1), len(tensors), optional=True)
            self._references(self._integers(operator, 2), len(tensors), optional=False)

    def _tensor(self, table: int, buffers: int) -> None:
        shape = self._integers(table, 0)
        if len(shape) > _MOST_DIMENSIONS or any(size < 0 for size in shape) or prod(shape) > MAX_ELEMENTS:
            raise StructureError("a tensor has an impossible shape")
        if self._vector(table, 3, 1)[1] > MAX_NAME_BYTES:
            raise StructureError(f"a tensor has a name of over {MAX_NAME_BYTES} bytes")
        at = self._field(table, 2)
        if at is not None and self._number("<I", at) >= max(buffers, 1):
            raise StructureError("a tensor names a buffer that the file does not hold")

    def _references(self, indexes: tuple[int, ...], tensors: int, *, optional: bool) -> None:
        least = _OPTIONAL if optional else 0
        if any(not least <= index < tensors for index in indexes):
            raise StructureError("a node names a tensor that the file does not hold")
