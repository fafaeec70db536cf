"""Hostile ONNX models, made by code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.faults.hostile.fixture import REFUSED, VOID, Hostile

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
_TIMEOUT = frozenset({"timeout"})
_FULL = frozenset({"out_of_memory", "load_failed", "crashed"})


def value(name: str, shape: list[Any] | None, kind: int = FLOAT) -> Any:
    """Describe an input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def numbers(name: str, kind: int, shape: list[int], values: list[Any]) -> Any:
    """Make a constant."""
    return helper.make_tensor(name, kind, shape, values)


def model(nodes: list[Any], constants: list[Any] = (), *, inputs: Any = None, outputs: Any = None, **more: Any) -> Any:  # type: ignore[assignment]
    """Make a model from x to y, float32 [2], unless told otherwise."""
    graph = helper.make_graph(nodes, "g", inputs or [value("x", [2])], outputs or [value("y", None)], list(constants))
    opsets = more.pop("opset_imports", [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    """Make a node."""
    return helper.make_node(operator, inputs, outputs, **attributes)


def good() -> Any:
    """A model that does no harm: y = x + w."""
    return model([node("Add", ["x", "w"], ["y"])], [numbers("w", FLOAT, [2], [1.0, 2.0])])


def _dynamic(name: str, values: list[int]) -> tuple[list[Any], list[Any]]:
    """Make numbers that depend on the input, so that nothing is computed before the first run."""
    nodes = [
        node("Cast", ["x"], [f"{name}_c"], to=INT64), node("ReduceSum", [f"{name}_c"], [f"{name}_r"], keepdims=0),
        node("Mul", [f"{name}_r", f"{name}_z"], [f"{name}_n"]), node("Add", [f"{name}_n", f"{name}_v"], [name]),
    ]  # fmt: skip
    return nodes, [numbers(f"{name}_z", INT64, [], [0]), numbers(f"{name}_v", INT64, [len(values)], values)]


def _loop(trips: int, body_nodes: list[Any], condition: bool = True) -> Any:
    body = helper.make_graph(
        body_nodes, "body", [value("i", [], INT64), value("go", [], BOOL), value("s", [2])],
        [value("go_on", [], BOOL), value("t", [2])],
    )  # fmt: skip
    constants = [numbers("n", INT64, [], [trips]), numbers("yes", BOOL, [], [condition])]
    return model([node("Loop", ["n", "yes", "x"], ["y"], body=body)], constants, outputs=[value("y", [2])])


def _spins() -> Iterator[Hostile]:
    step = [node("Identity", ["go"], ["go_on"]), node("Add", ["s", "s"], ["t"])]
    yield Hostile("spin", "endless loop", ".onnx", _loop(1 << 62, step).SerializeToString(), _TIMEOUT)
    scan = helper.make_graph([node("Add", ["a", "b"], ["c"]), node("Identity", ["c"], ["d"])], "scan",
                             [value("a", []), value("b", [])], [value("c", []), value("d", [])])  # fmt: skip
    shape, constants = _dynamic("long", [1 << 27])
    nodes = [*shape, node("ConstantOfShape", ["long"], ["many"]),
             node("Scan", ["zero", "many"], ["y", "z"], num_scan_inputs=1, body=scan)]  # fmt: skip
    constants = [*constants, numbers("zero", FLOAT, [], [0.0])]
    yield Hostile("hang", "a scan of 2^27 steps", ".onnx", model(nodes, constants).SerializeToString(),
                  _TIMEOUT | _FULL)  # fmt: skip
    heavy = [node("Identity", ["go"], ["go_on"]), node("Identity", ["s"], ["t"]),
             node("ConstantOfShape", ["square"], ["m"]), node("MatMul", ["m", "m"], ["unused"])]  # fmt: skip
    made = _loop(1 << 40, heavy)
    made.graph.initializer.append(numbers("square", INT64, [2], [1500, 1500]))
    yield Hostile("hang", "large products without end", ".onnx", made.SerializeToString(), _TIMEOUT | _FULL)


def _bombs() -> Iterator[Hostile]:
    for operator, dims in (("ConstantOfShape", [1 << 16, 1 << 16]), ("Expand", [1 << 17, 1 << 15, 2])):
        shape, constants = _dynamic("shape", dims)
        inputs = ["shape"] if operator == "ConstantOfShape" else ["x", "shape"]
        nodes = [*shape, node(operator, inputs, ["b"]), node("ReduceSum", ["b"], ["y"], keepdims=0)]
        yield Hostile("memory bomb", operator, ".onnx", model(nodes, constants).SerializeToString(), _FULL)
    repeats, constants = _dynamic("repeats", [1 << 33])
    nodes = [*repeats, node("Tile", ["x", "repeats"], ["b"]), node("ReduceMax", ["b"], ["y"], keepdims=0)]
    yield Hostile("memory bomb", "Tile", ".onnx", model(nodes, constants).SerializeToString(), _FULL)
    nodes = [node("Concat", ["x", "x"], ["c0"], axis=0)]
    nodes += [node("Concat", [f"c{n}", f"c{n}"], [f"c{n + 1}"], axis=0) for n in range(36)]
    nodes += [node("ReduceMax", ["c36"], ["y"], keepdims=0)]
    yield Hostile("memory bomb", "doubled 37 times", ".onnx", model(nodes).SerializeToString(), _FULL)
    shape, constants = _dynamic("shape", [1 << 31])
    nodes = [*shape, node("ConstantOfShape", ["shape"], ["y"])]
    yield Hostile("output bomb", "an output of 8 GiB", ".onnx", model(nodes, constants).SerializeToString(), _FULL)
    long = "y" * (5 << 20)
    yield Hostile("output bomb", "an output's name of 5 MiB", ".onnx",
                  model([node("Identity", ["x"], [long])], outputs=[value(long, [2])]).SerializeToString(),
                  REFUSED, says="a name of")  # fmt: skip
    names = [f"{'y' * 200}{n}" for n in range(2000)]
    yield Hostile("output bomb", "2,000 outputs", ".onnx",
                  model([node("Identity", ["x"], [one]) for one in names],
                        outputs=[value(one, [2]) for one in names]).SerializeToString(),
                  REFUSED, says="inputs or outputs")  # fmt: skip


def _shapes() -> Iterator[Hostile]:
    add = [node("Add", ["x", "x"], ["y"])]
    for name, shape in (("2^31 x 2^31", [1 << 31, 1 << 31]), ("2^62", [1 << 62]), ("80 dimensions", [2] * 80)):
        made = model(add, inputs=[value("x", shape)])
        yield Hostile("absurd shapes", f"an input of {name}", ".onnx", made.SerializeToString(), _FULL)
    made = good()
    made.graph.initializer[0].dims[:] = [-2]
    yield Hostile("absurd shapes", "a constant of -2", ".onnx", made.SerializeToString(), REFUSED)
    made.graph.initializer[0].dims[:] = [1 << 30, 1 << 30]
    yield Hostile("absurd shapes", "a constant of 2^60", ".onnx", made.SerializeToString(), REFUSED)


def _lies() -> Iterator[Hostile]:
    for name, raw, dims in (("too short", b"\0" * 4, [2]), ("too long", b"\0" * 64, [2]), ("absent", b"", [1 << 20])):
        made = good()
        tensor = made.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.dims[:], tensor.raw_data = dims, raw
        yield Hostile("lying sizes", f"weights {name}", ".onnx", made.SerializeToString(), REFUSED, says="claims")
    whole = good().SerializeToString()
    at = whole.index(b"g", 8)
    yield Hostile("lying sizes", "a part longer than the file", ".onnx",
                  b"\x08\x08\x3a\xff\xff\xff\xff\x0f" + whole, REFUSED, says="truncated")  # fmt: skip
    yield Hostile("lying sizes", "a number that does not end", ".onnx", b"\x08" + b"\xff" * 40 + whole[at:], REFUSED)


def _deep() -> Iterator[Hostile]:
    for depth in (18, 90):
        yield Hostile("deep nesting", f"{depth} branches", ".onnx", _raw_nest(depth), REFUSED, says="nested")
    yield Hostile("deep nesting", "2,000 graphs", ".onnx", _raw_nest(2000), REFUSED, says="nested")
    yield Hostile("function chain", "3,000 long", ".onnx", _functions(3000), REFUSED, says="functions")
    yield Hostile("function chain", "65 long", ".onnx", _functions(66), REFUSED, says="functions")
    yield Hostile("function chain", "a circle", ".onnx", _functions(5, circle=True), REFUSED, says="functions")


def _raw_nest(depth: int) -> bytes:
    """Nest graphs by hand: protobuf itself refuses to write more than a hundred."""

    def field(number: int, data: bytes) -> bytes:
        length, out = len(data), bytearray()
        while length >= 0x80:
            out.append(length & 0x7F | 0x80)
            length >>= 7
        return bytes([number << 3 | 2, *out, length]) + data

    data = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, data) + b"\xa0\x01\x05"
        data = field(1, field(1, b"yes") + field(4, b"If") + field(5, attribute))
    return b"\x08\x08" + field(7, data) + field(8, b"\x10\x0d")


def _functions(depth: int, *, circle: bool = False) -> bytes:
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("chain", 1)]
    made = []
    for number in range(depth):
        follower = (number + 1) % depth if circle else number + 1
        step = (
            node("Identity", ["x"], ["y"]) if follower == depth else node(f"f{follower}", ["x"], ["y"], domain="chain")
        )
        made.append(helper.make_function("chain", f"f{number}", ["x"], ["y"], [step], opsets))
    start = [node("f0", ["x"], ["y"], domain="chain")]
    return bytes(model(start, functions=made, opset_imports=opsets).SerializeToString())


