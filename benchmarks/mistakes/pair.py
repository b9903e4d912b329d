"""A pair: a model file and a dataset file as their owner uploads them, with every option that is said on the way."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.common import Array, Split

Options = Mapping[str, Any]
_PARTS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Pair:
    """What is uploaded.

    Attributes:
        inputs: one array for each input of the model; of a table the columns of `x` are named by `columns`.
        targets: (N,) the class of each row as the model counts them, whatever `label` says.
        label: (N,) as uploaded, numbers or names.
        split: (N,) names of splits.
        names: K class names in the order in which the model was trained.
        model_names: the names that are said with the model, None where none are.
        dataset_names: `class_names` inside the dataset's file, None where there are none.
        columns: names of a table's columns; None writes npz instead of csv.
        images: (N, H, W, 3) pixels of a folder of image files, in place of `inputs`.
        frame_index: how a pandas index gets into the file: its column name, None for not at all.
    """

    model: bytes
    inputs: dict[str, Array]
    targets: NDArray[np.int64]
    label: Array
    split: Array
    names: tuple[str, ...]
    model_names: tuple[str, ...] | None = None
    dataset_names: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    images: Array | None = None
    frame_index: str | None = None
    roles: dict[str, Array] = field(default_factory=dict)
    model_options: Options = field(default_factory=dict)
    dataset_options: Options = field(default_factory=dict)
    job_options: Options = field(default_factory=dict)

    @classmethod
    def of(cls, model: bytes, split: Split, input_names: tuple[str, ...] = ("x",), **more: Any) -> Pair:
        """Labels are names, and the model is told its names: nothing can be understood in two ways."""
        parts = [getattr(split, part) for part in _PARTS]
        targets = np.concatenate([part[1] for part in parts])
        names = split.class_names
        roles = {} if split.groups is None else {"group": np.concatenate([split.groups[part] for part in _PARTS])}
        return cls(
            model=model,
            inputs={name: np.concatenate([part[0][i] for part in parts]) for i, name in enumerate(input_names)},
            targets=targets,
            label=np.array(names)[targets],
            split=np.repeat(_PARTS, [len(part[1]) for part in parts]),
            names=names,
            model_names=names,
            roles=roles,
            **more,
        )

    def with_inputs(self, change: Any) -> Pair:
        """Every input array changed by the same function."""
        return replace(self, inputs={name: change(array) for name, array in self.inputs.items()})

    def rows(self, kept: Array) -> Pair:
        """Some of the rows, in the order of `kept`."""
        return replace(
            self,
            inputs={name: array[kept] for name, array in self.inputs.items()},
            targets=self.targets[kept],
            label=self.label[kept],
            split=self.split[kept],
            images=None if self.images is None else self.images[kept],
            roles={name: array[kept] for name, array in self.roles.items()},
        )

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The model's file and the dataset's file."""
        model = folder / "model.onnx"
        model.write_bytes(self.model)
        if self.images is not None:
            return model, self._image_folder(folder / "dataset.zip")
        if self.columns is not None:
            return model, self._table(folder)
        named = {} if self.dataset_names is None else {"class_names": np.array(self.dataset_names)}
        arrays: dict[str, Any] = {**self.inputs, "label": self.label, "split": self.split, **self.roles, **named}
        np.savez(folder / "dataset.npz", **arrays)
        return model, folder / "dataset.npz"

    def _table(self, folder: Path) -> Path:
        import pandas as pd

        frame = pd.DataFrame(next(iter(self.inputs.values())), columns=list(self.columns or ()))
        frame = frame.assign(label=self.label, split=self.split, **self.roles)
        if self.frame_index == "__index_level_0__":
            file = folder / "dataset.parquet"
            frame.sample(frac=1, random_state=0).to_parquet(file)  # an index that is not a range is stored
            return file
        file = folder / "dataset.csv"
        frame.to_csv(file, index=self.frame_index is not None)
        return file

    def _image_folder(self, file: Path) -> Path:
        """`split/class/number.png`, uncompressed where PNG allows it."""
        from PIL import Image

        with zipfile.ZipFile(file, "w") as archive:
            for i, (pixels, label, split) in enumerate(zip(self.images, self.label, self.split, strict=True)):
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "PNG", compress_level=1)
                archive.writestr(f"{split}/{label}/{i}.png", content.getvalue())
        return file


@dataclass(frozen=True)
class Case:
    """A pair and what is to be said about it.

    Attributes:
        mistake: what was done; empty for a pair without mistake.
        model: which of the six kinds, or the kind of a right pair.
        title: what the pair is.
        codes: any of them names the mistake.
        remedy: a regular expression that the sentence beside such a code matches where it names the way out.
        told: where a mistake is undone by itself, what an adjustment must match in place of a warning.
    """

    mistake: str
    model: str
    title: str
    pair: Pair
    codes: tuple[str, ...] = ()
    remedy: str = ""
    told: str = ""
