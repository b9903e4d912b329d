"""Weights of a known architecture: opened only where they fit, trained with real layers, written as ONNX."""

from __future__ import annotations

import copy
import socket
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from fedlas.calibrators import TemperatureScaling
from fedlas.errors import UnsupportedModel
from fedlas.export.graph import export_onnx
from fedlas.importers import load_onnx
from fedlas.importers.architectures import NativeClassifier, building, exporting, load_architecture
from fedlas.importers.architectures.libraries import ArchitectureOptions, find_architecture
from fedlas.importers.onnx.runtime_session import predict_file
from fedlas.importers.safetensors import read_header, read_tensors
from fedlas.losses import CrossEntropyLoss
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import TrainConfig
from tests.corpus import safetensors as corpus
from tests.corpus.case import BadFile
from tests.helpers.networks import trained_looking

CLASSES = 5
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:timm")


def library_network(name: str, num_classes: int = CLASSES, **options: Any) -> nn.Module:
    """The network as its library builds it: the referee."""
    import timm
    import torchvision

    torch.manual_seed(0)
    library, _, short = name.partition("/")
    if library == "timm":
        return trained_looking(timm.create_model(short, num_classes=num_classes, **options))
    if short in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "aux_logits": False, **options}
    return trained_looking(torchvision.models.get_model(short, weights=None, num_classes=num_classes, **options))


def saved(network: nn.Module, path: Path, *, prefix: str = "", dtype: torch.dtype | None = None) -> Path:
    """The network's state by the safetensors library: the referee of the format."""
    state = {
        prefix + name: (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous().clone()
        for name, value in network.state_dict().items()
    }
    save_file(state, path, metadata={"format": "pt"})
    return path


def rows(classifier: NativeClassifier, count: int, seed: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, *classifier.inputs[0].shape[1:]), np.float32)  # type: ignore[arg-type]


def names(classifier: NativeClassifier) -> list[str]:
    return [f"k{i}" for i in range(classifier.num_classes)]


def trained(classifier: NativeClassifier, count: int = 4) -> NativeClassifier:
    """A copy after two steps."""
    other = copy.deepcopy(classifier)
    config = TrainConfig(epochs=2, batch_size=count, learning_rate=0.01)
    fit(other, CrossEntropyLoss(), [rows(classifier, count)], np.arange(count) % CLASSES, config, device="cpu")
    return other


def written(classifier: NativeClassifier, path: Path, checked: np.ndarray) -> float:
    """The largest difference in probability of the classifier's file."""
    calibrator = TemperatureScaling(1.5)
    report = export_onnx(
        classifier, path, calibrator=calibrator, class_names=names(classifier), verify_with=[checked], tolerance=1e-6
    )
    return report.parity.max_probability_error


def check(name: str, folder: Path, **options: Any) -> NativeClassifier:
    """Everything that an upload goes through, against the library's own network and ONNX Runtime."""
    network = library_network(name)
    classifier = load_architecture(
        saved(network, folder / "w.safetensors"), architecture=name, num_classes=CLASSES, **options
    )
    images = rows(classifier, 3)
    logits, features = predict_logits(classifier, [images], device="cpu")
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(torch.from_numpy(images)), rtol=1e-4, atol=1e-4)
        if classifier.head_parameters():
            np.testing.assert_allclose(classifier.head(torch.from_numpy(features)), logits, rtol=1e-4, atol=1e-4)
    assert features.shape == (3, classifier.feature_dim)
    own = dict(network.named_parameters())
    assert {k.removeprefix("network."): v.shape for k, v in classifier.named_parameters()} == {
        k: v.shape for k, v in own.items()
    }

    logits, _ = classifier.train()(torch.from_numpy(images))
    F.cross_entropy(logits, torch.arange(3)).backward()
    assert [key for key, value in classifier.named_parameters() if value.requires_grad and value.grad is None] == []
    torch.optim.SGD(classifier.parameters(), lr=1e-3).step()
    classifier.eval()

    path = folder / "out.onnx"
    assert written(classifier, path, images) <= 1e-6
    onnx.checker.check_model(onnx.load(path))
    stored = [tensor.name for tensor in onnx.load(path).graph.initializer]
    assert [key for key in own if not any(name.endswith(f"network.{key}") for name in stored)] == [], "folded away"
    again = load_onnx(path, output="probabilities")
    for count in (1, 3):
        found = predict_file(path, [images[:count]])["probabilities"]
        seen = predict_logits(again, [images[:count]], device="cpu")[0]
        np.testing.assert_allclose(torch.from_numpy(seen).softmax(1), found, atol=1e-5)
    return classifier


