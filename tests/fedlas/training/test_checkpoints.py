"""A training that is broken off after any epoch and goes on from its state ends with the same bits."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlas.race.candidates import DEFAULTS, TRAINED, Candidate, make_loss
from fedlas.training.checkpoints import State, read_state, write_state
from fedlas.training.fit import fit
from fedlas.training.loop import EpochResult, FitResult, Optimizer, Scope, TrainConfig, TrainingOptions
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier

Bits = dict[str, bytes]
EPOCHS = 4


class Stop(Exception):
    """Somebody pulls the plug."""


class Files:
    """Checkpoints in a file, written and read as a race does it; after so many saves somebody pulls the plug."""

    def __init__(self, path: Path, *, saves: int | None = None) -> None:
        self.path, self._left = path, saves

    def last(self) -> State | None:
        return read_state(self.path) if self.path.exists() else None

    def save(self, state: Callable[[], State]) -> None:
        write_state(self.path, state())
        self._left = None if self._left is None else self._left - 1
        if self._left == 0:
            raise Stop


class NormedClassifier(SmallClassifier):
    """With running statistics, and with dropout, which draws random numbers."""

    def __init__(self) -> None:
        super().__init__(64, 10, dropout=0.3)
        self.norm = nn.BatchNorm1d(32)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.dropout(torch.relu(self.norm(self.hidden(inputs[0]))))
        return self.out(features), features


def bits(*modules: nn.Module) -> Bits:
    """Every weight and buffer, bit by bit."""
    return {f"{i}.{name}": t.numpy().tobytes() for i, m in enumerate(modules) for name, t in m.state_dict().items()}


def without_seconds(history: list[EpochResult]) -> list[tuple[int, int, float]]:
    """The results of each epoch, whatever the clock says."""
    return [(one.epoch, one.epochs, one.loss) for one in history]


def stopping_after(epoch: int | None, seen: list[EpochResult]) -> Callable[[EpochResult], None]:
    """An `on_epoch` that remembers and stops."""

    def on_epoch(result: EpochResult) -> None:
        seen.append(result)
        if result.epoch == epoch:
            raise Stop

    return on_epoch


def a_loss(method: str, classes: int = 10) -> nn.Module:
    return make_loss(Candidate(method, 0.1, **DEFAULTS[method]), classes, seed=1)


def check_every_break(
    tmp_path: Path, train: Callable[[nn.Module, nn.Module, Any, Any], object], make: Callable[[], tuple[Any, Any]]
) -> None:
    """Broken off after each epoch, each time gone on with fresh modules: bits, losses and no epoch twice."""
    seen: list[EpochResult] = []
    modules = make()
    train(*modules, None, stopping_after(None, seen))
    wanted, history = bits(*modules), without_seconds(seen)
    assert len(history) == EPOCHS
    assert bits(*make()) != wanted
    for epoch in range(1, EPOCHS + 1):
        path, seen = tmp_path / f"{epoch}.pt", []
        with pytest.raises(Stop):
            train(*make(), Files(path, saves=epoch), seen.append)
        modules = make()
        train(*modules, Files(path), seen.append)
        assert bits(*modules) == wanted, f"after epoch {epoch}"
        assert without_seconds(seen) == history
        assert [one.seconds for one in seen] == sorted(one.seconds for one in seen)


def training(
    scope: Scope = "all", optimizer: Optimizer = "sgd", weights: Any = None, **rows: Any
) -> Callable[..., FitResult]:
    """`fit` on the digits, as `check_every_break` calls it."""
    (inputs, targets), _, _ = noisy_digits()
    rate = 0.1 if optimizer == "sgd" else 0.01
    config = TrainConfig(EPOCHS, learning_rate=rate, weight_decay=0.01, seed=3, scope=scope, optimizer=optimizer)
    rows = {"inputs": inputs, "targets": targets, **rows}

    def train(network: Any, loss: nn.Module, checkpoints: Any, on_epoch: Any) -> FitResult:
        options = TrainingOptions(weights=weights, checkpoints=checkpoints, on_epoch=on_epoch)
        return fit(network, loss, config=config, options=options, **rows)

    return train


@pytest.mark.parametrize("method", TRAINED)
def test_every_loss_goes_on(tmp_path: Path, method: str) -> None:
    """With dropout and BatchNorm, whatever the loss: its gate and its statistics go on as well."""
    check_every_break(tmp_path, training(), lambda: (NormedClassifier(), a_loss(method)))


@pytest.mark.parametrize("method", ["fedlas", "cross_entropy"])
def test_adamw_goes_on(tmp_path: Path, method: str) -> None:
    """The moments of AdamW and its count of steps go on."""
    check_every_break(tmp_path, training(optimizer="adamw"), lambda: (NormedClassifier(), a_loss(method)))


@pytest.mark.parametrize("method", ["fedlas_plus", "cross_entropy"])
def test_a_head_goes_on(tmp_path: Path, method: str) -> None:
    """A head's state is its own weights, without the body's, and is all that is needed."""
    check_every_break(tmp_path, training("head"), lambda: (overconfident_classifier(), a_loss(method)))
    state = read_state(tmp_path / "1.pt")
    assert state is not None
    assert [tuple(tensor.shape) for tensor in state["modules"][0].values()] == [(10, 32), (10,)]


def test_sampling_by_weights_goes_on(tmp_path: Path) -> None:
    """Rows that are drawn are drawn on where the draw was."""
    weights = np.random.default_rng(0).random(900)
    check_every_break(tmp_path, training(weights=weights), lambda: (NormedClassifier(), a_loss("fedlas")))


def test_rows_on_disk_go_on(tmp_path: Path) -> None:
    """Rows that are read ahead from a file come in the same order."""
    (inputs, _), _, _ = noisy_digits()
    np.save(tmp_path / "x.npy", inputs[0])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    check_every_break(tmp_path, training(inputs=[mapped]), lambda: (NormedClassifier(), a_loss("fedlas_plus")))


def test_the_callers_random_state_is_kept(tmp_path: Path) -> None:
    """Going on draws nothing from the global random state and sets nothing there."""
    before, files = torch.get_rng_state(), Files(tmp_path / "s.pt")
    with pytest.raises(Stop):
        training()(NormedClassifier(), a_loss("fedlas"), files, stopping_after(2, []))
    training()(NormedClassifier(), a_loss("fedlas"), files, stopping_after(None, []))
    assert torch.equal(before, torch.get_rng_state())


def broken(state: State, how: str) -> State:
    """The state with something that does not fit."""
    state = copy.deepcopy(state)
    if how == "other network":
        state["modules"][0]["out.weight"] = torch.zeros(3, 32)
    elif how == "other momentum":
        state["optimizer"][0]["momentum_buffer"] = torch.zeros(1)
    elif how == "no order":
        del state["order"]
    else:
        state["random"] = torch.zeros(3, dtype=torch.uint8)
    return state


@pytest.mark.parametrize("how", ["other network", "other momentum", "no order", "other random numbers"])
def test_a_state_that_does_not_fit_changes_nothing(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """A state that does not fit is passed over with a line in the log: training goes as without it, bit by bit."""
    network, loss, files, seen = NormedClassifier(), a_loss("fedlas"), Files(tmp_path / "s.pt"), []
    with pytest.raises(Stop):
        training()(network, loss, files, stopping_after(2, []))
    kept = files.last()
    assert kept is not None
    write_state(files.path, broken(kept, how))
    plain, other = (NormedClassifier(), a_loss("fedlas")), (NormedClassifier(), a_loss("fedlas"))
    training()(*plain, None, stopping_after(None, []))
    with caplog.at_level(logging.WARNING, logger="fedlas.training.checkpoints"):
        training()(*other, files, stopping_after(None, seen))
    assert [one.epoch for one in seen] == list(range(1, EPOCHS + 1))
    assert bits(*other) == bits(*plain)
    assert "does not fit" in caplog.text


@pytest.mark.parametrize("content", [b"", b"PK no archive", b"\x80\x04."], ids=["empty", "damaged", "pickle"])
def test_a_file_that_is_no_state_is_nothing(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file is None, with a line in the log."""
    (tmp_path / "s.pt").write_bytes(content)
    assert read_state(tmp_path / "s.pt") is None
    assert "s.pt cannot be read" in caplog.text


class Loud:
    """A class whose code would run if files were unpickled."""

    def __reduce__(self) -> Any:
        return (Path("/tmp/never-made").touch, ())


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    """A pickle that calls something is refused."""
    torch.save({"state": Loud()}, tmp_path / "s.pt")
    assert read_state(tmp_path / "s.pt") is None
    assert not Path("/tmp/never-made").exists()


def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    """A write that fails is an OSError; the file before it is whole, and nothing else is left."""
    write_state(tmp_path / "s.pt", {"old": torch.arange(3)})
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from fedlas.training.checkpoints import write_state\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_state(Path(sys.argv[1]), {'new': torch.zeros(1_000_000)})\n"
        "except OSError as error:\n"
        "    print('refused')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "refused\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["s.pt"]
    state = read_state(tmp_path / "s.pt")
    assert state is not None
    assert state["old"].tolist() == [0, 1, 2]
