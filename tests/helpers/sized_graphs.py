"""Graphs that people export, which must pass, and graphs written to harm, whose sizes depend on values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn

from tests.helpers import classical_models
from tests.helpers.networks import Bert, Cnn, Encoder, Scaled, export, hand_made, images, mlp, node, table, texts

Make = Callable[[Path], Path]
FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32


class Masked(nn.Module):
    """Boolean indexing: the tokens that are not padding, whatever their number, then a mean over each row."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = attention_mask > 0
        found = self.embedding(input_ids)[kept]
        x = torch.zeros(*input_ids.shape, 8).masked_scatter(kept[..., None].expand(-1, -1, 8), torch.tanh(found))
        return self.out(x.sum(1) / attention_mask.sum(1, keepdim=True).clamp(min=1))  # type: ignore[no-any-return]


class Roberta(nn.Module):
    """Position ids that count the tokens which are not padding: `cumsum(mask) * mask + padding_idx`."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 16), nn.Embedding(32, 16)
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = input_ids.ne(1).int()
        places = (torch.cumsum(mask, dim=1).type_as(mask) * mask).long() + 1
        x = self.norm(self.tokens(input_ids) + self.places(places))
        return self.out((x * attention_mask[..., None]).sum(1))  # type: ignore[no-any-return]


class Deberta(nn.Module):
    """DeBERTa-v2's relative positions: log buckets of distances, gathered from the scores of content and position."""

    def __init__(self, width: int = 16, span: int = 8) -> None:
        super().__init__()
        self.span, self.tokens = span, nn.Embedding(50, width)
        self.relative = nn.Embedding(2 * span, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, n) for n in (width, width, width, 3))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        n, length, _ = x.shape
        apart = torch.arange(length)[:, None] - torch.arange(length)[None]
        middle = self.span // 2
        near = torch.where((apart < middle) & (apart > -middle), torch.full_like(apart, middle - 1), apart.abs())
        far = torch.ceil(torch.log(near / middle) / np.log(31 / middle) * (middle - 1)) + middle
        bucket = torch.where(near <= middle, apart.float(), far * apart.sign()).long()
        bucket = torch.clamp(bucket + self.span, 0, 2 * self.span - 1)
        query, key = self.query(x), self.key(x)
        placed = query @ self.relative.weight.T
        scores = query @ key.transpose(1, 2) + torch.gather(placed, 2, bucket[None].expand(n, -1, -1))
        scores = scores.masked_fill(attention_mask[:, None] == 0, torch.finfo(torch.float32).min)
        return self.out((scores.softmax(-1) @ self.value(x))[:, 0])  # type: ignore[no-any-return]


