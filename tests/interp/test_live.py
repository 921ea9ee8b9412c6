"""Progress in a notebook, with a stand-in for IPython: a line that appears late and changes."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import interp.live
from interp.live import live
from interp.store import ActivationStore
from probes import concept_depth


class Handle:
    def __init__(self, lines):
        self.lines = lines

    def update(self, data, raw):
        self.lines.append(data["text/plain"])


@pytest.fixture
def notebook(monkeypatch):
    """A kernel; what it has shown."""
    lines, shell = [], SimpleNamespace(kernel=object())

    def display(data, raw, display_id):
        lines.append(data["text/plain"])
        return Handle(lines)

    fake = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    return SimpleNamespace(lines=lines, shell=shell)


def test_outside_a_notebook_and_where_one_was_given_nothing_changes(notebook, monkeypatch):
    def mine(done, total, what):
        pass

    assert live(mine, "x") is mine
    del notebook.shell.kernel  # IPython in a terminal
    assert live(None, "x") is None
    monkeypatch.delitem(sys.modules, "IPython")
    assert live(None, "x") is None


def test_the_line_comes_late_changes_seldom_and_ends_full(notebook, monkeypatch):
    clock = iter([0.0, 0.5, 1.5, 1.6, 2.0, 2.1])
    monkeypatch.setattr(interp.live.time, "monotonic", lambda: next(clock))
    step = live(None, "probing")
    assert step is not None
    for done in (0, 2, 3, 4, 5):  # at .5, 1.5, 1.6, 2.0 and 2.1 s
        step(done, 5, "embed")
    assert [line.split(" ", 2)[2] for line in notebook.lines] == [
        "2 of 5, 2 s embed", "4 of 5, 2 s embed", "5 of 5, 2 s embed",
    ]  # fmt: skip
    assert notebook.lines[-1].startswith("probing " + "█" * 30)


def test_a_long_function_shows_itself_without_being_asked(notebook, monkeypatch):
    monkeypatch.setattr(interp.live, "AFTER", -1.0)
    monkeypatch.setattr(interp.live, "EVERY", -1.0)
    X = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3)))
    store = ActivationStore.from_tensors({"a": X, "b": X}, pd.DataFrame({"label": [0, 1] * 20}))
    concept_depth(store, folds=2, strengths=0.1, permutations=2, random_features=False)
    assert len(notebook.lines) == 3 and "2 of 2" in notebook.lines[-1]
