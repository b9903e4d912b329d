"""Results in parts over HTTP: through every door the rows of one file, and of what is damaged never half an answer."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.registry.tables import Batch, Piece
from tests.helpers.api import Api, Json, open_api
from tests.helpers.sharded import ROWS, ShardedBatches

BAD = (0, 49, 50, 199)
FORMATS = ("parquet", "ndjson", "csv")


@dataclass(frozen=True)
class Results:
    """The API, and the same rows in parts and in one file."""

    api: Api
    parts: str
    whole: str

    def get(self, path: str = "", *, of: str | None = None, headers: Json | None = None, **params: Any) -> Any:
        """Ask for results, of the batch in parts where no other is named."""
        return self.api.client.get(f"/v1/batches/{of or self.parts}/results{path}", params=params, headers=headers)

    def manifest(self) -> Json:
        """The manifest of the batch in parts."""
        return dict(self.get("/manifest").json())


def two_batches(api: Api) -> Results:
    """Order the same rows twice, and do them as workers would."""
    place = api.settings.model_dump(include={"data_dir", "database_url", "broker_url", "artifacts"})
    ids = []
    for settings in (place, {**place, "shard_seconds": 5}):
        batches = ShardedBatches.over(api.registry, **settings)
        ids.append(batches.order(BAD, errors="column", top_k=2))
        batches.run_all()
    return Results(api, *ids)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """Results that tests only read."""
    with ExitStack() as stack:
        yield two_batches(open_api(tmp_path_factory.mktemp("parts") / "data", stack))


def rows_of(content: bytes) -> list[Json]:
    """The rows of a Parquet file, whose every page must be as it was written."""
    return list(pq.read_table(io.BytesIO(content), page_checksum_verification=True).to_pylist())


def test_every_door_gives_the_rows_of_one_file(results: Results) -> None:
    """Pages across borders, and the whole in each format; once it is known it is not sent again."""
    assert results.get(limit=1000).content == results.get(of=results.whole, limit=1000).content
    for after, limit in ((-1, 50), (48, 3), (98, 100), (198, 5), (199, 5), (10**30, 1)):
        asked: Json = {"after": after, "limit": limit}
        assert results.get(**asked).json() == results.get(of=results.whole, **asked).json(), asked
    for format in FORMATS:
        answer, expected = results.get(format=format), results.get(of=results.whole, format=format)
        assert (answer.status_code, answer.headers["content-type"]) == (200, expected.headers["content-type"])
        assert answer.headers["content-disposition"] == f'attachment; filename="{results.parts}.{format}"'
        if format == "parquet":
            assert rows_of(answer.content) == rows_of(expected.content)
        else:
            assert answer.content == expected.content
        known = results.get(format=format, headers={"If-None-Match": answer.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")


def test_the_manifest_and_its_parts(results: Results) -> None:
    """Parts have the digests, sizes and rows that the manifest says; one file is a manifest of one part."""
    record = results.api.client.get(f"/v1/batches/{results.parts}").json()
    manifest = results.api.client.get(record["manifest_url"]).json()
    assert manifest == results.manifest()
    model = results.api.client.get(f"/v1/models/{record['model_id']}").json()
    assert (manifest["model_sha256"], manifest["num_rows"], manifest["num_errors"]) == (model["sha256"], ROWS, 4)
    found: list[Json] = []
    for part in manifest["parts"]:
        answer = results.get(f"/parts/{part['number']}")
        assert answer.headers["etag"] == f'"{part["sha256"]}"'
        assert hashlib.sha256(answer.content).hexdigest() == part["sha256"]
        assert (len(answer.content), part["first_row"]) == (part["bytes"], len(found))
        ranged = results.get(f"/parts/{part['number']}", headers={"Range": "bytes=0-3"})
        assert (ranged.status_code, ranged.content) == (206, b"PAR1")
        found += rows_of(answer.content)
    assert found == rows_of(results.get(format="parquet").content)
    unknown = results.get("/parts/4")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_results_part")
    assert "0 to 3" in unknown.json()["detail"]
    alone = results.get("/manifest", of=results.whole).json()
    (part,) = alone.pop("parts")
    assert {**manifest, "batch_id": results.whole} == {**alone, "parts": manifest["parts"]}
    assert results.get("/parts/0", of=results.whole).content == results.get(of=results.whole, format="parquet").content


Harm = Callable[[Results], None]


def rewritten(change: Callable[[Json], object]) -> Harm:
    """A manifest that says something else, stored and named as any."""

    def harm(results: Results) -> None:
        manifest = results.manifest()
        change(manifest)
        with results.api.registry.write() as unit, results.api.registry.artifacts.stage() as staged:
            staged.write(json.dumps(manifest).encode())
            unit.batches.get(results.parts).manifest_sha256 = staged.keep()

    return harm


def swapped(manifest: Json) -> None:
    """Two parts of the same size change their digests."""
    one, two = manifest["parts"][1:3]
    one["sha256"], two["sha256"] = two["sha256"], one["sha256"]


def exchanged(manifest: Json) -> None:
    """Two parts change all metadata of their files."""
    swapped(manifest)
    one, two = manifest["parts"][1:3]
    one["bytes"], two["bytes"] = two["bytes"], one["bytes"]


def delivered_in_another_order(results: Results) -> None:
    """Manifest and pieces agree on an order that is not that of the rows."""
    rewritten(exchanged)(results)
    with results.api.registry.write() as unit:
        _, one, two, _ = unit.pieces.of(results.parts)
        one.sha256, two.sha256 = two.sha256, one.sha256


def in_file(change: Callable[[bytes], bytes | None]) -> Harm:
    """The file of part 2 is changed where it lies, or gone."""

    def harm(results: Results) -> None:
        path = results.api.registry.artifacts.path(results.manifest()["parts"][2]["sha256"])
        content = change(path.read_bytes())
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return harm


def flipped(content: bytes) -> bytes:
    """One bit of the first page's values is another."""
    place = content.index(b"\x28\xb5\x2f\xfd") + 12  # behind the head of a zstd frame
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


