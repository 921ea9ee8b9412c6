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
        (0.52, 0.60, "the model has"),
        (0.52, 1.00, "no clear gain over the words alone"),
        (0.995, 1.00, "The words alone give more"),
    ],
)
def test_more_and_less_need_intervals_that_are_apart(full, reader, low, high, sentence):
    r = full(bag_of_words=(low + high) / 2, bag_of_words_low=low, bag_of_words_high=high)
    text = said(r, reader)
    assert sentence in text
    three = ("the model has", "no clear gain over the words", "words alone give more")
    assert sum(s in text for s in three) == 1


def test_a_concept_that_no_layer_reads(full, reader):
    r = full(onset_depth=None, onset_hookpoint=None)
    text = said(r, reader)
    assert "not clearly read at any depth" in text and "(the least p over" in text
    assert "the model has" not in text and "random weights" not in text
    untested = full(onset_depth=None, onset_hookpoint=None, p_adjusted=None)
    assert "not clearly read" not in said(untested, reader)
    few = said(full(onset_depth=None, onset_hookpoint=None, permutations=2), reader)
    assert "2 shuffles are too few to tell" in few and "does not beat" not in few


def test_an_onset_that_does_not_last_is_not_said_to(full, reader):
    r = full()
    first = r.hookpoints.index(r.onset_hookpoint)
    p = np.where(np.arange(len(r.hookpoints)) < first, 1.0, 0.001)
    lasting = said(full(p_adjusted=p), reader)
    assert f"read from {r.onset_hookpoint} on" in lasting
    p[first + 1] = 1.0
    broken = said(full(p_adjusted=p), reader)
    assert f"first read at {r.onset_hookpoint}, though not at every" in broken
    assert "read from" not in broken


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (0.40, 0.50, "With random weights it gives 0.45 there."),
        (0.70, 1.00, "no clear gain over random weights, 0.85"),
        (0.996, 1.00, "With random weights it gives more there, 1.00"),
    ],
)
def test_random_weights_in_three_ways(full, reader, low, high, sentence):
    r = full()
    curve = np.full(len(r.hookpoints), 1.0)
    r = full(
        random_model=curve * (low + high) / 2,
        random_model_low=curve * low,
        random_model_high=curve * high,
    )
    assert sentence in said(r, reader)
    assert said(r, reader).count("random weights") == 1
    unknown = full(random_model_low=curve * np.nan)
    assert "random weights" not in said(unknown, reader)


def test_words_below_the_commonest_class_give_no_gain(full, reader):
    r = full(bag_of_words=0.25, bag_of_words_low=0.22, bag_of_words_high=0.28)
    text = said(r, reader)
    assert "below the commonest class" in text and "the model has" not in text
    slightly = full(bag_of_words=0.49, bag_of_words_low=0.45, bag_of_words_high=0.53)
    at = peak_at(slightly)
    more = slightly.accuracy[at] - slightly.majority
    assert f"the model has {more:.2f} more than the commonest class" in said(slightly, reader)


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
