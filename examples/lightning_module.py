"""FedLAS as the loss of a LightningModule: a module of its own, so that optimiser and checkpoints have its parameters.

Run: python examples/lightning_module.py   (in a clone: pip install '.[sklearn]' lightning)
"""

import logging

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fedlas

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Digits(lightning.LightningModule):
    """A small network on handwritten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(64, 128), nn.ReLU()), nn.Linear(128, 10)
        self.loss = fedlas.FedLASLoss(num_classes=10)  # in place of nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x, y = batch
        features = self.body(x)
        return self.loss(self.head(features), y, features)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


lightning.seed_everything(0, verbose=False)
images, labels = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
parts = torch.utils.data.random_split(data, [500, 600, 697], torch.Generator().manual_seed(0))
train, calibration, test = (DataLoader(part, batch_size=64) for part in parts)

model = Digits()
trainer = lightning.Trainer(
    max_epochs=15,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(parts[0], batch_size=64, shuffle=True))

result = fedlas.calibrate(model, train, calibration, test, method="temperature")
metrics = result.report.metrics
print(f"NLL {metrics['uploaded']['nll'].value:.3f} -> {metrics['calibrated']['nll'].value:.3f}")
print(f"verdict: {result.verdict}")