HARMS: dict[str, tuple[Harm, str]] = {
    "another digest": (rewritten(swapped), "names another file as part 1"),
    "a part less": (rewritten(lambda manifest: manifest["parts"].pop()), "have 150 rows together, not 200"),
    "a part and its rows less": (
        rewritten(lambda manifest: manifest.update(parts=manifest["parts"][:3], num_rows=150)), "with 150 rows"
    ),
    "a gap": (rewritten(lambda manifest: manifest["parts"][3].update(first_row=151)), "part 3 must begin with row 150"),
    "of another batch": (rewritten(lambda manifest: manifest.update(batch_id="bat_x")), "is of bat_x"),
    "another count": (
        rewritten(lambda m: (m["parts"][1].update(num_rows=49), m["parts"][2].update(first_row=99, num_rows=51))),
        "part 1 of",
    ),
    "another order": (delivered_in_another_order, "part 1 of"),
    "a file that is cut": (in_file(lambda content: content[:-1]), "part 2 of"),
    "a file that is none": (in_file(lambda content: b"x" * len(content)), "part 2 of"),
    "a file that is gone": (in_file(lambda content: None), "part 2 of"),
}  # fmt: skip


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """Results that tests may harm: each puts them right again."""
    with ExitStack() as stack:
        yield two_batches(open_api(tmp_path_factory.mktemp("harmed") / "data", stack))


@pytest.fixture
def mended(harmed: Results) -> Iterator[Results]:
    """Results whose records and files are restored afterwards."""
    registry = harmed.api.registry
    files = {part["sha256"]: registry.artifacts.path(part["sha256"]) for part in harmed.manifest()["parts"]}
    contents = {path: path.read_bytes() for path in files.values()}
    with registry.read() as unit:
        digest = unit.batches.get(harmed.parts).manifest_sha256
        parts = {piece.id: piece.sha256 for piece in unit.pieces.of(harmed.parts)}
    yield harmed
    for path, content in contents.items():
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    with registry.write() as unit:
        unit.session.get_one(Batch, harmed.parts).manifest_sha256 = digest
        for piece_id, sha256 in parts.items():
            unit.session.get_one(Piece, piece_id).sha256 = sha256


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_damaged_is_named(mended: Results, harm: str) -> None:
    """Every format is refused as a whole before its first byte, with the part; pages of other parts are answered."""
    change, words = HARMS[harm]
    change(mended)
    for format in FORMATS:
        answer = mended.get(format=format)
        code = "artifact_missing" if harm == "a file that is gone" else "artifact_damaged"
        assert (answer.status_code, answer.json()["code"]) == (404 if "gone" in harm else 503, code), answer.text
        assert words in answer.json()["detail"], answer.json()
    page = mended.get(after=90, limit=20)
    assert page.status_code != 200, page.text
    if words == "part 2 of":
        assert mended.get(after=-1, limit=99).status_code == 200
        assert mended.get("/parts/1").status_code == 200
        assert mended.get("/parts/2").status_code == answer.status_code


def test_a_flipped_bit_is_no_answer(mended: Results) -> None:
    """A page of it is refused; what is streamed breaks off, so that no client takes it for whole."""
    in_file(flipped)(mended)
    page = mended.get(after=99, limit=10)
    assert (page.status_code, page.json()["code"]) == (503, "artifact_damaged")
    assert "part 2 of" in page.json()["detail"]
    for format in ("ndjson", "csv"):
        with pytest.raises((OSError, pa.ArrowException)):
            mended.get(format=format)
    with pytest.raises((OSError, pa.ArrowException)):
        rows_of(mended.get(format="parquet").content)
