"""The messages of an Arrow stream, judged by their own description before anything of them is built.

Arrow checks that descriptions are well formed flatbuffers; what they say is only read here: which kinds of messages
there are, how many rows they claim, whether their bodies are compressed, and what the schema asks to be constructed.
The numbers below are those of Message.fbs and Schema.fbs in https://github.com/apache/arrow/tree/main/format
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pyarrow as pa

from service.inference.formats.flatbuffer import INT16, INT64, UINT8, Table
from service.registry.errors import InvalidRequest, TooLarge

#: Each is work for Python, also where it has no rows.
MAX_BATCHES = 10_000
MAX_FIELDS = 1 << 16
#: Of one description: checking it takes Arrow up to eight steps for each byte.
MAX_METADATA_BYTES = 4 << 20
_MAX_DEPTH = 16

#: Slots of the tables.
_MESSAGE_KIND, _MESSAGE_HEADER = 1, 2
_BATCH_LENGTH, _BATCH_BUFFERS, _BATCH_COMPRESSION = 0, 2, 3
_SCHEMA_ENDIANNESS, _SCHEMA_FIELDS = 0, 1
_FIELD_NAME, _FIELD_DICTIONARY, _FIELD_CHILDREN, _FIELD_METADATA = 0, 4, 5, 6
_KEY, _VALUE = 0, 1
#: Kinds of headers.
_SCHEMA, _RECORD_BATCH = 1, 3
_OTHERS = {
    2: "it has dictionary batches; send the values themselves",
    4: "it has tensors; send batches of rows",
    5: "it has sparse tensors; send batches of rows",
}
_EXTENSION_KEY, _EXTENSION = b"ARROW:extension:name", b"arrow.fixed_shape_tensor"


def messages(body: bytes) -> Iterator[tuple[Any, Table]]:
    """Each message of the stream, the schema first, and its header; raises as `reading`."""
    if body.startswith(b"ARROW1"):
        refuse("it is a file (Feather); the stream format is needed, as pyarrow.ipc.new_stream writes it")
    source = pa.BufferReader(pa.py_buffer(body))
    count = 0
    with reading():
        _check_next(body, 0)
        for message in pa.ipc.MessageReader.open_stream(source):
            header = _header(memoryview(message.metadata), _RECORD_BATCH if count else _SCHEMA)
            count += 1
            if count > MAX_BATCHES + 1:
                refuse(f"it has more than {MAX_BATCHES} batches; send larger ones")
            yield message, header
            _check_next(body, source.tell())
    if count == 0:
        refuse("it has no schema")
    if source.tell() != len(body):
        refuse(f"{len(body) - source.tell()} bytes follow its end")


def schema_of(metadata: bytes) -> Any:
    """The schema that a message describes, once it is known what would be constructed; raises as `reading`."""
    with reading():
        header = _header(metadata, _SCHEMA)
        if header.number(_SCHEMA_ENDIANNESS, INT16):
            refuse("its numbers are big-endian; little-endian is needed")
        _check_fields(header.tables(_SCHEMA_FIELDS))
        return pa.ipc.read_schema(pa.py_buffer(struct.pack("<iI", -1, len(metadata)) + metadata))


def check_batch(header: Table, body_bytes: int, *, rows: int, max_rows: int) -> int:
    """The rows that a record batch claims, `rows` being those before it; raises as `reading`, and TooLarge."""
    with reading():
        count, buffers = header.number(_BATCH_LENGTH, INT64), header.structs(_BATCH_BUFFERS, "qq")
    if count < 0:
        refuse(f"a batch claims {count} rows")
    if rows + count > max_rows:
        advice = "send them in parts, or POST /v1/predictions over a stored dataset"
        message = f"at least {rows + count} rows in one request; at most {max_rows}: {advice}"
        raise TooLarge("too_many_rows", message, field="inputs")
    if header.has(_BATCH_COMPRESSION):
        refuse("its batches are compressed; send them as they are")
    for start, size in zip(buffers[::2], buffers[1::2], strict=True):
        if start < 0 or start & 7 or size < 0 or start + size > body_bytes:
            refuse("a batch describes values that lie outside of it, or not at a multiple of eight bytes")
    return count


def built(message: Any, schema: Any) -> Any:
    """The record batch, every offset in it checked; raises as `reading`."""
    with reading():
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
        return batch


@contextmanager
def reading() -> Iterator[None]:
    """Arrow's errors, and those of descriptions that are none, in our words: InvalidRequest `invalid_arrow`."""
    try:
        yield
    except (pa.ArrowException, OSError, struct.error, ValueError, TypeError) as error:
        refuse(str(error).partition("\n")[0][:300] or type(error).__name__)


def refuse(what: str) -> NoReturn:
    """Raise InvalidRequest `invalid_arrow`."""
    raise InvalidRequest("invalid_arrow", f"the body is no Arrow stream that is read here: {what}", field="inputs")


def _check_next(body: bytes, place: int) -> None:
    """Refuse a description that is too long before Arrow looks at it."""
    prefix, length = struct.unpack("<ii", body[place : place + 8].ljust(8, b"\0"))
    if (length if prefix == -1 else prefix) > MAX_METADATA_BYTES:
        refuse(f"the description of a message has more than {MAX_METADATA_BYTES >> 20} MiB")


def _header(metadata: bytes | memoryview, wanted: int) -> Table:
    message = Table.root(metadata)
    kind, header = message.number(_MESSAGE_KIND, UINT8), message.table(_MESSAGE_HEADER)
    if kind != wanted or header is None:
        refuse(_OTHERS.get(kind, "a schema must come first, and nothing but batches of rows after it"))
    return header


def _check_fields(fields: list[Table]) -> None:
    """All fields of a schema, at any depth: shared ones count as often as they are built."""
    waiting = [(field, 1) for field in fields]
    seen = len(waiting)
    while waiting:
        field, depth = waiting.pop()
        children = field.tables(_FIELD_CHILDREN)
        seen += len(children) + _check_field(field)
        if seen > MAX_FIELDS or (children and depth == _MAX_DEPTH):
            refuse(f"its schema has more than {MAX_FIELDS} fields and notes, or fields {_MAX_DEPTH} deep")
        waiting += [(child, depth + 1) for child in children]


def _check_field(field: Table) -> int:
    """How many notes a field has, none of which asks for a type that others wrote."""
    if field.has(_FIELD_DICTIONARY):
        refuse(f"the column {_shown(field.text(_FIELD_NAME))} is dictionary-encoded; send the values themselves")
    notes = field.tables(_FIELD_METADATA)
    for pair in notes:
        if pair.text(_KEY) == _EXTENSION_KEY and (name := pair.text(_VALUE)) != _EXTENSION:
            found = f"the column {_shown(field.text(_FIELD_NAME))} has the extension type {_shown(name)}"
            refuse(f"{found}; of those only {_shown(_EXTENSION)} is read")
    return len(notes)


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace")[:60])
