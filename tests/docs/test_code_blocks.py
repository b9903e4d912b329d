"""Every code block of README and docs does what its page says, against one running service."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.code_blocks import ROOT, Block, Walk, blocks_of
from tests.helpers.service import Service, serving
from tests.helpers.uploads import Uploads

DOCS = ROOT / "docs"
TUTORIAL = [DOCS / "tutorial" / f"{day}.md" for day in ("monday", "tuesday", "wednesday", "thursday", "friday")]
#: Read where `[standalone]` is installed and nothing else, by `tests.packaging.readme`.
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
#: Pages that ask a running service; all others are read in a moment.
ASKING = ("127.0.0.1:8000", "Client()", "fedlas.client", "fedlas calibrate", "fedlas predict")
#: Reasons to leave a block out, with their counts.
NOT_RUN = {
    "installs a build of PyTorch": 1,
    "it installs the project": 1,
    "a part of a module that does not exist": 5,
    "it names tests of a change that was not made": 2,
    "installs the project; the tests run where it is installed": 1,
    "they install the project, run tests, and begin a service that does not end": 1,
    "they install the project and run all of its checks": 1,
    "starts workers on three machines": 1,
    "asks running workers": 1,
    "backs up a data folder that runs elsewhere": 1,
    "prepares servers on another machine": 1,
    "settings of the machines": 1,
    "needs that file": 1,
    "serves until it is stopped": 1,
    "a unit of systemd": 1,
    "needs Docker": 2,
    "needs a cluster": 1,
    "needs a collector of traces": 1,
}


def walks(*, asking: bool) -> list[object]:
    """One parameter for each page that has something to run; the tutorial is one, since a day uses the one before."""
    found: list[object] = []
    for pages in [TUTORIAL, *([page] for page in PAGES if page not in TUTORIAL)]:
        blocks = [block for page in pages if page != README for block in blocks_of(page) if block.reason is None]
        name = "tutorial" if pages is TUTORIAL else str(pages[0].relative_to(ROOT))
        if blocks and asking is any(word in block.text for block in blocks for word in ASKING):
            found.append(pytest.param(blocks, id=name))
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service that all pages talk to."""
    with serving(tmp_path_factory.mktemp("documents") / "data") as running:
        yield running


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(900)  # a week of jobs, on a machine that has other work
@pytest.mark.parametrize("blocks", walks(asking=True))
def test_blocks_do_what_their_page_says(
    blocks: list[Block], service: Service, uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks run in their order, and print what is shown below them."""
    url = service.client.base_url
    monkeypatch.setenv("FEDLAS_URL", f"http://{url.host}:{url.port}")
    reader = Walk(tmp_path, f"{url.host}:{url.port}", uploads)
    for block in blocks:
        reader.run(block)
    reader.names.clear()
    gc.collect()  # pages leave their connections to the end of the program, which is here


@pytest.mark.parametrize("blocks", walks(asking=False))
def test_blocks_that_need_no_service_do_what_their_page_says(
    blocks: list[Block], uploads: Uploads, tmp_path: Path
) -> None:
    """A block that needs no service prints the output on its page."""
    reader = Walk(tmp_path, "127.0.0.1:8000", uploads)
    for block in blocks:
        reader.run(block)


def test_what_is_not_run_says_why() -> None:
    """A block is left out for one of a few reasons, and how often each is used is known."""
    reasons = [block.reason for page in PAGES for block in blocks_of(page) if block.reason is not None]
    assert {reason: reasons.count(reason) for reason in sorted(set(reasons))} == dict(sorted(NOT_RUN.items()))


def test_a_wrong_output_is_found(tmp_path: Path, uploads: Uploads) -> None:
    """An output on a page equals the printed one; `…` stands for anything, and decimals may be a tenth off."""
    reader = Walk(tmp_path, "127.0.0.1:8000", uploads)
    reader.run(Block("python", "x = 1.25\nprint(x)", "page:1", output="1.…\n"))
    reader.run(Block("bash", "y=2; mkdir sub; cd sub", "page:2"))
    reader.run(Block("bash", "echo $y; basename $PWD", "page:3", output="2\nsub\n"))
    for block in (Block("python", "print(x)", "page:4", output="1.5"), Block("bash", "false", "page:5")):
        with pytest.raises(AssertionError, match="page:"):
            reader.run(block)
