"""Paths that the caller names: whether there is a file, before anything is sent or opened."""

from __future__ import annotations

from pathlib import Path

from fedlas.errors import ConversionError


def model_path(path: str | Path) -> Path:
    """The path of a model's file."""
    return _file(path, "model", "name the .onnx or .safetensors file in it")


def data_path(path: str | Path) -> Path:
    """The path of a dataset's file."""
    return _file(
        path, "dataset", "name an .npz, .csv or .parquet file in it; a folder of images is sent as a .zip of it"
    )


def _file(path: str | Path, what: str, instead: str) -> Path:
    found = Path(path).expanduser()
    try:
        if found.is_dir():
            raise ConversionError("is_directory", f"the {what} {str(path)!r} is a directory: {instead}")
        if not found.exists():
            where = "" if found.is_absolute() else f" in {Path.cwd()}"
            raise ConversionError("no_such_file", f"there is no {what} {str(path)!r}{where}")
        if found.is_file() and found.stat().st_size == 0:
            raise ConversionError("empty_file", f"the {what} {str(path)!r} is an empty file")
        with found.open("rb"):
            pass
    except OSError as error:
        raise ConversionError(
            "unreadable_file", f"the {what} {str(path)!r} cannot be read: {error.strerror}"
        ) from error
    return found
