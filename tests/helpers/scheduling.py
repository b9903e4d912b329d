"""How tests are dealt out: together what shares a service, first what takes longest (`pytest --durations` says)."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

#: Folders whose tests share what takes seconds to make: each is run by one process.
TOGETHER = ("tests/e2e", "tests/web", "tests/fedlas/cli", "tests/fedlas/client")

#: Files of these that start all services that they need.
APART = ("tests/e2e/test_kills.py", "tests/e2e/test_serving.py")

#: Folders and files that take longest, in this order.
FIRST = (
    *TOGETHER,
    *APART,
    "tests/docs/test_code_blocks.py",
    "tests/examples/test_services.py",
    "tests/packaging/test_wheel.py",
    "tests/worker/inside/test_hard_data.py",
    "tests/corpus/test_corpus.py",
    "tests/worker/inside/test_resume.py",
    "tests/fedlas/importers/test_whole_graphs.py",
    "tests/fedlas/importers/onnx/test_loading.py",
    "tests/fedlas/export/test_ensemble_export.py",
    "tests/service/api/test_calibrators.py",
    "tests/fedlas/importers/onnx/train/test_weights.py",
    "tests/service/api/test_batches.py",
    "tests/examples/test_examples.py",
    "tests/weight/test_hanging.py",
)


def unit_of(nodeid: str) -> str:
    """The folder or file whose tests are run by one process.

    >>> unit_of("tests/e2e/test_images.py::test_images[a::b]"), unit_of("service/cli.py::service.cli")
    ('tests/e2e', 'service/cli.py')
    """
    path = nodeid.split("::", 1)[0]
    if path in APART:
        return path
    return next((folder for folder in TOGETHER if path.startswith(f"{folder}/")), path)


def rank_of(nodeid: str) -> int:
    """Where its folder or file stands in `FIRST`, or behind all of these."""
    unit = unit_of(nodeid)
    return FIRST.index(unit) if unit in FIRST else len(FIRST)


class LongestFirst(LoadFileScheduling):
    """`--dist loadfile`, which would begin with the files that have most tests; most of these take no time at all."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)
        self.config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
