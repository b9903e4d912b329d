"""Model files: an ONNX graph, the file that it keeps its weights in, and the zip in which both travel as one.

Nothing is parsed: the name of the second file is found in the bytes of the first, without the `onnx` package.
"""

from __future__ import annotations

import mmap
import re
import shutil
import zipfile
from pathlib import Path

#: How a location stands in a tensor: field 13 (0x6a) with its length, the key, the length of the name, the name. The
#: key comes first, since a search for constant bytes is ten times as quick.
_LOCATION = re.compile(
    rb"\n\x08location\x12(?:(?<=\x6a[\x00-\x7f]\n\x08location\x12)|(?<=\x6a[\x80-\xff]\x01\n\x08location\x12))"
    rb"(?:([\x00-\x7f])|([\x80-\xff])\x01)",
    re.DOTALL,
)


def weight_files(graph: Path) -> list[str]:
    """The names of the files in which a graph says that its weights lie; none for a file of any other kind.

    Names are up to 255 bytes long, as file systems have them.
    """
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        lengths = ((match.end(), (match[1] or match[2])[0]) for match in _LOCATION.finditer(content))
        names = {content[start : start + length].decode(errors="replace") for start, length in lengths}
    return sorted(name for name in names if name.isprintable())


def pack(archive: zipfile.ZipFile, graph: tuple[str, Path], weights: tuple[str, Path]) -> None:
    """Add the two by name, graph first, as they are and without their times: equal files make equal archives."""
    is_named = graph[0].endswith(".onnx") and graph[0] != weights[0]
    for name, path in ((graph[0] if is_named else f"{graph[0]}.onnx", graph[1]), weights):
        with path.open("rb") as source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
            shutil.copyfileobj(source, target)
