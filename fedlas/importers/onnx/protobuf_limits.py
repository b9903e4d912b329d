"""Limits of an ONNX file's bytes, checked before they are parsed: the number of messages and their depth.

Two bytes of a file can become an object of hundreds in memory, so parts are counted on the bytes, along the fields that
ONNX defines. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto

from fedlas.errors import UnsupportedModel

#: The largest classifiers that exporters write stay below ten thousand nodes; importing takes about 1 ms for each.
MOST_NODES = 20_000
_MOST_PARTS = 1_000_000
#: An element of a list may be a field of its own, in files of very old writers and in trees of many nodes.
_MOST_FIELDS = 20_000_000
#: Model, graph, node, attribute, tensor; each nested graph adds three. The parser itself gives up at 100.
_DEEPEST = 60

_NUMBER, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
#: Field number → the same for the message in it; the name of the message stands under 0.
Fields = dict[int, Any]


def survey(content: bytes) -> None:
    """Refuse what would take far more memory or depth than any classifier.

    Raises:
        UnsupportedModel: `too_many_nodes`, `too_deep`.
        DecodeError: the bytes are no message, or end before it does.
    """
    position, end, known = 0, len(content), _fields_of(ModelProto.DESCRIPTOR)
    outer: list[tuple[int, Fields]] = []  # ends and fields of the messages around this one
    nodes = parts = fields = 0
    while position < end or outer:
        if position >= end:
            _within(position, end)
            end, known = outer.pop()
            continue
        fields += 1
        if fields > _MOST_FIELDS:
            break
        tag, position = _varint(content, position, end)
        kind = tag & 7
        if kind == _SIZED:
            size, position = _varint(content, position, end)
            inner = known.get(tag >> 3)
            if inner is None:
                position += size
                continue
            parts += 1
            nodes += inner[0] == NodeProto.DESCRIPTOR.full_name
            _check(parts, fields, len(outer))
            _within(position + size, end)
            outer.append((end, known))
            end, known = position + size, inner
        elif kind == _NUMBER:
            _, position = _varint(content, position, end)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise DecodeError("a group, which ONNX does not use")
    _within(position, end)
    _check(parts, fields, len(outer))
    if nodes > MOST_NODES:
        raise _too_many(f"the graph has {nodes:,} nodes; at most {MOST_NODES:,} can be opened")


def _within(position: int, end: int) -> None:
    if position > end:
        raise DecodeError("a field reaches beyond its message")


def _check(parts: int, fields: int, depth: int) -> None:
    """These two limits end the count, so how much lies beyond them is not known; nodes are counted to the end."""
    if parts > _MOST_PARTS:
        raise _too_many(
            f"the graph has more than {_MOST_PARTS:,} parts (nodes, attributes, tensors, descriptions), the most that "
            f"can be opened; classifiers have at most {MOST_NODES:,} nodes"
        )
    if fields > _MOST_FIELDS:
        raise _too_many(
            f"the file has more than {_MOST_FIELDS:,} values in lists that are not packed (for example those of a "
            "tree ensemble), the most that can be opened; send fewer or smaller trees"
        )
    if depth > _DEEPEST:
        raise UnsupportedModel(
            "too_deep", f"graphs are nested more than {_DEEPEST} levels deep; a classifier needs no nested graphs"
        )


def _too_many(found: str) -> UnsupportedModel:
    return UnsupportedModel("too_many_nodes", found)


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    """A number of seven bits per byte, and the place after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise DecodeError("a number that does not end")


@cache
def _fields_of(descriptor: Any) -> Fields:
    return _collect(descriptor, {})


def _collect(descriptor: Any, seen: dict[str, Fields]) -> Fields:
    """Messages contain each other (a graph's node has a graph), so each is described once."""
    if descriptor.full_name not in seen:
        fields: Fields = {0: descriptor.full_name}
        seen[descriptor.full_name] = fields
        for field in descriptor.fields:
            if field.message_type is not None:
                fields[field.number] = _collect(field.message_type, seen)
    return seen[descriptor.full_name]
