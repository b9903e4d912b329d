"""Backups: a folder with a dump of the database, the stored files that it names, and a list by which it is checked.

SQLite copies itself beside writers, and into a database within one transaction: a process that is killed leaves what
was there. (A file laid over another would be read together with the `-wal` that a killed service has left.) PostgreSQL
has programs for both. A revoked key is a missing row, so a restore lets no key open that the place has not held open,
and closes keys before the database is in place: in a copy without a name, of which a killed process leaves nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from sqlalchemy import URL, Connection, Engine, func, make_url, select

from service.registry import tables
from service.registry.database import newest, open_engine, reachable, revision
from service.registry.errors import BackupRefused
from service.registry.object_store import open_artifacts
from service.registry.settings import RegistrySettings

_MANIFEST = "backup.json"
_DUMPS = {"sqlite": "registry.sqlite", "postgresql": "registry.dump"}
#: A service may delete a file between the dump and its copy; the next dump does not name it any more. A record that
#: comes and goes every 5 ms on a busy machine was caught by five dumps in a row once in 35 backups.
_MAX_DUMPS = 5
#: The revision since which there are keys, and sessions as they are.
_KEYED = "0020"
#: Where services of a data folder keep their files of keys: `fedlas serve` its one, each `fedlas api` another.
_KEY_FOLDERS = "run/**/served/keys"
_ANEW = "`fedlas keys create` makes new ones, with a key of FEDLAS_API_KEYS"
_AGAIN = "copy the whole backup again, or take another"


def back_up(settings: RegistrySettings, folder: Path) -> str:
    """Write a backup into a new or empty folder, which is gone again if it does not become whole; tells what it has.

    Raises BackupRefused where that cannot be done, and Unavailable.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BackupRefused(f"{folder} is not empty: name a new folder, or empty it")
    engine = open_engine(settings.resolved_database_url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with reachable():
            return _filled(settings, engine, folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError | sqlite3.Error):
            raise BackupRefused(
                f"{folder} takes no backup ({error}): name one with room that this user may write"
            ) from None
        raise
    finally:
        engine.dispose()


def _filled(settings: RegistrySettings, engine: Engine, folder: Path) -> str:
    if (found := revision(engine)) != newest():
        raise BackupRefused(
            f"{engine.url.database} has {f'revision {found}' if found else 'no tables'}, and this release makes "
            f"{newest()}: name another data folder by --data-dir, or back it up by the release that made it"
        )
    bucket = settings.artifacts if settings.artifact_bucket else None
    for left in reversed(range(_MAX_DUMPS)):
        with ExitStack() as stack:
            if not left and engine.dialect.name == "sqlite":  # no writer comes between: few files are left to be copied
                stack.enter_context(engine.execution_options(writes=True).begin())
            with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
                columns = [] if bucket else tables.digest_columns()
                named = {digest for column in columns for digest in connection.scalars(select(column)) if digest}
                dump(connection, folder)  # of the moment at which the transaction first read
            lost = sum(not _copied(settings.resolved_artifacts, folder / "artifacts", digest) for digest in named)
        if not lost:
            break
    files = seal(folder, newest(), bucket)
    elsewhere = f"; the stored files are in {bucket}, which is backed up by its own means" if bucket else ""
    missing = f"; {lost} that records name are missing in the store, too" if lost else ""
    return f"backed up into {folder}: the database and {files - 1} stored files{elsewhere}{missing}"


def _copied(store: Path, folder: Path, digest: str) -> bool:
    """Copy a stored file, which never changes, unless it is there; whether it is there now."""
    target = folder / digest[:2] / digest
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # deleted meanwhile
            shutil.copyfile(store / digest[:2] / digest, target)
    return target.exists()


def dump(connection: Connection, folder: Path) -> None:
    """Write the database into the folder as this connection's transaction sees it. Raises BackupRefused."""
    url = connection.engine.url
    target = folder / _DUMPS[url.get_backend_name()]
    if url.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(target)) as new:
            connection.connection.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file, which can be read where nothing can be written
    else:
        moment = connection.scalar(select(func.pg_export_snapshot()))
        _run("pg_dump", url, f"--snapshot={moment}", "--format=custom", f"--file={target}")


