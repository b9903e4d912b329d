"""JSON of requests: bounded on the bytes, turned from nested lists into numpy arrays, quoted in error messages.

A number takes as little as two bytes and becomes an object of 24 and more; an empty list takes three bytes and becomes
one of 56 that the collector looks at again and again. So bytes alone say little of what reading them costs: 4 MiB of
float32 in rows of 784 are read and converted in 28 ms on one core, 4 MiB of `[]` took 1.5 s.

NumPy sees the lists only once all values are known to be numbers: of a list of numbers with one long text it would make
an array of texts, each cell as long as that one. Types and lengths are compared as sets, which takes some 10 ns a
value; a JSON reader makes exactly these types and no subclasses of them.

Answer options in a query string or a form are JSON values, too; whether these are possible is checked later.
"""

from __future__ import annotations

import gc
import reprlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from threading import Lock
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

import numpy as np
from pydantic_core import from_json

from fedlas.contract.options import AnswerOptions
from service.registry.errors import InvalidRequest, TooLarge

#: Bytes for each value, on the average: of a body as large as may be, numbers of eight bytes just fill it.
_BYTES_PER_VALUE = 8
#: The numbers that a mark counts as: its value takes about so many times as long to read, and to free.
_WEIGHTS = ((ord(","), 1), (ord(":"), 8), (ord("["), 4), (ord("{"), 4))
_HEAVIEST = max(weight for _, weight in _WEIGHTS)
#: Counted at once: numpy takes 0.25 ns a byte for all four, `bytes.count` as long for each.
_PIECE_BYTES = 256 * 1024
#: Smaller bodies are read without pausing the collector.
FEW_BYTES = 64 * 1024
_INSTEAD = (
    "send rows as application/x-npy, image files as they are (image/…, multipart/form-data), tensors in binary under "
    "/v2 (Inference-Header-Content-Length), or a stored dataset (POST /v1/batches)"
)


def too_many_bytes(limit: int) -> TooLarge:
    return TooLarge("too_large", f"JSON may have at most {limit} bytes in one request; {_INSTEAD}")


def check_json(body: bytes, *, limit: int, length: int | None = None) -> None:
    """Raise TooLarge `too_large` or `too_many_values` for JSON: `length` bytes of the body, None for all."""
    size = len(body) if length is None else length
    if size > limit:
        raise too_many_bytes(limit)
    most = limit // _BYTES_PER_VALUE
    if size * _HEAVIEST <= most:
        return
    content = np.frombuffer(body, np.uint8, count=size)
    pieces = [content[start : start + _PIECE_BYTES] for start in range(0, size, _PIECE_BYTES)]
    weight = sum(each * int(np.count_nonzero(piece == mark)) for piece in pieces for mark, each in _WEIGHTS)
    if weight > most:
        sent = f"JSON of {size} bytes with values, lists, objects and keys that weigh as {weight} numbers"
        raise TooLarge("too_many_values", f"{sent}; at most {most} in one request: {_INSTEAD}", field="inputs")


