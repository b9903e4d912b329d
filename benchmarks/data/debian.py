"""Data sets inside Debian's R packages, read without R; it knows no task."""

from __future__ import annotations

import bz2
import lzma
import subprocess
import warnings
import zlib
from pathlib import Path
from typing import Any

from benchmarks.data.common import cache_folder, missing


def r_frame(package: str, name: str) -> Any:
    """The data frame `name` of a package such as `r-cran-mlbench`, downloaded into the cache and read by pandas."""
    try:
        import rdata
    except ImportError:
        raise missing("the reader of R's files", "`pip install rdata` brings it") from None
    folder = unpacked(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rdata tells of every encoding and attribute that it has to guess
        for path in folder.rglob(f"data/{name}.rda"):
            return rdata.read_rda(path)[name]
        for index in folder.rglob("data/Rdata.rdx"):
            offset, length = (int(number) for number in rdata.read_rds(index)["variables"][name])
            stored = index.with_suffix(".rdb").read_bytes()[offset : offset + length]
            return rdata.conversion.convert(rdata.parser.parse_data(_decompressed(stored)))
    raise missing(f"{name} of {package}", "the package's data have moved; another version of it may help")


def _decompressed(stored: bytes) -> bytes:
    """R's lazy-load format: four bytes of length, then zlib, or a letter and xz or bzip2."""
    match stored[4:5]:
        case b"Z":
            return lzma.decompress(stored[5:], lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
        case b"2":
            return bz2.decompress(stored[5:])
        case _:
            return zlib.decompress(stored[4:])


def unpacked(package: str) -> Path:
    """The folder of a package's files, downloaded once."""
    folder = cache_folder() / "debian" / package
    if folder.exists():
        return folder
    downloads = cache_folder() / "downloads"
    downloads.mkdir(exist_ok=True)
    try:
        command = ["apt-get", "download", "-o", "APT::Sandbox::User=root", package]
        subprocess.run(command, cwd=downloads, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise missing(package, f"`apt-get download {package}` must work here, after `apt-get update`") from None
    archive = max(downloads.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    folder.mkdir(parents=True)
    subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
    return folder
