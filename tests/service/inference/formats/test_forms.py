"""Forms: files are rows in their order, everything else is an option, and a form cannot be endless."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from python_multipart.multipart import MultipartParser

from service.inference import images
from service.registry.errors import InvalidRequest, TooLarge
from tests.corpus.images import image, photo
from tests.helpers.predict_bodies import FORM, PICTURES, file_parts, form, read, rows

FILES = [image(photo()), image(photo(seed=1), "JPEG")]
ONE = file_parts(FILES[:1])


def test_what_a_client_sends() -> None:
    """A form of httpx, with files of any names and types and options as fields, is read."""
    files = [("image", ("ä.png", FILES[0], "image/png")), ("image", ("b", FILES[1], "application/octet-stream"))]
    data = {"top_k": "2", "max_error": '{"class": 0.1}'}
    request = httpx.Request("POST", "http://service", files=files, data=data)
    arrays, options = read(request.headers["content-type"], request.read(), PICTURES)
    np.testing.assert_array_equal(arrays["x"], rows(FORM, form(*file_parts(FILES)), PICTURES)["x"])
    assert options == {"top_k": 2, "max_error": {"class": 0.1}}


def test_names_that_are_not_ascii() -> None:
    """A file is a file also where its name is written as mails write it."""
    parts = [("name=\"image\"; filename*=UTF-8''%C3%A4.png", FILES[0]), ('name="é"; filename="\u00e4"', FILES[1])]
    np.testing.assert_array_equal(
        rows(FORM, form(*parts), PICTURES)["x"], rows(FORM, form(*file_parts(FILES)), PICTURES)["x"]
    )


def test_order_of_rows() -> None:
    """Rows stand in the order of their parts, whatever these are called."""
    parts = file_parts(FILES)
    there, back = (rows(FORM, form(*order), PICTURES)["x"] for order in (parts, parts[::-1]))
    np.testing.assert_array_equal(there, back[::-1])
    assert not np.array_equal(there, back)


@pytest.mark.parametrize("head", ['name="options"', 'name="options"; filename="blob"'])
def test_options_as_a_part(head: str) -> None:
    """One part holds all options, also where the client sends it as a file; null is as good as nothing."""
    part = (head, b'{"top_k": 3, "coverage": 0.9, "decision": {"threshold": 0.5}, "max_error": null}')
    for parts in ([part, *ONE], [*ONE, part]):
        arrays, options = read(FORM, form(*parts), PICTURES, query=b"abstain_below=0.5")
        assert len(arrays["x"]) == 1
        assert options == {"top_k": 3, "coverage": 0.9, "decision": {"threshold": 0.5}, "abstain_below": 0.5}


@pytest.mark.parametrize("boundary", ["a", "b" * 70, "----WebKitFormBoundary7MA4YWxk", "it's(a)+_,-./:=?boundary"])
@pytest.mark.parametrize("quoted", [True, False])
def test_boundaries(boundary: str, quoted: bool) -> None:
    """Any boundary of the standard parts the form, quoted or not, and no content is cut by what resembles it."""
    content_type = f'multipart/form-data; charset=utf-8; Boundary="{boundary}"' if quoted else ""
    content_type = content_type or f"Multipart/Form-Data; boundary={boundary}"
    tail = b"\r\n--" + boundary.encode()[:-1] + b"!\r\n-\r\n"
    parts = file_parts([FILES[0] + tail, FILES[1]])
    found = rows(content_type, form(*parts, boundary=boundary), PICTURES)["x"]
    np.testing.assert_array_equal(found, rows(FORM, form(*file_parts(FILES)), PICTURES)["x"])


@pytest.mark.parametrize(
    ("body", "code", "field", "words"),
    [
        (form(*ONE, end=False), "invalid_form", "inputs", "cut off"),
        (form(*ONE)[:-5], "invalid_form", "inputs", "cut off"),
        (form(*ONE, boundary="Other"), "invalid_form", "inputs", "boundary character"),
        (b"", "invalid_form", "inputs", "cut off"),
        (b"--XyZ\r\n\r\n\r\n--XyZ--", "invalid_request", "", "'' is no option"),
        (form(("", FILES[0])), "invalid_form", "inputs", "Content-Disposition"),
        (form(('filename="a.png"', FILES[0])), "invalid_form", "inputs", "Content-Disposition"),
        (b'--XyZ\r\nContent-Disposition: x; name="a"\r\n\r\n\r\n--XyZ--', "invalid_form", "inputs", "not form-data"),
        (form(('name="a"\r\nContent-Disposition: form-data; name="b"', b"")), "invalid_form", "inputs", "one name"),
        (form((f'name="a"; filename="{"b" * 5000}"', b"")), "invalid_form", "inputs", "header size"),
        (form(('name="a"' + "\r\nX: y" * 20, b"")), "invalid_form", "inputs", "header count"),
        (form(('name="a"\r\nX y: z', b"")), "invalid_form", "inputs", "invalid character"),
        (form(), "empty_inputs", "inputs", "no row"),
        (form(('name="top_k"', b"3")), "empty_inputs", "inputs", "no row"),
        (form(*ONE, ('name="topk"', b"3")), "invalid_request", "topk", "'topk' is no option; known are top_k, abstain"),
        (form(*ONE, ('name="image"', FILES[0])), "invalid_request", "image", "UTF-8"),
        (form(*ONE, ('name="top_k"', b"three")), "invalid_request", "top_k", "'three' is no JSON"),
        (form(*ONE, ('name="top_k"', b'{"a": 1}')), "invalid_request", "top_k", "needed is a number"),
        (form(*ONE, ('name="top_k"', b"3"), ('name="top_k"', b"3")), "invalid_request", "top_k", "more than once"),
        (form(*ONE, ('name="top_k"', b"3"), ('name="options"', b'{"top_k":1}')), "invalid_request", "top_k", "once"),
        (form(*ONE, ('name="options"', b"[1]")), "invalid_request", "options", "needed is a JSON object"),
        (form(*ONE, ('name="options"', b"{")), "invalid_request", "options", "is no JSON"),
        (form(*ONE, ('name="options"', b'{"inputs":[]}')), "invalid_request", "inputs", "'inputs' is no option"),
        (form(*ONE, ('name="options"', b'{"options":{}}')), "invalid_request", "options", "'options' is no option"),
        (form(*file_parts([FILES[0], b"GIF89a"])), "bad_image", "inputs", "row 1: "),
        (form(*file_parts([b""])), "bad_image", "inputs", "row 0: "),
    ],
)  # fmt: skip
def test_bad_forms(body: bytes, code: str, field: str, words: str) -> None:
    """Forms that are cut off, have parts without names, or fields that mean nothing are refused with what is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        rows(FORM, body, PICTURES)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x"]
)
def test_a_form_needs_a_boundary(content_type: str) -> None:
    """Without it no part can be found."""
    with pytest.raises(InvalidRequest, match="names no boundary") as caught:
        rows(content_type, form(*ONE), PICTURES)
    assert caught.value.code == "invalid_form"


