"""Which operators classifiers need to be trainable: a count over files as people export them.

    python -m benchmarks.operator_census [--only timm transformers ...] [--output FILE]

Every network has random weights and few layers where its library lets us choose; what counts is which operators the
exporters write. An operator *needs a gradient* in a file where it stands between a trainable weight and the class
scores. Kinds that are not installed (transformers is no dependency) are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import timm
import torch
import torchvision
from onnx import NodeProto, helper
from sklearn.utils import all_estimators
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel
from fedlas.importers import OnnxClassifier, load_onnx
from fedlas.importers.onnx.operators import operator_name, words
from tests.helpers.classical_models import save, table
from tests.helpers.zoo import ARCHITECTURES

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
#: Writes a file into the folder, at this path.
Exporter = Callable[[Path], object]
#: Attributes of these are counted too: they have options that hardly anyone uses.
_WITH_OPTIONS = ("Resize", "Upsample", "Attention", "LSTM", "GRU", "RNN", "ConvTranspose", "Pad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/operator_census.json"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    files = []
    for kind in arguments.only:
        for name, export in KINDS[kind]():
            with tempfile.TemporaryDirectory() as folder:
                files.append({"kind": kind, "name": name, **count(export, Path(folder, "m.onnx"))})
            print(kind, name, files[-1].get("not_counted", "ok"), flush=True)
            arguments.output.write_text(json.dumps(summary(files), indent=1) + "\n")  # an interrupted run keeps it


def count(export: Exporter, path: Path) -> dict[str, Any]:
    """The operators of one file, and those that need a gradient."""
    try:
        export(path)
        present = [n for n in onnx.load(path, load_external_data=False).graph.node if n.op_type != "Constant"]
        classifier = load_onnx(path)
    except Exception as error:  # exporters raise whatever they run into
        code = error.code if isinstance(error, UnsupportedModel) else type(error).__name__
        return {"not_counted": f"{code}: {str(error).splitlines()[0][:120]}"}
    trained = [] if not isinstance(classifier, OnnxClassifier) else with_gradient(classifier)
    return {"trainable": classifier.trainable, "present": labels(present), "trained": labels(trained)}


def with_gradient(classifier: OnnxClassifier) -> list[NodeProto]:
    """The nodes between a trainable weight and the class scores."""
    graph, parameters = classifier.graph(), dict(classifier.named_parameters())
    reached = {name for name, place in classifier.template.weights.items() if place in parameters}
    found = []
    for node in graph.cone([classifier.logits_name]):
        if reached & set(node.input) and node.op_type not in ("Shape", "Size"):
            found.append(node)
            reached.update(node.output)
    return found


def labels(nodes: list[NodeProto]) -> list[str]:
    """Operators, and options of those that have rare ones."""
    options = {
        f"{node.op_type}.{item.name}={helper.get_attribute_value(item)!r}"[:80]
        for node in nodes
        if node.op_type in _WITH_OPTIONS
        for item in node.attribute
    }
    return sorted({operator_name(node) for node in nodes} | options)


def summary(files: list[dict[str, Any]]) -> dict[str, Any]:
    """In how many files each operator is, and in how many it needs a gradient, by kind."""
    operators: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: {"present": Counter(), "trained": Counter()})
    for file in files:
        for column in ("present", "trained"):
            for name in file.get(column, ()):
                operators[name][column][file["kind"]] += 1
    counted = Counter(file["kind"] for file in files if "not_counted" not in file)
    return {
        "files": counted,
        "not_counted": {f"{f['kind']} {f['name']}": f["not_counted"] for f in files if "not_counted" in f},
        "not_trainable": [f"{f['kind']} {f['name']}" for f in files if f.get("trainable") is False],
        "operators": {name: operators[name] for name in sorted(operators)},
    }


def by_both_exporters(name: str, make: Callable[[], nn.Module], *inputs: Tensor) -> Iterator[tuple[str, Exporter]]:
    for dynamo, opset in ((True, 20), (False, 17)):

        def write(path: Path, dynamo: bool = dynamo, opset: int = opset) -> None:
            options: dict[str, Any] = {"dynamo": dynamo, "opset_version": opset, "verbose": False}
            if dynamo:
                options |= {"external_data": False, "dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},) * len(inputs)}
            else:
                names = [f"input_{i}" for i in range(len(inputs))]
                options |= {"input_names": names, "dynamic_axes": {name: {0: "N"} for name in names}}
            torch.onnx.export(make().eval(), inputs, str(path), **options)

        yield f"{name} ({'torch.export' if dynamo else 'TorchScript'})", write


def zoo() -> Iterator[tuple[str, Exporter]]:
    for name, (make, size) in ARCHITECTURES.items():
        yield from by_both_exporters(name, make, torch.randn(2, 3, size, size))


_ACTIVATIONS = words("""
    CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish PReLU RReLU ReLU6 SELU SiLU
    Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Threshold""")


class _Last(nn.Module):
    """The last step of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.layer(x)[0][:, -1]
        return last


