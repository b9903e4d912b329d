"""Limits of an ONNX file's bytes, checked before they are parsed: the number of messages and their depth.

Two bytes of a file can become an object of hundreds in memory, so parts are counted on the bytes, along the fields that
ONNX defines. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]
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


def survey(content: bytes) -> None:
    """Refuse what would take far more memory or depth than any classifier.

    Raises:
        UnsupportedModel: `too_many_nodes`, `too_deep`.
        DecodeError: the bytes are no message, or end before it does.
    """
    position, end, message = 0, len(content), ModelProto.DESCRIPTOR
    outer: list[tuple[int, Descriptor]] = []  # ends and kinds of the messages around this one
    nodes = parts = fields = 0
    while position < end or outer:
        if position >= end:
            _within(position, end)
            end, message = outer.pop()
            continue
        fields += 1
        if fields > _MOST_FIELDS:
            break
        tag, position = _varint(content, position, end)
        kind = tag & 7
        if kind == _SIZED:
            size, position = _varint(content, position, end)
            field = message.fields_by_number.get(tag >> 3)
            if field is None or field.message_type is None:
                position += size
                continue
            parts += 1
            nodes += field.message_type is NodeProto.DESCRIPTOR
            _check(parts, fields, len(outer))
            _within(position + size, end)
            outer.append((end, message))
            end, message = position + size, field.message_type
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
