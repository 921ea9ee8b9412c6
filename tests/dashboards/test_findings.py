"""What a result says in sentences, case by case, and never more than its intervals allow."""

import numpy as np
import pytest

from dashboards import Report, html
from dashboards.findings import finding, peak_at


def said(result, reader, **options):
    return reader(html.render(finding(result, **options))).text


def test_a_concept_that_is_read(full, reader):
    r = full(bag_of_words=0.6, bag_of_words_low=0.56, bag_of_words_high=0.64)
    at = peak_at(r)
    text = said(r, reader)
    assert f"read from {r.onset_hookpoint} on" in text
    assert f"accuracy of {r.accuracy[at]:.2f} at {r.hookpoints[at]}" in text
    assert f"the model has {r.accuracy[at] - 0.6:.2f} more" in text
    assert f"With random weights it gives {r.random_model[at]:.2f} there." in text


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (0.10, 0.20, "the model has"),
        (0.10, 1.00, "no clear gain over the words alone"),
        (0.995, 1.00, "The words alone give more"),
    ],
)
def test_more_and_less_need_intervals_that_are_apart(full, reader, low, high, sentence):
    r = full(bag_of_words=(low + high) / 2, bag_of_words_low=low, bag_of_words_high=high)
    text = said(r, reader)
    assert sentence in text
    assert sum(s in text for s in ("the model has", "no clear gain", "words alone give more")) == 1


def test_a_concept_that_no_layer_reads(full, reader):
    r = full(onset_depth=None, onset_hookpoint=None)
    text = said(r, reader)
    assert "not read at any depth" in text
    assert "the model has" not in text and "random weights" not in text
    untested = full(onset_depth=None, onset_hookpoint=None, p_adjusted=None)
    assert "not read" not in said(untested, reader)


def test_what_random_weights_read_as_well_is_not_learned(full, reader):
    r = full()
    as_much = full(random_model=r.accuracy, random_model_high=r.accuracy_high)
    assert "that is not learned" in said(as_much, reader)
    assert "that is not learned" not in said(r, reader)


def test_controls_that_are_missing_and_curves_that_are_undefined(depth, reader):
    r = depth(bag_of_words=None, bag_of_words_low=None, bag_of_words_high=None)
    assert "words alone" not in said(r, reader)
    assert "random weights" not in said(r, reader)
    nothing = depth(accuracy=np.full(len(r.hookpoints), np.nan), peak=0.0, peak_hookpoint="embed")
    assert "no accuracy is defined" in said(nothing, reader)


def test_a_warning_is_announced_and_a_model_named(full, reader):
    r = full(warnings=("Rows are matched.",))
    assert "Read its warning" in said(r, reader)
    assert "Read its warning" not in said(full(warnings=()), reader)
    assert " in gpt2: " in said(r, reader, model="gpt2")


def test_the_page_begins_with_what_was_found(full, reader):
    text = reader(Report([full()]).html()).text
    assert text.index("With random weights") < text.index("peak accuracy")
