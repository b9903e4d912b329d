"""JSON: for every place of every route that takes it, what can stand there, how often, how deep, how compressed."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.weight.content import Content, gzipped, listed, repeated, text
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import MOST_BODY, Attack, TooBig, one, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import INPUTS, World

_ROW = b"[" + b",".join([b"0"] * INPUTS) + b"]"
_TENSOR = b'{"name":"x","datatype":"FP32","shape":[1,%d],"data":%b}' % (INPUTS, _ROW)


@dataclass(frozen=True)
class Place:
    """Where values stand in a body: between `before` and `after`; `keyed` where they are members of an object."""

    name: str
    target: str
    before: bytes
    after: bytes
    keyed: bool = False
    method: str = "POST"

    @property
    def route(self) -> str:
        """The first word of its name."""
        return self.name.partition(":")[0]


_JOB = b'{"model_id":"MODEL","dataset_id":"DATASET",'
PLACES = (
    Place("predict rows: any", "predict", b'{"inputs":[', b"]}"),
    Place("predict: keys", "predict", b'{"inputs":[%b],' % _ROW, b"}", keyed=True),
    Place("predict: keys of a row", "predict", b'{"inputs":[{', b"}]}", keyed=True),
    Place("predict: names of inputs", "predict", b'{"inputs":{', b"}}", keyed=True),
    Place("predict: max_error", "predict", b'{"inputs":[%b],"max_error":{' % _ROW, b"}}", keyed=True),
    Place("predict: costs", "predict", b'{"inputs":[%b],"decision":{"costs":[' % _ROW, b"]}}"),
    Place("infer: tensors", "infer", b'{"inputs":[', b"]}"),
    Place("infer: data", "infer", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,8],"data":[', b"]}]}"),
    Place("infer: shape", "infer", b'{"inputs":[{"name":"x","datatype":"FP32","data":[],"shape":[', b"]}]}"),
    Place("infer: outputs", "infer", b'{"inputs":[%b],"outputs":[' % _TENSOR, b"]}"),
    Place("infer: parameters", "infer", b'{"inputs":[%b],"parameters":{' % _TENSOR, b"}}", keyed=True),
    Place("infer: keys", "infer", b'{"inputs":[%b],' % _TENSOR, b"}", keyed=True),
    Place("records: job keys", "/v1/jobs", _JOB, b"}", keyed=True),
    Place("records: job metadata", "/v1/jobs", _JOB + b'"metadata":{', b"}}", keyed=True),
    Place("records: job hyperparameters", "/v1/jobs", _JOB + b'"hyperparameters":{', b"}}", keyed=True),
    Place("records: job array", "/v1/jobs", b"[", b"]"),
    Place("records: batch keys", "/v1/predictions", b'{"model":"MODEL","dataset_id":"DATASET",', b"}", keyed=True),
    Place(
        "records: batch decision", "/v1/predictions", b'{"model":"x","dataset_id":"x","decision":{', b"}}", keyed=True
    ),
    Place("records: upload keys", "/v1/uploads", b'{"bytes":1,', b"}", keyed=True),
    Place("records: name keys", "/v1/names/digits", b'{"default_version":1,', b"}", keyed=True, method="PUT"),
    Place("records: load parameters", "load", b'{"parameters":{', b"}}", keyed=True),
    Place("records: index keys", "/v2/repository/index", b"{", b"}", keyed=True),
)

#: What one value can be. `TENSOR`: an empty tensor of a name of its own.
_UNITS = {
    "0": b"0", "[]": b"[]", "{}": b"{}", "''": b'""', "null": b"null", "[0]": b"[0]", "{'':0}": b'{"":0}',
    "row": _ROW, "-1e-310": b"-1.2345678901234567e-310", "1e999": b"1e999", "NaN": b"NaN", "bool": b"true",
    "tensor": b'{"name":"%08x","datatype":"FP32","shape":[0],"data":[]}', "text": b'"\\ud83d\\ude00"',
    "lone surrogate": b'"\\ud800"', "20 digits": b"12345678901234567890",
}  # fmt: skip


def _register(route: str, keyed: bool) -> None:
    places = {place.name: place for place in PLACES if (place.route, place.keyed) == (route, keyed)}

    @family(
        f"json: {'objects' if keyed else 'arrays'} in {route}",
        "values: where, how many, which, how deep, under how long names, how compressed",
        count=Size(1, MOST_BODY),
        depth=Size(1, MOST_BODY),
        name=Size(1, 1 << 16),
        place=choice(*places),
        unit=choice(*_UNITS),
        beside=choice("nothing", "0", "[]", "row", "null"),
        packed=choice("gzip", "no"),
    )
    def build(
        world: World, *, count: int, depth: int, name: int, place: str, unit: str, beside: str, packed: str
    ) -> Attack:
        where = places[place]
        values = [_UNITS[unit]] + ([] if beside == "nothing" else [_UNITS[beside]])
        if (count * len(values[0]) + 2 * depth) * len(values) + where.keyed * count * name > MOST_BODY:
            raise TooBig("the values alone are larger than a body")
        if count == 1 and depth > 1:
            return one(_sent(world, where, _deep(where, values[0], depth), packed == "gzip"))
        each = b",".join(_member(where, name, _nested(value, depth)) for value in values)
        return one(_sent(world, where, listed(each, count), packed == "gzip"))


for _group in dict.fromkeys((place.route, place.keyed) for place in PLACES):
    _register(*_group)


@family(
    "long values",
    "one number of many digits or one text of many letters, in every place that takes one",
    length=Size(1, MOST_BODY),
    copies=Size(1, 1 << 20),
    unit=choice("digits", "fraction", "exponent", "letters", "escapes", "surrogates", "spaces", "nuls", "emoji"),
    place=choice(*(place.name for place in PLACES)),
    packed=choice("gzip", "no"),
)
def _long_values(world: World, *, length: int, copies: int, unit: str, place: str, packed: str) -> Attack:
    where = next(item for item in PLACES if item.name == place)
    before, run, after = {
        "digits": (b"1", b"1", b""), "fraction": (b"0.", b"1", b""), "exponent": (b"1e", b"0", b"1"),
        "letters": (b'"', b"a", b'"'), "escapes": (b'"', b"\\n", b'"'), "surrogates": (b'"', b"\\ud83d\\ude00", b'"'),
        "spaces": (b" ", b" ", b"0"), "nuls": (b'"', b"\\u0000", b'"'), "emoji": (b'"', "😀".encode(), b'"'),
    }[unit]  # fmt: skip
    if length * len(run) * copies > MOST_BODY:
        raise TooBig("the values alone are larger than a body")
    key = b'"k":' if where.keyed else b""
    if copies == 1:
        inner = key + before + repeated(run, length) + after
    else:
        inner = listed((b'"%08x":' if where.keyed else b"") + before + run * length + after, copies)
    return one(_sent(world, where, inner, packed == "gzip"))


def _nested(value: bytes, depth: int) -> bytes:
    return b"[" * (depth - 1) + value + b"]" * (depth - 1)


def _member(place: Place, name: int, value: bytes) -> bytes:
    return (b'"' + b"k" * (name - 1) + b'%08x":' if place.keyed else b"") + value


def _deep(place: Place, value: bytes, depth: int) -> Content:
    return (b'"k":' if place.keyed else b"") + repeated(b"[", depth - 1) + value + repeated(b"]", depth - 1)


def _sent(world: World, place: Place, inner: Content, packed: bool) -> Content:
    before = place.before.replace(b"MODEL", world.models["small"].encode())
    body = text(before.replace(b"DATASET", world.dataset.encode())) + inner + place.after
    if body.size > MOST_BODY:
        raise TooBig(f"{body.size} bytes")
    targets = {
        "predict": world.predict("small"),
        "infer": world.infer("small"),
        "load": f"/v2/repository/models/{world.models['small']}/load",
    }
    encoding, body = ("gzip", gzipped(body)) if packed else ("", body)
    target = targets.get(place.target, place.target)
    return request(place.method, target, body, key=world.key, encoding=encoding)
