"""README as somebody reads it who has installed `[standalone]` alone: all of its blocks, against `fedlas serve`.

`.ci/run` runs it before the tools of development are there. Other pages may be named:

    python -m tests.packaging.readme
    python -m tests.packaging.readme docs/tutorial/{monday,tuesday,wednesday,thursday,friday}.md
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.helpers.code_blocks import ROOT, Walk, blocks_of, environment
from tests.helpers.processes import free_port, until
from tests.helpers.uploads import Uploads


def main(*pages: str) -> None:
    """Run the blocks in their order; the first that does not do what its page says ends it with an error."""
    blocks = [block for page in pages or ["README.md"] for block in blocks_of(ROOT / page) if block.reason is None]
    address, program = f"127.0.0.1:{free_port()}", (sys.executable, "-m", "fedlas.cli")
    with (
        tempfile.TemporaryDirectory(prefix="fedlas-readme-") as folder,
        serving(address, Path(folder), program, environment(address)),
    ):
        (Path(folder) / "week").mkdir()
        os.environ["FEDLAS_URL"] = f"http://{address}"
        reader = Walk(Path(folder) / "week", address, Uploads())
        for block in blocks:
            reader.run(block)
        reader.names.clear()  # its clients have connections to the service
    print(f"{len(blocks)} blocks do what their pages say")


@contextmanager
def serving(address: str, folder: Path, program: Iterable[str], variables: Mapping[str, str]) -> Iterator[None]:
    """Within the block, `fedlas serve` of this program is ready at the address."""
    command = [*program, "serve", "--port", address.rpartition(":")[2]]
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
    try:
        until(lambda: _is_ready(address), what=f"{address} is ready; its log: {folder / 'serve.log'}")
        yield
    finally:
        server.terminate()
        server.wait()


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
