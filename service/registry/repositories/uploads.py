"""The rows of resumable uploads; how much has arrived is the length of their files."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from service.registry.errors import NotFound, UnknownReference
from service.registry.tables import Upload

#: How long after its last byte an upload is kept.
KEPT = timedelta(hours=24)


class Uploads:
    """An upload is announced, found, and taken once."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, row: Upload) -> Upload:
        """Insert a new upload."""
        self.session.add(row)
        self.session.flush()
        return row

    def find(self, upload_id: str) -> Upload | None:
        """Return the upload, or None."""
        return self.session.get(Upload, upload_id)

    def get(self, upload_id: str) -> Upload:
        """Return the upload; raises NotFound."""
        row = self.find(upload_id)
        if row is None:
            raise NotFound("unknown_upload", f"there is no upload {upload_id!r}")
        return row

    def remove(self, upload_id: str) -> bool:
        """Forget the upload; False if it was forgotten before."""
        removed = self.session.scalar(delete(Upload).where(Upload.id == upload_id).returning(Upload.id))
        return removed is not None

    def take(self, upload_id: str) -> None:
        """The upload becomes a record in this same transaction; raises UnknownReference if it is not there."""
        if not self.remove(upload_id):
            message = f"there is no upload {upload_id!r}: it was used, deleted, or untouched for 24 hours"
            raise UnknownReference("unknown_upload", message, field="upload_id")