QUICK = ["timm/test_resnet", "timm/test_vit", "torchvision/squeezenet1_1"]
SLOW = ["torchvision/mobilenet_v3_small", "torchvision/resnet18", "timm/test_convnext", "timm/test_efficientnet"]
EXHAUSTIVE = [
    "timm/resnet10t",
    "timm/test_byobnet",
    "timm/test_coatnet",
    "timm/test_efficientnet_evos",
    "timm/test_maxvit",
    "timm/test_nfnet",
    "timm/test_mambaout",
    "timm/test_vit_relpos",
    "timm/levit_128s",
    "timm/deit_tiny_distilled_patch16_224",
    "torchvision/googlenet",
    "torchvision/regnet_x_400mf",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/densenet121",
    "torchvision/efficientnet_b0",
    "torchvision/vit_b_16",
    "torchvision/swin_t",
    "torchvision/resnet50",
]


@pytest.mark.parametrize("name", QUICK)
def test_an_upload_is_the_librarys_network(name: str, tmp_path: Path) -> None:
    """Same logits, same weights, a gradient for each, every weight in the file, parity, and the file imports again."""
    check(name, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW),
        *(pytest.param(n, marks=pytest.mark.exhaustive) for n in EXHAUSTIVE),
    ],
)
def test_many_architectures(name: str, tmp_path: Path) -> None:
    """The same for what people use, of both libraries."""
    check(name, tmp_path)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> NativeClassifier:
    path = saved(library_network("timm/test_resnet"), tmp_path_factory.mktemp("resnet") / "w.safetensors")
    return load_architecture(path, architecture="timm/test_resnet", num_classes=CLASSES, input_shape=(3, 64, 64))


def test_batchnorm_is_real(resnet: NativeClassifier, tmp_path: Path) -> None:
    """Training moves the running statistics, and the file of the trained copy computes with them."""
    before = {name: value.clone() for name, value in resnet.named_buffers()}
    other = trained(resnet, count=8)
    moved = [name for name, value in other.named_buffers() if not torch.equal(value, before[name])]
    assert len(moved) == len(before) > 0
    assert all(torch.equal(value, before[name]) for name, value in resnet.named_buffers())
    images = rows(resnet, 4)
    written(resnet, tmp_path / "first.onnx", images)
    assert written(other, tmp_path / "second.onnx", images) <= 1e-6
    first, second = (predict_file(tmp_path / f"{name}.onnx", [images])["logits"] for name in ("first", "second"))
    assert np.abs(first - second).max() > 1e-2


def test_dropout_is_real(tmp_path: Path) -> None:
    """In training two passes differ, in inference they are equal."""
    name = "torchvision/squeezenet1_1"
    classifier = load_architecture(
        saved(library_network(name), tmp_path / "w.safetensors"), architecture=name, input_shape=(3, 64, 64)
    )
    images = torch.from_numpy(rows(classifier, 2))
    with torch.no_grad():
        first, second = (classifier.train()(images)[0] for _ in range(2))
        assert (first - second).abs().max() > 1e-3
        assert torch.equal(classifier.eval()(images)[0], classifier(images)[0])


def test_no_network_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither library connects anywhere while an upload is opened."""

    def refuse(*args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("timm/test_resnet.r160_in1k", "torchvision/squeezenet1_1"):
        path = saved(library_network(name), tmp_path / "w.safetensors")
        assert load_architecture(path, architecture=name).num_classes == CLASSES


def test_nothing_is_read_before_the_header_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that do not fit are refused without being read, and the network is compared without memory for them."""
    path = saved(corpus.network(), tmp_path / "w.safetensors")
    monkeypatch.setattr("fedlas.importers.architectures.loading.read_tensors", lambda *_: pytest.fail("it was read"))
    library, name = find_architecture("torchvision/vgg16")
    network = building.build(lambda: library.build(name, ArchitectureOptions(CLASSES)), name)
    assert {value.device.type for value in network.parameters()} == {"meta"}
    with pytest.raises(UnsupportedModel, match="not those of torchvision/vgg16 with 5 classes") as caught:
        load_architecture(path, architecture="torchvision/vgg16", num_classes=CLASSES)
    assert caught.value.code == "weights_mismatch"


