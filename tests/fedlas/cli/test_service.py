"""The command against a service: what it prints is what the API says, and what it is given is what the API gets."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fedlas.cli.conftest import KEY, Command, Here
from tests.helpers.command_line import COMMAND, drawn_rows, environment
from tests.helpers.judges import judged_csv, judged_rows
from tests.helpers.modes import open_to_others
from tests.helpers.processes import until
from tests.helpers.service import Service, descendants_of

ROWS = drawn_rows(test=4)[0][-4:]


def job_of(calibrated: Path) -> dict[str, Any]:
    """The record that `fedlas calibrate --json` has printed."""
    return dict(json.loads((calibrated / "job.json").read_text()))


def test_calibrate_prints_the_record_and_writes_the_files(service: Service, calibrated: Path, files: Path) -> None:
    """The job as the API has it on stdout, its course on stderr, the served file and the report's page beside them."""
    job = job_of(calibrated)
    assert job == service.job(job["id"])
    assert (job["verdict"], job["significant"], job["publish_as"], job["metadata"]) == (
        "post_hoc",
        True,
        "sharp",
        {"team": "cli"},
    )
    said = (calibrated / "said.txt").read_text().splitlines()
    page = f"{service.client.base_url}/jobs/{job['id']}"
    # On a busy machine lines before it say what the uploads wait for.
    assert any(
        lines == (f"{job['id']} is created: {page}", f"To watch it again: fedlas jobs watch {job['id']}")
        for lines in pairwise(said)
    )
    assert {"calibrating", "succeeded", f"{calibrated / 'sharp.onnx'}: the calibrated model"} <= set(said)
    served = service.client.get("/v1/models/sharp/onnx")
    assert (calibrated / "sharp.onnx").read_bytes() == served.content
    assert (calibrated / "report.html").read_text() == service.client.get(f"/v1/jobs/{job['id']}/report.html").text
    assert sorted(path.name for path in calibrated.iterdir()) == ["job.json", "report.html", "said.txt", "sharp.onnx"]


@pytest.mark.parametrize("kind", ["jobs", "models", "datasets", "names", "calibrators"])
def test_lists_are_those_of_the_api(service: Service, calibrated: Path, here: Here, kind: str) -> None:
    """A list is the unchanged records as JSON, their ids with -q, and in a pipe a line each that begins with the id."""
    records = service.get(f"/v1/{kind}", limit=1000)["data"]
    key = "name" if kind == "names" else "id"
    assert json.loads(here(kind, "ls", "-n", 1000, "--json").stdout) == records
    ids = [record[key] for record in records]
    assert here(kind, "ls", "-n", 1000, "-q").stdout.split() == ids
    assert [line.split("\t")[0] for line in here(kind, "ls", "-n", 1000).stdout.splitlines()] == ids


@pytest.mark.parametrize(("kind", "of"), [("jobs", "id"), ("models", "model_id"), ("datasets", "dataset_id")])
def test_single_records_are_the_apis(service: Service, calibrated: Path, here: Here, kind: str, of: str) -> None:
    """A single record is unchanged as JSON, and in a pipe a line for each value, the last of which is its page."""
    record = service.get(f"/v1/{kind}/{job_of(calibrated)[of]}")
    assert json.loads(here(kind, "show", record["id"], "--json").stdout) == record
    lines = dict(line.split("\t", 1) for line in here(kind, "show", record["id"]).stdout.splitlines())
    assert (lines["id"], lines["status"]) == (record["id"], record["status"])
    assert list(lines)[-1] == "page"
    page = service.client.get(lines["page"], headers={"Accept": "text/html"})
    assert (page.status_code, record["id"] in page.text) == (200, True)