def layers() -> Iterator[tuple[str, Exporter]]:
    """Every activation and recurrent layer of PyTorch, and those of images that the zoo's networks do without."""
    for name in sorted(_ACTIVATIONS):
        layer = nn.Threshold(0.1, 0.0) if name == "Threshold" else getattr(nn, name)()
        width = 8 if name == "GLU" else 16
        yield from _layered(name, torch.randn(2, 4), nn.Linear(4, 16), layer, nn.Linear(width, 3))
    for name in ("LSTM", "GRU", "RNN"):
        recurrent = getattr(nn, name)(4, 8, num_layers=2, bidirectional=True, batch_first=True)
        yield from _layered(name, torch.randn(2, 5, 4), _Last(recurrent), nn.Linear(16, 3))
    for name, layer in {
        "ConvTranspose2d": nn.ConvTranspose2d(4, 4, 3, stride=2),
        "Conv3d": nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 4, 2), nn.Flatten(1, 2)),
        "PixelShuffle": nn.PixelShuffle(2),
        "PixelUnshuffle": nn.PixelUnshuffle(2),
        "Upsample": nn.Upsample(scale_factor=2, mode="bilinear"),
        "AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(2),
        "LPPool2d": nn.LPPool2d(2, 2),
        "Fold": nn.Sequential(nn.Unfold(2), nn.Fold((8, 8), 2)),
        "GroupNorm": nn.GroupNorm(2, 4),
        "LocalResponseNorm": nn.LocalResponseNorm(3),
    }.items():
        yield from _layered(name, torch.randn(2, 3, 8, 8), nn.Conv2d(3, 4, 1), layer, nn.Flatten(), nn.LazyLinear(3))


def _layered(name: str, example: Tensor, *parts: nn.Module) -> Iterator[tuple[str, Exporter]]:
    network = nn.Sequential(*parts).eval()
    network(example)
    return by_both_exporters(name, lambda: network, example)


def torchvision_families() -> Iterator[tuple[str, Exporter]]:
    """All that the zoo has no kin of."""
    for name in torchvision.models.list_models(module=torchvision.models):
        if name not in ARCHITECTURES and name.endswith(("_0", "_1", "alexnet", "vgg11_bn", "_t", "_50", "_b", "_s")):
            yield from by_both_exporters(
                name, lambda name=name: torchvision.models.get_model(name, weights=None), torch.randn(2, 3, 224, 224)
            )


