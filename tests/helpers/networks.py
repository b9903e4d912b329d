"""Networks as people export them: an MLP, a CNN, text transformers with two inputs; their rows and their export."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fedlas.data.dataset import Array

Inputs = tuple[Tensor, ...]


class Cnn(nn.Module):
    """Two convolutions with BatchNorm, pooling, Dropout, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """nn.TransformerEncoder with learned positions and a masked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 12, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids) + self.positions[:, : input_ids.shape[1]]
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)
        mask = attention_mask.unsqueeze(-1).to(x.dtype)
        return self.head((x * mask).sum(1) / mask.sum(1).clamp(min=1))  # type: ignore[no-any-return]


class Bert(nn.Module):
    """Attention by hand: token and position embeddings, an additive mask, GELU, a tanh pooler over the first token."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, width), nn.Embedding(12, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(2))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.norm(self.tokens(input_ids) + self.positions(places))
        mask = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        for block in self.blocks:
            x = block(x, mask)
        return self.head(torch.tanh(self.pooler(x[:, 0])))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (
            f(x).view(n, length, self.heads, width // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5 + mask).softmax(-1)
        x = self.first(x + self.out((weights @ v).transpose(1, 2).reshape(n, length, width)))
        return self.second(x + self.feed(x))  # type: ignore[no-any-return]


class Composed(nn.Module):
    """A network with a function after its logits; any number of inputs."""

    def __init__(self, network: nn.Module, function: Any) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.network(x))


class Scaled(nn.Module):
    """Logistic regression on standardised columns."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(10))
        self.register_buffer("deviation", torch.rand(10) + 0.5)
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((x - self.mean) / self.deviation)  # type: ignore[no-any-return]


def mlp(classes: int = 3, *, width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def table(rows: int) -> Inputs:
    return (torch.randn(rows, 10),)


def images(rows: int, size: int = 32) -> Inputs:
    return (torch.randn(rows, 3, size, size),)


def texts(rows: int) -> Inputs:
    mask = torch.ones(rows, 12, dtype=torch.long)
    mask[:, 8:] = 0
    return torch.randint(0, 50, (rows, 12)), mask


#: Networks of each kind, with what makes their rows.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs]]] = {
    "mlp": (mlp, table),
    "cnn": (Cnn, images),
    "encoder": (Encoder, texts),
    "bert": (Bert, texts),
}


def trained_looking(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that training would have moved away from equal ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.is_floating_point() and "var" not in name:
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return network.eval()


def export(
    network: nn.Module, example: Inputs, path: Path, *, dynamo: bool = False, dynamic: bool = True, **options: Any
) -> Path:
    """Export with weights inside and without the exporters' many words."""
    names = ["input_ids", "attention_mask"] if len(example) == 2 else ["x"]
    if dynamic and dynamo:
        options["dynamic_shapes"] = tuple({0: torch.export.Dim("batch")} for _ in example)
    elif dynamic:
        options["dynamic_axes"] = {name: {0: "batch"} for name in names}
    if dynamo:
        options["verbose"] = False
    options = {"input_names": names, "dynamo": dynamo, "external_data": False, **options}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # deprecations and tracing hints: how people export is not what is tested
        torch.onnx.export(network, example, path, **options)
    return path


def node(op_type: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> NodeProto:
    """One node of a hand-made graph."""
    return helper.make_node(op_type, inputs, outputs, domain=domain, **attributes)


def hand_made(
    folder: Path,
    nodes: list[NodeProto],
    shape: Sequence[int | str],
    constants: Mapping[str, Any],
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    rows: int | str = "N",
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A hand-made model with the input x (rows, *shape); floats among the constants are stored as float32."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    arrays = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in arrays.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [rows, *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports[:1]))
    path = folder / "made.onnx"
    onnx.save(model, path)
    return path


def run_file(path: Path, inputs: Inputs) -> Array:
    """The file's first output by ONNX Runtime: the referee."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)}
    return np.asarray(session.run(None, feed)[0])


def weight_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