def test_a_batch_from_the_order_to_its_end(service: Service, calibrated: Path, here: Here, tmp_path: Path) -> None:
    """Record, list and manifest are those of the API; answers are written in the order of the rows, in any format."""
    dataset, answers = job_of(calibrated)["dataset_id"], tmp_path / "answers.ndjson"
    done = here("batches", "create", "sharp", dataset, "--top-k", 2, "--out", answers, "--json")
    batch = json.loads(done.stdout)
    at = f"/v1/batches/{batch['id']}"
    assert (batch, batch["status"]) == (service.get(at), "succeeded")
    page = f"{service.client.base_url}/batches/{batch['id']}"
    assert done.stderr.splitlines()[0] == f"{batch['id']} is created: {page}"
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [len(row["top_k"]) for row in rows] == [2] * batch["num_rows"]
    assert here("batches", "ls", "--status", "succeeded", "-q").stdout.split() == [batch["id"]]
    assert here("batches", "watch", batch["id"]).stdout == here("batches", "show", batch["id"]).stdout
    manifest = service.get(f"{at}/results/manifest")
    assert json.loads(here("batches", "manifest", batch["id"], "--json").stdout) == manifest
    numbers = [str(part["number"]) for part in manifest["parts"]]
    assert here("batches", "manifest", batch["id"], "-q").stdout.split() == numbers
    table = tmp_path / "answers.csv"
    assert here("batches", "download", batch["id"], "--out", table).stdout.strip() == str(table)
    assert table.read_text().count("\n") == 1 + batch["num_rows"]
    refused = here("batches", "download", batch["id"], "--out", tmp_path / "answers.txt")
    assert (refused.returncode, "must end in .parquet or .csv" in refused.stderr) == (2, True)
    assert here("batches", "delete", batch["id"], "--yes").stdout.strip() == batch["id"]
    assert service.client.get(at).status_code == 404


def test_lists_filter(calibrated: Path, here: Here) -> None:
    """Filters go to the API; what it refuses is a sentence."""
    job = job_of(calibrated)
    assert here("jobs", "ls", "--metadata", "team=cli", "--status", "succeeded", "-q").stdout.split() == [job["id"]]
    assert here("jobs", "ls", "--metadata", "team=other", "-q").stdout == ""
    refused = here("jobs", "ls", "--created-after", "yesterday")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("fedlas: created_after is 'yesterday'; expected a time")


@pytest.mark.slow
def test_a_dry_run_shows_its_plan(service: Service, calibrated: Path, here: Here) -> None:
    """`--dry-run` trains nothing: the plan in lines, or the record with it."""
    job = job_of(calibrated)
    done = here("calibrate", job["model_id"], job["dataset_id"], "--dry-run")
    lines = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert (done.returncode, lines["splits"]) == (0, "calibration 400, test 600")
    record = json.loads(here("calibrate", job["model_id"], job["dataset_id"], "--dry-run", "--json").stdout)
    assert (record, record["dry_run"]) == (service.job(record["id"]), True)


