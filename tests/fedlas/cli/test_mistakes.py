"""Mistakes that people make: the answer says what was found, and the command that helps, with the file's name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import fedlas
from fedlas import conversion
from fedlas.cli import main
from fedlas.client import FileError
from fedlas.client.inputs import model_file
from fedlas.errors import BadDataset, ConversionError
from tests.corpus.foreign import zipped
from tests.helpers.command_line import drawn_npz, scaled_model
from tests.helpers.judges import judged_csv, judged_rows

N = 60
KERAS = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b""}
XLSX = zipped({"xl/workbook.xml": b"", "[Content_Types].xml": b""})
TENSORFLOW = "python -m tf2onnx.convert --"
#: Files and folders that are sent for a model: name, content, and the words of the answer.
MODELS = {
    "xgb.json": (b'{"learner":{"attributes":{}}}', 'XGBoost.*load_model."xgb.json".*convert_xgboost'),
    "xgb.ubj": (b"{L" + bytes(7) + b"\7learner{L" + bytes(90), 'XGBoost.*load_model."xgb.ubj"'),
    "lgb.txt": (b"tree\nversion=v4\nnum_class=3\n", 'LightGBM.*model_file="lgb.txt".*convert_lightgbm'),
    "m.cbm": (b"CBM1\x98C\0\0\x10\0\0\0", 'CatBoost.*load_model."m.cbm".*format="onnx"'),
    "tf/saved_model.pb": (b"\x08\x01\x12\xd6\x8a\x01\n\x9b\x1d", f"SavedModel.*{TENSORFLOW}saved-model tf "),
    "frozen.pb": (b"\n$\n\x05input\x12\x0bPlaceholder*\x0e", f"frozen.*{TENSORFLOW}graphdef frozen.pb"),
    "net.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), f"HDF5.*{TENSORFLOW}keras net.h5"),
    "net.keras": (zipped(KERAS), f"Keras.*{TENSORFLOW}keras net.keras"),
    "net.tflite": (b"\x1c\0\0\0TFL3" + bytes(99), f"{TENSORFLOW}tflite net.tflite"),
    "bert.zip": (zipped({"b/config.json": b"{}", "b/pytorch_model.bin": b""}), "optimum-cli export onnx --model bert "),
    "book.xlsx": (XLSX, 'Excel.*read_excel."book.xlsx"'),
    "saved": ({"saved_model.pb": b""}, f"folder with a TensorFlow SavedModel.*{TENSORFLOW}saved-model saved "),
    "hub": ({"config.json": b"{}", "model.safetensors": b""}, r"folder with a Hugging.*from_pretrained\(.hub.\)"),
    "pics": ({"cat.png": b""}, "a folder of images is sent as a zip"),
}
NUMBERS = np.random.default_rng(0).normal(size=(N, 2))
CELLS = [[f"{value:.3f}" for value in row] for row in NUMBERS]


def table(head: str, *, cell: str = "{}", label: str = "{}", separator: str = ",") -> bytes:
    """Rows of two columns, as the cell is written, and of a label 0 or 1, of which the first is written otherwise."""
    labels = [label.format(0), *(str(i % 2) for i in range(1, N))]
    lines = [[*(cell.format(one) for one in row), end] for row, end in zip(CELLS, labels, strict=True)]
    return "\n".join([head, *map(separator.join, lines)]).encode()


ALL_AT_ONCE = "\n".join(["f0; Class ;when", *(f"1.{i:03d},5;{i % 2 or ''};31.05.2024" for i in range(N))]).encode()
ROWS = {
    "comma.csv": (
        table("a;b;label", separator=";").replace(b".", b","),
        'decimal point.*read_csv."comma.csv".*a, b, l',
    ),
    "quoted.csv": (table("a,b,label", cell='"1,250.5"'), 'nothing may stand between.*"quoted.csv".*thousands=","'),
    "percent.csv": (table("a,b,label", cell="{}%"), "'a' is text .*percent sign.*the columns are a, b, label"),
    "dates.csv": (table("a,b,label", cell="2024-05-31"), "a date is no input: say --role time=COLUMN"),
    "nan.csv": (table("a,b,label", cell="").replace(b",,1", b"1,1,1"), 'missing="nan".*nan.csv --dataset-option miss'),
    "head.csv": (table("1.5,0.2,1"), "line of names missing above the rows"),
    "class.csv": (table("a,b,class"), 'among a, b, class;.*roles={"label": "class"}.*--role label=class'),
    "outcome.csv": (table("a,outcome,b"), "--role label=outcome"),
    "empty.csv": (table("a,b,label", label=""), 'label. is empty in row 0.*"empty.csv".*dropna.subset=."label"'),
    "words.csv": (table("a,b,label", label="").replace(b",1\n", b",yes\n"), "label. is empty in row 0"),
    "val.csv": (
        b"a,label,split\n" + b".5,0,train\n.4,1,val\n" * 20,
        "found 'val'.*validation rows are calibration here",
    ),
    "book.xlsx": (XLSX, 'Excel.*read_excel."book.xlsx"'),
    "both.csv": (b"5.1;3,5;class\n1_000;;setosa\n", "has semicolons and a comma: separate all fields by one of them"),
    "all.csv": (ALL_AT_ONCE, r"no label among f0,  Class , when;.*label=' Class '"),
}
SCORES = {
    "confidence.csv": (b"confidence,correct\n.5,1\n", "--role score=confidence --role label=correct"),
    "judge.csv": (b"judge,human\n.5,1\n", "columns are judge, human.*judge.csv --role score=judge --role label=human"),
    "proba.csv": (table("probability_a,probability_b,label"), "fedlas calibrators create proba.csv"),
    "pics.zip": (zipped({"cat/1.png": b""}), "fedlas calibrate model.onnx pics.zip"),
    "m.onnx": (scaled_model(3.0), "Missing argument 'DATA', the rows for the model: fedlas calibrate m.onnx rows.csv"),
    "book.xlsx": (XLSX, 'Excel.*read_excel."book.xlsx"'),
    "lgb.txt": (b"tree\nversion=v4\n", "LightGBM"),
    "head.csv": (b"0.9,1\n0.3,0\n", "line of names missing above the rows"),
    "comma.csv": (b"score;label\n" + b"0,97;1\n" * 12, "'0,97' in row 0.*decimal point"),
    "empty.csv": (b"score,label\n" + b"0.9,yes\n0.4,\n" * 12, "'label' is empty in row 1"),
    "all.csv": (b" Judge ;Human\n97,5%;\n96,4%;ja\n", "columns are  Judge , Human.*--role score=' Judge '"),
}
CASES = [
    *(pytest.param("{} rows.npz", name, *case, id=f"model {name}") for name, case in MODELS.items()),
    *(pytest.param("m.onnx {}", name, *case, id=f"rows {name}") for name, case in ROWS.items()),
    *(pytest.param("{}", name, *case, id=f"scores {name}") for name, case in SCORES.items()),
]


def put(name: str, content: bytes | dict[str, bytes]) -> None:
    """Write a file, or the files of a folder, here."""
    for path, part in content.items() if isinstance(content, dict) else [("", content)]:
        (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
        (Path(name) / path).write_bytes(part)


@pytest.mark.parametrize(("given", "name", "content", "words"), CASES)
def test_a_mistake_is_told_with_its_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    name: str,
    content: bytes | dict[str, bytes],
    words: str,
) -> None:
    """One line says what the file is, its columns, and a command with its name; nothing is cut or left to be filled."""
    monkeypatch.chdir(tmp_path)
    put("m.onnx", scaled_model(3.0))
    put("rows.npz", drawn_npz(test=30))
    put(name, content)
    assert main(["calibrate", *given.format(name).split(), "--local"]) in (1, 2)
    said = capsys.readouterr().err.strip()
    assert re.search(words, said), said
    assert not re.search("YOUR_|torch.onnx.export|\n", said.removeprefix("reading\n")), said


def test_the_score_and_the_label_may_have_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blanks and capitals in the header, and columns that --role names, make the promise of `score,label`."""
    monkeypatch.chdir(tmp_path)
    rows, promises = judged_csv(*judged_rows(600, seed=1)).partition("\n")[2], []
    roles = ["--role", "score=confidence", "--role", "label=correct"]
    for header, more in (
        ("score,label", []),
        ("Score, Label ", []),
        (" confidence,correct", roles),
        ("Confidence,correct", roles),
    ):
        Path("judge.csv").write_text(f"{header}\n{rows}")
        assert main(["calibrate", "judge.csv", "--local", "--json", "--max-error", "0.1", *more]) == 0
        promises.append(json.loads(capsys.readouterr().out)["promise"])
    assert promises == promises[:1] * 4
    assert promises[0]["threshold"] is not None
    with pytest.raises(BadDataset, match="columns are Confidence, correct"):
        fedlas.calibrate("judge.csv")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("xgboost.sklearn", "convert_xgboost"),
        ("lightgbm.sklearn", "convert_lightgbm"),
        ("catboost.core", "m.save_model"),
    ],
)
def test_a_booster_is_told_its_own_converter(tmp_path: Path, module: str, words: str) -> None:
    """An estimator of a library that skl2onnx does not know is written by its own, or its probabilities are sent."""
    booster = type("Booster", (RandomForestClassifier,), {"__module__": module})(2).fit(NUMBERS, np.arange(N) % 2)
    with pytest.raises(ConversionError, match=rf"Booster, m in .*{words}.*calibrate its probabilities instead"):
        conversion.model_file(booster, folder=tmp_path, example=NUMBERS)


def test_python_names_the_file_and_the_columns(tmp_path: Path) -> None:
    """The client refuses another library's model before it is sent; a frame without a label lists its columns."""
    (tmp_path / "m.cbm").write_bytes(MODELS["m.cbm"][0])
    with pytest.raises(FileError, match=r'CatBoost model: .*load_model\(".*/m.cbm"\)'):
        model_file(tmp_path / "m.cbm", tmp_path)
    frame = pd.DataFrame(NUMBERS, columns=["a", "b"]).assign(city="Rome", outcome=0)
    encoded = make_column_transformer((OneHotEncoder(), ["city"]))
    pipeline = make_pipeline(encoded, RandomForestClassifier(2)).fit(frame, np.arange(N) % 2)
    with pytest.raises(ConversionError, match=r"no label among a, b, city, outcome;.*\"outcome\""):
        fedlas.calibrate(pipeline, fedlas.LabelledRows(frame))
