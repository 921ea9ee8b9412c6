"""Prompts: where they stand, what is said, and that the rows stay."""

import pandas as pd
import pytest

import interp
from interp.data import read
from interp.errors import DataError, ParameterError
from interp.prompts import RELEASED, TASKS, task_of, with_prompt


@pytest.fixture
def data():
    frame = pd.DataFrame({"text": ["a b", "c"], "label": [0, 1]})
    return read(frame, name="things")


def test_both_layouts(data):
    assert with_prompt(data, "So?", "after").inputs == ["a b So?", "c So?"]
    assert with_prompt(data, "So?", "before").inputs == ["So? a b", "So? c"]


def test_the_rows_stay_and_a_note_says_what_was_added(data):
    done = with_prompt(data, RELEASED, "after")
    assert done.rows.equals(data.rows) and done.labels == data.labels
    assert RELEASED in done.notes[-1] and "after each text" in done.notes[-1]
    assert done.hash != data.hash  # a store of one is not taken for a store of the other
    assert data.inputs == ["a b", "c"]


def test_the_default_is_the_wording_of_the_task(data):
    for name, kind in (("cities", "truth"), ("coin_flip", "coin flip"), ("things", "other")):
        named = read(data, name=name)
        assert task_of(named) == kind
        words, layout, _ = TASKS[kind]
        asked = with_prompt(named)
        expected = f"a b {words}" if layout == "after" else f"{words} a b"
        assert asked.inputs[0] == expected
        assert "interp's wording" in asked.notes[-1] and words in asked.notes[-1]
    assert task_of(read(data, name="cities~2")) == "truth"  # a second data set of that name


def test_no_name_has_two_tasks():
    names = [n for task in TASKS.values() for n in task.names]
    assert len(names) == len(set(names))


def test_after_gives_every_row_the_same_last_token(folder, data):
    model = interp.load(folder("gpt2"))
    texts = read(["w3 w4", "w5"])
    last = {row[-1] for row in model.tokenize(with_prompt(texts, "w9", "after").inputs)}
    assert last == set(model.tokenize(["w9"])[0])
    before = {row[-1] for row in model.tokenize(with_prompt(texts, "w9", "before").inputs)}
    assert len(before) == 2


def test_refusals(data):
    import torch

    with pytest.raises(DataError, match="holds no texts"):
        with_prompt(read(torch.zeros(2, 3)), "So?")
    with pytest.raises(ParameterError, match="after or before"):
        with_prompt(data, "So?", "around")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="empty"):
        with_prompt(data, "  ")
