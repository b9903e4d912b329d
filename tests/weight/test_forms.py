"""Forms with files: they never touch the system's temporary folder, and parts are few, short and asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.api import Api, open_api

LIMIT = 8 * 1024**2
HEAD = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API that takes 8 MiB."""
    with ExitStack() as stack:
        yield open_api(tmp_path_factory.mktemp("forms") / "data", stack, max_upload_bytes=LIMIT)


def part(name: bytes, content: bytes, filename: bytes | None = None) -> bytes:
    return HEAD % (name, b"" if filename is None else b'; filename="%b"' % filename) + content + b"\r\n"


def sent(api: Api, body: bytes, path: str = "/v1/datasets", boundary: str = "b") -> tuple[int, str]:
    """Status and code of the answer; and nothing of a form that was refused is left."""
    answer = api.client.post(path, content=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
    assert os.listdir(api.registry.artifacts.incoming) == []
    return answer.status_code, answer.json().get("code", "")


END = b"--b--\r\n"


def test_files_go_where_they_will_be_kept(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form is taken where there is no temporary folder at all: its file goes straight into the data folder."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    content = os.urandom(2 * 1024**2)
    answer = api.client.post("/v1/datasets", files={"file": ("d.npz", content)}, data={"name": "form"})
    assert (answer.status_code, answer.json()["bytes"], answer.json()["name"]) == (201, len(content), "form")
    assert api.registry.artifacts.path(answer.json()["sha256"]).read_bytes() == content
    files = {"model": ("m", content), "dataset": ("d", content[:-1]), "job": ("j.json", b"{}", "application/json")}
    assert api.client.post("/v1/jobs", files=files).status_code == 202


def test_a_file_is_counted_while_it_arrives(api: Api) -> None:
    """A file beyond the limit is 413 as soon as it is, also where the body as a whole has room, and nothing stays."""
    too_long = bytes(LIMIT + 1)
    assert sent(api, part(b"file", too_long, b"f") + END) == (413, "too_large")
    whole = part(b"model", too_long, b"m") + part(b"dataset", b"d", b"d") + END
    assert sent(api, whole, "/v1/jobs") == (413, "too_large")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"".join(part(b"n%d" % n, b"") for n in range(1000)) + part(b"file", b"x", b"f") + END, "invalid_form"),
        (part(b"name", b"x" * 5_000_000) + part(b"file", b"x", b"f") + END, "invalid_form"),
        (part(b"other", b"x" * 2_000_000, b"f") + END, "missing_part"),
        (part(b"file", b"x", b"f") + part(b"file", b"y", b"f") + END, "invalid_form"),
        (part(b"name", b"a") + part(b"name", b"b") + part(b"file", b"x", b"f") + END, "invalid_form"),
        (part(b"name", b"\xff") + part(b"file", b"x", b"f") + END, "invalid_form"),
        (part(b"name", b"a\0b") + part(b"file", b"x", b"f") + END, "invalid_form"),
        (part(b"name", b"\xed\xa0\x80") + part(b"file", b"x", b"f") + END, "invalid_form"),
        (part(b"n" * 200, b"x") + END, "invalid_form"),
        (part(b"", b"x", b"f") + END, "invalid_form"),
        (part(b"file", b"x" * 100, b"f"), "invalid_form"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, "invalid_form"),
        (b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\n" + END, "invalid_form"),
        (b"--b\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n" + END, "invalid_form"),
        (b"no form at all", "invalid_form"),
        (b"", "invalid_form"),
        (END, "missing_part"),
        (part(b"no_such_option", b"x") + part(b"file", b"x", b"f") + END, "invalid_request"),
        (part(b"roles", b"[" * 100_000) + part(b"file", b"x", b"f") + END, "invalid_json"),
    ],
)
def test_forms_are_small_and_plain(api: Api, body: bytes, code: str) -> None:
    """Forms of too many parts, long, repeated or unknown ones, or half a form are 422, and say why."""
    assert sent(api, body) == (422, code)


@pytest.mark.parametrize("boundary", ["", "x" * 300, '"'])
def test_boundaries(api: Api, boundary: str) -> None:
    """Without a boundary of an ordinary length there is no form."""
    assert sent(api, part(b"file", b"x", b"f") + END, boundary=boundary) == (422, "invalid_form")


def test_parts_of_a_job(api: Api) -> None:
    """A job takes its own parts alone, and its JSON as a file, too; JSON that is too much is refused."""
    files = part(b"model", b"m", b"m") + part(b"dataset", b"d", b"d")
    assert sent(api, files + part(b"extra", b"x", b"f") + END, "/v1/jobs") == (422, "unknown_part")
    many = b"{" + b",".join(b'"%d":1' % n for n in range(30_000)) + b"}"
    assert sent(api, files + part(b"job", many) + END, "/v1/jobs") == (413, "too_large")
    assert sent(api, files + part(b"job", b'{"metadata":' * 1_900, b"j") + END, "/v1/jobs") == (422, "invalid_json")


def test_what_the_dead_left_is_gone_at_the_start(tmp_path: Path) -> None:
    """Files without a name whose process lives no more go when the API starts; what somebody still writes stays."""
    with ExitStack() as stack:
        store = open_api(tmp_path / "data", stack).registry.artifacts
        with store.stage() as living:
            living.write(b"half")
            living._file.flush()
            dead = store.incoming / "tmpdead"
            dead.write_bytes(b"half")
            for path in (dead, living.path):
                os.utime(path, (1, 1))
            open_api(tmp_path / "data", stack)
            assert os.listdir(store.incoming) == [living.path.name]
            living.keep()
    assert os.listdir(tmp_path / "data" / "artifacts" / "incoming") == []