def test_report_gates_a_later_step(service: Service, calibrated: Path, here: Here, tmp_path: Path) -> None:
    """A report is the API's document, its sentences in a pipe, or a file; --require decides on the exit code."""
    job = job_of(calibrated)["id"]
    report = service.get(f"/v1/jobs/{job}/report")
    shown = here("report", job, "--require", "significant", "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (0, report)
    lines = here("report", job).stdout.splitlines()
    assert lines[0] == "post_hoc, significantly better than the upload"
    assert [line.removeprefix("- ") for line in lines[1:3]] == report["advice"]
    assert {line.removeprefix("- ") for line in lines[1:] if line.startswith("- ")} == set(report["summary"])
    nll = next(line.split("\t") for line in lines if line.startswith("NLL"))
    assert nll[3].startswith(f"{report['metrics']['calibrated']['nll']['value']:.3f} [")
    out = tmp_path / "report.json"
    assert here("report", job, "--out", out).stdout.strip() == str(out)
    assert json.loads(out.read_text()) == report


def test_rows_come_through_a_pipe(service: Service, calibrated: Path, command: Command) -> None:
    """`cat rows.csv | fedlas predict NAME -` answers as the API does; `test_rows` reads the other forms."""
    content = "a,b,c\n" + "\n".join(",".join(map(repr, row)) for row in ROWS.tolist())
    expected = service.predict("sharp", ROWS.tolist(), top_k=2)
    answer = json.loads(command("predict", "sharp", "-", "--top-k", 2, "--json", stdin=content.encode()).stdout)
    assert answer["predictions"] == expected
    assert answer["model"]["name"] == "sharp"


def test_a_file_on_this_machine_predicts_as_the_service_does(
    service: Service, calibrated: Path, command: Command, tmp_path: Path
) -> None:
    """`predict` with the downloaded file gives the same labels and confidences, without asking anybody."""
    np.save(tmp_path / "rows.npy", ROWS)
    expected = service.predict("sharp", ROWS.tolist())
    found = command("predict", calibrated / "sharp.onnx", tmp_path / "rows.npy", "--json", variables={})
    answers = json.loads(found.stdout)["predictions"]
    assert [one["label"] for one in answers] == [one["label"] for one in expected]
    np.testing.assert_allclose([a["confidence"] for a in answers], [e["confidence"] for e in expected], rtol=1e-5)
    labels = command("predict", calibrated / "sharp.onnx", tmp_path / "rows.npy", "-q", variables={})
    assert labels.stdout.split() == [one["label"] for one in expected]
    refused = command("predict", calibrated / "sharp.onnx", tmp_path / "rows.npy", "--max-error", 0.1, variables={})
    assert (refused.returncode, refused.stderr.splitlines()[-1].endswith("its job had no guarantee rows")) == (1, True)


def test_a_file_comes_with_an_input_for_priors(service: Service, calibrated: Path, here: Here, tmp_path: Path) -> None:
    """`download --priors-input` writes the graph that the API gives with `class_priors=input`."""
    out = tmp_path / "m.onnx"
    assert here("models", "download", "sharp", "--priors-input", "--out", out).stdout.strip() == str(out)
    answer = service.client.get("/v1/models/sharp/onnx?class_priors=input")
    assert (out.read_bytes(), answer.content != (calibrated / "sharp.onnx").read_bytes()) == (answer.content, True)


def test_a_model_comes_and_goes(service: Service, here: Here, files: Path, tmp_path: Path) -> None:
    """Upload, download and deletion of a model; deletion asks, and where nobody can answer wants --yes."""
    model = json.loads(here("models", "upload", "exact.onnx", "-o", "class_names=a,b,c", "--json").stdout)
    assert (model["name"], model["status"], model["class_names"]) == ("exact", "ready", ["a", "b", "c"])
    out = tmp_path / "m.onnx"
    assert here("models", "download", model["id"], "--out", out).stdout.strip() == str(out)
    assert out.read_bytes() == (files / "exact.onnx").read_bytes()
    kept = here("models", "delete", model["id"])
    assert (kept.returncode, kept.stderr.startswith("fedlas: Delete")) == (1, True)
    assert here("models", "delete", model["id"], "--yes").returncode == 0
    assert service.client.get(f"/v1/models/{model['id']}").status_code == 404


def test_promotion_changes_what_answers(calibrated: Path, here: Here) -> None:
    """`models promote` shows the name; a version that there is not is a sentence."""
    shown = json.loads(here("models", "promote", "sharp", 1, "--json").stdout)
    versions = {"1": job_of(calibrated)["calibrated_model_id"]}
    assert (shown["name"], shown["default_version"], shown["versions"]) == ("sharp", 1, versions)
    assert json.loads(here("names", "show", "sharp", "--json").stdout) == shown
    refused = here("models", "promote", "sharp", 7)
    assert (refused.returncode, refused.stderr) == (1, "fedlas: 'sharp' has the versions 1, not 7\n")


def test_a_closed_pipe_is_silent(calibrated: Path, variables: dict[str, str]) -> None:
    """`fedlas … | head` says nothing on stderr."""
    process = subprocess.Popen(
        [*COMMAND, "report", job_of(calibrated)["id"], "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


def test_no_process_of_the_service_shows_its_keys(service: Service) -> None:
    """In /proc, where it is seen what a process started with, only those that start it or check keys have them."""
    pids = {service.process.pid, *descendants_of(service.process.pid)}
    environments = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in pids}
    assert {service.pid(part) for part in ("control", "serving-1", "acceptor", "worker", "worker-light")} < pids
    holding = {pid for pid, environment in environments.items() if KEY.encode() in environment}
    assert holding <= {service.process.pid, service.pid("control")}
    assert service.process.pid in holding


def test_the_data_folder_is_its_owners(service: Service, calibrated: Path) -> None:
    """Whatever the umask, nobody else reads what a service that has done a job has: records, uploads, report, log."""
    assert {"run", "work", "served", "control.pid"} < {path.name for path in service.data_dir.rglob("*")}
    assert open_to_others(service.data_dir) == []


def test_keys_are_created_listed_and_revoked(service: Service, here: Here) -> None:
    """A key of one model predicts with it and reads nothing, until it is revoked; predict servers know it at once.

    Behind the wall: that keys get there and end there is what no call of a function shows.
    """
    created = here("keys", "create", "web", "--scope", "predict", "--model", "digits", "--days", "1", "--json")
    made = json.loads(created.stdout)
    assert (made["scopes"], made["models"]) == (["predict"], ["digits"])
    holder = {"Authorization": f"Bearer {made['key']}"}

    def statuses() -> list[int]:
        asked = [service.client.get("/v1/models", headers=holder)]
        for model in ("digits", "others"):
            path = f"/v1/models/{model}/predict"
            asked += [service.client.post(path, json={"inputs": [[0.0]]}, headers=holder) for _ in range(4)]
        return sorted({answer.status_code for answer in asked})

    assert statuses() == [403, 404]  # no model has the name yet
    listed = json.loads(here("keys", "ls", "--json").stdout)
    assert listed == [{name: value for name, value in made.items() if name != "key"}]
    assert here("keys", "create", "quiet", "--scope", "read", "-q").stdout.startswith("fedlas_")
    assert here("keys", "revoke", made["id"], "--yes").returncode == 0
    until(lambda: statuses() == [401], what="the key is refused everywhere")
    refused = here("keys", "create", "web", "--scope", "all")
    assert (refused.returncode, "scopes" in refused.stderr) == (1, True)


def test_scores_are_calibrated_as_in_this_process(
    service: Service, calibrated: Path, here: Here, tmp_path: Path
) -> None:
    """A file of scores has the sentences of `--local`, and the name that it is published as answers scores."""
    file = tmp_path / "scores.csv"
    file.write_text(judged_csv(*judged_rows(400, seed=12)))
    options = ("--max-error", 0.15, "--publish-as", "cli-judge", "--report", tmp_path / "judge.json")
    done = here("calibrate", file, *options)
    assert (done.returncode, done.stdout) == (0, here("calibrate", file, *options[:2], "--local").stdout)
    page, published = done.stderr.splitlines()[-2:]
    calibrator = here("calibrators", "ls", "-n", 1, "-q").stdout.strip()
    assert page == f"{service.client.base_url}/calibrators/{calibrator}"
    assert published == "cli-judge answers with it, version 1"
    assert json.loads((tmp_path / "judge.json").read_text())["promise"]["sentence"] == done.stdout.splitlines()[0]
    answers = here("calibrators", "predict", "cli-judge", 9.5, "nan").stdout.splitlines()
    assert [line.split("\t")[4] for line in answers] == ["yes", "no"]
    rows, taken = stored(service), "expected another name"
    refused = here("calibrate", "sharp.onnx", "many.npz", "--publish-as", "cli-judge")
    assert (refused.returncode, refused.stdout, stored(service)) == (1, "", rows)
    assert refused.stderr == f"fedlas: publish_as is 'cli-judge', whose versions take scores and no rows; {taken}\n"
    refused = here("calibrate", file, "--publish-as", "sharp")
    assert (refused.returncode, refused.stdout, stored(service)) == (1, "", rows)
    assert refused.stderr == f"fedlas: publish_as is 'sharp', whose versions take rows and no scores; {taken}\n"


def stored(service: Service) -> list[tuple[Any, ...]]:
    """How many files of each kind have been uploaded."""
    return [
        row for kind in ("models", "datasets", "calibrators") for row in service.rows(f"SELECT count(*) FROM {kind}")
    ]
