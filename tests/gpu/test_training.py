"""Training on a card: as on the CPU, without waiting for it, in bfloat16, and with less memory than a batch takes."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fedlas.training.fit", exc_type=ImportError)

from fedlas.errors import DeviceTooSmall
from fedlas.losses import CrossEntropyLoss, FedLASLoss
from fedlas.training.computation import TrainingForward
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import TrainConfig, TrainingOptions
from tests.gpu.networks import WithFeatures, rows, small

pytestmark = pytest.mark.gpu
Figure = Callable[[str, str, str], None]
CONFIG = TrainConfig(epochs=4, batch_size=64, learning_rate=0.05)


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """Kernels that add up in a fixed order, as in a job."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def nll(network: WithFeatures, device: Any) -> float:
    inputs, targets = rows()
    logits = torch.from_numpy(predict_logits(network, inputs, device=device)[0])
    return float(torch.nn.functional.cross_entropy(logits, targets))


def trained(device: Any, precision: str = "float32", **kwargs: Any) -> WithFeatures:
    inputs, targets = rows()
    network = kwargs.pop("network", None) or small()
    options = TrainingOptions(precision=precision, **kwargs)  # type: ignore[arg-type]
    torch.manual_seed(0)  # the gate of the loss
    assert not fit(network, FedLASLoss(10), inputs, targets, CONFIG, options, device=device).diverged
    return network


def test_predictions_are_those_of_the_cpu(card: Any, figure: Figure) -> None:
    """Logits and features in float32 differ by rounding alone: 1e-4 of the largest, where TF32 would give 1e-3."""
    network, (inputs, _) = small(), rows()
    for name, ours, theirs in zip(
        ("logits", "features"),
        predict_logits(network, inputs, device=card),
        predict_logits(network, inputs, device="cpu"),
        strict=True,
    ):
        difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        figure(f"largest difference of {name} from the CPU", f"{difference:.1e}", "≤ 1e-4")
        assert difference <= 1e-4


def test_training_ends_as_on_the_cpu(card: Any, figure: Figure) -> None:
    """FedLAS in float32 ends with the NLL of the CPU within 2 %, in bfloat16 within 5 %, having learnt something."""
    on_cpu = nll(trained("cpu"), "cpu")
    assert on_cpu < 0.5 * math.log(10)
    for precision, tolerance in (("float32", 0.02), ("bfloat16", 0.05)):
        on_card = nll(trained(card, precision), card)
        figure(f"NLL after training, {precision}", f"{on_card:.4f}, CPU {on_cpu:.4f}", f"± {tolerance:.0%}")
        assert on_card == pytest.approx(on_cpu, rel=tolerance)


def test_training_repeats_itself(card: Any) -> None:
    """Twice the same job ends with the same bits, dropout included, in bfloat16."""
    first, second = (trained(card, "auto", network=small(dropout=0.2)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


class Saved:
    """Checkpoints in memory, of a training that ends in its second epoch."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def last(self) -> Any:
        return self.state

    def save(self, state: Callable[[], Any]) -> None:
        self.state = copy.deepcopy(state())


def test_training_goes_on_with_the_same_bits(card: Any) -> None:
    """A training that is interrupted in its third epoch and goes on from its checkpoint ends as if it had not been."""

    def interrupt(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    saved = Saved()
    with pytest.raises(KeyboardInterrupt):
        trained(card, "auto", network=small(dropout=0.2), checkpoints=saved, on_share=interrupt)
    again = trained(card, "auto", network=small(dropout=0.2), checkpoints=Saved(saved.state)).state_dict()
    whole = trained(card, "auto", network=small(dropout=0.2)).state_dict()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@contextmanager
def waiting_is_an_error() -> Iterator[Callable[[float], None]]:
    """A callback after each step that forbids to wait for the card between the first and last step of an epoch."""
    steps = 512 // 64

    def between(share: float) -> None:
        step = round(share * CONFIG.epochs * steps) % steps
        torch.cuda.set_sync_debug_mode("error" if step else "default")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*prototype feature.*")
        try:
            yield between
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("imported", [False, True])
def test_no_step_waits_for_the_card(card: Any, imported: bool, tmp_path: Any) -> None:
    """Within an epoch nothing is read from the card, neither for a network of PyTorch nor for one that was imported."""
    network: Any = small()
    if imported:
        network = exported(network, tmp_path)
    with waiting_is_an_error() as between:
        trained(card, "auto", network=network, on_share=between)


def exported(network: WithFeatures, folder: Any) -> Any:
    pytest.importorskip("onnx")
    from fedlas.importers import load_onnx

    class LogitsOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            return self.network(images)[0]

    file = folder / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs nothing but PyTorch is the older one, and says so
        torch.onnx.export(
            LogitsOnly().eval(),
            (rows(2)[0][0],),
            str(file),
            dynamo=False,
            input_names=["images"],
            dynamic_axes={"images": {0: "N"}},
        )
    return load_onnx(file)


def test_a_card_computes_in_bfloat16(card: Any) -> None:
    """The default is bfloat16 with channels last, and what leaves the network is float32; so are its gradients."""
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this card has no bfloat16")
    network, (inputs, targets) = small().to(card).train(), rows(64)
    on_card = inputs[0].to(card)
    forward = TrainingForward(network, card, "auto", sample=lambda: [on_card[:2]])
    seen: list[Any] = []
    network.body[0].register_forward_hook(lambda module, given, maps: seen.append(maps))
    logits, features = forward(on_card)
    FedLASLoss(10).to(card)(logits, targets.to(card), features).backward()
    assert (seen[-1].dtype, seen[-1].is_contiguous(memory_format=torch.channels_last)) == (torch.bfloat16, True)
    assert {t.dtype for t in (logits, features, *(p.grad for p in network.parameters()))} == {torch.float32}


def test_a_batch_too_large_for_the_card_is_computed_in_parts(card: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With memory for less than a batch a training ends where it ends with enough; with none, it says what helps."""
    network, config = small(width=256), TrainConfig(epochs=1, batch_size=256, learning_rate=0.01)
    inputs, targets = rows()
    free, total = torch.cuda.mem_get_info()
    ended = []
    for most_bytes in (free, 400 * 1024**2, 20 * 1024**2):
        own, options = copy.deepcopy(network), TrainingOptions(precision="float32")
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, most_bytes / total))
        with caplog.at_level(logging.INFO, "fedlas.training"):
            if most_bytes < 100 * 1024**2:
                with pytest.raises(DeviceTooSmall, match="does not hold one row of this network"):
                    fit(own, CrossEntropyLoss(), inputs, targets, config, options, device=card)
            else:
                fit(own, CrossEntropyLoss(), inputs, targets, config, options, device=card)
                torch.cuda.set_per_process_memory_fraction(1.0)
                ended.append(predict_logits(own, inputs, device=card)[0])
    assert "rows at once" in caplog.text
    np.testing.assert_allclose(ended[1], ended[0], atol=1e-3 * math.ceil(np.abs(ended[0]).max()))
