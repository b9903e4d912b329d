"""The table of resources: a row is a kind of record, with its commands `ls`, `show`, `delete` and `download`.

Further commands of a group stand in the module of its name, or in `groups`, and join it there:
`@GROUPS["models"].command("upload", …)`.
"""

# Annotations here are objects: Typer reads those of functions that are made for a group.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlas.cli.command import Command, Session, examples, group
from fedlas.cli.options import Out, PriorsInput, confirm, pairs_of, require_writable
from fedlas.cli.output import Column, Json, count, percent, size, transfer, when

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job, job_….")]
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="The id of a batch, bat_….")]
PublishedName = Annotated[str, typer.Argument(metavar="NAME", help="A published name.")]
#: Filter of a list → annotation of its option.
_FILTERS = {
    "status": Annotated[str | None, typer.Option(help="Only those in this status.")],
    "name": Annotated[str | None, typer.Option(help="Only those of this name.")],
    "created_after": Annotated[str | None, typer.Option(help="Only those made after this time (RFC 3339).")],
    "created_before": Annotated[str | None, typer.Option(help="Only those made before this time.")],
    "metadata": Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only those with this pair.")],
}


@dataclass(frozen=True)
class Resource:
    """A kind of record.

    Attributes:
        noun: name of the group, and of the client's attribute.
        help: of the group.
        argument: annotation of the argument that names one.
        example: such an argument, for examples.
        columns: of the list.
        lines: of a single record.
        shows, deletes: help of `show` and `delete`.
        question: asked before one is deleted.
        key: field that names a record.
        filters: of `ls`, beside the limit.
        downloads: help of `download`, where a record has an ONNX file.
        removal: the command that deletes one, and the client's method.
    """

    noun: str
    help: str
    argument: Any
    example: str
    columns: Sequence[Column]
    lines: Sequence[Column]
    shows: str
    deletes: str
    question: str = "Delete {}?"
    key: str = "id"
    filters: Sequence[str] = ()
    downloads: str = ""
    removal: str = "delete"


#: Columns that several kinds have, or that need no more than the path to their value, by their titles.
_SHARED = {
    "error": Column("error", lambda one: one["error"] and f"{one['error']['code']}: {one['error']['message']}"),
    "done": Column("done", "progress.fraction", percent),
    "class names": Column("classes", lambda one: ", ".join((one["class_names"] or ())[:20])),
    "warnings": Column("warnings", lambda one: "\n".join(one["warnings"]) or None),
    "done for you": Column(
        "done for you", lambda one: "\n".join(change["message"] for change in one["adjustments"]) or None
    ),
    "size": Column("size", "bytes", size),
    "samples": Column("rows", "num_samples", count),
    "rows": Column("rows", "num_rows", count),
    "rows without an answer": Column("rows without an answer", "num_errors", count),
    "created": Column("created", "created_at", when),
    "finished": Column("finished", "finished_at", when),
    **{
        title: Column(title, path)
        for title, path in (
            ("waiting for", "waiting_for"),
            ("seen by model", "seen_by_model"),
            ("classes", "num_classes"),
            ("publish as", "publish_as"),
            ("calibrated model", "calibrated_model_id"),
            ("model", "model_id"),
            ("dataset", "dataset_id"),
            ("report", "report_url"),
            ("results", "results_url"),
            ("manifest", "manifest_url"),
            ("made from", "parent_id"),
            ("job", "job_id"),
            ("answers", "default_version"),
            ("class priors", "class_priors"),
        )
    },
}


def _columns(*wanted: str | Column) -> tuple[Column, ...]:
    """Columns by their titles; one that is not shared is the field of its name."""
    return tuple(one if isinstance(one, Column) else _SHARED.get(one) or Column(one, one) for one in wanted)


