"""The page: self-contained, every text escaped, everything shown."""

from __future__ import annotations

import json
import re

import numpy as np

from fedlas.calibrators import softmax
from fedlas.contract.profiles import Notice
from fedlas.contract.report import Named, Subject
from fedlas.documents import adjustment
from fedlas.gate.gate import judge
from fedlas.metrics import row_scores
from fedlas.report import report_html
from fedlas.report.diagnostics import fedlas_diagnostics, sensitivity
from fedlas.report.page import environment
from fedlas.report.parts import OutOfFold
from fedlas.report.summary import served_words
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import UNCHANGED, Tags, candidate, example, is_whole, report

HOSTILE = '<img src=x onerror="alert(1)">&\'</td></style><script>alert(2)</script>'
SCALES = {"uploaded": 3.0, "temperature": 1.2, "post_hoc": 1.1, "trained": 1.0, "average": 1.05}
#: The parts of a page, each with a heading and a line of the index.
PARTS = ("verdict", "models", "trust", "use", "making")


def test_names_from_strangers_stay_text() -> None:
    """Names of classes, slices, candidates and files that are markup are read as text and open no element."""
    logits, targets = drawn_logits(200, 3)
    made = report(
        softmax(logits),
        targets,
        class_names=[HOSTILE, "b", "c"],
        slices={HOSTILE: np.where(np.arange(200) < 100, HOSTILE, "fine")},
        candidates=[candidate(HOSTILE, float("nan"), status=HOSTILE, reason=HOSTILE)],
        recipe={"request": {"method": HOSTILE, "hyperparameters": {HOSTILE: HOSTILE}}},
        subject=Subject(model=Named(name=HOSTILE, id="mdl_1"), dataset=Named(name=HOSTILE, id=HOSTILE)),
        warnings=[Notice(code=HOSTILE, message=HOSTILE, evidence={HOSTILE: {HOSTILE: [HOSTILE]}})],
        adjustments=[adjustment(HOSTILE, HOSTILE, column=HOSTILE)],
        notes=[HOSTILE],
        digests={"model": HOSTILE},
        machine={"device": HOSTILE},
    )
    tags = Tags()
    tags.feed(is_whole(made))
    assert tags.open == []
    assert not {"script", "img", "link", "iframe", "object", "image", "use"} & tags.seen
    assert not {"src", "onerror", "onload", "style"} & set(tags.attributes)
    assert tags.attributes["href"] == {f"#{name}" for name in PARTS}
    assert sum(word.count(HOSTILE) for word in tags.words) >= 20


def test_the_page_needs_nothing_from_outside() -> None:
    """No address but the SVG namespace, no import and no url() in its style."""
    logits, targets = drawn_logits(100, 3)
    page = report_html(report(softmax(logits), targets))
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "@import" not in page
    assert "url(" not in page


def test_templates_escape_every_text() -> None:
    """Text in a template and in an argument of a macro is escaped once; what a macro returns is markup already."""
    macro = '{% from "macros.html.jinja" import marked %}{{ marked(text, true) }} {{ text }}'
    made = environment().from_string(macro).render(text='<b title="&">')
    assert made == '<span class="flag">&lt;b title=&#34;&amp;&#34;&gt;</span> &lt;b title=&#34;&amp;&#34;&gt;'


def test_a_thousand_classes_stay_readable() -> None:
    """Fifty classes are shown, the rest counted; file and page stay small."""
    logits, targets = drawn_logits(200, 1000)
    made = report(softmax(logits), targets, num_resamples=20)
    assert len(made.as_dict()["classes"]["rows"]) == 50
    page = is_whole(made)
    assert "950 further classes are not shown" in page
    assert len(page) < 300_000
    assert len(json.dumps(made.as_dict())) < 300_000


def test_everything_that_is_given_is_shown() -> None:
    """Diagnostics, label noise, earlier evaluations and duplicates reach summary and page."""
    logits, targets = drawn_logits(300, 3)
    probs = softmax(logits)
    made = report(
        probs,
        targets,
        diagnostics=fedlas_diagnostics(feature_norms=logits.max(axis=1), correct=probs.argmax(axis=1) == targets),
        label_noise=sensitivity(lambda labels: "unchanged", targets, 3, shares=[0.05], draws=4),
        evaluations_before=3,
        duplicates={"calibration": 12, "train": 0},
    )
    page, summary = is_whole(made), " ".join(made.as_dict()["summary"])
    for text in ("up to 5 % wrong test labels the verdict stays the same", "feature norm", "12 test rows also occur"):
        assert text in summary
    for title in ("If some test labels were wrong", "FedLAS's own part", "Warnings"):
        assert title in page
    assert "'train'" not in summary


def test_warnings_and_adjustments_come_with_what_they_rest_on() -> None:
    """A notice's message and its evidence in words, before what is doubtful about the test rows; none, no section."""
    logits, targets = drawn_logits(100, 3)
    order = {"mapping": {"cat": "dog", "dog": "cat"}, "accuracy": 0.372222, "classes": [str(k) for k in range(100)]}
    made = report(
        softmax(logits),
        targets,
        warnings=[
            Notice(code="label_order", message="The classes are in another order.", evidence=order, severity="error")
        ],
        adjustments=[adjustment("index_dropped", "a pandas index is no feature", column="Unnamed: 0")],
    )
    page, summary = is_whole(made), made.as_dict()["summary"]
    warned = page[page.index('<section id="warnings">') : page.index('<section id="models">')]
    assert warned.index("The classes are in another order.") < warned.index("only 100 test rows")
    for text in ("<dt>mapping</dt><dd>cat → dog, dog → cat</dd>", "<dd>0.3722</dd>", "19 … (100 in all)</dd>"):
        assert text in warned
    assert '<div class="wrong">' in warned
    assert "<dt>column</dt><dd>Unnamed: 0</dd>" in page[page.index("What was done for you") :]
    assert summary[2:4] == [*made.warnings]
    assert made.advice[1] == "Next: check this warning. The classes are in another order."
    assert "A pandas index is no feature." in summary
    assert made.as_dict()["notices"][0]["evidence"] == order
    assert "What was done for you" not in is_whole(report(softmax(logits), targets))


