"""PyTorch modules become files that answer as they do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlas.conversion import ModelFile, model_file
from fedlas.errors import ConversionError
from fedlas.importers import load_onnx
from tests.helpers.networks import Bert, Cnn, Composed
from tests.helpers.refusals import refusal

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).random((7, 3, 8, 8)).astype(np.float32)
LAYER = nn.Linear(4, 3)


def logits(file: ModelFile, *inputs: Any) -> Tensor:
    """The logits that the importer computes from the file."""
    options = {name: file.options[name] for name in ("features", "task") if name in file.options}
    with torch.no_grad():
        return load_onnx(file.path, **options).eval()(*map(torch.as_tensor, inputs))[0]


def answers(network: nn.Module, *inputs: Any) -> Tensor:
    """The answers of the module in inference."""
    with torch.no_grad():
        return network.eval()(*map(torch.as_tensor, inputs))


def test_a_network_in_training_is_written_in_inference_and_stays_in_training(tmp_path: Path) -> None:
    """Every part is afterwards in the mode that it was in, and the file answers any number of rows."""
    network = Cnn().train()
    network.net[1].eval()
    file = model_file(network, folder=tmp_path, example=IMAGES[:1])
    assert [network.training, network.net[1].training, network.net[9].training] == [True, False, True]
    torch.testing.assert_close(logits(file, IMAGES), answers(network, IMAGES), rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert load_onnx(file.path).input_names == ("x",)


def test_inputs_keep_the_names_of_an_example_by_name(tmp_path: Path) -> None:
    """A text network has `input_ids` and `attention_mask`; nameless inputs are x0 and x1, as a loader's are."""
    network = Bert()
    ids, mask = torch.randint(0, 50, (4, 12)), torch.ones(4, 12, dtype=torch.int64)
    named = model_file(network, folder=tmp_path / "a", example={"attention_mask": mask, "input_ids": ids})
    nameless = model_file(network, folder=tmp_path / "b", example=(ids, mask))
    assert load_onnx(named.path).input_names == ("input_ids", "attention_mask")
    assert load_onnx(nameless.path).input_names == ("x0", "x1")
    torch.testing.assert_close(logits(named, ids, mask), answers(network, ids, mask), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(nameless, ids, mask), answers(network, ids, mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layer", "width"), [("0", 6), ("1", 6), ("2", 5), ("4", 5)])
def test_features_are_tapped_by_the_name_of_a_submodule(tmp_path: Path, layer: str, width: int) -> None:
    """The output of that submodule is the features; of the last layer it is the input."""
    layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    rows = torch.rand(6, 4)
    file = model_file(layers, folder=tmp_path, example=rows, features=layer)
    found = load_onnx(file.path, features=file.options["features"])
    place = 3 if layer == "4" else int(layer)
    with torch.no_grad():
        torch.testing.assert_close(found(rows)[1], layers[: place + 1](rows))
    assert found.feature_dim == width
    assert found.class_labels is None


@pytest.mark.parametrize(
    "answer",
    [lambda y: (y, y * 2), lambda y: {"loss": None, "logits": y}, lambda y: SimpleNamespace(logits=y)],
    ids=["tuple", "mapping", "attribute"],
)
def test_scores_are_found_in_what_forward_returns(tmp_path: Path, answer: Any) -> None:
    """A tuple begins with them, a mapping or an object calls them logits."""
    network, rows = Composed(nn.Linear(4, 3), answer), torch.rand(4, 4)
    expected = answers(network.network, rows)
    torch.testing.assert_close(logits(model_file(network, folder=tmp_path, example=rows), rows), expected)


def test_one_logit_is_a_binary_classifier(tmp_path: Path) -> None:
    """A vector of logits becomes two classes, and the options say so."""
    network, rows = Composed(nn.Linear(4, 1), lambda y: y.squeeze(1)), torch.rand(4, 4)
    file = model_file(network, folder=tmp_path, example=rows, class_names=["no", "yes"])
    assert (file.options["task"], file.class_names) == ("binary", ["no", "yes"])
    torch.testing.assert_close(logits(file, rows).softmax(1)[:, 1], answers(network, rows).sigmoid())


def test_double_precision_and_whole_numbers_are_taken_and_told(tmp_path: Path) -> None:
    """The file is float32; the notes say what was done."""
    network, rows = nn.Sequential(nn.Linear(4, 3)).double(), np.arange(12).reshape(3, 4)
    file = model_file(network, folder=tmp_path, example=rows)
    expected = answers(network, rows.astype(np.float64)).float()
    torch.testing.assert_close(logits(file, rows.astype(np.float32)), expected, rtol=1e-4, atol=1e-4)
    assert "A copy on the CPU in float32 was written (the module is float64)." in file.notes
    assert any(note.startswith("Whole numbers of the example were given as float32") for note in file.notes)
    assert network[0].weight.dtype == torch.float64


class Branching(nn.Module):
    """A branch that depends on values: tracing would keep the one that the example takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.layer(rows)
        return scores if rows.mean() > 0 else scores * 0.1


def broken() -> nn.Module:
    """A network whose training diverged."""
    network = nn.Linear(4, 3)
    with torch.no_grad():
        network.weight[1, 2] = float("nan")
    return network


@pytest.mark.parametrize(
    ("network", "example", "options", "code", "words"),
    [
        (broken(), np.zeros((2, 4)), {}, "non_finite_weights", "NaN: 1 of 12 numbers in 'weight'"),
        (nn.Linear(4, 3), None, {}, "example_needed", "give `example`"),
        (nn.Linear(4, 3), np.zeros((2, 5)), {}, "bad_example", "(5, 5) float32"),
        (nn.Linear(4, 3, device="meta"), np.zeros((2, 4)), {}, "no_weights", "load them first"),
        (nn.Linear(4, 3), np.zeros((2, 4)), {"features": "fc"}, "unknown_features", "no submodule 'fc'"),
        (nn.Linear(4, 3), np.zeros((2, 4)), {"class_names": ["a"]}, "class_names_mismatch", "1 class names for 3"),
        (nn.Conv2d(3, 4, 1), IMAGES, {}, "no_scores", "(5, 4, 8, 8)"),
        (Composed(LAYER, lambda y: y / 0), np.ones((2, 4)), {}, "non_finite_answers", "NaN or infinite"),
        (Branching(), np.ones((2, 4)), {}, "not_exportable", "PyTorch cannot write"),
        (
            Bert(),
            {"tokens": np.ones((2, 4)), "mask": np.ones((2, 4))},
            {},
            "inputs_mismatch",
            "forward takes input_ids",
        ),
        (Composed(LAYER, lambda y: y + torch.rand_like(y)), np.ones((2, 4)), {}, "parity", "differs from the object"),
    ],
)
def test_what_cannot_be_written_is_a_sentence(
    tmp_path: Path, network: nn.Module, example: Any, options: Any, code: str, words: str
) -> None:
    """Each has a code and says what was found and what is needed."""
    with refusal(ConversionError, code) as raised:
        model_file(network, folder=tmp_path, example=example, **options)
    assert words in raised.value.message
    assert raised.value.message.isprintable()


def test_an_object_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """The sentence names its type."""
    with pytest.raises(ConversionError, match=r"this is a list"):
        model_file([1, 2], folder=tmp_path)