class _Pause:
    """Pauses the collector while a large body is read: the objects of JSON have no cycles."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._readers = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                gc.disable()
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    gc.enable()


#: A context for reading more than a few bytes of JSON; a list costs 110 ns in it, and 700 ns without.
collector_paused = _Pause()


#: By numpy's name its type; `struct` has the same letters, takes whole numbers for floats, and refuses texts, null, and
#: what does not fit.
_TYPES: Mapping[str, np.dtype] = {np.dtype(code).name: np.dtype(code) for code in "efdbhiqBHIQ"}
_MAX_DIMENSIONS = 32
#: So few bytes are searched in less time than numpy takes to begin.
_FEW_VALUES = 4096
#: Letters of option names; a text with more of them is searched as a whole.
_FEW_LETTERS = 64
_LISTS: set[type] = {list}
_NUMBERS: set[type] = {int, float, bool}


def plain_array(rows: list[object], sizes: Sequence[int | str], dtype: str) -> np.ndarray | None:
    """(len(rows), *sizes) of this type; None where the rows are not plainly that. Texts in `sizes` are open.

    >>> plain_array([[1, 2.5], [3, 4]], [2], "float32")
    array([[1. , 2.5],
           [3. , 4. ]], dtype=float32)
    >>> plain_array([[1, 2.5], [3]], [2], "float32") is plain_array([[1, "2"]], [2], "float32") is None
    True
    """
    kind = _TYPES.get(dtype)
    if kind is None or not rows:
        return None
    values, shape = rows, [len(rows)]
    for wanted in sizes:
        first = values[0]
        size = len(first) if type(first) is list else 0
        if size == 0 or not (size == wanted or isinstance(wanted, str)):
            return None
        if len(values) == 1:
            values = first  # type: ignore[assignment]
        else:
            if set(map(type, values)) != _LISTS or set(map(len, values)) != {size}:  # type: ignore[arg-type]
                return None
            values = list(chain.from_iterable(values))  # type: ignore[arg-type]
        shape.append(size)
    if type(values[0]) is bool:
        return None
    try:
        flat = struct.pack(f"={len(values)}{kind.char}", *values)
    except (struct.error, OverflowError):
        return None
    return np.frombuffer(flat, kind).reshape(shape)


def may_hold_booleans(text: bytes) -> bool:
    """True where `true` or `false` stands anywhere in JSON; rare letters of theirs are looked for first, with memchr.

    `plain_array` looks at the type of the first value alone: that of all would take a third of its time.

    >>> may_hold_booleans(b'{"inputs":[[0,true]]}'), may_hold_booleans(b'{"inputs":[[0,1]],"max_error":0.1}')
    (True, False)
    """
    if b"e" not in text:  # in exponents, too, but many rows have none
        return False
    return (b"r" in text and _holds(text, b"true", b"r")) or (b"f" in text and _holds(text, b"false", b"f"))


def _holds(text: bytes, word: bytes, letter: bytes) -> bool:
    place, ahead = text.find(letter), word.index(letter)
    for _ in range(_FEW_LETTERS):
        if place < 0:
            return False
        if text.startswith(word, max(0, place - ahead)):
            return True
        place = text.find(letter, place + 1)
    return word in text


def all_finite(array: np.ndarray) -> bool:
    """True where no value is NaN or infinite; `all` takes twice the time for one row."""
    finite = np.isfinite(array)
    if array.size <= _FEW_VALUES:
        return b"\0" not in finite.tobytes()
    return bool(np.count_nonzero(finite) == array.size)


def shape_of(value: object) -> tuple[int, ...] | None:
    """The sizes of nested lists, () of anything else; None where they are ragged, or nested beyond reason."""
    sizes: list[int] = []
    values: list[Any] = [value]
    while list in (kinds := set(map(type, values))):
        lengths = set(map(len, values)) if kinds == _LISTS else set()
        if len(lengths) != 1 or len(sizes) == _MAX_DIMENSIONS:
            return None
        sizes.append(lengths.pop())
        values = list(chain.from_iterable(values))
    return tuple(sizes)


def only_numbers(value: object) -> bool:
    values: list[Any] = [value]
    while list in (kinds := set(map(type, values))):
        if not kinds <= _LISTS | _NUMBERS:
            return False
        values = list(chain.from_iterable(values if kinds == _LISTS else filter(_is_list, values)))
    return kinds <= _NUMBERS


def holds(values: list[Any], kind: type) -> bool:
    """True where a value of this type stands anywhere in lists, nested or not.

    >>> holds([[0, True], 2], bool), holds([0, [1]], bool)
    (True, False)
    """
    for _ in range(_MAX_DIMENSIONS):
        kinds = set(map(type, values))
        if kind in kinds or list not in kinds:
            return kind in kinds
        values = list(chain.from_iterable(filter(_is_list, values)))
    return False


def _is_list(value: object) -> bool:
    return type(value) is list


def first_unsound(values: Sequence[Any], is_sound: Callable[[Sequence[Any]], bool]) -> int:
    """The index of the first value that makes `is_sound` false for every slice that holds it, found by halving.

    There must be one; where only two values together are at fault, the index of one of them.

    >>> first_unsound([1, 2, "3", 4], only_numbers)
    2
    """
    start, stop = 0, len(values)
    while stop - start > 1:
        middle = (start + stop) // 2
        if is_sound(values[start:middle]):
            start = middle
        else:
            stop = middle
    return start


_KINDS = {dict: "an object", type(None): "null"}

_MAX_SHOWN_CHARACTERS = 60
_MAX_NAMES = 20

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxstring, _short.maxlong = 2, 6, _MAX_SHOWN_CHARACTERS, 40


def shown(value: object) -> str:
    """At most about a line.

    >>> shown({"a": 1}), shown(None), shown("x"), shown(list(range(1000)))
    ('an object', 'null', "'x'", '[0, 1, 2, 3, 4, 5, ...]')
    """
    if type(value) is str and len(value) <= _MAX_SHOWN_CHARACTERS:  # names, in every request
        return repr(value)
    return _KINDS.get(type(value)) or _short.repr(value)


def listed(names: Iterable[str]) -> str:
    """The first twenty names.

    >>> listed(["a", "b"]), listed([]), listed(map(str, range(25)))[-7:]
    ("'a', 'b'", 'none', "'19', …")
    """
    first = [shown(name) for name in islice(names, _MAX_NAMES + 1)]
    return ", ".join(first[:_MAX_NAMES]) + (", …" if len(first) > _MAX_NAMES else "") or "none"


Options = dict[str, object]

_NUMBER: tuple[type, ...] = (int, float)
_OBJECT: tuple[type, ...] = (dict,)
_TRUTH: tuple[type, ...] = (bool,)


def _json_types(annotation: object) -> tuple[type, ...]:
    plain = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(annotation)]
    kinds = {get_origin(kind) or kind for kind in plain}
    if bool in kinds:
        return _TRUTH
    return (_NUMBER if kinds & {int, float} else ()) + (_OBJECT if dict in kinds else ())


#: Name → the types its JSON value may have.
NAMES: dict[str, tuple[type, ...]] = {
    name: _json_types(field.annotation) for name, field in AnswerOptions.model_fields.items()
}
#: The part of a form that holds all options as one JSON object.
PART = "options"

_WORDS = {
    _NUMBER: "a number",
    _OBJECT: "a JSON object",
    _NUMBER + _OBJECT: "a number or a JSON object",
    _TRUTH: "true or false",
}
_MAX_CHARACTERS = 1 << 16
_MAX_FIELDS = 32


def from_query(query: bytes) -> Options:
    """Options in a query string; raises InvalidRequest `invalid_request` with the field that is wrong."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError as error:
        raise InvalidRequest("invalid_request", f"the query string cannot be read: {error}"[:300]) from error
    return merged(*({name: from_text(name, text)} for name, text in pairs))


