"""Kinds of files that are sent in place of a model or of rows: how each is known, and what to do instead.

One table for all doors. Nothing is opened: the first bytes tell, or the names in a folder or a zip. `YOUR_FILE` in a
sentence is the file that was sent: whoever knows its name puts it in.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import compress
from pathlib import Path
from typing import NamedTuple

#: Code that writes an estimator `m` of these libraries as ONNX, which skl2onnx cannot.
BOOSTERS = {
    "xgboost": "import onnxmltools as o; m.get_booster().feature_names = None; o.utils.save_model(o.convert_xgboost(m, "
    'initial_types=[("x", o.convert.common.data_types.FloatTensorType([None, m.n_features_in_]))]), "model.onnx")',
    "lightgbm": "import onnxmltools as o; o.utils.save_model(o.convert_lightgbm(m, zipmap=False, initial_types="
    '[("x", o.convert.common.data_types.FloatTensorType([None, getattr(m, "booster_", m).num_feature()]))]), '
    '"model.onnx")',
    "catboost": 'm.save_model("model.onnx", format="onnx")',
}
HUGGING_FACE = (
    "optimum-cli export onnx --model YOUR_FOLDER exported/ writes it as ONNX; or send the network itself from Python: "
    'client.calibrate(AutoModelForSequenceClassification.from_pretrained("YOUR_FOLDER"), {"input_ids": ..., '
    '"attention_mask": ..., "label": ...})'
)
_TF2ONNX = "write it as ONNX with tf2onnx: python -m tf2onnx.convert --{} --output model.onnx"
_SAVE_CSV = 'save the sheet as csv (UTF-8): pandas.read_excel("YOUR_FILE").to_csv("rows.csv", index=False)'


class Kind(NamedTuple):
    """A kind of file that is not read.

    Attributes:
        start: a pattern of its first bytes.
        rows: the remedy if rows are expected.
        model: the remedy if a model is expected; empty if nobody takes such a file for one.
        members: a folder or zip of this kind has all names of one of these sets.
    """

    what: str
    start: bytes
    rows: str = "expected rows; were model and rows exchanged?"
    model: str = ""
    members: tuple[frozenset[str], ...] = ()


#: The first that fits is meant.
KINDS = (
    Kind(
        "an XGBoost model",
        rb'\{\s*"learner"|\{L.{8}learner',
        model='write it as ONNX: import xgboost; m = xgboost.XGBClassifier(); m.load_model("YOUR_FILE"); '
        + BOOSTERS["xgboost"],
    ),
    Kind(
        "a LightGBM model",
        rb"tree\r?\nversion=",
        model='write it as ONNX: import lightgbm; m = lightgbm.Booster(model_file="YOUR_FILE"); '
        + BOOSTERS["lightgbm"],
    ),
    Kind(
        "a CatBoost model",
        rb"CBM1.{3}[\0-\x08]",
        model='write it as ONNX: import catboost; m = catboost.CatBoost().load_model("YOUR_FILE"); '
        + BOOSTERS["catboost"],
    ),
    Kind(
        "a TensorFlow SavedModel",
        rb"\x08\x01\x12",
        model=_TF2ONNX.format("saved-model YOUR_FOLDER"),
        members=(frozenset({"saved_model.pb"}),),
    ),
    Kind(
        "a frozen TensorFlow graph",
        rb"\n.{1,2}\n.{1,99}\x12.(Placeholder|Const)",
        model=_TF2ONNX.format("graphdef YOUR_FILE --inputs x:0 --outputs probabilities:0"),
    ),
    Kind("a TensorFlow Lite model", rb".{3}\0TFL3", model=_TF2ONNX.format("tflite YOUR_FILE")),
    Kind(
        "a Keras model",
        rb"(?!)",
        model=_TF2ONNX.format("keras YOUR_FILE"),
        members=(frozenset({"config.json", "model.weights.h5"}),),
    ),
    Kind(
        "an HDF5 file, as Keras writes",
        rb"\x89HDF",
        "h5py reads it and numpy.savez writes npz",
        _TF2ONNX.format("keras YOUR_FILE"),
    ),
    Kind(
        "a Hugging Face model",
        rb"(?!)",
        model=HUGGING_FACE,
        members=(frozenset({"config.json", "model.safetensors"}), frozenset({"config.json", "pytorch_model.bin"})),
    ),
    Kind("an Excel file", rb"\xd0\xcf\x11\xe0", _SAVE_CSV, _SAVE_CSV, (frozenset({"[Content_Types].xml"}),)),
    Kind("an ONNX model", rb"\x08"),
    Kind("a single .npy array", rb"\x93NUMPY", "it has no labels; numpy.savez writes both"),
    Kind(
        "an Arrow IPC (Feather), ORC or Avro file",
        rb"ARROW1|FEA1|ORC|Obj\x01",
        "write parquet: pandas.DataFrame.to_parquet or pyarrow.parquet.write_table",
    ),
    Kind("an SQLite database", rb"SQLite format 3\0", "write the rows of a query as csv or parquet"),
    Kind("a MATLAB file", rb"MATLAB 5\.0", "scipy.io.loadmat reads it and numpy.savez writes npz"),
    Kind("a single image", rb"\x89PNG|\xff\xd8\xff", "send a zip with a folder of images for each class"),
    Kind("a compressed (zstd) file", rb"\x28\xb5\x2f\xfd", "send what is in it"),
    Kind("a compressed (gzip) file", rb"\x1f\x8b", "send what is in it"),
    Kind("a compressed (bzip2) file", rb"BZh", "send what is in it"),
    Kind("a compressed (xz) file", rb"\xfd7zXZ", "send what is in it"),
    Kind("a compressed (zlib) file", rb"x[\x01\x5e\x9c\xda]", "send what is in it"),
    Kind("a 7z archive", rb"7z\xbc\xaf", "send an ordinary zip"),
    Kind("a rar archive", rb"Rar!", "send an ordinary zip"),
    Kind("a tar archive", rb".{257}ustar", "send an ordinary zip"),
    Kind("a PDF file", rb"%PDF", "send the data it shows as csv"),
    Kind("HTML or XML", rb"<", "perhaps a page about the file was saved instead of the file"),
    Kind("JSON", rb"\[\[", "numpy.savez writes arrays of numbers"),
    Kind("JSON", rb'\{"|\[\{', "pandas.read_json reads it and to_csv or to_parquet writes what is read here"),
)


def kind_of(start: bytes, members: Collection[str] = ()) -> Kind | None:
    """The first kind of the table that fits; None for a file that may be read.

    >>> kind_of(b"CBM1\\x98C\\0\\0").what, kind_of(b"", ["bert/config.json", "bert/model.safetensors"]).what
    ('a CatBoost model', 'a Hugging Face model')
    """
    contents = (start, start.removeprefix(b"\xef\xbb\xbf").lstrip())
    names = {name.rpartition("/")[2] for name in members}
    fits = (
        any(re.match(kind.start, one, re.DOTALL) for one in contents) or any(some <= names for some in kind.members)
        for kind in KINDS
    )
    return next(compress(KINDS, fits), None)


def named(sentence: str, path: Path) -> str:
    """The sentence with the name of the file, or folder, that it is about."""
    folder = path if path.is_dir() else path.parent if path.suffix == ".pb" else path.with_suffix("")
    return sentence.replace("YOUR_FILE", str(path)).replace("YOUR_FOLDER", str(folder))


def of_folder(path: Path) -> str:
    """The sentence for a folder in place of a file: how to send what is in it."""
    if kind := kind_of(b"", [one.name for one in path.iterdir()]):
        return named(f"{path} is a folder with {kind.what}: {kind.model}", path)
    return f"{path} is a folder, expected a file; a folder of images is sent as a zip of it"
