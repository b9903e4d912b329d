"""A reader's own model as README assumes it: `m.onnx` with `m.onnx.data`, and `rows.csv` that it has not seen."""

from __future__ import annotations

import numpy as np
import torch


def leave_own_model() -> None:
    """Train a network until it is too sure, and leave its default export and a table in the working folder."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 3000)
    rows = (rng.normal(size=(3, 4))[labels] + 0.9 * rng.normal(size=(3000, 4))).astype(np.float32)
    model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    inputs, targets = torch.from_numpy(rows[:300]), torch.from_numpy(labels[:300])
    steps = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(400):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        steps.step()
    torch.onnx.export(model.eval(), (inputs[:1],), "m.onnx", verbose=False)
    table = np.column_stack([rows[300:], labels[300:]])
    np.savetxt("rows.csv", table, fmt=["%.5f"] * 4 + ["%d"], delimiter=",", header="a,b,c,d,label", comments="")
