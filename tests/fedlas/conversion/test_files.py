"""Paths are taken as they are, or refused in a sentence; nothing is loaded for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedlas.conversion import ConversionError, dataset_file, example_of, model_file


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """The caller's options go with the path."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"x")
    model = model_file(str(path), folder=tmp_path, features="pooled", class_names=["a", "b"])
    assert (model.path, model.options, model.class_names) == (path, {"features": "pooled"}, ["a", "b"])
    rows = dataset_file(path, folder=tmp_path, roles={"label": "y"}, seen_by_model="no")
    assert (rows.path, rows.roles, rows.seen_by_model) == (path, {"label": "y"}, "no")
    assert example_of(path) is None


@pytest.mark.parametrize(
    ("name", "code"), [("missing.npz", "no_such_file"), ("folder", "is_directory"), ("empty.npz", "empty_file")]
)
def test_a_path_that_is_no_file_is_a_sentence(name: str, code: str, tmp_path: Path) -> None:
    """The sentence names the path and what is there."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.npz").touch()
    for take in (model_file, dataset_file):
        with pytest.raises(ConversionError, match=name) as raised:
            take(tmp_path / name, folder=tmp_path)  # type: ignore[operator]
        assert raised.value.code == code


def test_nothing_is_loaded_for_a_file(tmp_path: Path) -> None:
    """A file loads neither PyTorch nor NumPy, so a client of files needs none."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"x")
    code = (
        "import sys; from pathlib import Path; from fedlas.conversion import *; "
        f"model_file({str(path)!r}, folder=Path('.')); dataset_file({str(path)!r}, folder=Path('.')); "
        "print({'torch', 'numpy', 'sklearn', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
