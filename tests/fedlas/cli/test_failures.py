"""Exit codes, and what is wrong with a command, a file or a server: one sentence on stderr, and never a traceback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fedlas.cli.failures import TABLE, CommandError, Require, code_of_job, code_of_verdict
from fedlas.cli.options import require_columns, require_writable
from tests.fedlas.cli.conftest import Here
from tests.helpers.command_line import COMMAND, drawn_rows, fedlas
from tests.helpers.judges import judged_csv, judged_rows
from tests.helpers.uploads import npz

pytestmark = pytest.mark.slow

FOUND: dict[str, dict[str, Any]] = {
    "beats what is simpler, too": {"verdict": "trained", "significant": True, "beats_simpler": True},
    "calibrated, and significant": {"verdict": "trained", "significant": True, "beats_simpler": False},
    "calibrated, not significant": {"verdict": "post_hoc", "significant": False},
    "unchanged": {"verdict": "unchanged", "significant": False},
    "undetermined": {"verdict": "undetermined", "significant": False},
}


@pytest.mark.parametrize("line", TABLE.splitlines()[2:])
def test_the_table_of_the_help_is_what_happens(line: str) -> None:
    """Every line of the table in the help gives the codes of all columns, of a report as of a job."""
    *words, of_any, of_calibrated, of_significant, of_simpler = line.split()
    codes, what = {"any": of_any, "calibrated": of_calibrated, "significant": of_significant}, " ".join(words)
    codes["beats-simpler"] = of_simpler
    for require, code in codes.items():
        if what in FOUND:
            job = {**FOUND[what], "status": "succeeded", "dry_run": False}
            assert code_of_verdict(FOUND[what], Require(require)) == int(code)
        else:
            job = {"status": "failed", "error": {"user_error": "ours" not in what}}
        assert code_of_job(job, Require(require)) == int(code)


def test_what_is_the_simplest_itself_has_nothing_simpler_to_beat() -> None:
    """A calibrator alone, and a report of one score, which has no such field, pass `beats-simpler`."""
    for judged in ({"verdict": "post_hoc", "significant": True, "beats_simpler": None}, {"verdict": "calibrated"}):
        assert code_of_verdict(judged, Require.beats_simpler) == 0


@pytest.mark.parametrize(("fails_with", "code"), [(None, 0), ("label_order", 1)])
def test_a_dry_run_fails_where_its_job_would(fails_with: str | None, code: int) -> None:
    """A plan that names the code with which the job would fail is the user's error."""
    job = {"status": "succeeded", "dry_run": True, "plan": {"fails_with": fails_with}}
    assert code_of_job(job, Require.any) == code
    assert code_of_job({"status": "cancelled"}, Require.any) == 1


@pytest.fixture(scope="module")
def bad(files: Path) -> Path:
    """The folder of the files, with bad ones among them."""
    rows, labels, split = drawn_rows(test=600)
    (files / "float.npz").write_bytes(npz(x=rows, label=labels + 0.5, split=split))
    (files / "empty.csv").write_text("a,b,c,label\n")
    (files / "zero.csv").write_text("")
    (files / "judged.csv").write_text(judged_csv(*judged_rows(400, seed=12)))
    (files / "words.csv").write_text('"a";"b, c";"label"\n0;1;yes\n')
    (files / "wide.json").write_text("[[1, 2]]")
    model = onnx.load(files / "sharp.onnx")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), np.nan), tensor.name))
    onnx.save(model, files / "nan.onnx")
    return files


