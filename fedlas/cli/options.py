"""Options and arguments that several commands share: how their text is read, files looked at, and yes asked for.

`input()` forgets a Ctrl-C that comes after the prompt was written and before it reads: the signal is noted, and acted
upon after the next line only. So the wait for a line is cut into short ones, between which Python looks for signals.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from fedlas.cli.failures import CommandError, Require, UsageError
from fedlas.file_kinds import of_folder

Wait = Annotated[bool, typer.Option(help="Wait until the file has been inspected.")]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="Any other parameter of the upload, as the API names it."),
]
RolePairs = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="ROLE=COLUMN",
        help="Column of a role: label, split, group, time, slices, weight, id; of scores, score.",
    ),
]
SeenByModel = Annotated[
    Literal["no", "train_split", "unknown"] | None, typer.Option(help="Rows that the model was trained on.")
]
RequireOption = Annotated[Require, typer.Option(help="Result that exit code 0 needs; any without this.")]
PriorsInput = Annotated[bool, typer.Option("--priors-input", help="With the input `class_priors`.")]
Out = Annotated[Path | None, typer.Option("--out", help="The file to write.", dir_okay=False)]
#: Parameters of uploads that have options of their own, or are arrays.
_OWN = {"name", "roles", "seen_by_model", "method", "split", "group", "weight", "time", "id"}


def pairs_of(given: Sequence[str] | None, option: str = "--option", form: str = "KEY=VALUE") -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given or ():
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"{option} needs {form}, found {pair!r}")
        pairs[key] = value
    return pairs


def given_options(given: Sequence[str] | None, option: str, known: str | Collection[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs with lists and objects as JSON; `known` are the keys, or the client's class that has them."""
    options = {name: _value(text) for name, text in pairs_of(given, option).items()}
    _require_known(options, option, _keys_of(known) - _OWN if isinstance(known, str) else known)
    return options


def _keys_of(kind: str) -> frozenset[str]:
    from fedlas.client import options

    return frozenset(getattr(options, kind).__optional_keys__)


def _require_known(names: Iterable[str], option: str, known: Collection[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        of_promise = "promise" in known and unknown[0] in ("max_error", "precision", "recall", "confidence")
        names = (
            f"write {option} 'promise={{\"{unknown[0]}\": 0.05}}'"
            if of_promise
            else f"there are {', '.join(sorted(known))}"
        )
        raise UsageError(f"{option} has no {unknown[0]!r}; {names}")


def _value(text: str) -> Any:
    try:
        return json.loads(text) if text[0] in "[{" else text
    except ValueError:
        return text


def roles_of(given: Sequence[str] | None, *, scores: bool = False) -> dict[str, str] | None:
    """Columns by their role; None where none is given."""
    from fedlas.contract.options import ROLE_NAMES, SCORE_ROLE_NAMES

    roles = pairs_of(given, "--role", "ROLE=COLUMN")
    _require_known(roles, "--role", SCORE_ROLE_NAMES if scores else ROLE_NAMES)
    return roles or None


def class_names_of(text: str | None) -> list[str] | None:
    """Names between commas; None where none are given."""
    names = None if text is None else [name.strip() for name in text.split(",")]
    if names is not None and (len(names) < 2 or not all(names) or len({*names}) < len(names)):
        raise UsageError(f"--class-names is {text!r:.80}; expected two or more different names between commas")
    return names


def valid(validate: Callable[[dict[str, Any]], object], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request; raises UsageError where the service would refuse one when the files are there."""
    from pydantic import ValidationError

    try:
        validate(fields)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        name = ".".join(map(str, wrong["loc"]))
        found = "" if name.startswith("webhook") else f"; found {wrong['input']!r:.80}"  # a secret is not repeated
        raise UsageError(f"{name}: {wrong['msg'].removeprefix('Value error, ')}{found}") from error
    return fields


def object_of(text: str, option: str) -> dict[str, Any]:
    """A JSON object, written out or in a file behind an `@`."""
    try:
        document = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text, parse_constant=_no_number)
    except ValueError as error:
        raise UsageError(f"{option} needs a JSON object, or @FILE with one: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{option} needs a JSON object, found {type(document).__name__}")
    return document


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def number_or_object(text: str, option: str) -> float | dict[str, Any]:
    try:
        return float(text)
    except ValueError:
        return object_of(text, option)


@dataclass(frozen=True)
class Request:
    """A request for a calibration, and how the two files are to be read.

    Attributes:
        fields: of `POST /v1/jobs`, without model and dataset; only those that were given.
        model_option, dataset_option: `KEY=VALUE` parameters of the two uploads.
        naming, reading: parameters of the model's and the dataset's that have options of their own.
    """

    fields: dict[str, Any]
    model_option: Sequence[str] | None
    dataset_option: Sequence[str] | None
    naming: dict[str, Any]
    reading: dict[str, Any]

    def model_options(self, known: str | Collection[str] = "ModelOptions") -> dict[str, Any]:
        """All parameters of the model's upload."""
        return given_options(self.model_option, "--model-option", known) | self.naming

    def dataset_options(self, known: str | Collection[str] = "DatasetOptions") -> dict[str, Any]:
        """All parameters of the dataset's upload."""
        return given_options(self.dataset_option, "--dataset-option", known) | self.reading


def job_fields(job: str | None, budget: str | None, candidates: int | None, **fields: Any) -> dict[str, Any]:
    """The fields of a job: those in `--job`, and before them those that have options of their own."""
    from fedlas.contract.requests import JobOptions

    given = {} if job is None else object_of(job, "--job")
    _require_known(given, "--job", _keys_of("JobOptions") if given else ())
    limits = given.get("budget") or {}
    if not isinstance(limits, dict):
        limits = {"minutes": _minutes(limits, "--job")}
    if budget is not None:
        limits |= {"minutes": _minutes(budget, "--budget")}
    all_fields = {**given, **present({**fields, "budget": limits | present({"candidates": candidates}) or None})}
    return valid(JobOptions.model_validate, all_fields)


def _minutes(given: Any, option: str) -> float:
    from fedlas.contract.requests import parse_budget

    try:
        return parse_budget(given)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def answer_options(
    top_k: Annotated[int | None, typer.Option(help="The most probable classes of each row.", min=1)] = None,
    abstain_below: Annotated[float | None, typer.Option(help="Abstain below this confidence.", min=0, max=1)] = None,
    max_error: Annotated[str | None, typer.Option(help="Abstain so that at most this share is wrong.")] = None,
    coverage: Annotated[str | None, typer.Option(help="Answer sets that hold the truth so often.")] = None,
    decision: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="Threshold or costs.")] = None,
    class_priors: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="How often each class occurs.")] = None,
    probabilities: Annotated[
        bool | None,
        typer.Option("--probabilities/--no-probabilities", help="Probabilities of all classes, as JSON and in files."),
    ] = None,
) -> dict[str, Any]:
    return present(
        {
            "top_k": top_k,
            "abstain_below": abstain_below,
            "max_error": None if max_error is None else number_or_object(max_error, "--max-error"),
            "coverage": None if coverage is None else number_or_object(coverage, "--coverage"),
            "decision": None if decision is None else object_of(decision, "--decision"),
            "class_priors": None if class_priors is None else object_of(class_priors, "--class-priors"),
            "probabilities": probabilities,
        }
    )


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost; where nobody can be asked, `--yes` is needed."""
    if yes:
        return
    if not somebody_is_there():
        raise CommandError(f"{question} There is nobody to ask here; --yes says so beforehand")
    if not agreed(question):
        raise CommandError("nothing was done")


def somebody_is_there() -> bool:
    """True where a human reads the question and types the answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def says_unseen() -> bool:
    """True where the user at the terminal says that the model was trained on none of the rows, which lack splits."""
    return somebody_is_there() and agreed("Is it certain that the model was trained on none of these rows?")


