"""An average of networks is one ONNX file that gives the probabilities of its finalist, whatever it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fedlas.calibrators import (
    CALIBRATORS,
    Calibrator,
    LogPool,
    Pool,
    TemperatureScaling,
    Uniform,
    VectorScaling,
    softmax,
)
from fedlas.calibrators.feature_map import FeatureScaling
from fedlas.calibrators.linear import Compressed
from fedlas.errors import ExportError, UnsupportedModel
from fedlas.export.graph import write_graph
from fedlas.guarantees.typicality import Typicality
from fedlas.importers import GraphClassifier, load_onnx
from fedlas.importers.onnx.runtime import predict_file
from fedlas.race.averaging import Ensemble
from fedlas.race.results import CandidateResult, Finalist
from fedlas.training.fit import predict_logits
from tests.helpers.networks import NETWORKS, Cnn, export, images, trained_looking
from tests.helpers.tuned import shaken

WEIGHTS = (0.5, 0.2, 0.5)


def pool_of_every_kind(classes: int, width: int) -> Pool:
    """All calibrators that there are for so many classes, and a map of the features."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, classes)), rng.integers(0, classes, 200)
    kinds = [kind for kind in CALIBRATORS.values() if classes == 2 or not kind.two_classes_only]
    scaled = FeatureScaling(1.2, rng.normal(size=(width, classes)) / width**0.5, rng.normal(size=classes), share=0.1)
    members: list[Calibrator] = [scaled, Uniform(), *(kind().fit(logits, targets) for kind in kinds)]
    return Pool(members, np.full(len(members), 1 / len(members)))


def finalist(base: GraphClassifier, *, head_only: bool) -> Finalist:
    """Pools in a pool, a pool on compressed logits, and offsets per class; one more temperature on top of them."""
    rng = np.random.default_rng(0)
    classes, width = base.num_classes, base.feature_dim
    vector = VectorScaling().fit(rng.normal(size=(200, classes)), rng.integers(0, classes, 200))
    every = pool_of_every_kind(classes, width)
    calibrators: list[Calibrator] = [
        Pool([TemperatureScaling(1.7), every, Compressed(every)], [0.4, 0.3, 0.3]),
        Compressed(Pool([TemperatureScaling(0.6), vector], [0.7, 0.3])),
        Pool(
            [vector, FeatureScaling(0.9, rng.normal(size=(width, classes)) / width**0.5, rng.normal(size=classes))],
            [0.5, 0.5],
        ),
    ]
    members = [base, *(shaken(base, seed, head_only=head_only) for seed in (1, 2))]
    pools = [LogPool([one], [weight]) for one, weight in zip(calibrators, WEIGHTS, strict=True)]
    first = LogPool([TemperatureScaling(2.0), pools[0]], [0.3, 0.9])
    network = Ensemble(members, [first, *pools[1:]], shares_body=head_only)
    result = CandidateResult("average", "ensemble", {}, "all", "finished")
    return Finalist(network, TemperatureScaling(0.8), result, np.zeros((1, classes)), np.zeros((1, width), np.float32))


def written(made: Finalist, path: Path, rows: list[np.ndarray], typicality: Typicality | None = None) -> Path:
    network = made.classifier
    assert isinstance(network, Ensemble)
    report = write_graph(
        network,
        calibrator=made.calibrator,
        class_names=[f"k{i}" for i in range(network.num_classes)],
        typicality=typicality,
        verify_with=rows,
        tolerance=1e-5,
    ).save(path)
    assert report.parity.num_rows == len(rows[0])
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return path


@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "heads"])
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        ("mlp", False),
        ("cnn", False),
        ("encoder", False),
        ("bert", False),
        pytest.param("bert", True, marks=pytest.mark.slow),
    ],
)
def test_the_file_gives_the_finalists_probabilities(name: str, dynamo: bool, head_only: bool, tmp_path: Path) -> None:
    """`probabilities` are the log-linear pool to 1e-5 at any batch; `logits` and `features` are the first member's."""
    torch.manual_seed(0)
    make, sample = NETWORKS[name]
    base = load_onnx(export(trained_looking(make()), sample(2), tmp_path / "m.onnx", dynamo=dynamo))
    made, rows = finalist(base, head_only=head_only), [value.numpy() for value in sample(9)]
    network = made.classifier
    assert isinstance(network, Ensemble)
    path = written(made, tmp_path / "out.onnx", rows)
    for count in (1, 4, 9):
        some = [array[:count] for array in rows]
        found = predict_file(path, some)
        expected = made.probs(some)
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
        np.testing.assert_allclose(found["confidence"], expected.max(axis=1), atol=1e-5)
        pairs = zip(network.calibrators, network.networks, strict=True)
        parts = [calibrator(*predict_logits(member, some)) for calibrator, member in pairs]
        np.testing.assert_allclose(found["probabilities"], softmax(made.calibrator(np.sum(parts, axis=0))), atol=1e-5)
        assert np.ptp(parts, axis=0).max() > 1e-3, "the members differ"
        own = predict_logits(base, some)
        np.testing.assert_allclose(softmax(found["logits"]), softmax(own[0]), atol=1e-5)
        np.testing.assert_allclose(found["features"], own[1], atol=1e-5)