def one_sentence(stderr: str) -> str:
    """The only line on stderr that is ours, without its beginning."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("fedlas: ")]
    assert len(lines) == 1, stderr
    return lines[0].removeprefix("fedlas: ")


@pytest.mark.parametrize("where", [pytest.param([], marks=pytest.mark.slow), ["--local"]])
@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("no.onnx", "many.npz", "no.onnx: there is no such file"),
        ("sharp.onnx", "no.npz", "no.npz: there is no such file"),
        (".", "many.npz", ". is a folder, expected a file"),
        ("sharp.onnx", ".", ". is a folder, expected a file"),
        ("nan.onnx", "many.npz", "nan.onnx: "),
        ("sharp.onnx", "float.npz", "float.npz: 'label' is "),
        ("sharp.onnx", "empty.csv", "empty.csv: the csv file has a header but no rows"),
        ("many.npz", "sharp.onnx", "many.npz: the file is an npz archive of arrays: rows or scores, and no model"),
    ],
)
def test_files_that_cannot_be_used(bad: Path, here: Here, model: str, data: str, said: str, where: list[str]) -> None:
    """The sentence names the file and what is wrong with it, with a server as without one."""
    done = here("calibrate", model, data, *where)
    assert (done.returncode, done.stdout) == (1, "")
    assert one_sentence(done.stderr).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("jobs show job_0", "there is no job 'job_0'"),
        ("report job_0", "there is no job 'job_0'"),
        ("models download nobody", "there is no model with the id or published name 'nobody'"),
        ("predict nobody wide.json", "there is no model with the id or published name 'nobody'"),
        ("predict sharp no.json", "no.json: there is no such file"),
        ("predict sharp.onnx wide.json", "sharp.onnx is not a calibrated file"),
        ("calibrate sharp.onnx many.npz --out /nowhere/m.onnx", "/nowhere/m.onnx: there is no folder /nowhere"),
        ("calibrate sharp.onnx many.npz --local --publish-as x", "publish_as needs a service"),
        ("calibrate sharp.onnx many.npz --out /dev/null", "/dev/null: is no ordinary file"),
        ("calibrate sharp.onnx ds_0", "there is no dataset 'ds_0'"),
        ("calibrate mdl_0 many.npz", "there is no model 'mdl_0'"),
        ("calibrate sharp.onnx words.csv --role group=patient", "words.csv: --role group=patient names no column; the"),
        ("models download sharp --out /dev/null", "/dev/null: is no ordinary file"),
        ("jobs ls --url ftp://x", "'ftp://x' is no URL of a server"),
        ("jobs ls --url http://127.0.0.1:1", "no connection to http://127.0.0.1:1"),
        ("jobs ls --key wrong", "the service was given no key, or none that it knows"),
        ("jobs ls --profile nobody", "there is no profile 'nobody'"),
        ("serve --port 99999", "FEDLAS_PORT: Input should be less than or equal to 65535, found 99999"),
    ],
)
def test_input_that_cannot_be_used(bad: Path, here: Here, arguments: str, said: str) -> None:
    """A file, an id, a key or a URL that is wrong has exit code 1, and the sentence says what is needed."""
    done = here(*arguments.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert one_sentence(done.stderr).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("predict a.png wide.json --format json -q", "only one form can be printed at a time, not json and quiet"),
        ("jobs ls --limit x", "Invalid value for '--limit' / '-n': 'x' is not a valid int range."),
        ("jobs ls --nope", "No such option: --nope"),
        ("batches ls --name x", "No such option: --name"),
        ("jobz", "No such command 'jobz'. Did you mean 'jobs'?"),
        ("calibrate sharp.onnx", "Missing argument 'DATA',"),
        ("calibrate sharp.onnx many.npz --watch", "No such option: --watch"),
        ("calibrate sharp.onnx many.npz --seen-by-model maybe", "Invalid value for '--seen-by-model'"),
        ("calibrate sharp.onnx many.npz --report r.pdf", "r.pdf: the name must end in .html or .json"),
        ("calibrate sharp.onnx many.npz --budget soon", "--budget: budget is 'soon'; expected minutes above 0"),
        ("calibrate sharp.onnx many.npz --role label", "--role needs ROLE=COLUMN, found 'label'"),
        ("calibrate sharp.onnx many.npz --role lable=y", "--role has no 'lable'; there are group, id, label, slices,"),
        (
            "datasets upload many.npz --role lable=y",
            "--role has no 'lable'; there are group, id, label, slices, split,",
        ),
        ("calibrate sharp.onnx many.npz --class-names a,a", "--class-names is 'a,a'; expected two or more different"),
        (
            "calibrate sharp.onnx many.npz --publish-as a/b",
            "publish_as: a published name is a letter or digit, then up to",
        ),
        ("calibrate sharp.onnx many.npz --publish-as mdl_1", "publish_as: a published name must not look like an id"),
        ("calibrate sharp.onnx many.npz --accept-warning few", "accept_warnings.0: Input should be 'label_order',"),
        ('calibrate sharp.onnx many.npz --class-priors {"a":0.2}', "class_priors: class priors must sum to 1; these"),
        ("calibrate judged.csv --publish-as a/b", "publish_as: a published name is a letter or digit, then up to"),
        ("calibrate judged.csv --max-error 1", "promise.max_error: Input should be less than or equal to 0.9999"),
        ("calibrate sharp.onnx many.npz --job [1]", "--job needs a JSON object, found list"),
        ("calibrate sharp.onnx many.npz --local --dry-run", "--dry-run asks a service; it does not go with --local"),
        ("calibrate sharp.onnx many.npz --require significant --dry-run", "--dry-run has no result for --require"),
        ("calibrate sharp.onnx many.npz --out m.onnx --detach", "--detach has no result for --out"),
        ("calibrate mdl_0 ds_0 --seen-by-model no", "seen_by_model belongs to a file that is sent"),
        ('calibrate mdl_0 ds_0 --job {"budget":"often"}', "--job: budget is 'often'; expected minutes above 0"),
        ('calibrate mdl_0 ds_0 --job {"seed":NaN}', "--job needs a JSON object, or @FILE with one: NaN is no number"),
        ('calibrate mdl_0 ds_0 --job {"sed":1}', "--job has no 'sed'; there are accelerator, accept_warnings, budget"),
        ("models upload sharp.onnx -o name=x", "--option has no 'name'; there are architecture, class_names"),
        ("calibrate sharp.onnx many.npz --model-option nope=1", "--model-option has no 'nope'; there are architecture"),
    ],
)
def test_commands_that_cannot_be_followed(bad: Path, here: Here, arguments: str, said: str) -> None:
    """A wrong command line has exit code 2, and nothing is asked of any service; a misspelt option is named."""
    done = here(*arguments.split(), "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert one_sentence(done.stderr).startswith(said)


def test_columns_of_a_csv_file_are_found_however_they_are_written(tmp_path: Path) -> None:
    """Semicolons, quotes and a column name over two lines are no reason to refuse; an empty file is the service's."""
    file = tmp_path / "rows.csv"
    for header in ("a;label;my group\n", '"a","my ""b""","my group"\n', '"a\nb","my group"\n', "", "\n\na,my group\n"):
        file.write_text(header)
        require_columns(file, {"group": "my group"})
    file.write_text('"a","my ""b"""\n')
    require_columns(file, {"label": 'my "b"'})
    with pytest.raises(CommandError, match="--role label=c names no column; the first line is"):
        require_columns(file, {"label": "c"})


