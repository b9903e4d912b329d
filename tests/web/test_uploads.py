"""Files on their way up: dropped, sent in pieces, interrupted, gone on with, and what is not taken."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.helpers.browser import GOOD_SHIFT, good_to_look_at, layout_shift
from tests.helpers.service import Service
from tests.helpers.uploads import Uploads, weights_outside

pytestmark = pytest.mark.slow

PIECES = "**/session/v1/uploads/*"
#: The bytes of the first piece.
MIB = 1024 * 1024
_DROP = """files => {
  const data = new DataTransfer();
  for (const [name, content] of files)
    data.items.add(new File([Uint8Array.from(atob(content), one => one.charCodeAt(0))], name));
  document.body.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data}));
}"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A table of several pieces."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,label\n" + b"".join(b"%d,%d\n" % (row, row % 2) for row in range(300_000)))
    return path


def drop(page: Page, **files: bytes) -> None:
    """Drop files somewhere on the page; the last underscore of a name is its point."""
    named = [(".".join(name.rsplit("_", 1)), base64.b64encode(content).decode()) for name, content in files.items()]
    page.evaluate(_DROP, named)


def test_an_upload_goes_on_after_a_lost_connection_and_after_a_reload(
    page: Page, service: Service, rows: Path, tmp_path: Path
) -> None:
    """A broken upload waits and says so; after a reload it asks for the file, knows another, and sends the rest."""
    offsets: list[int] = []

    def note(request: Request) -> None:
        if request.method == "PATCH":
            offsets.append(int(request.headers["upload-offset"]))

    def cut(route: Route) -> None:
        route.abort() if int(route.request.headers.get("upload-offset", 0)) >= MIB else route.continue_()

    place = page.locator("[data-drop=dataset]")
    page.on("request", note)
    page.route(PIECES, cut)
    page.get_by_label("A dataset").set_input_files(rows)
    expect(place).to_contain_text("The connection is lost")
    page.reload()
    expect(place).to_contain_text("rows.csv: 1.0 MB of")
    expect(place).to_contain_text("Choose the file again to go on.")
    good_to_look_at(page)
    page.unroute(PIECES)
    other = tmp_path / "other.csv"
    other.write_bytes(b"a,label\n1,0\n")
    page.get_by_label("A dataset").set_input_files(other)
    expect(place).to_contain_text("other.csv is another file than rows.csv")
    place.get_by_role("button", name="Choose rows.csv again").click()
    offsets.clear()
    page.get_by_label("A dataset").set_input_files(rows)
    expect(place).to_contain_text("are there.")
    expect(place.get_by_role("progressbar")).to_have_js_property("value", rows.stat().st_size)
    assert offsets[0] == MIB
    page.reload()  # all of it is there: nothing needs to be chosen any more
    expect(place).to_contain_text(re.compile(r"rows\.csv: all .* are there\."))
    page.get_by_role("button", name="Upload and look inside").press("Enter")
    page.wait_for_url("**/new?dataset=*")
    [record] = service.get("/v1/datasets", limit=1)["data"]
    assert record["name"] == "rows.csv"
    assert record["sha256"] == hashlib.sha256(rows.read_bytes()).hexdigest()


def test_a_connection_that_comes_back_and_one_that_is_held(page: Page, rows: Path, tmp_path: Path) -> None:
    """An upload goes on by itself, gives way to none without a question, can be held, and is gone once cancelled."""
    place, cuts = page.locator("[data-drop=dataset]"), iter([True, True])
    page.route(PIECES, lambda route: route.abort() if next(cuts, False) else route.continue_())
    page.get_by_label("A dataset").set_input_files(rows)
    expect(place).to_contain_text("are there.", timeout=30_000)
    other = tmp_path / "other.csv"
    other.write_bytes(b"a,label\n1,0\n")
    page.get_by_label("A dataset").set_input_files(other)
    expect(place).to_contain_text("other.csv is another file than rows.csv")
    page.get_by_role("button", name="Upload and look inside").click()  # not before there is an answer
    expect(place.get_by_role("button", name="Send other.csv instead")).to_be_focused()
    expect(page.get_by_role("button", name="Upload and look inside")).to_be_enabled()
    place.get_by_role("button", name="Stay with rows.csv").click()
    expect(place).to_contain_text(re.compile(r"rows\.csv: all .* are there\."))
    place.get_by_role("button", name="Cancel").click()
    expect(place).to_contain_text("Or drop it anywhere")
    page.route(PIECES, lambda route: route.abort())
    page.get_by_label("A dataset").set_input_files(rows)
    expect(place).to_contain_text("The connection is lost")
    place.get_by_role("button", name="Pause").click()
    expect(place).to_contain_text("paused at 0 bytes")
    page.unroute_all(behavior="ignoreErrors")
    place.get_by_role("button", name="Go on").click()
    expect(place).to_contain_text("all", timeout=30_000)
    place.get_by_role("button", name="Cancel").click()
    page.reload()
    expect(place).to_contain_text("Or drop it anywhere")


def test_what_is_dropped_goes_where_it_belongs(page: Page, uploads: Uploads) -> None:
    """Files are known by their content; a refusal is shown, and what was there stays."""
    model, dataset = page.locator("[data-drop=model]"), page.locator("[data-drop=dataset]")
    onnx, npz = uploads["digits.onnx"], uploads["digits.npz"]
    drop(page, a_onnx=onnx, b_onnx=onnx)
    expect(model.get_by_role("alert")).to_have_text("a.onnx and b.onnx are both models: drop one of them.")
    drop(page, weights_pt=b"\x80\x02}q\x00.")
    expect(model.get_by_role("alert")).to_contain_text("Export the model as ONNX")
    drop(page, nothing_csv=b"")
    expect(model.get_by_role("alert")).to_contain_text("nothing.csv is empty.")
    drop(page, notes_xyz=b"\x00\x01\x02")
    expect(model.get_by_role("alert")).to_contain_text("none of the files that are read here")
    page.get_by_label("A dataset").set_input_files(
        {"name": "train.py", "mimeType": "", "buffer": b"from a import b, c\nprint(b)\n"}
    )
    expect(dataset.get_by_role("alert")).to_contain_text("none of the files that are read here")
    pair = weights_outside(onnx)
    drop(page, first_bin=npz, **{"m_onnx": pair["m.onnx"], "m.onnx_data": pair["m.onnx.data"]})
    expect(model).to_contain_text("m.onnx: all")
    expect(dataset).to_contain_text("first.bin: all")
    page.get_by_label("A classifier").set_input_files({"name": "x.npz", "mimeType": "", "buffer": b""})
    expect(model.get_by_role("alert")).to_contain_text("x.npz is empty.")
    expect(model).to_contain_text("m.onnx: all")
    page.get_by_role("button", name="Upload and look inside").click()
    page.wait_for_url("**/new?model=*")
    expect(page.get_by_role("button", name="Calibrate", exact=True)).to_be_enabled(timeout=120_000)
    expect(page.locator("[aria-busy]")).to_have_count(0, timeout=120_000)
    assert layout_shift(page)[0] < GOOD_SHIFT, layout_shift(page)
    page.get_by_role("button", name="Check first").click()
    expect(page.locator("#check")).to_contain_text("this job would run", timeout=120_000)
    assert layout_shift(page)[0] < GOOD_SHIFT, layout_shift(page)
    good_to_look_at(page)
