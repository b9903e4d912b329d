"""A bucket and its copies on disk: fetched once and verified, evicted when unused, large files in parts."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.registry.artifacts import ArtifactStore
from service.registry.errors import NotFound, Unavailable
from service.registry.object_store import FRESH_S, open_artifacts, turn
from tests.helpers import ROOT, compose
from tests.helpers.object_store import ObjectServer
from tests.helpers.staging import stage_bytes
from tests.helpers.stores import BehindBucket, make_older

pytestmark = pytest.mark.slow

MEBIBYTE = 1024**2

#: A process that begins, with many others, to fetch a file as soon as it is told to, and says what it got.
FETCH = """
import hashlib, sys
from service.registry.object_store import open_artifacts
from service.registry.settings import RegistrySettings
store = open_artifacts(RegistrySettings(data_dir=sys.argv[1], artifacts=sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
print(hashlib.sha256(store.path(sys.argv[3]).read_bytes()).hexdigest())
"""


@pytest.fixture
def behind(behind_bucket: BehindBucket) -> BehindBucket:
    """A bucket only."""
    return behind_bucket


def stored(behind: BehindBucket, content: bytes) -> str:
    """A file that is in the bucket and not on this disk."""
    digest = hashlib.sha256(content).hexdigest()
    behind.put(digest, content)
    return digest


def copies(store: ArtifactStore) -> set[str]:
    """The files on this disk under a digest."""
    return {path.name for path in store.root.glob("??/*")}


@pytest.mark.parametrize("damaged", [b"", b"conten", b"Content", b"content and more"])
def test_a_damaged_file_is_noticed(behind: BehindBucket, store: ArtifactStore, damaged: bytes) -> None:
    """A file whose content is not what its name says is not handed out, and no copy of it stays."""
    digest = hashlib.sha256(b"content").hexdigest()
    behind.put(digest, damaged)
    with pytest.raises(Unavailable) as caught:
        store.path(digest)
    assert caught.value.code == "artifact_damaged"
    assert (copies(store), list(store.incoming.iterdir())) == (set(), [])
    with stage_bytes(store, b"content") as staged:  # sending it again mends it
        staged.keep()
    assert behind.open().path(digest).read_bytes() == b"content"


def test_large_files_travel_in_parts(behind: BehindBucket, store: ArtifactStore) -> None:
    """A file above the limit of one request goes up in parts and comes back whole."""
    content = os.urandom(MEBIBYTE) * 70
    with stage_bytes(store, content) as staged:
        digest = staged.keep()
    store.place(digest).unlink()
    assert store.path(digest).read_bytes() == content
    (listed,) = store.listed(limit=2)
    assert (listed.digest, listed.size) == (digest, len(content))
    head = behind.server.client().head_object(Bucket=behind.bucket, Key=behind.key(digest), PartNumber=1)
    assert head["PartsCount"] == 3


def test_parts_that_nobody_finished_are_dropped(behind: BehindBucket, store: ArtifactStore) -> None:
    """Parts of a killed upload are dropped once they are old, and no sooner; those of other prefixes stay."""
    client = behind.server.client()
    for key in (behind.key("ab" * 32), "elsewhere"):
        client.create_multipart_upload(Bucket=behind.bucket, Key=key)
    begun = datetime(2010, 11, 10, 20, 48, 33, tzinfo=UTC)  # this server says so of every upload
    age = store.clock() - begun
    assert store.clear_left_overs(older_than=age + timedelta(hours=1)) == []
    assert store.clear_left_overs(older_than=age - timedelta(hours=1)) == [0]
    left = client.list_multipart_uploads(Bucket=behind.bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["elsewhere"]


def test_a_large_file_is_not_sent_again_in_a_transaction(behind: BehindBucket, store: ArtifactStore) -> None:
    """Where a deletion took a large file away in between, its sender is asked to send it again."""
    with stage_bytes(store, bytes(17 * MEBIBYTE)) as staged:
        behind.forget(staged.digest)
        with pytest.raises(Unavailable, match="send it again"):
            staged.keep()
    assert behind.names() == set()


def test_processes_that_fetch_at_once_share_a_copy(behind: BehindBucket, store: ArtifactStore) -> None:
    """Three processes and four threads that ask for the same file at once all read it whole, and one copy is left."""
    digest = stored(behind, os.urandom(MEBIBYTE) * 24)
    arguments = [str(behind.settings.data_dir), str(behind.settings.artifacts), digest]
    others = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, *arguments],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for other in others:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("\n")
        other.stdin.flush()
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(store.path, [digest] * 4))
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in paths} == {digest}
    assert [other.communicate()[0] for other in others] == [f"{digest}\n"] * 3
    assert copies(store) == {digest}
    assert list(store.incoming.iterdir()) == []


def test_one_fetches_while_the_others_wait(tmp_path: Path) -> None:
    """A second reader waits until the file is there, and fetches it itself if the first one does not go on."""
    done = threading.Event()
    order: list[str] = []

    def second(timeout: float) -> None:
        with turn(tmp_path, "ab" * 32, done=done.is_set, timeout=timeout):
            order.append("second")

    with turn(tmp_path, "ab" * 32, done=lambda: False):
        waiting = threading.Thread(target=second, args=(60.0,))
        waiting.start()
        waiting.join(0.3)
        order.append("first")
        done.set()
        waiting.join(30)
        done.clear()
        second(0.1)
    assert order == ["first", "second", "second"]


@pytest.fixture
def small_cache(behind: BehindBucket) -> Iterator[ArtifactStore]:
    """A store with room for three copies of a thousand bytes."""
    opened = open_artifacts(behind.settings.model_copy(update={"artifact_cache_bytes": 3000}))
    yield opened
    opened.close()


def test_the_longest_unused_copies_are_evicted(behind: BehindBucket, small_cache: ArtifactStore) -> None:
    """Above the limit the copies used longest ago go; what was used since, is held, or is fresh stays."""
    digests = [stored(behind, bytes([number]) * 1000) for number in range(7)]
    for digest in digests[:3]:
        small_cache.path(digest)
    assert copies(small_cache) == set(digests[:3])
    for age, digest in enumerate(reversed(digests[:3]), 2):  # the first is the oldest
        make_older(small_cache.place(digest), seconds=age * FRESH_S)
    assert small_cache.path(digests[0]).read_bytes() == bytes(1000)  # and was used just now
    small_cache.path(digests[3])
    assert copies(small_cache) == {digests[0], digests[2], digests[3]}
    for digest in (digests[0], digests[2], digests[3]):
        make_older(small_cache.place(digest), seconds=2 * FRESH_S)
    with small_cache.held(digests[0]) as path:
        make_older(path, seconds=4 * FRESH_S)
        small_cache.path(digests[4])
        assert copies(small_cache) == {digests[0], digests[4], *digests[2:4]} - {digests[2]}
        assert path.read_bytes() == bytes(1000)
        small_cache.path(digests[5])
        small_cache.path(digests[6])
        assert copies(small_cache) == {digests[0], *digests[4:]}, "more than the limit, but all in use"
    small_cache.path(digests[1])
    assert copies(small_cache) == {digests[1], *digests[4:]}
    assert list(small_cache.incoming.iterdir()) == []


def test_what_another_process_holds_stays(behind: BehindBucket, small_cache: ArtifactStore) -> None:
    """A copy that a job of another process needs is not evicted, and is as soon as that process is gone."""
    digests = [stored(behind, bytes([number]) * 2000) for number in range(3)]
    holding = (
        "import sys; from service.registry.object_store import open_artifacts; "
        "from service.registry.settings import RegistrySettings; "
        "store = open_artifacts(RegistrySettings(data_dir=sys.argv[1], artifacts=sys.argv[2])); "
        "held = store.held(sys.argv[3]); held.__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    arguments = [str(behind.settings.data_dir), str(behind.settings.artifacts), digests[0]]
    with subprocess.Popen(
        [sys.executable, "-c", holding, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        make_older(small_cache.place(digests[0]), seconds=2 * FRESH_S)
        small_cache.path(digests[1])
        assert copies(small_cache) == set(digests[:2])
        other.kill()
    make_older(small_cache.place(digests[0]), seconds=2 * FRESH_S)
    small_cache.path(digests[2])
    assert copies(small_cache) == set(digests[1:])


def test_evicting_never_takes_what_is_asked_for(behind: BehindBucket, small_cache: ArtifactStore) -> None:
    """Threads that ask for more than fits, with copies growing old between rounds, find all that they asked for."""
    contents = [bytes([number]) * 1000 for number in range(6)]
    digests = [stored(behind, content) for content in contents]

    def grow_old() -> None:
        for path in small_cache.root.glob("??/*"):
            make_older(path, seconds=2 * FRESH_S)

    rounds = threading.Barrier(3, action=grow_old, timeout=60)

    def ask(start: int) -> None:
        for step in range(30):
            rounds.wait()
            number = (start + step) % 6
            with small_cache.held(digests[number]) as path:
                assert path.read_bytes() == contents[number]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ask, range(3)))


def test_a_store_that_hangs_is_not_waited_for(behind: BehindBucket, store: ArtifactStore) -> None:
    """A server that accepts connections and answers nothing is Unavailable, in a check and inside a transaction."""
    with stage_bytes(store, b"content") as staged:
        behind.server.pause()
        try:
            for attempt in (store.check, staged.keep):
                with pytest.raises(Unavailable, match="Timeout"):
                    attempt()
        finally:
            behind.server.go_on()
        store.check()
        assert staged.keep() in behind.names()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # s3transfer leaves what it cannot write
def test_a_copy_needs_space(behind: BehindBucket, small_disk: Path) -> None:
    """A file for which this disk has no space is Unavailable, no part of it stays, and smaller ones are fetched."""
    large, small = stored(behind, os.urandom(2 * MEBIBYTE)), stored(behind, b"small")
    store = open_artifacts(behind.settings.model_copy(update={"data_dir": small_disk}))
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            store.path(large)
        assert caught.value.code == "storage_unavailable"
        assert (copies(store), list(store.incoming.iterdir())) == (set(), [])
    assert store.path(small).read_bytes() == b"small"
    store.close()
    del caught
    gc.collect()  # of the connections left behind, none is to be found in another test


def test_a_missing_bucket_is_no_missing_file(behind: BehindBucket, object_server: ObjectServer) -> None:
    """A bucket that does not exist is Unavailable and named as the trouble; a file that it lacks is NotFound."""
    nowhere = open_artifacts(behind.settings.model_copy(update={"artifacts": "s3://nowhere/at/all"}))
    for attempt in (nowhere.check, lambda: nowhere.path("ab" * 32), lambda: stage_bytes(nowhere, b"x")):
        with pytest.raises(Unavailable) as caught:
            attempt()
        assert object_server.environment["AWS_ENDPOINT_URL"] not in str(caught.value)
    with pytest.raises(NotFound):
        behind.open().path("ab" * 32)
    assert list(nowhere.incoming.iterdir()) == []
    nowhere.close()


def test_a_copy_serves_while_the_bucket_is_away(behind: BehindBucket, store: ArtifactStore) -> None:
    """A copy on this disk needs no server: it is never stale."""
    digest = stored(behind, b"content")
    store.path(digest)
    behind.leave()
    try:
        assert store.path(digest).read_bytes() == b"content"
    finally:
        behind.come_back()


def test_compose_makes_its_bucket_once(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service that makes it leaves one that is there as it is, so that it may run at every start."""
    service = compose.overlay("s3")["services"]["bucket"]
    there = {"http://s3:7070": object_server.environment["AWS_ENDPOINT_URL"]}
    placed = compose.Placed({"FEDLAS_BUCKET_PASSWORD": "secret"}, there)
    for name, value in {**object_server.environment, **placed.environment(service)}.items():
        monkeypatch.setenv(name, value)
    *python, program = placed.command(service)
    assert python == ["python", "-c"]
    for _ in range(2):
        exec(program, {})
    assert object_server.client().head_bucket(Bucket="fedlas")