@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "heads"])
@pytest.mark.parametrize(
    ("opset", "dynamo"), [(9, False), (13, False), (17, False), (18, False), (20, True), (23, True)]
)
def test_in_every_opset(opset: int, dynamo: bool, head_only: bool, tmp_path: Path) -> None:
    """The file keeps the upload's opset and the finalist's probabilities; typicality comes with it."""
    torch.manual_seed(0)
    path = export(trained_looking(Cnn()), images(2), tmp_path / "m.onnx", dynamo=dynamo, opset_version=opset)
    base = load_onnx(path)
    made, rows = finalist(base, head_only=head_only), [images(6)[0].numpy()]
    typicality = Typicality.fit(predict_logits(base, [images(60)[0].numpy()])[1])
    out = written(made, tmp_path / "out.onnx", rows, typicality=typicality)
    found = predict_file(out, rows)
    np.testing.assert_allclose(found["probabilities"], made.probs(rows), atol=1e-5)
    assert list(found) == ["logits", "probabilities", "confidence", "features", "typicality"]
    assert {o.domain: o.version for o in onnx.load(out).opset_import}[""] == opset


def test_heads_carry_their_body_once(tmp_path: Path) -> None:
    """Three heads on one body have its two convolutions once; three networks have them thrice."""
    torch.manual_seed(0)
    base = load_onnx(export(trained_looking(Cnn()), images(2), tmp_path / "m.onnx"))
    rows = [images(4)[0].numpy()]
    counts = []
    for head_only in (True, False):
        path = written(finalist(base, head_only=head_only), tmp_path / f"{head_only}.onnx", rows)
        counts.append([node.op_type for node in onnx.load(path).graph.node].count("Conv"))
    assert counts == [2, 6]


@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "heads"])
@pytest.mark.parametrize("name", ["mlp", "bert"])
def test_a_written_average_can_be_uploaded_again(name: str, head_only: bool, tmp_path: Path) -> None:
    """The import of a written average computes its probabilities, and so does a file calibrated from it."""
    torch.manual_seed(0)
    make, sample = NETWORKS[name]
    base = load_onnx(export(trained_looking(make()), sample(2), tmp_path / "m.onnx"))
    made, rows = finalist(base, head_only=head_only), [value.numpy() for value in sample(7)]
    again = load_onnx(written(made, tmp_path / "out.onnx", rows), output="probabilities")
    np.testing.assert_allclose(softmax(predict_logits(again, rows)[0]), made.probs(rows), atol=1e-5)
    names = [f"k{i}" for i in range(again.num_classes)]
    write_graph(again, calibrator=TemperatureScaling(1.0), class_names=names, verify_with=rows).save(
        tmp_path / "twice.onnx"
    )
    answered = predict_file(tmp_path / "twice.onnx", rows)["probabilities"]
    np.testing.assert_allclose(answered, made.probs(rows), atol=2e-5)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> GraphClassifier:
    """A network of convolutions, imported."""
    torch.manual_seed(0)
    return load_onnx(export(trained_looking(Cnn()), images(2), tmp_path_factory.mktemp("cnn") / "m.onnx"))


def test_every_standard_output_can_be_uploaded_again(cnn: GraphClassifier, tmp_path: Path) -> None:
    """A file with `typicality` is an ordinary upload, of which `output` names the class scores."""
    rows = cnn.example_rows(60)
    typicality = Typicality.fit(predict_logits(cnn, rows, device="cpu")[1])
    path = tmp_path / "out.onnx"
    told = {"class_names": list("abcde"), "typicality": typicality, "verify_with": rows}
    write_graph(cnn, calibrator=TemperatureScaling(2.0), **told).save(path)
    found = predict_file(path, rows)
    again = load_onnx(path, output="probabilities")
    np.testing.assert_allclose(softmax(predict_logits(again, rows, device="cpu")[0]), found["probabilities"], atol=1e-5)


@pytest.mark.parametrize(("average", "kind"), [(False, UnsupportedModel), (True, ExportError)])
def test_too_large_for_a_file(
    cnn: GraphClassifier, average: bool, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights over what a file holds are an error with a code, before anything is written."""
    network = (
        cnn
        if not average
        else Ensemble([cnn, shaken(cnn, 1, head_only=False)], [TemperatureScaling(1.0)] * 2, shares_body=False)
    )
    monkeypatch.setattr("fedlas.export.graph.MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(kind, match="GiB") as caught:
        write_graph(network, calibrator=TemperatureScaling(1.0), class_names=list("abcde")).save(tmp_path / "out.onnx")
    assert caught.value.code == "too_large_for_onnx"  # type: ignore[attr-defined]
    assert not (tmp_path / "out.onnx").exists()
