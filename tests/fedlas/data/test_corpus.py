"""The bad tables of the corpus, all read by one process that may not use more than a gigabyte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus.tables import CASES

GIGABYTE = 1 << 30
#: Reads every file with the options that the service would pass on, and says what it was answered.
CHILD = """
import json, resource, sys
from pathlib import Path
from fedlas.data import ReadingOptions, read_dataset
from fedlas.errors import BadDataset
from tests.corpus.tables import CASES

folder, ending = Path(sys.argv[1]), sys.argv[2]
free = Path("/proc/self/statm").read_text().split()
limit = int(free[0]) * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
answers = {}
for i, case in enumerate(case for case in CASES if case.name.startswith(ending + ":")):
    place = folder / str(i)
    scratch = place / "scratch"
    scratch.mkdir(parents=True)
    path = case.make(place)
    options = {name: json.loads(value) if value[0] in "{[" else value for name, value in case.options.items()}
    try:
        read_dataset(path, ReadingOptions(**options), scratch=scratch)
        answers[case.name] = "ready"
    except BadDataset as error:
        answers[case.name] = error.code
    except Exception as error:
        answers[case.name] = repr(error)
    path.unlink()
    if answers[case.name] != "ready" and any(scratch.iterdir()):
        answers[case.name] += ", but a file was left behind"
# Not `ru_maxrss`: after a fork that is the parent's to begin with.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"answers": answers, "peak": peak * 1024}))
"""


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
def test_every_bad_table_is_answered_within_a_gigabyte(ending: str, tmp_path: Path) -> None:
    """Each file of the corpus gets one of its codes, leaves nothing behind, and takes less than a gigabyte."""
    command = [sys.executable, "-c", CHILD, str(tmp_path), ending]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    told = json.loads(child.stdout)
    expected = {case.name: case.codes for case in CASES if case.name.startswith(f"{ending}:")}
    answers = told["answers"]
    assert answers.keys() == expected.keys()
    assert not {name: (code, expected[name]) for name, code in answers.items() if code not in expected[name]}
    assert told["peak"] < GIGABYTE
