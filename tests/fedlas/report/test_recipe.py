"""The recipe in words: what was trained how, on which rows, with which calibrator and seed; no dump of fields."""

from __future__ import annotations

from typing import Any

from fedlas.report.recipe import recipe_sentences

Json = dict[str, Any]
POOL = {
    "name": "pool",
    "parameters": {
        "members": [{"name": "temperature", "parameters": {}}, {"name": "structured_matrix", "parameters": {}}],
        "weights": [0.25, 0.75],
    },
}
FIXED = {"epochs": 4, "alpha": "auto"}
REQUEST = {"method": "auto", "hyperparameters": FIXED, "budget": {"minutes": 10, "candidates": 4}}
ROWS = {"train": 400, "calibration": 500}


def words(recipe: Json, trained_rows: dict[str, int] | None = None) -> str:
    return " ".join(recipe_sentences(recipe, seed=7, trained_rows=trained_rows, num_test_rows=800))


def test_a_fine_tuned_network_is_told_whole() -> None:
    """Order, loss with its settings, optimiser, rows, calibrator, seed and judge, in this order."""
    settings = {
        "alpha": 0.1,
        "momentum": 0.95,
        "optimizer": "adamw",
        "learning_rate": 0.0123,
        "weight_decay": 0.02,
        "batch_size": 16,
        "epochs": 4,
    }
    winner = {"name": "fedlas", "method": "fedlas", "scope": "head", "hyperparameters": settings}
    made = {"request": REQUEST, "winner": winner, "calibrator": POOL, "calibrated_on": {"train": 0, "calibration": 500}}
    assert words(made, ROWS) == (
        "The request was the method “auto” within 10 minutes and 4 candidates, with 4 epochs fixed. "
        "Only the last layers were trained further from the upload's weights with FedLAS (α = 0.1, momentum 0.95): "
        "AdamW, learning rate 0.0123, weight decay 0.02, batches of 16, 4 epochs, on 400 train and 500 calibration "
        "rows. "
        "Its scores pass through a weighted pool of calibrators (structured matrix 75 %, temperature 25 %), fitted on "
        "500 calibration rows. "
        "Everything drawn by chance (folds, batches, resamples) starts from seed 7. 800 test rows judged."
    )


def test_an_average_names_its_members() -> None:
    """An average has its members with their weights, and with what trained those that were trained."""
    settings = {"members": ["uploaded + pool", "cross_entropy lr=0.1"], "weights": [0.4, 0.6]}
    winner = {"name": "average", "method": "average", "scope": "all", "hyperparameters": settings}
    told = words({"winner": winner, "calibrator": {"name": "identity", "parameters": {}}}, ROWS)
    members = "uploaded + pool (40 %) and cross-entropy lr=0.1 (60 %)"
    assert f"2 networks, each with a calibrator of its own: {members}" in told
    assert "on 400 train and 500 calibration rows" in told
    assert "pass through" not in told


def test_what_was_not_done_is_not_told() -> None:
    """The upload as it came has neither training nor calibrator; of scores there is no network to speak of."""
    assert words({"winner": None, "calibrator": {"name": "identity", "parameters": {}}}).startswith(
        "The uploaded model is served as it came. Everything drawn"
    )
    scores = {
        "methods": {"asked": "auto", "tried": ["temperature", "isotonic"], "fitted": "isotonic"},
        "calibrator": {"name": "isotonic", "parameters": {}},
    }
    assert words(scores).startswith(
        "Tried were a temperature and isotonic regression. Its scores pass through isotonic regression. Everything"
    )
    mixed = {"name": "mixture", "parameters": {"temperature": 1.0521, "share": 0.0123, "num_classes": 3}}
    assert "a temperature with a uniform mix (T = 1.05, mix 1.2 %)." in words({"calibrator": mixed})
    assert words({}).startswith("Everything drawn by chance")
