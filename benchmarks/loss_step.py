"""Times a training step of FedLAS, and of an imported ONNX graph, against plain PyTorch with cross-entropy.

Run it with `python benchmarks/loss_step.py`. The steps that are compared take turns in one process, in random
order, so that whatever else the machine does falls on all of them alike; the ratio of their medians is printed. One
step takes part twice: how far its ratio is from 1 is what chance alone does.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn

from fedlas.importers import load_onnx
from fedlas.losses import CrossEntropyLoss, FedLASLoss, FedLASPlusLoss

NUM_CLASSES = 10
Step = Callable[[], None]


class ResNet18(nn.Module):
    """torchvision's resnet18 that shows its features beside its logits."""

    def __init__(self) -> None:
        super().__init__()
        network = torchvision.models.resnet18(num_classes=NUM_CLASSES)
        self.fc = network.fc
        network.fc = nn.Identity()
        self.body = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        return self.fc(features), features


class LogitsOnly(nn.Module):
    """A network as a client would export it: one output."""

    def __init__(self, network: ResNet18) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[0]
        return logits


def training_step(network: nn.Module, loss: nn.Module, images: Tensor, targets: Tensor) -> Step:
    """Forward, backward and the optimiser's move, the gradient norm clipped as in `fedlas.training.fit.fit`."""
    parameters = [*network.parameters(), *loss.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    network.train()
    loss.train()

    def step() -> None:
        logits, features = network(images)
        optimizer.zero_grad(set_to_none=True)
        loss(logits, targets, features).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def imported(network: ResNet18, images: Tensor, *, fold: bool) -> nn.Module:
    """The network exported and imported again; `fold` lets the exporter merge BatchNorm into the convolutions."""
    mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.TRAINING
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that keeps BatchNorm is the older one, and says so
        path = Path(folder) / "resnet18.onnx"
        torch.onnx.export(
            LogitsOnly(network).eval(),
            (images.cpu()[:2],),
            str(path),
            dynamo=False,
            training=mode,
            do_constant_folding=fold,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
        )
        return load_onnx(path)


def take_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each step, round by round in a random order; two rounds warm up."""
    order = random.Random(0)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name in order.sample(list(steps), len(steps)):
            began = time.perf_counter(), time.process_time()
            steps[name]()
            took = time.perf_counter() - began[0], time.process_time() - began[1]
            if turn >= 2:
                seconds[name].append(took)
    return seconds


def report(title: str, seconds: Mapping[str, Sequence[tuple[float, float]]], target: float) -> None:
    """The first entry is what all others are divided by; CPU seconds do not count what other processes took."""
    medians = {name: [median(column) for column in zip(*rows, strict=True)] for name, rows in seconds.items()}
    first = next(iter(medians.values()))
    print(f"\n| {title} | median ms | ratio (target ≤ {target:g}) | median CPU ms | ratio |\n|---|---|---|---|---|")
    for name, (wall, cpu) in medians.items():
        cells = f"{1000 * wall:.1f} | {wall / first[0]:.3f} | {1000 * cpu:.1f} | {cpu / first[1]:.3f}"
        print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    targets = torch.randint(NUM_CLASSES, (options.batch,), device=device)
    network = ResNet18()
    as_exported = {fold: imported(network, images, fold=fold).to(device) for fold in (False, True)}
    network.to(device)
    losses = {
        "cross-entropy": CrossEntropyLoss(),
        "FedLAS": FedLASLoss(NUM_CLASSES),
        "FedLAS+": FedLASPlusLoss(NUM_CLASSES),
        "cross-entropy again (control)": CrossEntropyLoss(),
    }
    where = f"batch {options.batch}, 3×{options.size}×{options.size}, {device.type}, {options.threads} thread(s)"
    steps = {name: training_step(network, loss.to(device), images, targets) for name, loss in losses.items()}
    report(f"resnet18, {where}", take_turns(steps, options.rounds), 1.05)
    graphs = {
        "torchvision resnet18": network,
        "imported ONNX, BatchNorm kept": as_exported[False],
        "imported ONNX, BatchNorm folded by the exporter": as_exported[True],
        "torchvision resnet18 again (control)": network,
    }
    steps = {name: training_step(graph, CrossEntropyLoss(), images, targets) for name, graph in graphs.items()}
    report(f"cross-entropy step, {where}", take_turns(steps, options.rounds), 1.15)


if __name__ == "__main__":
    main()