def _operators() -> Iterator[Hostile]:
    for name, domain in (("Unheard", ""), ("Unheard", "own"), ("FusedMatMul", "com.unknown")):
        made = model([node(name, ["x"], ["y"], domain=domain)])
        yield Hostile("custom operator", f"{domain or 'onnx'}.{name}", ".onnx", made.SerializeToString(), REFUSED)
    yield Hostile("bad index", "a node reads what nobody writes", ".onnx",
                  model([node("Add", ["x", "nothing"], ["y"])]).SerializeToString(), REFUSED)  # fmt: skip
    yield Hostile("bad index", "a node reads itself", ".onnx",
                  model([node("Add", ["x", "y"], ["y"])]).SerializeToString(), REFUSED)  # fmt: skip
    gather, constants = _dynamic("at", [1 << 40])
    made = model([*gather, node("Gather", ["x", "at"], ["y"])], constants)
    yield Hostile("bad index", "Gather beyond the end", ".onnx", made.SerializeToString(), VOID)


def external(location: str) -> bytes:
    """A model whose weights are said to lie in another file."""
    made = good()
    tensor = made.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    return bytes(made.SerializeToString())


def _outside() -> Iterator[Hostile]:
    for name, location in (
        ("an absolute path", "/etc/passwd"), ("..", "../../../../etc/passwd"), ("a hard link beside it", "hard-link"),
        ("a symbolic link beside it", "symbolic-link"), ("a descriptor of the worker", "3"),
    ):  # fmt: skip
        yield Hostile("external data", name, ".onnx", external(location), REFUSED, says="outside of its file")
    made = good()
    made.graph.initializer[0].ClearField("data_location")
    entry = made.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "hard-link"
    yield Hostile("external data", "named and not declared", ".onnx", made.SerializeToString(), REFUSED)
    hidden = model(
        [node("Constant", [], ["y"], value=onnx.load_from_string(external("hard-link")).graph.initializer[0])]
    )
    yield Hostile("external data", "in an attribute", ".onnx", hidden.SerializeToString(), REFUSED)


def _broken() -> Iterator[Hostile]:
    whole = good().SerializeToString()
    for share in (3, 5, 7):
        yield Hostile("truncated", f"{share} tenths", ".onnx", whole[: len(whole) * share // 10], REFUSED)
    yield Hostile("truncated", "empty", ".onnx", b"", REFUSED)
    for name, head in (
        ("PNG", b"\x89PNG\r\n\x1a\n"),
        ("ZIP", b"PK\x03\x04"),
        ("ELF", b"\x7fELF"),
        ("script", b"#!/bin/sh\n"),
    ):
        yield Hostile("polyglot", f"{name}, then a model", ".onnx", head + whole, REFUSED)


def fixtures() -> Iterator[Hostile]:
    """All of them."""
    for part in (_spins, _bombs, _shapes, _lies, _deep, _operators, _outside, _broken):
        yield from part()