_ANSWERING = Column("model", lambda name: name["versions"].get(str(name["default_version"])))
_JUDGED = (Column("verdict", "report.verdict"), Column("significant", "report.significant"))
_RIGHTS = (
    Column("scopes", lambda key: ", ".join(key["scopes"])),
    Column("models", lambda key: ", ".join(key["models"] or ()) or None),
    Column("expires", "expires_at", when),
)
RESOURCES = (
    Resource(
        noun="jobs",
        help="Calibrations: list, watch, cancel, delete.",
        argument=JobId,
        example="job_01k…",
        columns=_columns("id", "status", "done", "verdict", "significant", "publish as", "created"),
        lines=_columns(
            *("id", "status", "stage", "done"),
            Column(
                "seconds left",
                lambda job: None if job["finished_at"] else job["progress"]["eta_seconds"],
                lambda seconds: f"{seconds:.0f}",
            ),
            *("waiting for", "error", "verdict"),
            Column("serves", "serves"),
            Column("significant", "significant"),
            Column("beats simpler", "beats_simpler"),
            *("calibrated model", "model", "dataset", "method"),
            Column("budget", lambda job: f"{job['budget']['minutes']:g} min, {job['budget']['candidates']} candidates"),
            "publish as",
            Column("warnings", lambda job: "\n".join(f"{w['code']}: {w['message']}" for w in job["warnings"]) or None),
            *("report", "created", "finished"),
        ),
        shows="Show a job.",
        deletes="Delete a job that has ended.\n\nIts report and events go with it; the model that it made stays.",
        question="Delete {} with its report?",
        filters=("status", "name", "created_after", "created_before", "metadata"),
    ),
    Resource(
        noun="batches",
        help="Predictions for all rows of a stored dataset.",
        argument=BatchId,
        example="bat_01k…",
        columns=_columns("id", "status", "done", "rows", "rows without an answer", "created"),
        lines=_columns(
            *("id", "status", "done", "waiting for", "error", "rows", "rows without an answer", "model", "dataset"),
            *("results", "manifest", "created", "finished"),
        ),
        shows="Show a batch.",
        deletes="Delete a batch that has ended, with its answers.",
        question="Delete {} with its answers?",
        filters=("status", "created_after", "created_before"),
    ),
    Resource(
        noun="models",
        help="Classifiers: list, download, promote, upload, delete.",
        argument=Annotated[str, typer.Argument(metavar="MODEL", help="A published name, or the id of a model, mdl_….")],
        example="digits",
        columns=_columns("id", "name", "version", "status", "calibrated", "classes", "size", "created"),
        lines=_columns(
            *("id", "name", "version", "status", "waiting for", "error", "origin", "made from", "job", "format"),
            Column(
                "inputs",
                lambda model: ", ".join(
                    f"{one['name']} {one['shape']} {one['dtype']}" for one in model["inputs"] or ()
                ),
            ),
            *("class names", "trainable", "warnings", "done for you", "size", "created", "sha256"),
        ),
        shows="Show a model.\n\nUnder a published name it is the one that answers.",
        deletes="Delete a model that is neither published nor in use.",
        downloads="Download the ONNX file of a model.\n\nIts digest is checked.",
        filters=("status", "name", "created_after", "created_before"),
    ),
    Resource(
        noun="datasets",
        help="Labelled rows: list, upload, delete.",
        argument=Annotated[str, typer.Argument(metavar="DATASET", help="The id of a dataset, ds_….")],
        example="ds_01k…",
        columns=_columns("id", "name", "status", "samples", "classes", "seen by model", "size", "created"),
        lines=_columns(
            *("id", "name", "status", "waiting for", "error", "format", "samples", "class names"),
            Column("splits", lambda one: ", ".join(f"{key} {n:,}" for key, n in (one["splits"] or {}).items() if n)),
            Column("roles", lambda one: ", ".join(f"{key} {n}" for key, n in (one["roles"] or {}).items() if n)),
            *("seen by model", "warnings", "done for you", "size", "created", "sha256"),
        ),
        shows="Show a dataset.",
        deletes="Delete a dataset that no open job or batch needs.",
        filters=("status", "name", "created_after", "created_before"),
    ),
    Resource(
        noun="names",
        help="Published names: which model answers under them.",
        argument=PublishedName,
        example="digits",
        columns=_columns("name", "answers", _ANSWERING, Column("versions", lambda name: ", ".join(name["versions"]))),
        lines=_columns(
            *("name", "answers", _ANSWERING),
            Column("versions", lambda name: "\n".join(f"{number}: {id}" for number, id in name["versions"].items())),
            "class priors",
        ),
        shows="Show a name, its versions and the one that answers.",
        deletes="Delete a name.\n\nIts models stay and answer under their ids.",
        question="Delete the name {}, so that it answers no more?",
        key="name",
    ),
    Resource(
        noun="calibrators",
        help="Calibrators from scores and labels alone.",
        argument=Annotated[str, typer.Argument(metavar="CALIBRATOR", help="The id of a calibrator, cal_….")],
        example="cal_01k…",
        columns=_columns("id", "name", "status", "method", *_JUDGED, "samples", "created"),
        lines=_columns(
            *("id", "name", "status", "waiting for", "error", "method", *_JUDGED),
            Column("summary", lambda one: "\n".join((one["report"] or {}).get("summary", ()))),
            *("publish as", "version", Column("not published", "not_published"), Column("valid for", "valid_for")),
            *("parameters", "samples", "created", "report"),
        ),
        shows="Show a calibrator.",
        deletes="Delete a calibrator.",
        downloads="Download a calibrator's ONNX file.\n\nScores go in, probabilities come out.",
        filters=("status", "name", "created_after", "created_before"),
    ),
    Resource(
        noun="keys",
        help="Keys with scopes, for administrators: create, list, revoke.",
        argument=Annotated[str, typer.Argument(metavar="KEY", help="The id of a key, key_….")],
        example="key_01k…",
        columns=_columns("id", "name", *_RIGHTS, "created"),
        lines=_columns("id", "name", *_RIGHTS, "created", Column("key", lambda one: one.get("key"))),
        shows="",
        deletes="Revoke a key.\n\nFive seconds later no process admits it.",
        question="Revoke {}?",
        removal="revoke",
    ),
)
_BY_NOUN = {resource.noun: resource for resource in RESOURCES}