def test_an_option_in_query_and_form() -> None:
    """It is not guessed which of two values is meant."""
    with pytest.raises(InvalidRequest, match="top_k: it is given more than once"):
        rows(FORM, form(*ONE, ('name="top_k"', b"3")), PICTURES, query=b"top_k=3")


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, parts and bytes of a file are limited, parts before they are looked at."""
    assert len(rows(FORM, form(*file_parts(FILES)), PICTURES, max_rows=2)["x"]) == 2
    with pytest.raises(TooLarge, match="2 rows in one request; at most 1"):
        rows(FORM, form(*file_parts(FILES)), PICTURES, max_rows=1)
    many = b"--XyZ\r\n" * 2000
    with pytest.raises(TooLarge, match="more than 1032 parts; at most 1000 files") as caught:
        rows(FORM, many, PICTURES)
    assert caught.value.code == "too_many_rows"
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", len(FILES[0]) - 1)
    with pytest.raises(InvalidRequest, match="row 0: the file has more than"):
        rows(FORM, form(*file_parts(FILES)), PICTURES)


def test_megabytes_of_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What resembles the beginning of a part is counted before the parser, which is slow there, walks through it."""
    monkeypatch.setattr(MultipartParser, "write", pytest.fail)
    for piece in (b"\r\n--XyZ", b"--XyZ", b"\r\n--XyZ!", b"--XyZ\r\n\r\n"):
        with pytest.raises(TooLarge, match="more than 1032 parts"):
            rows(FORM, piece * 100_000, PICTURES)
    monkeypatch.undo()
    for piece in (b"\r\n", b"\r", b"\n", b"-", b"--Xy", b"\r\n--Xy", b":", b"a"):
        for before in (b"", form(*ONE, end=False)):
            with pytest.raises(InvalidRequest) as caught:
                rows(FORM, before + piece * 100_000, PICTURES)
            assert caught.value.code == "invalid_form"
