"""Several arrays in one archive (.npz): names before sizes, sizes before anything is inflated."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np

from service.inference.formats.intake import Intake, shown
from service.inference.formats.npy import array
from service.registry.errors import InvalidRequest, TooLarge

#: Of all arrays of a request together, unless the body itself is larger: about what a body may have that is not packed.
MAX_INFLATED_BYTES = 64 << 20

_MAX_ENTRIES = 1000  # each is an object in memory before anybody can look at it
_ENTRY = b"PK\x01\x02"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


def is_zip(body: bytes) -> bool:
    """Whether the content is an archive, full or empty."""
    return body.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def read_npz(body: bytes, intake: Intake) -> dict[str, np.ndarray]:
    """The rows of every input from the array of its name.

    Raises:
        InvalidRequest: `invalid_npz`; `wrong_inputs` where names do not fit; as `npy.array` and `Intake.rows`.
        TooLarge: `archive_bomb`.
    """
    if body.count(_ENTRY) > _MAX_ENTRIES:
        raise _invalid(f"it has more than {_MAX_ENTRIES} entries")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = _by_name(archive.infolist())
            sources = intake.sources("arrays named", members)
            chosen = {name: members[source] for name, source in sources.items()}
            _check(chosen, len(body))
            contents = {name: _content(archive, member) for name, member in chosen.items()}
    except _DAMAGED as error:
        raise _invalid(f"the archive is damaged: {str(error) or type(error).__name__}"[:300]) from error
    return intake.rows({name: array(content, f"the array {sources[name]!r}") for name, content in contents.items()})


def _by_name(members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    found = {member.filename.removesuffix(".npy"): member for member in members}
    if len(found) < len(members):
        raise _invalid("two of its arrays have the same name")
    return found


def _check(members: dict[str, zipfile.ZipInfo], body_bytes: int) -> None:
    for member in members.values():
        if member.flag_bits & 0x1:
            raise _invalid(f"{shown([member.filename])} is encrypted")
        if member.compress_type not in _METHODS:
            raise _invalid(f"{shown([member.filename])} is neither stored nor deflated")
    total, most = sum(member.file_size for member in members.values()), max(MAX_INFLATED_BYTES, body_bytes)
    if total > most:
        raise TooLarge("archive_bomb", f"the arrays claim to become {total} bytes; at most {most}", field="inputs")


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:  # stops at the claimed size, whatever the compressed bytes would become
        content = file.read(member.file_size)
        file.read(1)  # compares the checksum
    if len(content) != member.file_size:
        raise _invalid(f"{shown([member.filename])} claims {member.file_size} bytes, but has {len(content)}")
    return content


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest("invalid_npz", f"the body is no npz file: {what}", field="inputs")
