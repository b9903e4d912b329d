"""Every code block of README and docs does what its page says, against one running service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.code_blocks import ROOT, Block, Walk, blocks_of
from tests.helpers.service import Service, serving
from tests.helpers.uploads import Uploads

DOCS = ROOT / "docs"
TUTORIAL = [DOCS / "tutorial" / f"{day}.md" for day in ("monday", "tuesday", "wednesday", "thursday", "friday")]
#: Pages that are read one after the other, in one folder; every other page is read alone.
WALKS = [TUTORIAL, *([page] for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))] if page not in TUTORIAL)]
#: Walks without a job, which take a second.
QUICK: set[str] = set()


def runnable(walk: list[Path]) -> list[Block]:
    """The blocks that run, of all pages of a walk."""
    return [block for page in walk for block in blocks_of(page) if block.reason is None]


def walks() -> Iterator[object]:
    """One parameter for each walk that has something to run."""
    for walk in WALKS:
        name = "tutorial" if walk is TUTORIAL else str(walk[0].relative_to(ROOT))
        if blocks := runnable(walk):
            yield pytest.param(blocks, id=name, marks=[] if name in QUICK else [pytest.mark.slow])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service that all pages talk to."""
    with serving(tmp_path_factory.mktemp("documents") / "data") as running:
        yield running


@pytest.mark.parametrize("blocks", walks())
def test_blocks_do_what_their_page_says(
    blocks: list[Block], service: Service, uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks run in their order, and print what is shown below them."""
    url = service.client.base_url
    monkeypatch.setenv("FEDLAS_URL", f"http://{url.host}:{url.port}")
    reader = Walk(tmp_path, f"{url.host}:{url.port}", uploads)
    for block in blocks:
        reader.run(block)