def timm_families() -> Iterator[tuple[str, Exporter]]:
    """The smallest network of every module of timm, by its older exporter, which takes a tenth of the time."""
    families = defaultdict(list)
    for name in timm.list_models():
        families[timm.models._registry._model_to_module[name]].append(name)
    for names in families.values():
        name = min(names[:: max(1, len(names) // 8)], key=_timm_weights)
        if _timm_weights(name) > _MOST_WEIGHTS:
            continue
        size = timm.create_model(name).default_cfg.get("input_size", (3, 224, 224))
        yield list(by_both_exporters(name, lambda name=name: timm.create_model(name), torch.randn(2, *size)))[1]


def _timm_weights(name: str) -> float:
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:  # constructors that compute with their weights
        return float("inf")


#: Configuration classes of transformers that have a classifier of texts, of images or of sounds.
_TEXTS = words("""
    Albert Bart BigBird Bert CTRL Canine ConvBert Data2VecText Deberta DebertaV2 DistilBert Electra Ernie Esm Falcon
    FNet Funnel GPT2 GPTNeo GPTNeoX GPTJ Gemma IBert LayoutLM Llama Luke MBart MPNet MegatronBert Mistral MobileBert
    ModernBert Mpt MT5 Nezha Nystromformer OPT Perceiver Phi Qwen2 Reformer RemBert Roberta RoFormer SqueezeBert T5
    XLM XLMRoberta XLNet Xmod YOSO""")
_IMAGES = words("""
    Beit Bit ConvNext ConvNextV2 Cvt Data2VecVision DeiT Dinat Dinov2 EfficientFormer EfficientNet FocalNet Hiera
    ImageGPT MobileNetV1 MobileNetV2 MobileViT MobileViTV2 PoolFormer Pvt PvtV2 RegNet ResNet Segformer SwiftFormer
    Swin Swinv2 VAN ViT ViTMSN""")
_SOUNDS = words("""
    AST Data2VecAudio Hubert SEW SEWD UniSpeech UniSpeechSat Wav2Vec2 Wav2Vec2Conformer WavLM Whisper""")
#: Small numbers under all the names that sizes have there.
_SMALL: dict[str, Any] = {
    **dict.fromkeys(words("hidden_size d_model dim n_embd embed_dim embedding_size emb_dim"), 32),
    **dict.fromkeys(words("num_hidden_layers n_layers n_layer num_layers encoder_layers decoder_layers"), 2),
    **dict.fromkeys(words("num_attention_heads n_heads n_head num_heads num_key_value_heads"), 4),
    **dict.fromkeys(words("encoder_attention_heads decoder_attention_heads"), 4),
    **dict.fromkeys(words("intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim hidden_dim d_ff"), 37),
    **dict.fromkeys(words("d_kv head_dim"), 8),
    "vocab_size": 99,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "num_labels": 3,
    "use_cache": False,
    "num_decoder_layers": 2,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
#: Larger networks are left out: what counts is which operators there are.
_MOST_WEIGHTS = 5e7


class _Scores(nn.Module):
    """A network of transformers that takes and gives tensors alone."""

    def __init__(self, network: nn.Module, *names: str) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def transformers_families() -> Iterator[tuple[str, Exporter]]:
    try:
        import transformers
    except ImportError:
        return
    tokens, mask = torch.randint(3, 90, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
    inputs: dict[str, tuple[frozenset[str], str, tuple[Tensor, ...], tuple[str, ...]]] = {
        "text": (_TEXTS, "SequenceClassification", (tokens, mask), ("input_ids", "attention_mask")),
        "image": (_IMAGES, "ImageClassification", (torch.randn(2, 3, 224, 224),), ("pixel_values",)),
        "sound": (_SOUNDS, "AudioClassification", (torch.randn(2, 16000),), ("input_values",)),
    }
    for names, task, given, keys in inputs.values():
        for name in sorted(names):
            made = _small_transformer(transformers, name, task)
            if made is None:
                continue
            yield from by_both_exporters(name, lambda made=made, keys=keys: _Scores(made, *keys), *given)


def _small_transformer(library: Any, name: str, task: str) -> nn.Module | None:
    """With sizes made small, or as it is where those do not fit each other."""
    config = getattr(library, f"{name}Config", None)
    kind = getattr(library, f"{name}For{task}", None)
    if config is None or kind is None:
        return None
    for sizes in (_SMALL, {"num_labels": 3, "vocab_size": 99, "num_hidden_layers": 2}, {"num_labels": 3}):
        known = {key: value for key, value in sizes.items() if hasattr(config(), key)}
        try:
            with torch.device("meta"):
                weights = sum(p.numel() for p in kind(config(**known)).parameters())
            if weights < _MOST_WEIGHTS:
                network: nn.Module = kind(config(**known))
                return network
        except Exception:  # whatever sizes do not fit
            continue
    return None


def scikit_learn() -> Iterator[tuple[str, Exporter]]:
    rows, labels_ = table(3)
    for name, kind in all_estimators("classifier"):
        yield name, lambda path, kind=kind: save(kind().fit(rows, labels_), rows, path, options={"zipmap": False})


def light() -> Iterator[tuple[str, Exporter]]:
    for file in sorted(LIGHT.glob("*.onnx")):
        yield file.stem, lambda path, file=file: path.write_bytes(file.read_bytes())


def optimised() -> Iterator[tuple[str, Exporter]]:
    """Files that ONNX Runtime has optimised offline: a session's (two levels), and its tool for transformers."""
    sources = list(by_both_exporters("resnet18", *_zoo_network("resnet18")))
    sources += list(by_both_exporters("mobilenet_v3_small", *_zoo_network("mobilenet_v3_small")))
    sources += list(by_both_exporters("vit", *_zoo_network("timm/deit_tiny_distilled_patch16_224")))
    try:
        import transformers

        tokens, mask = torch.randint(3, 90, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
        for name in ("Bert", "DistilBert", "Roberta", "GPT2", "T5"):
            made = _small_transformer(transformers, name, "SequenceClassification")
            if made is not None:
                network = _Scores(made, "input_ids", "attention_mask")
                sources += list(by_both_exporters(name, lambda network=network: network, tokens, mask))
    except ImportError:
        pass
    for name, export in sources:
        for level in ("EXTENDED", "transformers"):
            yield f"{name}, {level.lower()}", lambda path, e=export, level=level: _optimise(e, level, path)


def _zoo_network(name: str) -> tuple[Callable[[], nn.Module], Tensor]:
    make, size = ARCHITECTURES[name]
    return make, torch.randn(2, 3, size, size)


def _optimise(export: Exporter, level: str, path: Path) -> None:
    plain = path.with_name("plain.onnx")
    export(plain)
    if level == "transformers":
        from onnxruntime.transformers.optimizer import optimize_model

        optimize_model(str(plain), model_type="bert", num_heads=4, hidden_size=32).save_model_to_file(str(path))
        return
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])


KINDS: dict[str, Callable[[], Iterator[tuple[str, Exporter]]]] = {
    "light": light,
    "scikit-learn": scikit_learn,
    "layers": layers,
    "zoo": zoo,
    "optimised": optimised,
    "transformers": transformers_families,
    "timm": timm_families,
    "torchvision": torchvision_families,
}


if __name__ == "__main__":
    main()
