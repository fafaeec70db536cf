"""Walks an ONNX file: protobuf read field by field, without the messages ever being built. In a confined child only.

Fields by number, of onnx/onnx.proto: of each message only what can lead outside or lie about its size.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod

from agent.runtimes.structure import (
    MAX_CHAIN,
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_ENDS,
    MAX_NAME_BYTES,
    MAX_NODES,
    MAX_TENSORS,
    StructureError,
)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1
# Bits of an element, by TensorProto.DataType; strings (8) have no size of their own.
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip


def walk(data: mmap.mmap, size: int) -> None:
    """Walk a ModelProto of ``size`` bytes. Raises: StructureError."""
    _Walk(data).model(size)


class _Walk:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._tensors = 0
        self._nodes = 0
        self._calls: dict[str, set[str]] = {}  # the functions that each function calls; "" is the graph

    def model(self, size: int) -> None:
        graphs = 0
        for field, kind, begin, end in self._fields(0, size):
            if field == 7 and kind == _BYTES:
                graphs += 1
                self._graph(begin, end, 0, "")
            elif field == 25 and kind == _BYTES:
                self._function(begin, end)
        if graphs != 1:
            raise StructureError(f"it has {graphs} graphs, not one")
        self._check_chain()

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                break
        raise StructureError("a number in it does not end")

    def _packed(self, at: int, end: int) -> Iterator[int]:
        while at < end:
            value, at = self._varint(at, end)
            yield value

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (field, wire type, begin, end); a varint's begin is its value."""
        while at < end:
            tag, at = self._varint(at, end)
            field, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value, at = self._varint(at, end)
                yield field, kind, value, at
                continue
            if kind == _BYTES:
                length, at = self._varint(at, end)
            elif kind in (_FIXED32, _FIXED64):
                length = 4 if kind == _FIXED32 else 8
            else:
                raise StructureError("it is no ONNX file, or a damaged one")
            if length > end - at:
                raise StructureError("it is truncated: a part is longer than what holds it")
            yield field, kind, at, at + length
            at += length

    def _graph(self, begin: int, end: int, depth: int, caller: str) -> None:
        if depth > MAX_DEPTH:
            raise StructureError(f"its graphs are nested more than {MAX_DEPTH} deep")
        ends = {11: 0, 12: 0}  # inputs, outputs
        for field, kind, at, stop in self._fields(begin, end):
            if kind != _BYTES:
                continue
            if field == 1:
                self._node(at, stop, depth, caller)
            elif field in ends:
                ends[field] += 1
                self._end(at, stop, ends[field])
            elif field == 5:
                self._tensor(at, stop)
            elif field == 15:
                self._sparse(at, stop)

    def _end(self, begin: int, end: int, count: int) -> None:
        if count > MAX_ENDS:
            raise StructureError(f"it has more than {MAX_ENDS} inputs or outputs")
        for field, kind, at, stop in self._fields(begin, end):
            if field == 1 and kind == _BYTES and stop - at > MAX_NAME_BYTES:
                raise StructureError(f"an input or output has a name of {stop - at} bytes")

    def _function(self, begin: int, end: int) -> None:
        name = domain = ""
        nodes = []
        for field, kind, at, stop in self._fields(begin, end):
            if field == 1 and kind == _BYTES:
                name = self._text(at, stop)
            elif field == 10 and kind == _BYTES:
                domain = self._text(at, stop)
            elif field == 7 and kind == _BYTES:
                nodes.append((at, stop))
        key = f"{domain}/{name}"
        self._calls.setdefault(key, set())
        for at, stop in nodes:
            self._node(at, stop, 0, key)

    def _node(self, begin: int, end: int, depth: int, caller: str) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise StructureError(f"it has more than {MAX_NODES} nodes")
        operator = domain = ""
        for field, kind, at, stop in self._fields(begin, end):
            if kind != _BYTES:
                continue
            if field == 4:
                operator = self._text(at, stop)
            elif field == 7:
                domain = self._text(at, stop)
            elif field == 5:
                self._attribute(at, stop, depth, caller)
        self._calls.setdefault(caller, set()).add(f"{domain}/{operator}")

    def _attribute(self, begin: int, end: int, depth: int, caller: str) -> None:
        for field, kind, at, stop in self._fields(begin, end):
            if kind != _BYTES:
                continue
            if field in (5, 10):
                self._tensor(at, stop)
            elif field in (6, 11):
                self._graph(at, stop, depth + 1, caller)
            elif field in (22, 23):
                self._sparse(at, stop)

    def _sparse(self, begin: int, end: int) -> None:
        for field, kind, at, stop in self._fields(begin, end):
            if field in (1, 2) and kind == _BYTES:
                self._tensor(at, stop)

    def _tensor(self, begin: int, end: int) -> None:
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise StructureError(f"it has more than {MAX_TENSORS} tensors")
        shape: list[int] = []
        element, raw_bytes, name = 0, None, ""
        for field, kind, at, stop in self._fields(begin, end):
            if field == 1 and kind == _VARINT:
                shape.append(at)
            elif field == 1 and kind == _BYTES:
                shape.extend(self._packed(at, stop))
            elif field == 2 and kind == _VARINT:
                element = at
            elif field == 8 and kind == _BYTES:
                name = self._text(at, stop)
            elif field == 9 and kind == _BYTES:
                raw_bytes = stop - at
            elif field == 13 or (field == 14 and kind == _VARINT and at == _EXTERNAL):
                raise StructureError(f"it keeps weights outside of its file ({_shown(name)!r}): save it as one file")
        self._check_size(shape, element, raw_bytes, end - begin, _shown(name))

    def _check_size(self, shape: list[int], element: int, raw_bytes: int | None, whole: int, name: str) -> None:
        if len(shape) > 64 or any(size > MAX_ELEMENTS for size in shape):  # a negative size is a huge one as a varint
            raise StructureError(f"tensor {name!r} has an impossible shape")
        count = prod(shape)
        if count > MAX_ELEMENTS:
            raise StructureError(f"tensor {name!r} has an impossible shape")
        bits = _BITS.get(element)
        if raw_bytes is not None and bits is not None:
            if raw_bytes != (count * bits + 7) // 8:
                raise StructureError(f"tensor {name!r} claims {count} elements and holds {raw_bytes} bytes")
        elif count > 4 * whole:  # an element has two bits at least
            raise StructureError(f"tensor {name!r} claims {count} elements in {whole} bytes")

    def _text(self, begin: int, end: int) -> str:
        return bytes(self._data[begin : min(end, begin + 200)]).decode("utf-8", "replace")

    def _check_chain(self) -> None:
        """Refuse functions that call each other in a circle or in too long a chain."""
        depth: dict[str, int] = {}
        functions = {name: calls & self._calls.keys() for name, calls in self._calls.items()}
        for _ in range(MAX_CHAIN + 1):
            ready = [
                name for name, calls in functions.items() if name not in depth and all(call in depth for call in calls)
            ]
            if not ready:
                break
            depth.update((name, 1 + max((depth[call] for call in functions[name]), default=0)) for name in ready)
        if len(depth) < len(functions):
            raise StructureError(f"its functions call each other in a circle, or in a chain of over {MAX_CHAIN}")


def _shown(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:80])
