"""The training loop, its loader, its checkpoints and its learning-rate range test."""

from fedlas.extras import require

require("library", "torch")
