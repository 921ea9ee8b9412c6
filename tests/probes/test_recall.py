"""MQAR: the worked example, the oracle, chance levels, and a generator that is seeded whole."""

import numpy as np
import pytest
import torch

from interp.errors import ParameterError, ShapeError
from probes.recall import IGNORED, induction_oracle, mqar, recall_by_gap

INPUTS = torch.tensor([[2, 8, 4, 7, 0, 0, 4, 0, 0, 0, 0, 0, 2, 0, 0, 0]])


def test_the_worked_example_of_twelve_tokens_and_two_pairs():
    said = induction_oracle(INPUTS)[0]
    assert said[6] == 7 and said[12] == 8 and (said[:4] == IGNORED).all()
    task = mqar(50, vocabulary=12, pairs=2, length=16, filler="zeros")
    asked = task.labels != IGNORED
    assert (asked.sum(1) == 2).all() and not asked[:, :4].any() and not asked[:, 5::2].any()
    assert (task.inputs[:, 4:][~asked[:, 4:]] == 0).all()
    keys, values = task.inputs[:, 0:4:2], task.inputs[:, 1:4:2]
    assert int(keys.min()) >= 1 and int(keys.max()) < 6 <= int(values.min())


@pytest.mark.parametrize("filler", ["zeros", "random"])
def test_the_oracle_answers_everything_and_guesses_do_not(filler):
    task = mqar(200, length=64, pairs=8, vocabulary=128, filler=filler)
    found = recall_by_gap(task, induction_oracle(task.inputs))
    assert found.accuracy == 1 == found.oracle and (found.by_gap == 1).all()
    assert found.counts.sum() == 200 * 8
    g = torch.Generator().manual_seed(0)
    guess = torch.randint(64, 128, task.labels.shape, generator=g)
    assert recall_by_gap(task, guess).accuracy == pytest.approx(task.chance, abs=0.012)
    pick = torch.randint(0, 8, task.labels.shape, generator=g)
    seen = task.inputs[:, 1:16:2].gather(1, pick.reshape(200, -1))
    assert recall_by_gap(task, seen).accuracy == pytest.approx(1 / 8, abs=0.03)
    assert (task.chance, task.seen_chance) == (1 / 64, 1 / 8)


def test_random_filler_never_asks_a_key_without_a_label():
    task = mqar(100, length=32, pairs=8, vocabulary=40)
    asked = task.labels != IGNORED
    for row in range(100):
        keys = set(task.inputs[row, 0:16:2].tolist())
        others = task.inputs[row, 16:][~asked[row, 16:]].tolist()
        assert not keys & set(others)
    assert len(set(task.inputs[:, 16:][~asked[:, 16:]].tolist())) > 20


def test_a_seed_is_the_whole_of_it_and_nothing_global_is_touched():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (mqar(20, vocabulary=128, seed=s) for s in (3, 3, 4))
    assert torch.equal(one.inputs, two.inputs) and torch.equal(one.labels, two.labels)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_a_small_power_asks_near_the_pairs_and_gaps_are_distances():
    near, even = (mqar(300, vocabulary=128, pairs=2, power=p) for p in (0.01, 1.0))
    places = [task.labels.ne(IGNORED).nonzero()[:, 1].double().mean() for task in (near, even)]
    assert places[0] < 20 and places[1] == pytest.approx(4 + 29, abs=2)
    row, at = near.labels.ne(IGNORED).nonzero()[0].tolist()
    key = near.inputs[row, at]
    assert int(near.gaps[row, at]) == at - int((near.inputs[row] == key).nonzero()[0])


def test_by_gap_tells_where_a_model_forgets(tmp_path):
    task = mqar(200, length=64, pairs=4, vocabulary=128, power=1.0)
    said = induction_oracle(task.inputs)
    said[task.gaps > 30] = 0
    found = recall_by_gap(task, said)
    assert found.by_gap[0] == 1 and found.by_gap[-1] == 0 and found.oracle == 1
    logits = torch.nn.functional.one_hot(said.clamp_min(0), 128).float()
    assert recall_by_gap(task, logits).accuracy == found.accuracy
    loaded = type(found).load(found.save(tmp_path / "r.json"))
    assert np.array_equal(loaded.by_gap, found.by_gap)


def test_refusals():
    for wrong in ({"length": 63}, {"pairs": 17}, {"vocabulary": 8}, {"power": 0}, {"filler": "x"}):
        with pytest.raises(ParameterError, match="mqar needs"):
            mqar(2, **wrong)
    with pytest.raises(ShapeError, match="answers are"):
        recall_by_gap(mqar(2), torch.zeros(2, 3))