def test_no_p_value_is_in_a_sentence() -> None:
    """Sentences say the result in words, tables have its figures; an interval's confidence is never 100 %."""
    logits, targets = drawn_logits(2000, 2)
    probs, better = softmax(3 * logits), softmax(logits)
    gate = judge({"uploaded": probs, "post_hoc": better}, targets, provenance="no", evaluations_before=60)
    made = report(
        probs,
        targets,
        gate=gate,
        calibrated=better,
        slices={"age": np.arange(2000) % 7},
        groups=np.arange(2000) // 2,
        evaluations_before=60,
    )
    for sentence in (*made.summary, *made.advice, *made.recipe_in_words):
        assert not re.search(r"\bp [=<]|\bcorrected\b", sentence), sentence
    page = is_whole(made)
    assert not re.search(r"\bp [=<]|\(p ", page)
    assert "judged 60 times before" in page
    levels = re.findall(r"<td>(99\.\d+) %</td>", page)
    assert len(levels) == len(gate.claims[0].comparisons) * len(gate.claims)
    assert all(float(level) < 100 for level in levels)


def test_parts_losses_and_how_candidates_were_trained_are_shown() -> None:
    """The page shows each part's change, FedLAS against the others, optimisers, and what a status means."""
    logits, targets = drawn_logits(300, 3)
    rows = {name: row_scores(softmax(scale * logits), targets, score="nll") for name, scale in SCALES.items()}
    settings = {"optimizer": "sgd", "weight_decay": 0.02}
    made = report(
        softmax(3 * logits),
        targets,
        gate=UNCHANGED.changed(verdict="trained", finalist="average"),
        calibrated=softmax(logits),
        finalists={name: softmax(scale * logits) for name, scale in SCALES.items()},
        out_of_fold=OutOfFold(rows, {"fedlas_plus": rows["trained"], "cross_entropy": rows["uploaded"]}),
        trained_rows={"train": 3000, "calibration": 1000},
        candidates=[
            candidate("cross_entropy", None, scope="all", hyperparameters=settings),
            candidate("fedlas", None, scope="head", status="eliminated", reason="after 2 of 3 folds"),
        ],
    )
    page, summary = is_whole(made), " ".join(made.as_dict()["summary"])
    assert "The served network was trained on the 3,000 train and 1,000 calibration rows" in summary
    assert "the post-hoc calibrators" in summary
    assert "the best FedLAS+ candidate is better than the best with cross-entropy" in summary
    for text in (
        "The average <b>(served)</b>",
        "FedLAS+ minus",
        "whole network, SGD, weight decay 0.02",
        "<b>Eliminated</b>: not among the best",
    ):
        assert text in page
    assert "<b>Dropped</b>" not in page
    parts = {part["name"]: part for part in made.as_dict()["parts"]["rows"]}
    assert parts["temperature"]["test_nll"]["change"]["value"] < 0


def test_a_warned_gain_is_not_green() -> None:
    """A significant gain on rows that look wrong is no success before an operator has looked at the warning."""
    logits, targets = drawn_logits(2000, 3)
    probs, better = softmax(3 * logits), softmax(logits)
    gate = judge({"uploaded": probs, "post_hoc": better}, targets, provenance="no")
    given = {"gate": gate, "calibrated": better}
    calm, warned = (
        is_whole(report(probs, targets, **given, warnings=some)) for some in ((), [Notice(code="x", message="odd")])
    )
    assert '<span class="badge good">Calibrator served, significantly better than the upload</span>' in calm
    assert (
        '<span class="badge open">Calibrator served, significantly better than the upload; see the warnings</span>'
        in warned
    )


def test_a_page_opens_with_five_headings_and_the_rest_is_folded() -> None:
    """The first screen has verdict, promise, the three models and the next step; what few readers need is closed."""
    made = example()[0]
    page = is_whole(made)
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Verdict",
        "Confidences",
        "Where it is weak",
        "Use it",
        "How it was made",
    ]
    assert [f'<section id="{name}">' in page for name in PARTS] == [True] * 5
    first = page[page.index('<section id="verdict">') : page.index('<section id="models">')]
    assert "significantly better than the uploaded model (Brier score " in first
    assert "None: a threshold needs guarantee rows" in first
    assert first.count("within chance") + first.count("(chance: ±") == 3
    assert "<details" not in first
    folded = re.findall(r"<details ([^>]*)>", page)
    assert len(folded) > 5
    assert all("open" not in attributes for attributes in folded)


def test_a_served_candidate_is_marked_by_its_letter() -> None:
    """An average is marked, and its members say in which they are; all have the letters of their places."""
    members = {"members": ["upload", "focal"], "weights": [0.2, 0.8]}
    line = [candidate("upload", 0.5), candidate("other", 0.6), candidate("focal", 0.45)]
    average = candidate("average", 0.4, hyperparameters=members)
    made = example()[0].changed(candidates=(*line, average), recipe={"winner": {"name": "average"}})
    table = " ".join(
        re.sub("<[^>]+>", " ", (page := is_whole(made))[page.index('<details class="fold" id="race">') :]).split()
    )
    for words in ("A upload served, in D", "B other –", "C focal served, in D", "D average served"):
        assert words in table
    assert served_words(made.changed(recipe={"winner": None})) == {}