def from_text(name: str, text: str) -> object:
    """The value of one option; raises InvalidRequest."""
    _check_name(name)
    return _checked(name, _parsed(name, text))


def from_part(text: str) -> Options:
    """The options in the JSON object of a form's part; null is as good as nothing; raises InvalidRequest."""
    content = _parsed(PART, text)
    if not isinstance(content, dict):
        raise _refused(PART, f"expected {_WORDS[_OBJECT]}; found {text[:100]!r}")
    for name in content:  # ends at the first that is unknown
        _check_name(name)
    return {name: _checked(name, value) for name, value in content.items() if value is not None}


def merged(*parts: Mapping[str, object]) -> Options:
    options: Options = {}
    for part in parts:
        for name, value in part.items():
            if name in options:
                raise _refused(name, "it is given more than once")
            options[name] = value
    return options


def _parsed(name: str, text: str) -> object:
    if len(text) > _MAX_CHARACTERS:
        raise _refused(name, f"it has {len(text)} characters; at most {_MAX_CHARACTERS}")
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _refused(name, f"{text[:100]!r} is no JSON: {str(error)[:200]}") from error


def _checked(name: str, value: object) -> object:
    if type(value) not in NAMES[name]:  # True is an integer to `isinstance`
        raise _refused(name, f"expected {_WORDS[NAMES[name]]}; found {str(value)[:100]!r}")
    return value


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise InvalidRequest(
            "invalid_request", f"{name[:100]!r} is no option; known are {', '.join(NAMES)}", field=name[:100]
        )


def _refused(name: str, what: str) -> InvalidRequest:
    return InvalidRequest("invalid_request", f"{name}: {what}", field=name)
