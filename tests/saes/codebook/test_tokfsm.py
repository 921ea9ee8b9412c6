"""The finite-state language: its published identity, and what a perfect model of it scores."""

import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interp.errors import ParameterError
from saes.codebook import FSM
from saes.codebook.tokfsm import first_transition_overlap, next_state_probabilities, walks

PAPER = FSM(100, 10, seed=42)


def test_the_paper_s_machine():
    rng = np.random.default_rng(42)
    fsm = FSM(100, 10, rng)
    assert np.array_equal(fsm.transitions, PAPER.transitions)
    assert fsm.neighbours[0].tolist() == [8, 9, 19, 41, 60, 68, 71, 82, 94, 96]
    assert fsm.neighbours[1].tolist() == [17, 34, 39, 40, 46, 54, 62, 75, 81, 88]
    assert fsm.neighbours[99].tolist() == [6, 16, 17, 18, 24, 40, 44, 58, 62, 78]
    i, j = np.nonzero(fsm.transitions)
    assert (100 * i + j).sum() == 5000203
    into = (fsm.transitions > 0).sum(0)
    assert (into.min(), into.max()) == (3, 18)
    edges = (fsm.transitions > 0).astype(np.uint8)
    digest = hashlib.sha256(edges.tobytes()).hexdigest()
    assert digest == "4d37eb415dae7639fe7649bac53e527a953e86c04b1714a61533938fad495d25"
    assert fsm.walk(8, rng) == [53, 30, 10, 11, 95, 88, 89, 45]
    np.testing.assert_allclose(fsm.transitions.sum(1), 1)


def test_states_and_digits():
    assert PAPER.text([18, 0, 39]) == "180039"
    assert PAPER.states("1800391") == [18, 0, 39]
    assert PAPER.states("<|endoftext|>1800<|endoftext|>39") == [18, 0, 39]
    assert PAPER.states([10, 1, 8, 0, 0, 3, 9, 1]) == [18, 0, 39]
    assert PAPER.digits == 2 and FSM(4, 2, 0, base=2).digits == 2 and FSM(10, 2, 0).digits == 1
    backwards = PAPER.reverse()
    assert np.count_nonzero(backwards[0]) == 15
    assert backwards[0].max() == pytest.approx(1 / 15)
    np.testing.assert_allclose(backwards.sum(1), 1)


def test_a_small_machine():
    fsm = FSM(4, 2, seed=0, base=2)
    assert fsm.neighbours.tolist() == [[2, 3], [0, 1], [0, 3], [2, 3]]
    assert fsm.transition_accuracy([[0, 1, 2, 3]]) == (1 / 3, 0)
    assert fsm.transition_accuracy([[0, 2], [1, 1, 0]]) == (1, 1)
    assert all(math.isnan(v) for v in fsm.transition_accuracy([[3], []]))
    assert FSM(3, 2, seed=0, base=2).transition_accuracy([[3, 0]])[0] == 0  # 3 is no state


def test_the_bayes_floor():
    assert len(PAPER.state_digit_pairs()) == 686
    assert [len(FSM(100, 10, seed=s).state_digit_pairs()) for s in (0, 1, 2)] == [673, 667, 655]
    assert PAPER.bayes_loss() == pytest.approx(1.1748496, abs=5e-8)
    assert PAPER.bayes_accuracy() == pytest.approx(0.4637801, abs=5e-8)
    # by hand: the first digit of a uniform state, then its second
    assert FSM(100, 10, seed=42).bayes_loss(length=3) == pytest.approx(math.log(10))
    assert PAPER.bayes_accuracy(length=3) == pytest.approx(0.1)
    # a machine with one edge is certain after the first state
    sure = FSM(10, 1, seed=0)
    assert sure.bayes_loss(length=11) == pytest.approx(math.log(10) / 10)
    assert sure.bayes_accuracy(length=11) == pytest.approx((0.1 + 9) / 10)


def test_the_bayes_loss_is_that_of_the_true_chances_on_samples():
    """A model that knows the edges scores the floor within the error of the sample."""
    generator = torch.Generator().manual_seed(0)
    tokens = PAPER.sequences(400, generator=generator)
    losses = []
    for walk in walks(PAPER, tokens[:, :127]):  # whole states alone: 63
        losses += [math.log(100), *[math.log(10)] * (len(walk) - 1)]
        steps = zip(walk, walk[1:], strict=False)
        assert all(PAPER.transitions[a, b] > 0 for a, b in steps)
    whole = np.sum(losses) / (400 * 126)
    assert PAPER.bayes_loss(length=127) == pytest.approx(whole, abs=1e-9)


def test_sequences_are_walks_of_the_machine():
    tokens = PAPER.sequences(300, generator=torch.Generator().manual_seed(3))
    again = PAPER.sequences(300, generator=torch.Generator().manual_seed(3))
    assert torch.equal(tokens, again) and tokens.shape == (300, 128)
    assert (tokens[:, 0] == 10).all() and (tokens[:, 1:] < 10).all()
    states = walks(PAPER, tokens)
    assert {len(s) for s in states} == {63}
    assert PAPER.transition_accuracy(states) == (1, 1)
    assert FSM(100, 10, seed=7).transition_accuracy(states)[0] < 0.2  # another machine's edges
    first = np.bincount([s[0] for s in states], minlength=100)
    assert first.max() < 15  # uniform: 3 each


def perfect(fsm):
    """A model that knows the chance of each digit, as a stand-in for a model's forward."""

    def run(inputs):
        ids = inputs["input_ids"]
        rows = fsm._rows()
        out = torch.full((*ids.shape, fsm.vocabulary), -30.0)
        for b, row in enumerate(ids.tolist()):
            for t in range(len(row)):
                digits = row[1 : t + 1]
                whole = fsm.states(digits)
                chances = rows[whole[-1] if whole else -1]
                for d in digits[len(whole) * fsm.digits :]:
                    chances = chances.reshape(fsm.base, -1)[d]
                chances = chances.reshape(fsm.base, -1).sum(1)
                out[b, t, : fsm.base] = torch.from_numpy(
                    np.log(chances / max(chances.sum(), 1e-9) + 1e-12)
                ).float()
        return SimpleNamespace(logits=out)

    return run


def test_next_states_of_a_perfect_model():
    fsm = FSM(10, 3, seed=1, base=4)
    run = perfect(fsm)

    class Model:
        module, device = torch.nn.Identity(), torch.device("cpu")

        def __call__(self, inputs):
            return run(inputs)

    found = next_state_probabilities(Model(), fsm)
    np.testing.assert_allclose(found.numpy(), fsm.transitions, atol=1e-5)
    assert first_transition_overlap(Model(), fsm) == 1
    other = FSM(10, 3, seed=2, base=4)
    assert first_transition_overlap(Model(), other) < 0.7


@pytest.mark.parametrize("n, edges", [(1, 1), (4, 0), (4, 5)])
def test_machines_that_cannot_be(n, edges):
    with pytest.raises(ParameterError, match="from 1 to n_states edges; got"):
        FSM(n, edges, seed=0)
    with pytest.raises(ParameterError, match="base must be from 2 to 10; got 11"):
        FSM(4, 2, seed=0, base=11)
