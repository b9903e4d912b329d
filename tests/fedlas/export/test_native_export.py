"""Networks of known architectures in ensembles: one file, with a shared body written once; and files over 2 GiB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fedlas.calibrators import Identity, TemperatureScaling, softmax
from fedlas.errors import ExportError, UnsupportedModel
from fedlas.export.graph import export_onnx
from fedlas.guarantees.typicality import Familiarity
from fedlas.importers import load_onnx
from fedlas.importers.architectures import NativeClassifier
from fedlas.importers.architectures.heads import ClassifierHeads
from fedlas.importers.onnx.runtime_session import predict_file
from fedlas.race.averaging import Ensemble
from fedlas.race.trainer import copy_head
from fedlas.training.fit import predict_logits
from tests.helpers.networks import Cnn, trained_looking
from tests.helpers.tuned import shaken


@pytest.fixture(scope="module")
def base() -> NativeClassifier:
    """A network with BatchNorm and Dropout, as an architecture upload gives it."""
    torch.manual_seed(0)
    heads = ClassifierHeads((("net.10",),), ((16,),))
    return NativeClassifier(
        trained_looking(Cnn()), heads, architecture="own/cnn", num_classes=5, image_shape=(3, 32, 32)
    ).eval()


def ensemble(base: NativeClassifier, *, head_only: bool) -> Ensemble:
    members = [base, *(shaken(base, seed, head_only=head_only) for seed in (1, 2))]
    return Ensemble(members, [TemperatureScaling(t) for t in (1.0, 1.5, 0.7)], shares_body=head_only)


@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "heads"])
def test_an_average_is_one_file(base: NativeClassifier, head_only: bool, tmp_path: Path) -> None:
    """Its logits are the sum of the members' to 1e-6; three heads carry their body once, three networks thrice."""
    network, rows = ensemble(base, head_only=head_only), base.example_rows(6)
    path = tmp_path / "out.onnx"
    calibrator = Identity()
    names = list("abcde")
    export_onnx(network, path, calibrator=calibrator, class_names=names, verify_with=rows, tolerance=1e-6)
    members = [
        calibrator(logits)
        for calibrator, logits in zip(
            network.calibrators, (predict_logits(m, rows, device="cpu")[0] for m in network.networks), strict=True
        )
    ]
    assert np.ptp(members, axis=0).max() > 1e-3, "the members differ"
    found = predict_file(path, rows)
    np.testing.assert_allclose(found["probabilities"], softmax(np.sum(members, axis=0)), atol=1e-6)
    first = predict_logits(network.networks[0], rows, device="cpu")[0]
    np.testing.assert_allclose(found["logits"], first, atol=1e-5)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Conv") == (2 if head_only else 6)
    again = load_onnx(path, output="probabilities")
    np.testing.assert_allclose(softmax(predict_logits(again, rows, device="cpu")[0]), found["probabilities"], atol=1e-5)


def test_a_head_of_its_own(base: NativeClassifier, tmp_path: Path) -> None:
    """Training a copied head changes its file and leaves the first network's as it is."""
    rows = base.example_rows(4)
    before = predict_logits(base, rows, device="cpu")[0]
    other = copy_head(base)
    assert isinstance(other, NativeClassifier)
    with torch.no_grad():
        for parameter in other.head_parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(predict_logits(base, rows, device="cpu")[0], before)
    path = tmp_path / "out.onnx"
    for classifier in (base, other):
        report = export_onnx(
            classifier, path, calibrator=TemperatureScaling(1.0), class_names=list("abcde"), verify_with=rows
        )
        assert report.parity.max_probability_error <= 1e-6
    assert np.abs(predict_file(path, rows)["logits"] - before).max() > 0.5


def test_every_standard_output_can_be_uploaded_again(base: NativeClassifier, tmp_path: Path) -> None:
    """A file with `familiarity` is an ordinary upload, of which `output` names the class scores."""
    rows = base.example_rows(60)
    familiarity = Familiarity.fit(predict_logits(base, rows, device="cpu")[1])
    path = tmp_path / "out.onnx"
    export_onnx(
        base,
        path,
        calibrator=TemperatureScaling(2.0),
        class_names=list("abcde"),
        familiarity=familiarity,
        verify_with=rows,
    )
    found = predict_file(path, rows)
    again = load_onnx(path, output="probabilities")
    np.testing.assert_allclose(softmax(predict_logits(again, rows, device="cpu")[0]), found["probabilities"], atol=1e-5)


@pytest.mark.parametrize(("head_only", "kind"), [(None, UnsupportedModel), (False, ExportError)])
def test_too_large_for_a_file(
    base: NativeClassifier,
    head_only: bool | None,
    kind: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights over what a file holds are an error with a code, before anything is written."""
    network = base if head_only is None else ensemble(base, head_only=head_only)
    monkeypatch.setattr("fedlas.export.graph.MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(kind, match="GiB") as caught:
        export_onnx(network, tmp_path / "out.onnx", calibrator=TemperatureScaling(1.0), class_names=list("abcde"))
    assert caught.value.code == "too_large_for_onnx"  # type: ignore[attr-defined]
    assert not (tmp_path / "out.onnx").exists()
