"""Inputs that are prepared otherwise than in training are found, with what mends them; right ones are not doubted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from fedlas.contract.profiles import Notice
from fedlas.preconditions.examination import Examined, examine
from fedlas.preconditions.inputs import inputs
from tests.helpers import trained_models
from tests.helpers.classical_models import save
from tests.helpers.trained_models import Array, Trained


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_models.digit_mlp(tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_models.digit_cnn(tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_models.word_classifier(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return trained_models.table_classifier(tmp_path_factory.mktemp("scaled"), estimator)


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    estimator = RandomForestClassifier(40, random_state=0)
    return trained_models.table_classifier(tmp_path_factory.mktemp("forest"), estimator)


def only(match: Trained) -> Notice:
    (found,) = inputs(match.examined())
    return found


def remedies(match: Trained) -> tuple[str, object]:
    found = only(match)
    return found.code, found.evidence.get("remedy")


def test_pixels_that_were_not_divided_are_told_by_their_bound(cnn: Trained) -> None:
    """The remedy is named with both accuracies, and ends the job where the answers were chance."""
    found = only(cnn.given(cnn.inputs[0] / 255))
    assert (found.code, found.severity) == ("input_scale", "error")
    assert found.evidence["remedy"] == "multiply_by_255"
    before, after = found.evidence["accuracy"], found.evidence["accuracy_after"]
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert before < 0.3 < 0.9 < after
    assert f"{100 * after:.1f} %" in found.message


@pytest.mark.parametrize(
    ("code", "remedy", "change"),
    [
        ("input_scale", "divide_by_255", lambda x: x * 255),
        ("input_scale", "invert", lambda x: 1 - x),
        ("input_scale", "to_zero_and_one", lambda x: 2 * x - 1),
        ("input_channels", "swap_channels", lambda x: x[:, ::-1]),
        ("input_channels", "relayout", lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape)),
        ("input_channels", "transpose", lambda x: x.swapaxes(2, 3)),
        ("input_channels", "flip_vertical", lambda x: x[:, :, ::-1]),
    ],
)
def test_images_prepared_otherwise_are_named(cnn: Trained, code: str, remedy: str, change: object) -> None:
    """One notice names what undoes one mistake."""
    assert callable(change)
    assert remedies(cnn.given(change(cnn.inputs[0]))) == (code, remedy)


def test_confidence_that_nothing_but_scale_explains_is_a_mistake(mlp: Trained) -> None:
    """A network without much of a bias is as right on inputs 255 times too large, and absurdly confident."""
    found = only(mlp.given(mlp.inputs[0] * 255))
    assert (found.code, found.severity, found.evidence["remedy"]) == ("input_scale", "error", "divide_by_255")


@pytest.mark.parametrize("name", ["scaled", "forest"])
@pytest.mark.parametrize("order", ["reversed", "sorted", "first last", "any"])
def test_columns_in_another_order_are_found(name: str, order: str, request: pytest.FixtureRequest) -> None:
    """Constants of a scaler or of trees tell the order, whatever it is."""
    match: Trained = request.getfixturevalue(name)
    rows, columns = match.inputs[0], match.columns or []
    places = {
        "reversed": np.arange(30)[::-1],
        "sorted": np.argsort(columns),
        "first last": np.roll(np.arange(30), 1),
        "any": np.random.default_rng(3).permutation(30),
    }[order]
    found = only(match.given(rows[:, places], columns=[columns[i] for i in places]))
    assert (found.code, found.severity) == ("input_columns", "error")


def test_a_column_in_another_unit_is_named(scaled: Trained) -> None:
    """The scaler's constants tell which column it is, and the factor."""
    rows = scaled.inputs[0].copy()
    rows[:, 3] *= 1000
    found = only(scaled.given(rows))
    assert (found.code, found.evidence["remedy"]) == ("input_columns", "column_unit")
    assert "dividing column 'mean area'" in found.message.lower()
    assert "by 1000" in found.message


@pytest.mark.parametrize("name", ["scaled", "forest"])
def test_a_column_that_was_filled_with_its_mean_is_missed(name: str, request: pytest.FixtureRequest) -> None:
    """One value in all rows of a column on which the answers depend, which constants of the graph say it varied."""
    match: Trained = request.getfixturevalue(name)
    rows = match.inputs[0].copy()
    rows[:, 27] = rows[:, 27].mean()
    found = only(match.given(rows))
    assert (found.code, found.severity) == ("constant_column", "error")
    assert found.evidence["columns"] == {"'worst concave points'": pytest.approx(0.1146, abs=0.01)}