def test_a_secret_is_not_repeated(here: Here) -> None:
    """The error of a webhook does not repeat its secret, wherever that stands."""
    for webhook in ('{"url":"https://example.org","secret":"hush"}', '"hush"'):
        done = here("calibrate", "sharp.onnx", "many.npz", "--job", f'{{"webhook":{webhook}}}')
        assert (done.returncode, "hush" in done.stderr) == (2, False)
        assert one_sentence(done.stderr).startswith("webhook")


def test_a_folder_that_is_somebody_elses_is_found_before_the_work(tmp_path: Path) -> None:
    """Where this user may not write, nothing is begun; root may everywhere, and is somebody else for a moment."""
    tmp_path.chmod(0o500)
    root = os.geteuid() == 0
    try:
        if root:
            os.setresuid(65534, 0, 0)
        with pytest.raises(CommandError, match=f"m.onnx: nothing may be written into folder {tmp_path}"):
            require_writable(tmp_path / "m.onnx")
    finally:
        if root:
            os.setresuid(0, 0, 0)


def test_debug_shows_where(here: Here) -> None:
    """With --debug the traceback stands before the sentence."""
    done = here("jobs", "ls", "--url", "ftp://x", "--debug")
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("fedlas: 'ftp://x' is no URL of a server")


def test_a_full_disk_is_a_sentence(calibrated: Path, variables: dict[str, str]) -> None:
    """A stdout that is full is a sentence."""
    done = fedlas("models", "ls", command=["sh", "-c", '"$@" > /dev/full', "sh", *COMMAND], variables=variables)
    full = "stdout: no space is left on the disk, so the file could not be written"
    assert (done.returncode, one_sentence(done.stderr)) == (1, full)