def agreed(question: str) -> bool:
    """Yes is the answer to a question; no is everything else, and Ctrl-C raises KeyboardInterrupt."""
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    try:
        return _line().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        print(file=sys.stderr)  # what comes next does not stand behind ^C
        raise


def _line() -> str:
    """The next line of the terminal, empty at its end (Ctrl-D)."""
    if sys.platform != "win32":  # which can wait for sockets only
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            pass
    return sys.stdin.readline()


def file_of(path: Path) -> Path:
    """The path of a file that can be read; raises what the system says of it otherwise."""
    if path.is_dir():
        raise CommandError(of_folder(path))
    path.open("rb").close()
    return path


def require_columns(file: Path, roles: Mapping[str, str]) -> None:
    """Raise where a role's column is not named in the first line of a csv file; of others only the service knows."""
    with file.open("rb") as content:
        header = content.readline(1 << 20).decode(errors="replace").strip()
    missing = [pair for pair in roles.items() if pair[1].replace('"', '""') not in header]
    if file.suffix == ".csv" and missing and header and header.count('"') % 2 == 0:  # else a name goes on below it
        raise CommandError(f"{file}: --role {'='.join(missing[0])} names no column; the first line is {header[:400]}")


def require_writable(path: Path | None, *suffixes: str) -> None:
    """Raise where a file could not be written later, when the work is done."""
    if path is None:
        return
    if path.exists() and not path.is_file():  # a device would be replaced by a file
        what = "a folder" if path.is_dir() else "no ordinary file"
        raise CommandError(f"{path}: is {what}; expected the name of a file to write")
    if suffixes and path.suffix not in suffixes:
        raise UsageError(f"{path}: the name must end in {' or '.join(suffixes)}")
    folder = path.absolute().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise CommandError(
            f"{path}: {'nothing may be written into' if folder.is_dir() else 'there is no'} folder {folder}"
        )


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a file beside it, and put that in its place; raises what the system says, with its name."""
    target = path.resolve()  # a link stays a link
    partial = target.with_name(f".part-{target.name}")
    try:
        save(partial)
        partial.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
