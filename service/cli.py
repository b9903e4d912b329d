"""`fedlas`: serve everything on one machine, run the API alone, keep its data, run the demo, write OpenAPI."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from fedlas.extras import TwoRuntimes, check_single_runtime
from service.registry.errors import BackupRefused, RegistryError
from service.registry.settings import OWNER_ONLY, ServiceSettings, mistakes


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        check_single_runtime()
        return int(options.run(options))
    except (TwoRuntimes, BackupRefused, RegistryError, sqlite3.Error, OSError) as error:
        print(f"fedlas: {error}", file=sys.stderr)
        return 1
    except ValidationError as error:
        for mistake in mistakes(error):
            print(f"fedlas: {mistake}", file=sys.stderr)
        return 1


def _named(name: str, arguments: Sequence[str]) -> int:
    return main([name, *arguments])


#: Entry points of `fedlas.commands`: each takes the arguments behind its name, and returns an exit code.
serve, api, migrate, backup, restore, demo, openapi = (
    partial(_named, name) for name in ("serve", "api", "migrate", "backup", "restore", "demo", "openapi")
)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are the user's errors: exit code 1, as of all commands of `fedlas`."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: {message}\n'{self.prog} --help' shows how it is used.\n")


def parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fedlas", description="Calibration as a service.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="API, worker and broker on this machine, or --model-dir")
    _add_place(command)
    command.add_argument(
        "--model-dir", type=Path, metavar="DIR", help="predictions alone, by the calibrated ONNX files in this folder"
    )
    command.add_argument("--model-name", metavar="NAME", help="with --model-dir: the folder holds this one model")
    command.set_defaults(run=_serve)

    command = commands.add_parser("api", help="the API alone; workers run with `python -m worker`")
    _add_place(command)
    command.add_argument("--fd", type=int, help="serve on this inherited listening socket")
    command.add_argument("--heartbeat", type=int, metavar="FD", help="write a byte into this pipe while the API lives")
    command.set_defaults(run=_api)

    command = commands.add_parser("migrate", help="bring what a pre-release stored to this release, and keep a copy")
    _add_data_dir(command)
    command.set_defaults(run=_migrate)

    for name, sentence, folder, run in (
        ("backup", "copy database and stored files, also beside a running service", "a new or empty folder", _backup),
        ("restore", "put a backup back, while nothing runs", "the folder of a backup", _restore),
    ):
        command = commands.add_parser(name, help=sentence)
        command.add_argument("folder", type=Path, help=folder)
        _add_data_dir(command)
        command.set_defaults(run=run)
    command.add_argument("--without-keys", action="store_true", help="let no API key of the backup open")

    command = commands.add_parser("demo", help="from an overconfident classifier to calibrated predictions, over HTTP")
    command.add_argument("--short", action="store_true", help="fewer candidates, for a quick check")
    command.add_argument("--files", type=Path, metavar="FOLDER", help="write its model and rows here, and do no more")
    command.set_defaults(run=_demo)

    command = commands.add_parser("openapi", help="write the OpenAPI documents")
    command.add_argument("folder", type=Path, help="where openapi.json and openapi-v2.json are to stand")
    command.set_defaults(run=_openapi)
    return parser


def _add_place(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, help="port to listen on (default: 8000)")
    _add_data_dir(command)


def _add_data_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", type=Path, help="everything that must survive (default: fedlas-data)")


def settings_from(options: argparse.Namespace) -> ServiceSettings:
    given: dict[str, Any] = {name: getattr(options, name, None) for name in ("host", "port", "data_dir")}
    return ServiceSettings(**{name: value for name, value in given.items() if value is not None})


def _serve(options: argparse.Namespace) -> int:
    if options.model_dir is not None or options.model_name is not None:
        return _serve_folder(options)
    from service.processes.standalone import serve

    os.umask(OWNER_ONLY)
    return serve(settings_from(options))


def _serve_folder(options: argparse.Namespace) -> int:
    from service.processes.model_folder import FolderMistakes, serve_folder

    try:
        if options.model_dir is None or options.data_dir is not None:
            raise FolderMistakes("--model-name needs --model-dir, which serves files without the records of --data-dir")
        return serve_folder(settings_from(options), options.model_dir, name=options.model_name)
    except FolderMistakes as error:
        print(*(f"fedlas: {mistake}" for mistake in error.args), sep="\n", file=sys.stderr)
        return 1


def _api(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    os.umask(OWNER_ONLY)
    if settings.walled and options.fd is None:
        from service.processes.wall import serve_api

        return serve_api(settings)
    from service.processes.api import run

    return run(
        settings,
        sockets=[] if options.fd is None else [socket.socket(fileno=options.fd)],
        heartbeat=options.heartbeat,
    )


def _migrate(options: argparse.Namespace) -> int:
    from service.processes.supervision import locked
    from service.registry.registry import Registry

    settings = settings_from(options)
    os.umask(OWNER_ONLY)
    copy = settings.data_dir / "before-0.1"
    with locked(settings.data_dir / "run"), closing(Registry.open(settings)) as registry:
        if registry.is_current():
            print("nothing is migrated: this release made the database")
            return 0
        reports = registry.rewrite(copy)
    undo = f"; to undo it: fedlas restore {copy} --data-dir {settings.data_dir}" if copy.is_dir() else ""
    print(f"migrated, with {reports} reports{undo}")
    return 0


def _backup(options: argparse.Namespace) -> int:
    from service.registry.backups import back_up

    os.umask(OWNER_ONLY)
    print(back_up(settings_from(options), options.folder))
    return 0


def _restore(options: argparse.Namespace) -> int:
    from service.processes.supervision import locked
    from service.registry.backups import restore

    settings = settings_from(options)
    os.umask(OWNER_ONLY)
    with locked(settings.data_dir / "run"):
        print(restore(settings, options.folder, without_keys=options.without_keys))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from service.demo import run, write_files

    return run(short=options.short) if options.files is None else write_files(options.files)


def _openapi(options: argparse.Namespace) -> int:
    import tempfile

    from service.processes.api import create_app
    from service.rest_api import documents

    with tempfile.TemporaryDirectory() as folder:
        written = documents(create_app(ServiceSettings(data_dir=Path(folder))).fastapi)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, document in (("openapi.json", written.main), ("openapi-v2.json", written.protocol)):
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
        (options.folder / name).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
