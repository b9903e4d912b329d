"""Model files: an ONNX graph, the file that it keeps its weights in, and the zip in which both travel as one.

Nothing is parsed here: the name of the weights' file is looked for in the graph's bytes, without the `onnx` package.
"""

from __future__ import annotations

import mmap
import re
import shutil
import zipfile
from pathlib import Path

_CHUNK_BYTES = 1024 * 1024
#: How `location` and the name behind it stand in the bytes of `TensorProto.external_data`, field 13 (0x6a).
_LOCATION = re.compile(rb"\n\x08location\x12([\x80-\xff]?[\x00-\x7f])")
_EXTERNAL_DATA = 0x6A


def weight_files(graph: Path) -> list[str]:
    """The names of all files in which an ONNX graph says that its weights lie; none for any other file."""
    found = set()
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in _LOCATION.finditer(content):
            length = int.from_bytes(match[1], "little") if len(match[1]) == 1 else match[1][0] - 128 + 128 * match[1][1]
            if _EXTERNAL_DATA in content[max(0, match.start() - 3) : match.start()][:2]:
                found.add(content[match.end() : match.end() + length].decode(errors="replace"))
    return sorted(name for name in found if name.isprintable())


def pack(archive: zipfile.ZipFile, *files: tuple[str, Path]) -> None:
    """Add these files by name, as they are and without their times: of equal files equal bytes are made."""
    for name, path in files:
        with path.open("rb") as source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)