def test_everything_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    """Missing, unexpected and wrongly shaped weights are counted and named in one message."""
    network = corpus.network()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["stranger"] = state.pop("features.3.squeeze.bias")
    state["features.0.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UnsupportedModel) as caught:
        load_architecture(tmp_path / "w.safetensors", architecture=corpus.ARCHITECTURE, num_classes=CLASSES)
    for part in (
        "missing (1): features.3.squeeze.bias",
        "unexpected (1): stranger",
        "of a wrong shape (1): features.0.bias is (7,), needed (64,)",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize("prefix", ["module.", "model.", "module._orig_mod."])
def test_wrappers_names_are_taken_off(prefix: str, tmp_path: Path) -> None:
    """What DataParallel and others put before every name does not matter, and the owner is told."""
    path = saved(library_network(corpus.ARCHITECTURE), tmp_path / "w.safetensors", prefix=prefix)
    classifier = load_architecture(path, architecture=corpus.ARCHITECTURE, input_shape=(3, 64, 64))
    assert classifier.num_classes == CLASSES
    told = {notice.code: notice.evidence for notice in classifier.adjustments}
    assert told == {"prefix_removed": {"prefix": prefix}, "classes_counted": {"num_classes": CLASSES}}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    """Weights of another width are what the safetensors library reads, in float32."""
    path = saved(library_network("timm/test_resnet"), tmp_path / "w.safetensors", dtype=dtype)
    classifier = load_architecture(path, architecture="timm/test_resnet")
    told = {notice.code: notice.evidence for notice in classifier.adjustments}
    assert told["float32"] == {"stored_as": [str(dtype).removeprefix("torch.")]}
    expected = load_file(path)
    state = classifier.network.state_dict()
    assert set(state) == set(expected)
    for name, value in state.items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, expected[name].to(value.dtype)), name


@pytest.mark.parametrize("name", ["timm/test_vit", "torchvision/mobilenet_v3_small"])
def test_classes_and_channels_are_told_by_the_file(name: str, tmp_path: Path) -> None:
    """Seven classes and one channel of grey need not be said."""
    if name.startswith("timm"):
        network = library_network(name, 7, in_chans=1)
    else:
        network = library_network(name, 7)
        first = network.get_submodule("features.0.0")
        assert isinstance(first, nn.Conv2d)
        first.in_channels, first.weight = 1, nn.Parameter(first.weight[:, :1].detach().clone())
    classifier = load_architecture(saved(network, tmp_path / "w.safetensors"), architecture=name)
    assert (classifier.num_classes, classifier.inputs[0].shape[:2]) == (7, ("N", 1))
    images = rows(classifier, 2)
    with torch.no_grad():
        expected = network(torch.from_numpy(images))
    np.testing.assert_allclose(predict_logits(classifier, [images], device="cpu")[0], expected, atol=1e-5)


def test_image_size(tmp_path: Path) -> None:
    """A vision transformer of another size is built for it; without being told, its weights do not fit."""
    path = saved(library_network("timm/test_vit", img_size=96), tmp_path / "w.safetensors")
    classifier = load_architecture(path, architecture="timm/test_vit", input_shape=(3, 96, 96))
    assert classifier.inputs[0].shape == ("N", 3, 96, 96)
    with pytest.raises(UnsupportedModel, match="pos_embed"):
        load_architecture(path, architecture="timm/test_vit")
    with pytest.raises(UnsupportedModel, match="3 channels"):
        load_architecture(path, architecture="timm/test_vit", input_shape=(1, 96, 96))
    with pytest.raises(ValueError, match="input_shape"):
        load_architecture(path, architecture="timm/test_vit", input_shape=(96, 96))


def test_auxiliary_outputs_are_left_out(tmp_path: Path) -> None:
    """Weights of outputs that only training uses may be in the file; the owner is told."""
    network = library_network("torchvision/googlenet", aux_logits=True)
    classifier = load_architecture(saved(network, tmp_path / "w.safetensors"), architecture="torchvision/googlenet")
    assert not any("aux" in name for name, _ in classifier.named_parameters())
    told = {notice.code: notice.evidence for notice in classifier.adjustments}
    assert set(told) == {"auxiliary_left_out", "transform_input_off", "classes_counted", "image_size_assumed"}
    assert all("aux" in str(name) for name in told["auxiliary_left_out"]["weights"])  # type: ignore[union-attr]


def test_distilled_heads_are_averaged(tmp_path: Path) -> None:
    """Two heads give features side by side, and the head of both gives the network's scores."""
    name = "timm/deit_tiny_distilled_patch16_224"
    network = library_network(name)
    classifier = load_architecture(saved(network, tmp_path / "w.safetensors"), architecture=name)
    images = torch.from_numpy(rows(classifier, 2))
    with torch.no_grad():
        logits, features = classifier(images)
        torch.testing.assert_close(logits, network(images))
        torch.testing.assert_close(classifier.head(features), logits)
    assert classifier.feature_dim == 2 * 192
    assert len(classifier.head_parameters()) == 4


def test_the_older_exporter_takes_over(
    resnet: NativeClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PyTorch's exporter fails the file is written by the older one, with the same probabilities."""

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setitem(exporting._EXPORTERS, "torch.export", fail)
    images, other = rows(resnet, 3), trained(resnet)
    fresh = copy.deepcopy(other)
    fresh._exported = type(fresh._exported)()
    assert written(fresh, tmp_path / "older.onnx", images) <= 1e-6
    assert fresh._exported.value is not None
    assert fresh._exported.value.exporter == "TorchScript"
    monkeypatch.setitem(exporting._EXPORTERS, "TorchScript", fail)
    fresh._exported.value = None
    with pytest.raises(UnsupportedModel) as caught:
        fresh.graph()
    assert caught.value.code == "not_exportable"


def test_too_large_for_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights over what an ONNX file holds are refused before they are read."""
    path = saved(library_network(corpus.ARCHITECTURE), tmp_path / "w.safetensors")
    monkeypatch.setattr("fedlas.importers.architectures.loading._MAX_BYTES", 10_000)
    monkeypatch.setattr("fedlas.importers.architectures.loading.read_tensors", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UnsupportedModel) as caught:
        load_architecture(path, architecture=corpus.ARCHITECTURE)
    assert caught.value.code == "too_large_for_onnx"


def test_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without timm says so."""
    path = saved(corpus.network(), tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnsupportedModel) as caught:
        load_architecture(path, architecture="timm/test_resnet")
    assert caught.value.code == "architecture_unavailable"


def test_the_file_must_tell_its_classes(tmp_path: Path) -> None:
    """Without a last layer in the file the number of classes is asked for."""
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(UnsupportedModel, match=r"classifier\.1\.weight") as caught:
        load_architecture(tmp_path / "w.safetensors", architecture=corpus.ARCHITECTURE)
    assert caught.value.code == "num_classes_needed"


def test_close_names_are_offered(tmp_path: Path) -> None:
    """A slip in the name is answered with what comes close."""
    path = saved(corpus.network(), tmp_path / "w.safetensors")
    with pytest.raises(UnsupportedModel, match="squeezenet1_1"):
        load_architecture(path, architecture="torchvision/squeezenet11")


def test_our_reader_agrees_with_the_library(tmp_path: Path) -> None:
    """Names, shapes, types and values are those that the safetensors library reads; empty and scalar tensors too."""
    state = {"a": torch.randn(3, 4), "scalar": torch.tensor(7), "none": torch.zeros(0, 3)}
    state |= {"flags": torch.tensor([True, False]), "half": torch.randn(5).half(), "bytes": torch.arange(4).byte()}
    save_file(state, tmp_path / "w.safetensors")
    found = read_tensors(tmp_path / "w.safetensors", read_header(tmp_path / "w.safetensors"))
    assert set(found) == set(state)
    for name, value in load_file(tmp_path / "w.safetensors").items():
        expected = value.float() if value.is_floating_point() else value
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert torch.equal(found[name], expected)


@pytest.mark.parametrize("case", corpus.CASES, ids=lambda case: case.name)
def test_bad_files(case: BadFile, tmp_path: Path) -> None:
    """Every spoilt file is refused with its code and little memory, and the same file unspoilt is opened."""
    path = case.make(tmp_path)
    tracemalloc.start()
    with pytest.raises(UnsupportedModel) as caught:
        load_architecture(path, architecture=case.options["architecture"], num_classes=int(case.options["num_classes"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {caught.value.code} == case.codes - {"empty_upload"}  # which the service answers before anybody looks
    assert len(caught.value.message) < 2000
    assert peak < 50e6


def test_the_corpus_is_spoilt_on_purpose(tmp_path: Path) -> None:
    """The file that the corpus spoils is a good one."""
    (tmp_path / "w.safetensors").write_bytes(corpus.good())
    classifier = load_architecture(tmp_path / "w.safetensors", architecture=corpus.ARCHITECTURE, num_classes=CLASSES)
    assert torch.equal(classifier.network.state_dict()[corpus._HEAD], corpus.network().state_dict()[corpus._HEAD])


def test_scores_pooled_after_the_last_layer_leave_no_head(tmp_path: Path) -> None:
    """SqueezeNet scores every position: features are the mean of the map that its last layer reads, (N, D)."""
    name = "torchvision/squeezenet1_1"
    network = library_network(name)
    classifier = load_architecture(
        saved(network, tmp_path / "w.safetensors"), architecture=name, input_shape=(3, 64, 64)
    )
    images = torch.from_numpy(rows(classifier, 2))
    with torch.no_grad():
        features = classifier(images)[1]
        torch.testing.assert_close(features, network.get_submodule("features")(images).mean((2, 3)))
    assert classifier.feature_dim == 512
    assert classifier.head_parameters() == []
    with pytest.raises(TypeError, match="mean"):
        classifier.head(features)
