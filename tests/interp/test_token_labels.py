"""Labels of single tokens: each comes from the place where its token ends."""

import io
import tokenize
from dataclasses import replace

import pandas as pd
import pytest
import torch

import interp
import probes
from interp.data import read
from interp.errors import DataError, ModelError
from interp.models import Model
from interp.prompts import with_prompt
from interp.token_labels import token_labels


@pytest.fixture
def data():
    frame = pd.DataFrame({"text": ["w3 w44 w5", "w6"], "label": [0, 1]})
    marks = {"label": [{2: "a", 6: "b", 4: "between tokens"}, {}]}
    return replace(read(frame, name="things"), marks=marks)


def test_a_token_has_the_label_of_its_end(gpt2, data):
    done = token_labels(gpt2, data)
    assert done.rows["label"].tolist() == [["a", "b", None], None]
    assert "2 tokens" in done.label_notes[-1] and done.hash != data.hash
    assert data.rows["label"].tolist() == [0, 1]
    assert token_labels(gpt2, data, max_length=1).rows["label"].tolist() == [["a"], None]


def test_a_prompt_before_the_text_moves_the_places(gpt2, data):
    for layout, expected in (("before", [None, "a", "b", None]), ("after", ["a", "b", None, None])):
        asked = with_prompt(data, "w90", layout)
        assert token_labels(gpt2, asked).rows["label"][0] == expected


@pytest.mark.parametrize("disk", [False, True])
def test_capture_and_probe_read_them(gpt2, tmp_path, disk):
    """The label of a token is its own word, so the embedding tells it; the text's is noise."""
    words = [[f"w{2 + (7 * i + 3 * j) % 50}" for j in range(4)] for i in range(30)]
    marks: list[dict[int, int]] = [{} for _ in words]
    for row, text in zip(marks, words, strict=True):
        end = -1
        for word in text[:3]:  # the last token of each text has no label
            end += len(word) + 1
            row[end] = int(int(word[1:]) > 26)
    frame = pd.DataFrame({"text": [" ".join(w) for w in words], "label": [0, 1] * 15})
    data = replace(read(frame, name="things"), marks={"label": marks})
    out = {"out": tmp_path / "acts"} if disk else {}
    store = interp.capture(gpt2, data, ["embed"], pool="all", **out)
    assert len(store["embed"]) == 120
    depth = probes.concept_depth(store, "label", folds=3, permutations=2)
    assert depth.n == 90 and depth.groups == "document" and depth.classes == ("0", "1")
    plain = interp.capture(gpt2, data, ["embed"], pool="last")  # a row a text has the text's label
    assert probes.concept_depth(plain, "label", folds=3, permutations=2).n == 30


def test_refusals(gpt2, data):
    with pytest.raises(DataError, match="marks 1 texts for 'label' and holds 2"):
        token_labels(gpt2, replace(data, marks={"label": [{}]}))
    slow = Model(gpt2.module, spec="mine", tokenizer=lambda texts, **k: {"input_ids": [[2]]})
    with pytest.raises(ModelError, match="does not say where its tokens lie"):
        token_labels(slow, data)
    with pytest.raises(ModelError, match="no tokenizer"):
        token_labels(Model(torch.nn.Linear(2, 2), spec="x"), data)


def test_the_demo_s_marks_are_exact():
    """Each text's own label is among its marks, and keywords are told by Python itself."""
    data = read("demo:python")
    own = checked = 0
    for i, row in data.rows.iterrows():
        concept, text = row["concept"], data.inputs[i]
        place = data.marks[concept][i]
        assert place[len(text)] == row[concept]
        assert all(0 < at <= len(text) for at in place)
        own += len(place)
        assert not any(data.marks[c][i] for c in data.labels if c != concept)
        if concept == "bracket_depth" and not checked:
            checked = 1
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            depth, found, starts = 0, {}, [0]
            for line in text.splitlines(keepends=True):
                starts.append(starts[-1] + len(line))
            try:
                for t in tokens:
                    if t.type == tokenize.OP:
                        depth += (t.string in "([{") - (t.string in ")]}")
                    found[starts[t.end[0] - 1] + t.end[1]] = min(depth, 2)
            except (tokenize.TokenError, IndentationError, SyntaxError):
                pass  # a window may end inside a bracket
            both = place.keys() & found.keys()
            assert len(both) > 5 and all(place[at] == found[at] for at in both)
    assert checked and own > 5 * len(data)
