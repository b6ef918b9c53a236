"""Small ONNX files, written field by field: one graph that adds its inputs and squares their sum."""

from __future__ import annotations

from pathlib import Path

FLOAT, INT64, DOUBLE = 1, 7, 11
"""ONNX's numbers of element types."""


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _field(number: int, value: int | str | bytes) -> bytes:
    """A field of a message in protobuf's encoding."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _value(name: str, element: int, shape: tuple[int | str, ...]) -> bytes:
    sizes = b"".join(_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, element) + _field(2, sizes)))


def _node(kind: str, inputs: list[str], output: str) -> bytes:
    return b"".join(_field(1, one) for one in inputs) + _field(2, output) + _field(4, kind)


def write_squares(
    path: Path, shape: tuple[int | str, ...], *, element: int = FLOAT, inputs: tuple[str, ...] = ("x",)
) -> Path:
    """Write a graph with outputs ``square`` and ``sum``; a size that is a name is left open."""
    nodes = [
        _node("Add" if len(inputs) > 1 else "Identity", list(inputs), "sum"),
        _node("Mul", ["sum", "sum"], "square"),
    ]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "squares")
    graph += b"".join(_field(11, _value(name, element, shape)) for name in inputs)
    graph += b"".join(_field(12, _value(name, element, shape)) for name in ("square", "sum"))
    opset, made = _field(2, 13), _field(1, "kind") + _field(2, "squares")
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, opset) + _field(14, made))
    return path


def write_outside(path: Path, location: str) -> Path:
    """Write a graph that adds two numbers whose bytes are in the file of this name."""
    entries = {"location": location, "offset": "0", "length": "8"}
    elsewhere = b"".join(_field(13, _field(1, key) + _field(2, value)) for key, value in entries.items())
    weights = _field(1, 2) + _field(2, FLOAT) + _field(8, "w") + elsewhere + _field(14, 1)
    graph = _field(1, _node("Add", ["x", "w"], "sum")) + _field(2, "outside") + _field(5, weights)
    graph += _field(11, _value("x", FLOAT, ("b", 2))) + _field(12, _value("sum", FLOAT, ("b", 2)))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))
    return path
