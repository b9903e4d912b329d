"""The image-folder reader: a zip of images in class folders, every image decoded once, becomes columns.

`class/image.png` or `split/class/image.png`, perhaps all in one more folder, and beside them perhaps `metadata.csv`,
whose column `file_name` says which image a row is about. Images that are only to be predicted need no folders.
"""

from __future__ import annotations

import math
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from fedlas.data.arrays import ArrayFactory
from fedlas.data.columns import Columns, text_array
from fedlas.data.dataset import SPLITS, Array
from fedlas.data.file_format import check_members, open_archive, read_member, text_name
from fedlas.data.formats.csv import CsvReader
from fedlas.data.labels import as_text
from fedlas.data.prepared import ImageColumn
from fedlas.data.roles import LABEL_NAMES
from fedlas.errors import BadDataset
from fedlas.preprocessing import BadImage, ImageFacts, checked_image, in_parallel, usable_cores

IMAGES = "images"
METADATA = "metadata.csv"
FILE_NAME = "file_name"

_LAYOUT = "images lie in class folders, as class/image.png or split/class/image.png"
#: Folders that operating systems add on their own.
_LITTER_FOLDERS = ("__MACOSX",)
_LITTER_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
_PIECE_BYTES = 1 << 24


class ImageFolderReader:
    """A zip of images whose names and `metadata.csv` have been read; columns in the archive's order.

    There are the columns `label` and `split` where folders say so, `file_name`, and those of `metadata.csv`, which
    replace what the folders say under the same name.

    Args:
        scratch: folder for the images' bytes where they are many; None keeps them in memory.
        purpose: `predict`: folders mean nothing; `fit`: there must be class folders or a label; None: images that lie
            in no folder are only to be predicted.

    Raises:
        BadDataset: `unsafe_archive`, `archive_bomb`, `archive_too_large`, `encrypted`, `unsupported_compression` or
            `corrupt` for the archive; `empty`, `bad_layout`, `bad_metadata` for what it holds.
    """

    def __init__(self, path: str | Path, *, scratch: Path | None = None, purpose: str | None = None) -> None:
        self._path = path
        with open_archive(path) as archive:
            members = archive.infolist()
            check_members(members, archive_bytes=Path(path).stat().st_size)
            files = [member for member in members if not member.is_dir() and not _is_litter(member.filename)]
            described_in = [member for member in files if member.filename.rpartition("/")[2] == METADATA]
            if len(described_in) > 1:
                shown = ", ".join(repr(member.filename) for member in described_in[:5])
                raise _bad_metadata(f"it is there {len(described_in)} times: {shown}")
            metadata = described_in[0] if described_in else None
            self._pictures = [member for member in files if member is not metadata]
            if not self._pictures:
                raise BadDataset("empty", f"the zip archive holds no image; {_LAYOUT}")
            self._files = _below(metadata, [text_name(member) for member in self._pictures])
            described = _metadata(archive, metadata, self._files, scratch) if metadata is not None else {}
        self._columns = {**_from_folders(self._files, described, purpose), **described}
        self.names = [*self._columns, FILE_NAME]

    def read(self, named: Collection[str], arrays: ArrayFactory) -> Columns:
        """The images as the only input, and the columns `named`.

        Raises:
            BadDataset: `corrupt` for the archive; for an image, with its name, the codes of
                `fedlas.preprocessing.BadImage`, unless broken rows are kept.
        """
        with open_archive(self._path) as archive:
            images = _checked(_images(archive, self._pictures, arrays), self._files, arrays)
        warnings = list(images.warnings)
        if unused := [name for name in self._columns if name not in named]:
            warnings.append(f"these columns of metadata.csv have no role and are not used: {', '.join(unused[:50])}")
        columns = {name: column for name, column in self._columns.items() if name in named}
        if FILE_NAME in named:
            columns[FILE_NAME] = text_array(FILE_NAME, pa.array(self._files))
        return Columns(columns, {IMAGES: images}, warnings)  # type: ignore[dict-item]


def _is_litter(name: str) -> bool:
    *folders, file = name.split("/")
    return file in _LITTER_FILES or file.startswith("._") or any(folder in _LITTER_FOLDERS for folder in folders)


def _below(metadata: zipfile.ZipInfo | None, names: list[str]) -> list[str]:
    """The paths from the folder of `metadata.csv`, or from the one below which the class folders lie."""
    if metadata is not None:
        root = text_name(metadata).removesuffix(METADATA)
        if outside := [name for name in names if not name.startswith(root)]:
            raise BadDataset("bad_layout", f"{outside[0]!r} does not lie beside or below {metadata.filename!r}")
        return [name.removeprefix(root) for name in names]
    while True:
        first = {name.split("/")[0] for name in names}
        wrapped = len(first) == 1 and not first & set(SPLITS) and all(name.count("/") >= 2 for name in names)
        if not wrapped:
            return names
        names = [name.partition("/")[2] for name in names]


