"""Models in a browser: tried, rolled back, and asked by the programs that their pages show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.helpers import ROOT
from tests.helpers.browser import good_to_look_at, layout_shift
from tests.helpers.service import Service
from tests.helpers.uploads import Uploads, digits, to_onnx
from tests.web.conftest import KEYS, Windows

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert('1')</script>\"&"


@pytest.fixture(scope="module")
def versions(service: Service, uploads: Uploads) -> tuple[str, str]:
    """The two models behind the name `tried`: the second answers."""
    model = service.upload("models", uploads["digits.onnx"], name="digits.onnx")
    dataset = service.upload("datasets", uploads["digits.npz"], name="digits.npz")
    order = {"method": "temperature", "publish_as": "tried", "publish_when": "always"}
    for job in [service.order(model, dataset, **order) for _ in range(2)]:
        assert service.ended(job["id"])["status"] == "succeeded"
    found = service.get("/v1/names/tried")["versions"]
    return found["1"], found["2"]


@pytest.fixture(scope="module")
def images(service: Service, uploads: Uploads) -> str:
    """A model that takes image files; its id."""
    preprocessing = json.dumps({"resize": [8, 8], "channels": 1})
    return str(service.inspected("models", uploads["images.onnx"], name="images", preprocessing=preprocessing)["id"])


def drawn_image(path: Path) -> Path:
    """An image file of a digit that the model has not seen."""
    Image.fromarray((digits()[0][900].reshape(8, 8) * 255).astype(np.uint8)).save(path)
    return path


def test_rows_are_tried_with_a_threshold(windows: Windows, versions: tuple[str, str]) -> None:
    """Rows are answered without a reload, the slider moves figures by keyboard, and a refusal keeps what was typed."""
    window = windows()
    window.expect(422)
    page = window.page
    page.goto("/models")
    page.get_by_role("link", name="tried").first.click()
    page.get_by_role("link", name="Try it").click()
    page.get_by_label("Rows", exact=True).fill(",".join(map(str, digits()[0][900])))
    page.get_by_label("Prediction set").select_option("0.9")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer article")).to_contain_text("Prediction set")
    good_to_look_at(page)
    slider = page.get_by_label("Answer from this confidence up")
    slider.focus()
    for _ in range(8):
        page.keyboard.press("PageUp")
    said = page.locator("#threshold [role=status]")
    expect(said).to_contain_text("From a confidence of 80.0 % up")
    before = page.locator(".figures").inner_text()
    page.get_by_label("Cost of a wrong answer").fill("1000")
    expect(page.locator(".figures")).not_to_have_text(before)
    assert slider.evaluate("element => element.value") == "0.8"
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer article")).to_contain_text("80.0 % that was asked for")
    assert layout_shift(page)[0] == 0
    page.get_by_label("Rows", exact=True).fill("1, 2, three")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer [role=alert]")).to_contain_text("'three' is no number")
    assert page.get_by_label("Rows", exact=True).input_value() == "1, 2, three"


def test_without_a_script(windows: Windows, versions: tuple[str, str], images: str, tmp_path: Path) -> None:
    """The form answers rows, and image files, with a new page."""
    page = windows(java_script_enabled=False).page
    page.goto("/models/tried/try")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer article")).to_contain_text("Uncalibrated")
    page.goto(f"/models/{images}/try")
    page.get_by_label("Images").set_input_files(drawn_image(tmp_path / "image.png"))
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer article")).to_contain_text("Uncalibrated")


def test_the_programs_that_pages_show_run(
    service: Service, uploads: Uploads, versions: tuple[str, str], images: str, tmp_path: Path
) -> None:
    """A program copied from the page asks its model and says what the API says: rows, several inputs, images."""
    text = service.inspected("models", uploads["text.onnx"], name="text", class_names="a,b,c")["id"]
    table = service.inspected(
        "models", scaled(), columns=json.dumps([HOSTILE, "b"]), class_names=f'["{HOSTILE[:8]}","b"]'
    )
    drawn_image(tmp_path / "image.png")
    for ref in ("tried", text, table["id"], images):
        shown = Programs.of(service.client.get(f"/models/{ref}", headers={"Accept": "text/html"}).text)
        assert KEYS[0] not in str(shown)
        asked = json.loads(output(["bash", "-c", shown["curl"]], tmp_path))["predictions"][0]
        said = {
            name: output([sys.executable, "-c", shown[name]], tmp_path) for name in ("Python client", "tritonclient")
        }
        if ref == images:  # the array in place of the file is another row
            del said["tritonclient"]
        program = shown["ONNX Runtime alone"]
        fetched = "\n".join(line.removeprefix("# ") for line in program.splitlines() if line.startswith("# "))
        output(["bash", "-c", fetched], tmp_path)
        alone = output([sys.executable, "-c", program], tmp_path)
        if ref == "tried":  # an uploaded model's file is as it was sent
            said["ONNX Runtime alone"] = alone
        for name, words in said.items():
            assert asked["label"] in words, (ref, name)
            assert numbers(words)[-1] == pytest.approx(asked["confidence"], abs=1e-5), (ref, name)


def scaled() -> bytes:
    """A classifier of two columns."""
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    return to_onnx(network, (torch.zeros(2, 2),))


def output(command: list[str], folder: Path) -> str:
    """The output of a program that must succeed; its key is in its environment."""
    environment: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")},
        "FEDLAS_API_KEY": KEYS[0],
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def numbers(words: str) -> list[float]:
    """The numbers with decimals in what a program prints."""
    return [float(one) for one in re.findall(r"\d+\.\d*", words)]


class Programs(HTMLParser):
    """The programs of a page by their labels."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._label: str | None = None

    @classmethod
    def of(cls, text: str) -> dict[str, str]:
        parser = cls()
        parser.feed(text)
        return parser.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self._label = dict(attrs)["aria-label"]

    def handle_endtag(self, tag: str) -> None:
        self._label = None if tag == "pre" else self._label

    def handle_data(self, data: str) -> None:
        if self._label is not None:
            self.found[self._label] = self.found.get(self._label, "") + data
