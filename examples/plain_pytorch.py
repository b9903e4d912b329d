"""FedLAS as the loss of a plain PyTorch loop, and what calibrating adds, in three lines.

Run: python examples/plain_pytorch.py   (in a clone: pip install '.[sklearn]')
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import fedlas
from fedlas.metrics import ece, nll

images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
train, calibration, test = ((x[part], y[part]) for part in (slice(0, 500), slice(500, 1100), slice(1100, None)))

torch.manual_seed(0)
body, head = nn.Sequential(nn.Linear(64, 128), nn.ReLU()), nn.Linear(128, 10)
loss = fedlas.FedLASLoss(num_classes=10)  # in place of nn.CrossEntropyLoss()
optimizer = torch.optim.Adam([*body.parameters(), *head.parameters(), *loss.parameters()], lr=3e-3)

for _ in range(30):
    for batch in torch.randperm(len(train[1])).split(64):
        features = body(train[0][batch])
        optimizer.zero_grad()
        loss(head(features), train[1][batch], features).backward()
        optimizer.step()

model = nn.Sequential(body, head)
result = fedlas.calibrate(model, train, calibration, test, method="post_hoc")

with torch.no_grad():
    answers = {"trained": model(test[0]).softmax(1).numpy(), "calibrated": result.model.predict_proba(test[0])}
for name, probs in answers.items():
    print(f"{name}: NLL {nll(probs, test[1].numpy()):.3f}, ECE {ece(probs, test[1].numpy()):.3f}")
print(f"verdict: {result.verdict}")
