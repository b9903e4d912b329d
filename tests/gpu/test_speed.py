"""Figures of a card, for the table; no speed is asserted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fedlas.training.fit", exc_type=ImportError)

from fedlas.losses import CrossEntropyLoss, FedLASLoss
from fedlas.training.computation import BatchGradient, TrainingForward
from fedlas.training.loop import TrainConfig, descend, optimizer_of
from tests.gpu.networks import WithFeatures

pytestmark = pytest.mark.gpu
ROUNDS = 30


def step_of(network: WithFeatures, loss: Any, batch: list[Any], device: Any) -> tuple[Callable[[], None], bool]:
    """A step as `fit` takes it, with the card awaited, and whether it is in bfloat16."""
    network.train()
    forward = TrainingForward(network, device, "auto", sample=lambda: [batch[0][:2]])
    gradient = BatchGradient(forward, loss.to(device).train(), device, len(batch[0]))
    optimizer = optimizer_of([network, loss], TrainConfig())

    def step() -> None:
        optimizer.zero_grad()
        gradient(batch, lambda *_: True)
        descend(optimizer, 1e-4, 2.0)
        torch.cuda.synchronize()

    return step, forward.half


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("vit_b_16", 768)])
def test_a_step_of_fedlas(card: Any, figure: Callable[[str, str, str], None], name: str, width: int) -> None:
    """A step of FedLAS takes part beside one of cross-entropy, in turns: the table has the ratio of the medians."""
    models = pytest.importorskip("torchvision.models")
    body = getattr(models, name)()
    setattr(body, "fc" if name == "resnet18" else "heads", torch.nn.Identity())
    network = WithFeatures(body, width, 1000).to(card)
    batch = [torch.randn(64, 3, 224, 224, device=card), torch.randint(1000, (64,), device=card)]
    losses = {"cross-entropy": CrossEntropyLoss(), "FedLAS": FedLASLoss(1000), "control": CrossEntropyLoss()}
    made = {which: step_of(network, loss, batch, card) for which, loss in losses.items()}
    steps = {which: step for which, (step, _) in made.items()}
    seconds: dict[str, list[float]] = {which: [] for which in steps}
    for turn in range(ROUNDS + 3):
        for which in random.Random(turn).sample(list(steps), len(steps)):
            began = time.perf_counter()
            steps[which]()
            if turn >= 3:
                seconds[which].append(time.perf_counter() - began)
    plain, fedlas, control = (median(seconds[which]) for which in losses)
    figure(
        f"{name}, {'bf16' if made['FedLAS'][1] else 'float32'}, batches of 64: FedLAS / cross-entropy",
        f"{fedlas / plain:.3f} ({1000 * plain:.1f} ms; control {control / plain:.3f})",
        "≤ 1.05",
    )
    assert min(plain, fedlas) > 0
