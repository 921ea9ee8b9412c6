import numpy as np
import pandas as pd
import pytest

from interp.errors import DataError, ShapeError
from probes import concept_name
from probes.concepts import first_rows, read_concept, text_column_of


@pytest.mark.parametrize(
    ("values", "classes", "y"),
    [
        ([1, 0, 1, 0], ("0", "1"), [1, 0, 1, 0]),
        ([True, False, True, False], ("False", "True"), [1, 0, 1, 0]),
        (["yes", "no", "yes", "no"], ("no", "yes"), [1, 0, 1, 0]),
        ([2.0, 10.0, 2.0, 10.0], ("2", "10"), [0, 1, 0, 1]),
        ([0.5, 0.25, 0.5, 0.25], ("0.25", "0.5"), [1, 0, 1, 0]),
        ([0, 1], ("0", "1"), [0, 1]),
    ],
)
def test_labels_of_every_kind(values, classes, y):
    concept = read_concept(pd.DataFrame({"label": values}), "label", None)
    assert concept.classes == classes
    assert concept.y.tolist() == y
    assert concept.n_groups is None


def test_rows_without_label_or_group_are_left_out_and_reported():
    table = pd.DataFrame(
        {"label": [1, None, 0, 1, 0], "city": ["a", "b", None, "c", "a"]}, dtype=object
    )
    concept = read_concept(table, "label", "city")
    assert concept.rows.tolist() == [0, 3, 4]
    assert concept.groups.tolist() == [0, 1, 0]
    assert concept.notes == (
        "1 of 5 rows have no 'label'; left out.",
        "1 labelled rows have no group; left out.",
    )


def test_groups_may_be_an_array():
    table = pd.DataFrame({"label": [0, 1, 0, 1]})
    assert read_concept(table, "label", np.array([5, 5, 7, 7])).groups.tolist() == [0, 0, 1, 1]
    with pytest.raises(ShapeError, match="got 3 for 4 rows"):
        read_concept(table, "label", [1, 2, 3])


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1, 1, 1, 1], r"one class only \(1, 4 rows\)"),
        ([None, None], "no row has a value"),
        (["the cat", "a dog", "one bird", "two fish"], "4 different values in 4 rows"),
        ([0.1, 0.2, 0.3, 0.4], "4 different values in 4 rows"),
        ([1, "yes", 1, "yes"], "mixes text and numbers"),
        ([[1], [2], [1]], "values of type list"),
    ],
)
def test_what_is_no_label_is_said(values, match):
    with pytest.raises(DataError, match=match):
        read_concept(pd.DataFrame({"label": pd.Series(values, dtype=object)}), "label", None)


def test_a_missing_column_names_the_columns():
    table = pd.DataFrame({"statement": ["a"], "label": [1], "city": ["b"]})
    with pytest.raises(DataError, match="statement, label, city; did you mean 'label'"):
        read_concept(table, "lable", None)
    with pytest.raises(DataError, match="'town' for the groups"):
        read_concept(table, "label", "town")
    with pytest.raises(DataError, match="'txt' for the texts"):
        text_column_of(table, "txt", None)
    assert text_column_of(table, None, "statement") == "statement"
    assert text_column_of(table, None, "text") is None


def test_first_rows_are_clipped_json():
    table = pd.DataFrame({"text": ["x" * 500] * 10, "label": np.arange(10), "score": [np.nan] * 10})
    rows = first_rows(table, ["text", "label", None, "score", "label"])
    assert len(rows) == 8
    assert rows[1] == {"text": "x" * 199 + "…", "label": 1, "score": None}
    assert type(rows[0]["label"]) is int


def test_names():
    assert concept_name("facts", "label") == "facts.label"