def seal(folder: Path, number: str, bucket: str | None = None) -> int:
    """Write the list of all files in the folder, when the disk has them; returns how many these are."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    os.sync()
    listed = {"release": version("fedlas"), "revision": number, "bucket": bucket, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(listed, indent=1))
    return len(files)


def restore(settings: RegistrySettings, folder: Path, *, without_keys: bool = False) -> str:
    """Put a backup back, the database last and at once: a second call finishes a killed one; tells what is there now.

    Of its keys those open that this place has held open, in an empty place all, and none `without_keys`. What it does
    not name stays in the store, and is swept as any file without a record. The caller holds the data folder. Raises
    BackupRefused before anything is changed, and Unavailable, OSError, sqlite3.Error.
    """
    url = make_url(settings.resolved_database_url)
    manifest = _checked(folder, _DUMPS[url.get_backend_name()])
    if manifest["revision"] > newest():
        raise BackupRefused(
            f"{folder} is of release {manifest['release']}, whose revision {manifest['revision']} this one does not "
            "know: install that release, or a newer one"
        )
    if manifest["bucket"] and settings.artifact_bucket is None:
        raise BackupRefused(
            f"the stored files of {folder} are in {manifest['bucket']}: set FEDLAS_ARTIFACTS to this bucket"
        )
    if (owner := settings.data_dir.stat().st_uid) != os.geteuid():
        raise BackupRefused(
            f"{settings.data_dir} is of user {owner}: do this as that user, who has to read what is restored"
        )
    _require_unused(url)
    held = _held(settings, url)
    store = open_artifacts(settings)
    for name in manifest["files"]:
        digest = Path(name).name
        there = settings.artifact_bucket is None and store.place(digest).is_file()
        if name.startswith("artifacts/") and not there:
            with store.stage_file(folder / name) as staged:
                if staged.digest != digest:
                    raise BackupRefused(f"{folder / name} is damaged: {_AGAIN}")
                staged.keep()
    keyed = manifest["revision"] >= _KEYED
    closed = _load(settings, folder, _closing(set() if without_keys else held) if keyed else "")
    for file in settings.data_dir.glob(f"{_KEY_FOLDERS}/*"):  # else a start would read it before the database
        file.unlink()
    further = "" if manifest["revision"] == newest() else "; `fedlas migrate` brings it to this release"
    done = f"restored as release {manifest['release']} had it, with {len(manifest['files']) - 1} stored files{further}"
    if not keyed:
        return f"{done}; no API key opens: that release had none"
    return f"{done}; {_keys(url, closed, held, without_keys=without_keys)}"


def _held(settings: RegistrySettings, url: URL) -> set[str] | None:
    """Digests of the keys that this place holds open; None if no service was ever started here.

    They are read from the SQLite file, or else (it is gone, or PostgreSQL has the records) from the newest file of
    keys. If that cannot be read either, no key is held. Raises BackupRefused for a damaged SQLite file.
    """
    if url.get_backend_name() == "sqlite":
        try:
            with closing(sqlite3.connect(url.database or "")) as place:
                names = {name for (name,) in place.execute("SELECT name FROM sqlite_master")}
                if names:
                    rows = place.execute("SELECT sha256 FROM api_keys") if "api_keys" in names else ()
                    return {digest for (digest,) in rows}
        except sqlite3.DatabaseError as error:
            raise BackupRefused(f"{url.database} is damaged ({error}): move it away") from None
    folders = list(settings.data_dir.glob(_KEY_FOLDERS))
    files = sorted((path.stat().st_mtime_ns, path) for place in folders for path in place.glob("keys.json"))
    if not folders:
        return None
    with suppress(ValueError):  # it is cut off
        return set(json.loads(files[-1][1].read_text())) if files else set()
    return set()


def _closing(held: set[str] | None) -> str:
    """SQL, for both databases, that ends all browser sessions, then closes keys that are not held."""
    digests = ", ".join(f"'{digest}'" for digest in ("", *(held or ())) if not digest or digest.isalnum())
    rest = "FALSE" if held is None else f"sha256 NOT IN ({digests})"
    return f"DELETE FROM browser_sessions; DELETE FROM api_keys WHERE {rest};"


def _keys(url: URL, closed: int, held: set[str] | None, *, without_keys: bool) -> str:
    """Sentences that list the open keys of the restored database, and say why others are closed."""
    engine, key = open_engine(url.render_as_string(hide_password=False)), tables.ApiKey
    unexpired = key.expires_at.is_(None) | (key.expires_at > datetime.now(UTC))
    with engine.connect() as connection:
        columns = select(key.id, key.name, key.scopes, key.created_at)
        rows = connection.execute(columns.where(unexpired).order_by(key.id)).all()
    engine.dispose()
    lines = [
        f"\n  {row.id} {row.name} ({', '.join(row.scopes)}), created {row.created_at:%Y-%m-%d}, last used: not recorded"
        for row in rows
    ]
    opened = f"API keys that open: {len(rows)}{''.join(lines)}\n"
    if without_keys:
        return f"{opened}API keys that stay closed: {closed} (--without-keys): {_ANEW}"
    if held is None:
        return f"{opened}a key that was revoked after the backup opens, too: `fedlas keys revoke ID` closes it"
    if not closed:
        return opened.rstrip()
    return (
        f"{opened}API keys that stay closed: {closed}, which this place had revoked or did not know: {_ANEW}; "
        "an empty data folder opens all"
    )


def _checked(folder: Path, dump: str) -> dict[str, Any]:
    """The list, if all that it names is there, and this dump among it."""
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise BackupRefused(f"{folder} has no whole {_MANIFEST}, which `fedlas backup` writes last: {_AGAIN}") from None
    sizes = {name: path.stat().st_size for name in manifest["files"] if (path := folder / name).is_file()}
    if wrong := sorted(manifest["files"].items() - sizes.items()):
        counted = f"{len(wrong)} of {len(manifest['files'])} files"
        raise BackupRefused(f"{counted} in {folder} are missing or cut off, such as {wrong[0][0]}: {_AGAIN}")
    if dump not in sizes:
        raise BackupRefused(
            f"{folder} has no {dump}: set FEDLAS_DATABASE_URL to a database of the kind that was backed up"
        )
    return manifest


def _require_unused(url: URL) -> None:
    """Raise BackupRefused where a process uses the SQLite file; what a killed one left in `-wal` goes into it.

    PostgreSQL's database has to be empty, which `psql` finds.
    """
    if url.get_backend_name() == "sqlite":
        try:
            with closing(sqlite3.connect(url.database or "", timeout=2)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE")  # only possible where nobody else has it open
        except sqlite3.Error as error:
            raise BackupRefused(
                f"{url.database} cannot be replaced now ({error}): stop API and workers, "
                "or move it away if it is damaged"
            ) from None


def _load(settings: RegistrySettings, folder: Path, closing_keys: str) -> int:
    """Put the dump in place of the database in one transaction, and return the number of keys that it closes."""
    url = make_url(settings.resolved_database_url)
    source = folder / _DUMPS[url.get_backend_name()]
    if url.get_backend_name() == "postgresql":
        with TemporaryFile(dir=settings.data_dir) as script:
            _run("pg_restore", url, "--no-owner", "--no-privileges", "--file=-", str(source), output=script)
            script.seek(0, os.SEEK_END)
            script.write(f"\nRESET search_path; {closing_keys}\n".encode())
            script.seek(0)
            done = _run("psql", url, "-X", "--single-transaction", "--set=ON_ERROR_STOP=1", "--file=-", script=script)
        return int(["0", *re.findall(r"^DELETE (\d+)$", done, re.MULTILINE)][-1])
    with (
        closing(sqlite3.connect(source)) as new,
        closing(sqlite3.connect("")) as copy,  # a file without a name
        closing(sqlite3.connect(url.database or "")) as old,
    ):
        if new.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise BackupRefused(f"{source} is damaged: {_AGAIN}")
        new.backup(copy)
        copy.executescript(closing_keys)
        (closed,) = copy.execute("SELECT changes()").fetchone()  # by the last statement
        copy.backup(old)
    return int(closed)


def _run(
    program: str, url: URL, *arguments: str, script: IO[bytes] | None = None, output: IO[bytes] | None = None
) -> str:
    """Run a program of PostgreSQL's; the password is in no list of processes."""
    if (path := shutil.which(program)) is None:
        raise BackupRefused(f"{program} is not installed: install it (Debian: apt-get install postgresql-client)")
    place = url.set(drivername="postgresql")._replace(password=None).render_as_string()
    done = subprocess.run(
        [path, *arguments, *([] if output else [f"--dbname={place}"])],  # pg_restore takes one of both
        env={**os.environ, "PGPASSWORD": url.password or ""},
        stdin=script,
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        needed = f"; name an empty database (`createdb {url.database}-2`)" if program == "psql" else ""
        raise BackupRefused(f"{program} did not get through: {' '.join(done.stderr.split())}{needed}")
    return done.stdout or ""