def _from_folders(names: list[str], described: dict[str, Array], purpose: str | None) -> dict[str, Array]:
    paths = [name.split("/")[:-1] for name in names]
    depths = {len(path) for path in paths}
    if purpose == "predict" or (depths == {0} and (described or purpose is None)):
        return {}
    if any(label in described for label in LABEL_NAMES):
        words = [path[0] for path in paths if path and path[0] in SPLITS]
        return {"split": np.array(words)} if len(words) == len(paths) else {}
    if depths == {1}:
        return {"label": np.array([path[0] for path in paths])}
    if depths == {2}:
        return {"split": np.array([path[0] for path in paths]), "label": np.array([path[1] for path in paths])}
    usual = Counter(len(path) for path in paths).most_common(1)[0][0]
    stranger = next((name for name in names if name.count("/") != usual or usual not in (1, 2)), names[0])
    raise BadDataset("bad_layout", f"{_LAYOUT}; {stranger[:200]!r} does not")


def _metadata(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, names: list[str], scratch: Path | None
) -> dict[str, Array]:
    with tempfile.NamedTemporaryFile(suffix=".csv", dir=scratch) as file:
        file.write(read_member(archive, member))
        file.flush()
        try:
            reader = CsvReader(file.name)
            read = reader.read(reader.names, ArrayFactory()).named
        except BadDataset as error:
            raise BadDataset(error.code, f"in {member.filename!r}: {error.message}") from error
    columns = {name: as_text(column) if column.dtype.kind == "S" else column for name, column in read.items()}
    if FILE_NAME not in columns:
        raise _bad_metadata(f"its columns are {', '.join(columns)}; one must be {FILE_NAME}")
    if IMAGES in columns:
        raise _bad_metadata(f"a column may not be called {IMAGES}")
    rows: dict[str, int] = {}
    for row, text in enumerate(columns.pop(FILE_NAME)):
        name = unicodedata.normalize("NFC", str(text))
        if rows.setdefault(name, row) != row:
            raise _bad_metadata(f"{name!r} has two rows")
    if missing := [name for name in names if name not in rows]:
        raise _bad_metadata(f"the image {missing[0]!r} has no row in it ({len(missing)} have none)")
    if strangers := rows.keys() - set(names):
        raise _bad_metadata(f"{min(strangers)!r} is not in the archive ({len(strangers)} rows are about no image)")
    order = np.array([rows[name] for name in names])
    return {name: column[order] for name, column in columns.items()}


def _images(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], arrays: ArrayFactory) -> ImageColumn:
    offsets = np.cumsum([0, *(member.file_size for member in members)], dtype=np.int64)
    with arrays.builder(IMAGES) as data:
        waiting = bytearray()
        for member in members:
            waiting += read_member(archive, member)
            if len(waiting) >= _PIECE_BYTES:
                data.append(np.frombuffer(bytes(waiting), np.uint8))
                waiting.clear()
        data.append(np.frombuffer(bytes(waiting), np.uint8))
        return ImageColumn(data.finish(), offsets)


def _checked(images: ImageColumn, names: Sequence[str], arrays: ArrayFactory) -> ImageColumn:
    """Decode all images once, and return them with warnings for their owner."""
    facts: list[ImageFacts | None] = [None] * len(images)
    broken: dict[int, BadImage] | None = None if arrays.broken is None else {}

    def check(i: int, content: bytes) -> None:
        facts[i] = checked_image(content)

    try:
        in_parallel(images, check, workers=usable_cores(), broken=broken)
    except BadImage as error:
        raise BadDataset(error.code, f"{names[error.row or 0][:200]!r}: {error.message}") from error
    if broken and arrays.broken is not None:
        first = min(broken)
        arrays.broken.append(
            f"images that cannot be read: {len(broken)}; the first is {names[first][:200]!r}: {broken[first].message}"
        )
    images.warnings = _remarks([fact for fact in facts if fact is not None])
    return images


def _remarks(facts: Sequence[ImageFacts]) -> list[str]:
    remarks = []
    sizes = Counter((fact.width, fact.height) for fact in facts)
    if len(sizes) > 1:
        (width, height), count = sizes.most_common(1)[0]
        least, most = min(sizes, key=math.prod), max(sizes, key=math.prod)
        remarks.append(
            f"the images have {len(sizes)} different sizes, from {least[0]} x {least[1]} to {most[0]} x {most[1]} "
            f"pixels ({count} of {len(facts)} are {width} x {height}): the model's preprocessing must resize or crop"
        )
    modes = Counter(fact.mode for fact in facts)
    if len(modes) > 1:
        listed = ", ".join(f"{count} {mode}" for mode, count in modes.most_common())
        remarks.append(f"the images have different kinds of pixels ({listed}); all are converted to the model's")
    if deep := sum(fact.sixteen_bit for fact in facts):
        remarks.append(f'{deep} of {len(facts)} images are greyscale with 16 bits, which take "bit_depth": 16')
    return remarks


def _bad_metadata(what: str) -> BadDataset:
    return BadDataset("bad_metadata", f"{METADATA}: {what}")