def show_record(session: Session, noun: str, record: Json, *, key: str | None = None) -> None:
    """Write one record of a kind; `key` is the field that `-q` prints, by default the one that names it."""
    name = _BY_NOUN[noun].key
    page = Column("page", lambda one: None if noun == "keys" else session.page(noun, one[name]))
    session.output.record(record, [*_BY_NOUN[noun].lines, page], key=key or name)


def _group(resource: Resource) -> typer.Typer:
    app, noun, command = group(resource.help), resource.noun, f"fedlas {resource.noun}"
    order = "newest first" if resource.key == "id" else "in alphabetical order"
    filtered = f"{command} ls --status failed -q" if resource.filters else f"{command} ls -q"
    one = resource.example
    texts = (
        (f"List {noun}, {order}.", (f"{command} ls", filtered, f"{command} ls --json | jq")),
        (resource.shows, (f"{command} show {one}", f"{command} show {one} --json")),
        (resource.deletes, (f"{command} {resource.removal} {one} --yes",)),
        (resource.downloads, (f"{command} download {one} --out file.onnx",)),
    )
    for function, (help, lines) in zip(_functions(resource), texts, strict=True):
        if help:
            name = resource.removal if function.__name__ == "delete" else function.__name__
            app.command(name, cls=Command, help=help, epilog=examples(*lines))(function)
    return app


def _functions(resource: Resource) -> tuple[Callable[..., None], ...]:
    """The functions `ls`, `show`, `delete` and `download` of a resource."""

    def ls(
        session: Session,
        *,
        limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.", min=1)] = 20,
        **filters: Any,
    ) -> None:
        if "metadata" in filters:
            filters["metadata"] = pairs_of(filters["metadata"], "--metadata") or None
        records = getattr(session.client, resource.noun).list(limit=limit, **filters)
        session.output.records((one.raw for one in records), resource.columns, key=resource.key)

    def show(session: Session, record: resource.argument) -> None:  # type: ignore[name-defined]
        show_record(session, resource.noun, getattr(session.client, resource.noun).get(record).raw)

    def delete(
        session: Session,
        record: resource.argument,  # type: ignore[name-defined]
        *,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    ) -> None:
        confirm(resource.question.format(record), yes=yes)
        getattr(getattr(session.client, resource.noun), resource.removal)(record)
        session.output.lines([record])

    def download(
        session: Session,
        record: resource.argument,  # type: ignore[name-defined]
        *,
        out: Out = None,
        priors_input: PriorsInput = False,
    ) -> None:
        file = out or Path(f"{record}.onnx")
        require_writable(file)
        priors = "input" if priors_input else None
        with transfer(session.output, f"downloading {file.name}") as moved:
            getattr(session.client, resource.noun).download(record, file, class_priors=priors, on_progress=moved)
        session.output.lines([str(file)])

    session, limit, _ = Signature.from_callable(ls).parameters.values()
    options = [Parameter(name, limit.kind, default=None, annotation=_FILTERS[name]) for name in resource.filters]
    ls.__signature__ = Signature([session, limit, *options])  # type: ignore[attr-defined]
    return ls, show, delete, download


#: Noun → the group of its commands.
GROUPS = {resource.noun: _group(resource) for resource in RESOURCES}
