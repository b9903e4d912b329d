"""The S3 client: a bucket of files named by their digest, in anything that speaks S3.

Credentials, region and endpoint are those of boto3: the usual `AWS_*` variables, or the machine's role. Every call is
bounded: how long it may take depends on what waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from service.registry.artifacts import StoredFile, is_digest
from service.registry.errors import Unavailable

_MEBIBYTE = 1024**2
_PAGE = 1000  # the most that S3 lists at once
#: Threads and buffers of one transfer: at most 16 MiB wait for the disk, where boto3's default is 250.
_TRANSFER = TransferConfig(
    multipart_threshold=64 * _MEBIBYTE, multipart_chunksize=32 * _MEBIBYTE, max_concurrency=4, max_io_queue=64
)


class Bucket:
    """The files below `prefix` in the bucket `name`; every call raises Unavailable where the store cannot serve it."""

    def __init__(self, name: str, prefix: str = "") -> None:
        self._name = name
        self._prefix = f"{prefix}/" if prefix else ""
        session = Session()
        self._patient = session.client("s3", config=_config(connect=3, read=20, attempts=4))
        # Called within a write transaction, which blocks all other writers.
        self._brief = session.client("s3", config=_config(connect=1, read=2, attempts=2))
        self._probing = session.client("s3", config=_config(connect=1, read=1.5, attempts=1))

    def put(self, source: Path, digest: str, *, brief: bool = False) -> None:
        """Store the content of `source`; the file appears whole or not at all."""
        with _reaching():
            (self._brief if brief else self._patient).upload_file(
                str(source), self._name, self._key(digest), Config=_TRANSFER
            )

    def fetch(self, digest: str, target: BinaryIO) -> bool:
        """Write the file's content into `target`; False if it is not stored."""
        with _reaching():
            try:
                self._patient.download_fileobj(self._name, self._key(digest), target, Config=_TRANSFER)
            except ClientError as error:
                if not _is_missing(error):
                    raise
                self._probing.head_bucket(Bucket=self._name)  # a missing bucket is answered just like a missing file
                return False
        return True

    def find(self, digest: str) -> StoredFile | None:
        with _reaching():
            try:
                head = self._brief.head_object(Bucket=self._name, Key=self._key(digest))
            except ClientError as error:
                if not _is_missing(error):
                    raise
                return None
        return StoredFile(digest, head["ContentLength"], head["LastModified"])

    def remove(self, digest: str) -> None:
        """Delete the file; one that is not there is no error."""
        with _reaching():
            self._brief.delete_object(Bucket=self._name, Key=self._key(digest))

    def listed(self, *, after: str, limit: int) -> list[StoredFile]:
        """At most `limit` files in the order of their digests, from the first one after `after`."""
        files: list[StoredFile] = []
        options = {"Bucket": self._name, "Prefix": self._prefix}
        last = self._key(after) if after else ""
        while len(files) < limit:  # each round lists at least one key more, or is the last
            with _reaching():
                page = self._patient.list_objects_v2(**options, StartAfter=last, MaxKeys=min(_PAGE, limit))
            for item in page.get("Contents", ()):
                last = item["Key"]
                digest = last.rpartition("/")[2]
                if is_digest(digest) and last == self._key(digest):
                    files.append(StoredFile(digest, item["Size"], item["LastModified"].astimezone(UTC)))
            if not page["IsTruncated"]:
                break
        return files[:limit]

    def abort_uploads(self, *, before: datetime) -> int:
        """Drop the parts of large uploads that were not finished; returns how many uploads they were of."""
        dropped = 0
        with _reaching():
            pages = self._patient.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._name, Prefix=self._prefix
            )
            for upload in (upload for page in pages for upload in page.get("Uploads", ())):
                if upload["Initiated"] < before:
                    self._patient.abort_multipart_upload(
                        Bucket=self._name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    dropped += 1
        return dropped

    def clock(self) -> datetime:
        """The present as the store sees it; raises Unavailable within about 3 s where it cannot be reached."""
        with _reaching():
            answer = self._probing.head_bucket(Bucket=self._name)
        try:
            return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
        except (KeyError, ValueError) as error:
            raise _unavailable("it does not tell the time") from error

    def close(self) -> None:
        for client in (self._patient, self._brief, self._probing):
            client.close()

    def _key(self, digest: str) -> str:
        return f"{self._prefix}{digest[:2]}/{digest}"


def _config(*, connect: float, read: float, attempts: int) -> Config:
    """Seconds to connect and to wait for bytes, and how often to try, with back-off and jitter in between."""
    return Config(
        connect_timeout=connect,
        read_timeout=read,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
        tcp_keepalive=True,
    )


def _is_missing(error: ClientError) -> bool:
    return error.response["ResponseMetadata"]["HTTPStatusCode"] == 404 and _code(error) != "NoSuchBucket"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _unavailable(f"it answers {_code(error)}") from error
    except (BotoCoreError, Boto3Error, RetriesExceededError, S3DownloadFailedError) as error:
        raise _unavailable(type(error).__name__) from error


def _unavailable(reason: str) -> Unavailable:
    return Unavailable("storage_unavailable", f"the object storage cannot serve this now: {reason}")