def test_a_column_in_thousands_among_standardised_ones_is_named(tmp_path: Path) -> None:
    """A graph without constants: that the other columns are standardised tells where this one should lie."""
    rows, labels, columns = trained_models.cancer()
    rows = StandardScaler().fit_transform(rows).astype(np.float32)
    path = save(LogisticRegression().fit(rows, labels), rows, tmp_path / "m.onnx", options={"zipmap": False})
    assert inputs(Trained(path, (rows,), labels, columns).examined()) == []
    rows[:, 27] = rows[:, 27] / 1000 - 1.7
    found = only(Trained(path, (rows,), labels, columns))
    assert (found.code, found.severity) == ("input_columns", "error")
    assert "worst concave points" in found.message


def test_columns_that_were_standardised_already_are_told(scaled: Trained) -> None:
    """A pipeline that standardises by itself takes raw columns."""
    rows = scaled.inputs[0]
    found = only(scaled.given((rows - rows.mean(0)) / rows.std(0)))
    assert (found.code, found.evidence["remedy"]) == ("input_scale", "undo_standardisation")


def test_two_columns_of_one_kind_are_found_by_the_labels_alone(mlp: Trained) -> None:
    """Where nothing in the graph tells columns apart the labels do."""
    rows = mlp.inputs[0]
    order = np.arange(64)
    order[[20, 21]] = 21, 20
    found = inputs(mlp.given(rows[:, order]).examined())
    assert [notice.code for notice in found] in ([], ["input_columns"])  # one pixel may not matter
    assert remedies(mlp.given(rows[:, ::-1])) == ("input_columns", "reverse_columns")


@pytest.mark.parametrize(
    ("remedy", "change"),
    [
        ("invert_mask", lambda ids, mask: (ids, 1 - mask)),
        ("mask_from_tokens", lambda ids, mask: (ids, np.ones_like(mask))),
        ("exchange_inputs", lambda ids, mask: (mask, ids)),
        ("shift_ids_-2", lambda ids, mask: (np.where(ids > 0, np.minimum(ids + 2, 59), 0), mask)),
    ],
)
def test_tokens_prepared_otherwise_are_named(words: Trained, remedy: str, change: object) -> None:
    """Masks and ids that a tokenizer of another kind makes."""
    assert callable(change)
    assert remedies(words.given(*change(*words.inputs))) == ("input_tokens", remedy)


def test_a_vocabulary_of_another_tokenizer_has_no_remedy_but_a_sign(words: Trained) -> None:
    """Ids that mean other words tell nothing of the labels."""
    ids, mask = words.inputs
    other = np.random.default_rng(0).permutation(57) + 3
    assert only(words.given(np.where(ids > 0, other[ids - 3], 0), mask)).code == "worse_than_frequencies"


def test_answers_that_never_change_are_told(cnn: Trained) -> None:
    """Empty images have one answer."""
    assert only(cnn.given(0 * cnn.inputs[0])).code == "constant_answers"


def test_another_order_of_classes_is_not_taken_for_wrong_inputs(cnn: Trained) -> None:
    """Wrong inputs are reported once, without the order of classes that happens to fit their answers."""
    assert [notice.code for notice in examine(cnn.given(1 - cnn.inputs[0]).examined())] == ["input_scale"]


def _right(request: pytest.FixtureRequest) -> list[Trained]:
    return [request.getfixturevalue(name) for name in ("mlp", "cnn", "words", "scaled", "forest")]


def test_right_inputs_are_not_doubted(request: pytest.FixtureRequest) -> None:
    """Right inputs pass, whatever the model, and however few rows there are."""
    for match in _right(request):
        for rows in (60, 150, len(match.targets)):
            some = tuple(array[:rows] for array in match.inputs)
            part = Trained(match.path, some, match.targets[:rows], match.columns)
            assert inputs(part.examined()) == []