class Scales(nn.Module):
    """Interpolation to twice the size that an image has, by sizes computed from its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        wide = nn.functional.interpolate(self.first(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.out(torch.relu(wide).mean((2, 3)))  # type: ignore[no-any-return]


def exported(make: Callable[[], nn.Module], rows: Callable[[int], Any], **options: Any) -> Make:
    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        return export(make().eval(), rows(2), folder / "model.onnx", **options)

    return write


def _free_texts(rows: Callable[[int], Any] = texts) -> dict[str, Any]:
    return {"dynamic_axes": {n: {0: "batch", 1: "length"} for n in ("input_ids", "attention_mask")}, "dynamic": False}


def _tfidf(folder: Path) -> Path:
    counts = np.random.default_rng(0).poisson(1.0, (60, 12)).astype(np.float32)
    fitted = make_pipeline(TfidfTransformer(), LogisticRegression()).fit(counts, np.arange(60) % 3)
    return classical_models.save(fitted, counts, folder / "model.onnx")


def _tokens_tfidf(folder: Path) -> Path:
    """The TF-IDF of tokens that are numbers already."""
    vector = node(
        "TfIdfVectorizer",
        ["x"],
        "counts",
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1, 2, 3],
        pool_int64s=[0, 1, 2, 3],
    )
    constants = {"w": np.random.default_rng(0).normal(size=(4, 3)), "b": np.zeros(3)}
    nodes = [vector, node("Gemm", ["counts", "w", "b"], "z"), node("Softmax", ["z"], "y", axis=1)]
    return hand_made(folder, nodes, [6], constants, kind=INT64)


#: Must be opened, trainable or not.
MUST_PASS: dict[str, Make] = {
    "mlp": exported(mlp, table),
    "scaled": exported(Scaled, table),
    "cnn": exported(Cnn, images),
    "cnn, newer exporter": exported(Cnn, images, dynamo=True),
    "encoder": exported(Encoder, texts),
    "bert": exported(Bert, texts),
    "bert, free length": exported(Bert, texts, **_free_texts()),
    "x[mask]": exported(Masked, texts),
    "x[mask], free length": exported(Masked, texts, **_free_texts()),
    "roberta": exported(Roberta, texts),
    "roberta, free length": exported(Roberta, texts, **_free_texts()),
    "deberta": exported(Deberta, texts),
    "deberta, free length": exported(Deberta, texts, **_free_texts()),
    "interpolation": exported(Scales, images),
    "interpolation, free size": exported(Scales, images, dynamic=False, dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}}),
    "tf-idf": _tfidf,
    "tf-idf of tokens": _tokens_tfidf,
}
#: From rows (N, 4) to `large`, the largest first value as a float, and `whole`, as an integer.
LARGEST = [
    node("Gather", ["x", "zero"], "column", axis=1),
    node("ReduceMax", ["column"], "large", keepdims=0),
    node("Cast", ["large"], "whole", to=INT64),
]
#: From `zeros` of whatever size to scores.
ENDING = [
    node("ReduceSum", ["zeros"], "nothing", keepdims=0),
    node("Add", ["x", "nothing"], "moved"),
    node("Gemm", ["moved", "w", "b"], "y"),
]
CONSTANTS: dict[str, Any] = {
    "zero": np.array(0),
    "one": np.array([1]),
    "ones": np.ones((1, 1)),
    "w": np.random.default_rng(0).normal(size=(4, 3)),
    "b": np.zeros(3),
    "unit": np.array(1),
    "fill": np.array([0.0, 1.0]),
}


@dataclass(frozen=True)
class Hostile:
    """Nodes from `large` or `whole` to `zeros`, and what they read."""

    nodes: Sequence[NodeProto]
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 18

    def write(self, folder: Path, *, columns: int | str = 4) -> Path:
        return hand_made(
            folder,
            [*LARGEST, *self.nodes, *ENDING],
            [columns],
            {**CONSTANTS, **self.constants},
            opset=self.opset,
        )


def _zeros(size: str = "whole") -> list[NodeProto]:
    return [node("Reshape", [size, "one"], "size"), node("ConstantOfShape", ["size"], "zeros")]


def _through(*nodes: NodeProto, **constants: Any) -> Hostile:
    """`laundered` becomes a size."""
    return Hostile([*nodes, *_zeros("laundered")], constants)


_MAX_SIZE = np.array(64)
_VECTOR = node("Reshape", ["whole", "one"], "v")
#: Every one must be refused.
HOSTILE: dict[str, Hostile] = {
    "ConstantOfShape": Hostile(_zeros()),
    "Expand": Hostile([_VECTOR, node("Expand", ["ones", "v"], "zeros")]),
    "Tile": Hostile([_VECTOR, node("Concat", ["one", "v"], "r", axis=0), node("Tile", ["ones", "r"], "zeros")]),
    "Pad": Hostile(
        [_VECTOR, node("Concat", ["four", "v"], "p", axis=0), node("Pad", ["x", "p"], "zeros")],
        {"four": np.zeros(3, np.int64)},
    ),
    "Range": Hostile([node("Range", ["zero", "whole", "unit"], "steps"), node("Cast", ["steps"], "zeros", to=FLOAT)]),
    "Range backwards": Hostile(
        [
            node("Neg", ["whole"], "n"),
            node("Range", ["n", "zero", "unit"], "steps"),
            node("Cast", ["steps"], "zeros", to=FLOAT),
        ]
    ),
    "Range by small steps": Hostile(
        [node("Reciprocal", ["large"], "step"), node("Range", ["f0", "f1", "step"], "zeros")],
        {"f0": np.array(0.0), "f1": np.array(1.0)},
    ),
    "OneHot": Hostile([node("OneHot", ["one", "whole", "fill"], "zeros")]),
    "Resize by sizes": Hostile(
        [
            _VECTOR,
            node("Concat", ["one", "v"], "sizes", axis=0),
            node("Resize", ["ones", "", "", "sizes"], "zeros", mode="nearest"),
        ]
    ),
    "Resize by scales": Hostile(
        [
            node("Reshape", ["large", "one"], "v"),
            node("Concat", ["f1", "v"], "scales", axis=0),
            node("Resize", ["ones", "", "scales"], "zeros", mode="nearest"),
        ],
        {"f1": np.ones(1)},
    ),
    "steps of an LSTM": Hostile(
        [
            _VECTOR,
            node("Concat", ["v", "one", "one"], "s", axis=0),
            node("ConstantOfShape", ["s"], "t"),
            node("LSTM", ["t", "lw", "lr"], "zeros", hidden_size=1),
        ],
        {"lw": np.ones((1, 4, 1)), "lr": np.ones((1, 4, 1))},
    ),
    "HannWindow": Hostile([node("HannWindow", ["whole"], "zeros")]),
    "CenterCropPad": Hostile([_VECTOR, node("CenterCropPad", ["ones", "v"], "zeros", axes=[1])]),
    "limited by Min": _through(node("Min", ["whole", "most"], "laundered"), most=_MAX_SIZE),
    "through text": _through(
        node("Cast", ["large"], "t", to=TensorProto.STRING), node("Cast", ["t"], "laundered", to=INT64)
    ),
    "a table": _through(
        node("Min", ["whole", "unit"], "i"),
        node("Gather", ["sizes", "i"], "laundered", axis=0),
        sizes=np.array([1, 2**34]),
    ),
    "Where": _through(node("Greater", ["whole", "zero"], "c"), node("Where", ["c", "whole", "zero"], "laundered")),
    "scattered": _through(
        node("Reshape", ["whole", "one"], "u"),
        node("ScatterElements", ["one", "i0", "u"], "s", axis=0),
        node("Squeeze", ["s"], "laundered"),
        i0=np.array([0]),
    ),
    "Shape of a size": Hostile(
        [
            _VECTOR,
            node("ConstantOfShape", ["v"], "t"),
            node("Shape", ["t"], "s"),
            node("Mul", ["s", "s"], "size"),
            node("Mul", ["size", "size"], "more"),
            node("ConstantOfShape", ["more"], "zeros"),
        ]
    ),
    "NonZero of NonZero": Hostile(
        [
            node("NonZero", ["x"], "i"),
            node("Shape", ["i"], "s"),
            node("Slice", ["s", "one", "two"], "n"),
            node("Mul", ["n", "big"], "size"),
            node("ConstantOfShape", ["size"], "zeros"),
        ],
        {"two": np.array([2]), "big": np.array([2**33])},
    ),
    "nothing, reshaped": Hostile(
        [
            node("Compress", ["x", "none"], "e", axis=1),
            _VECTOR,
            node("Concat", ["v", "i0"], "s", axis=0),
            node("Reshape", ["e", "s"], "t", allowzero=1),
            node("ReduceSum", ["t", "one"], "zeros", keepdims=0),
        ],
        {"none": np.zeros(4, bool), "i0": np.array([0])},
    ),
    "least of nothing": Hostile(
        [
            node("Compress", ["x", "none"], "e", axis=1),
            node("Cast", ["e"], "i", to=INT64),
            node("Min", ["i", "most"], "m"),
            node("ReduceMin", ["m"], "laundered", keepdims=0),
            *_zeros("laundered"),
        ],
        {"none": np.zeros(4, bool), "most": _MAX_SIZE},
    ),
    "a sequence": _through(node("SequenceConstruct", ["whole"], "q"), node("SequenceAt", ["q", "zero"], "laundered")),
    "twice the text": Hostile(
        [
            node("Cast", ["large"], "t0", to=TensorProto.STRING),
            *(node("StringConcat", [f"t{i}", f"t{i}"], f"t{i + 1}") for i in range(30)),
            node("Equal", ["t30", "t30"], "c"),
            node("Cast", ["c"], "zeros", to=FLOAT),
        ],
        opset=20,
    ),
}
