"""The recipe of a job in words: what was trained and how, on which rows, which calibrator, with which seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlas.report.number_words import listed
from fedlas.report.parts import METHOD_NAMES

_LOSSES = {**METHOD_NAMES, "focal": "the focal loss", "mbls": "margin-based label smoothing (MbLS)", "acls": "ACLS"}
OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}
_SCOPES = {"all": "The whole network was", "head": "Only the last layers were"}
_CALIBRATORS = {
    "temperature": "a temperature",
    "shrunken_temperature": "a temperature that is shrunk towards 1, since rows are few",
    "mixture": "a temperature with a uniform mix",
    "affine": "a line through the log-odds (Platt scaling)",
    "beta": "beta calibration",
    "structured_vector": "a scale and an offset for each class (vector scaling)",
    "structured_matrix": "a regularised matrix over the logits (matrix scaling)",
    "isotonic": "isotonic regression",
    "quadratic": "a monotone curve of the log-odds",
    "spline": "a monotone spline of the log-odds",
    "one_vs_rest": "one calibrator for each class against the rest",
    "features": "a temperature with a linear map of the features added",
    "compressed": "a calibrator of compressed logits",
    "uniform": "a uniform mix",
}
#: Settings of a loss, as formulas write them; the others are named as they are.
_GREEK = {"alpha": "α", "beta": "β"}
_MIN_SHARE = 0.005
_LOSS_SETTINGS = ("alpha", "beta", "momentum", "margin")


def recipe_sentences(
    recipe: Mapping[str, Any], *, seed: int, trained_rows: Mapping[str, int] | None, num_test_rows: int
) -> tuple[str, ...]:
    """How the served model came about, in the order in which it happened.

    Args:
        recipe: as the report has it; what it lacks is not spoken of.

    >>> made = {"calibrator": {"name": "temperature", "parameters": {"temperature": 1.52}}}
    >>> made |= {"winner": {"scope": "none"}, "calibrated_on": {"train": 0, "calibration": 90}}
    >>> recipe_sentences(made, seed=0, trained_rows=None, num_test_rows=50)[1]
    'Its scores pass through a temperature (T = 1.52), fitted on 90 calibration rows.'
    """
    sentences = (
        _asked(recipe.get("request") or {}),
        _network(recipe["winner"], trained_rows) if "winner" in recipe else _tried(recipe.get("methods") or {}),
        _calibrator(recipe.get("calibrator") or {}, recipe.get("calibrated_on") or {}),
        f"All random choices (folds, batches, resamples) use seed {seed}. {num_test_rows:,} test rows judged.",
    )
    return tuple(filter(None, sentences))


def _asked(request: Mapping[str, Any]) -> str:
    if not request:
        return ""
    budget, fixed = request.get("budget") or {}, request.get("hyperparameters") or {}
    given = [f"{_setting(name, value)}" for name, value in fixed.items() if value != "auto"]
    within = (
        [f" within {_counted(budget['minutes'], 'minute')}", _counted(budget["candidates"], "candidate")]
        if budget
        else []
    )
    settings = f", with {listed(given)} fixed" if given else ""
    return f"Requested was the method “{request.get('method', 'auto')}”{listed(within)}{settings}."


def _tried(methods: Mapping[str, Any]) -> str:
    tried = [_CALIBRATORS.get(name, name) for name in methods.get("tried", ())]
    return f"Tried: {listed(tried)}." if len(tried) > 1 else ""


def _network(winner: Mapping[str, Any] | None, trained_rows: Mapping[str, int] | None) -> str:
    if winner is None:
        return "The uploaded model is served unchanged."
    settings = winner.get("hyperparameters") or {}
    if "members" in settings:
        weights = settings.get("weights", ())
        parts = [
            f"{_candidate(name)} ({100 * weight / sum(weights):.0f} %)"
            for name, weight in zip(settings["members"], weights, strict=False)
        ]
        return (
            f"The served model is the weighted geometric mean of the probabilities of {len(settings['members'])} "
            f"networks, each with its own calibrator: {listed(parts)}. Training continued from the upload's weights"
            f"{_on(trained_rows)}."
        )
    if not trained_rows or winner.get("scope") not in _SCOPES:
        return "The weights are those of the upload."
    loss = _LOSSES.get(winner["method"], winner["method"])
    of_loss = [_setting(name, settings[name]) for name in _LOSS_SETTINGS if settings.get(name) is not None]
    how = [
        OPTIMIZERS.get(settings.get("optimizer", ""), ""),
        *(
            _setting(name, settings[name])
            for name in ("learning_rate", "weight_decay", "batch_size", "epochs")
            if settings.get(name) is not None
        ),
    ]
    named = f"{loss} ({', '.join(of_loss)})" if of_loss else loss
    return (
        f"{_SCOPES[winner['scope']]} trained further from the upload's weights with {named}: "
        f"{', '.join(part for part in how if part)}{_on(trained_rows)}."
    )


def _candidate(name: str) -> str:
    """A candidate by the name of its loss, as sentences have it.

    >>> _candidate("fedlas_plus α=0.1 lr=0.2")
    'FedLAS+ α=0.1 lr=0.2'
    """
    loss, space, settings = name.partition(" ")
    return f"{_LOSSES.get(loss, loss)}{space}{settings}"


def _on(rows: Mapping[str, int] | None) -> str:
    counted = [f"{count:,} {split}" for split, count in (rows or {}).items() if count]
    return f", on {listed(counted)} rows" if counted else ""


def _calibrator(calibrator: Mapping[str, Any], rows: Mapping[str, int]) -> str:
    name, parameters = calibrator.get("name", ""), calibrator.get("parameters") or {}
    if name in ("", "identity"):
        return ""
    if name in ("pool", "log_pool"):
        return f"Its scores pass through a weighted pool of calibrators{_members(parameters)}{_fitted(rows)}."
    temperature, share = parameters.get("temperature"), parameters.get("share")
    detail = f" (T = {temperature:.3g})" if name.endswith("temperature") and temperature is not None else ""
    if temperature is not None and share is not None:
        detail = f" (T = {temperature:.3g}, mix {100 * share:.2g} %)"
    return f"Its scores pass through {_CALIBRATORS.get(name, name)}{detail}{_fitted(rows)}."


def _weighed(parameters: Mapping[str, Any]) -> list[tuple[str, float]]:
    weights, shares = parameters.get("weights") or (), []
    for member, weight in zip(parameters.get("members") or (), weights, strict=False):
        inner = _weighed(member.get("parameters") or {}) or [(member["name"], 1.0)]
        shares += [(name, weight / sum(weights) * share) for name, share in inner]
    return shares


def _members(parameters: Mapping[str, Any]) -> str:
    shares: dict[str, float] = {}
    for name, weight in sorted(_weighed(parameters), key=lambda one: -one[1]):
        shares[name] = shares.get(name, 0.0) + weight
    told = [f"{name.replace('_', ' ')} {100 * share:.0f} %" for name, share in shares.items() if share >= _MIN_SHARE]
    return f" ({', '.join(told)})" if told else ""


def _fitted(rows: Mapping[str, int]) -> str:
    counted = _on(rows).removeprefix(", on ")
    return f", fitted on {counted}" if counted else ""


def _counted(count: float, noun: str) -> str:
    return f"{count:,g} {noun}{'' if count == 1 else 's'}"


def _setting(name: str, value: Any) -> str:
    """A setting with its value.

    >>> _setting("alpha", 0.1), _setting("epochs", 4), _setting("learning_rate", 0.05)
    ('α = 0.1', '4 epochs', 'learning rate 0.05')
    """
    shown = f"{value:.3g}" if isinstance(value, float) else str(value)
    if name in _GREEK:
        return f"{_GREEK[name]} = {shown}"
    if name == "epochs":
        return _counted(value, "epoch")
    if name == "batch_size":
        return f"batches of {shown}"
    return f"{name.replace('_', ' ')} {OPTIMIZERS.get(shown, shown)}"