def test_noise_and_shift_are_no_mistakes(request: pytest.FixtureRequest) -> None:
    """Rows that are harder than those of training, moved, or labelled badly, are as they are."""
    rng = np.random.default_rng(0)
    for match in _right(request):
        rows, labels = match.inputs[0], match.targets
        wrong = np.where(rng.random(len(labels)) < 0.4, rng.permutation(labels), labels)
        assert inputs(Trained(match.path, match.inputs, wrong, match.columns).examined()) == []
        if rows.dtype.kind == "f":
            spread = rows.std(axis=0)
            assert inputs(match.given(rows + rng.normal(size=rows.shape) * spread).examined()) == []
            assert inputs(match.given(rows + 0.7 * spread).examined()) == []


@pytest.mark.parametrize("rows", [40, 200])
def test_poor_and_raw_models_are_no_mistakes(rows: int, tmp_path: Path) -> None:
    """A network that was hardly trained is bad by itself; forests and networks may take raw columns."""
    for estimator in (
        make_pipeline(MinMaxScaler(), LogisticRegression(C=0.01)),
        RandomForestClassifier(3, max_depth=2, random_state=0),
        LogisticRegression(solver="liblinear"),
    ):
        table, labels, columns = trained_models.cancer()
        noise = np.random.default_rng(1).normal(size=table.shape) * table.std(axis=0) * 3
        estimator.fit((table + noise)[:rows], labels[:rows])
        path = trained_models.save(estimator, table, tmp_path / "poor.onnx", options={"zipmap": False})
        match = Trained(path, ((table + noise)[300:].astype(np.float32),), labels[300:], columns)
        assert inputs(match.examined()) == []


def test_an_input_that_nothing_reads_is_told(tmp_path: Path) -> None:
    """Rows of an input that nothing reads may be exchanged without any effect."""
    import torch
    from torch import nn

    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = trained_models.Words()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.words(input_ids, 1 + 0 * attention_mask)
            return scores

    torch.manual_seed(0)
    ids, mask, labels = trained_models.sentences(1500, 0)
    network = trained_models.fit(Deaf(), [ids, mask], labels)
    example = (torch.zeros(2, 20, dtype=torch.long), torch.ones(2, 20, dtype=torch.long))
    path = trained_models.export(network, example, tmp_path / "deaf.onnx")
    ids, mask, labels = trained_models.sentences(300, 1)
    found = only(Trained(path, (ids, mask), labels))
    assert (found.code, found.evidence["input"]) == ("unused_input", "attention_mask")


def test_the_tries_are_bounded_in_time(forest: Trained) -> None:
    """Whatever there is to try, it takes seconds of work."""
    match = forest.examined()
    start = time.thread_time()
    inputs(match)
    assert time.thread_time() - start < 5


class Waiting(Examined):
    """A match on a machine that does much else."""

    def answers(self, inputs: Sequence[Array]) -> NDArray[np.float32]:
        """The network's answers, later."""
        time.sleep(0.03)
        return super().answers(inputs)


def test_what_is_found_does_not_depend_on_other_work(mlp: Trained) -> None:
    """Waiting is no work: as many rows are tried."""
    match = mlp.given(mlp.inputs[0][:, ::-1]).examined()
    waiting = Waiting(**{field.name: getattr(match, field.name) for field in fields(match)})
    (found,), (later,) = inputs(match), inputs(waiting)
    assert found == later


def test_ids_outside_the_vocabulary_are_not_tried(words: Trained) -> None:
    """A remedy that the classifier cannot take is passed over."""
    ids, mask = words.inputs
    high: Array = np.where(ids > 0, 59, 0)
    assert all(notice.code != "input_tokens" for notice in inputs(words.given(high, mask).examined()))


@pytest.mark.parametrize(
    ("remedy", "change"),
    [
        ("undo_normalisation", lambda x, mean, std: ((x - mean) / std - mean) / std),
        ("divide_by_255", lambda x, mean, std: (255 * x - mean) / std),
        ("multiply_by_255", lambda x, mean, std: (x / 255 - mean) / std),
        ("invert", lambda x, mean, std: (1 - x - mean) / std),
    ],
)
def test_images_normalised_otherwise_are_named(remedy: str, change: object, tmp_path: Path) -> None:
    """The remedy names the change before the normalisation, or a normalisation that was done twice."""
    assert callable(change)
    given = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    mean, std = given[:, :, None, None]
    match = trained_models.digit_cnn(tmp_path, normalise=lambda x: (x - mean) / std)
    pixels = match.inputs[0] * std + mean
    assert inputs(match.examined()) == []
    assert remedies(match.given(change(pixels, mean, std))) == ("input_scale", remedy)
