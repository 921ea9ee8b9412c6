"""A small machine learnt with codebooks at every block: what the scores say of it."""

import json
import math

import numpy as np
import pytest
import torch

import interp
from interp.errors import ParameterError
from interp.results import Result
from saes.codebook import FSM, CodebookConfig, FSMBatches, insert, train_codebooks
from saes.codebook.tokfsm import code_purity, interchange_table, state_accuracy, state_tokens
from saes.codebook.tokfsm_scores import _classes, evaluate_tokfsm, force_states

MACHINE = FSM(9, 2, seed=0, base=4)


@pytest.fixture(scope="module")
def learnt():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=5, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=128, bos_token_id=4, eos_token_id=4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = interp.load(GPTNeoXForCausalLM(config))
    bare = insert(model, [], CodebookConfig(n_codes=1, k=1))
    train_codebooks(bare, FSMBatches(MACHINE, 24, length=21), steps=300, lr=5e-3)
    books = insert(model, "resid_post.*", CodebookConfig(n_codes=80, k=1))
    data = FSMBatches(MACHINE, 24, length=21, seed=1)
    train_codebooks(books, data, steps=120, lr=3e-3, replace_every=15)
    return books


def test_scores_of_a_model_that_knows_its_machine(learnt, tmp_path):
    found = evaluate_tokfsm(learnt, MACHINE, sequences=32, samples=40, length=21, pairs=60)
    assert found.floor == MACHINE.bayes_loss(21) and found.floor - 0.02 < found.loss
    assert found.state_accuracy > 0.6 > 2.5 * found.state_chance
    low, high = found.state_interval
    assert low < found.state_accuracy < high < low + 0.11
    assert found.overlap > 0.7
    assert found.interchange["resid_post.1"] < 1e-6  # the last block's output decides all
    assert 0.05 < found.interchange["resid_post.0"] < 2
    assert set(found.purity) == {"resid_post.0", "resid_post.1"}
    assert all(0 <= v <= 1 for v in (*found.purity.values(), *found.states.values()) if v < 9)
    assert found.states["states"] == 9 and found.states["code recall"] > 0.2
    codes, clean, random = (found.forced[k][0] / 60 for k in ("codes", "clean", "random codes"))
    assert codes > 0.6 and codes > clean + 0.2 and codes > random + 0.2
    both, apart = (found.forced[f"{k} of all digits"][0] for k in ("codes", "random codes"))
    assert both / 60 > codes - 0.1 and both > apart + 12
    assert Result.load(found.save(tmp_path / "scores.json")).metrics() == found.metrics()
    json.dumps(found.metrics(), allow_nan=False)
    frame = found.to_frame().set_index("measure")
    assert frame.loc["forced, codes", "low"] < codes < frame.loc["forced, codes", "high"]


def test_a_model_that_knows_nothing(learnt):
    fresh = learnt.model.reinitialised(3)
    books = insert(fresh, [], CodebookConfig(n_codes=1, k=1))
    found = evaluate_tokfsm(books, MACHINE, sequences=8, samples=40, length=21)
    assert found.loss > found.floor + 0.3 and found.state_accuracy < 0.45
    assert found.purity == found.forced == {}
    short = evaluate_tokfsm(books, MACHINE, sequences=2, samples=3, length=4)  # a state and a half
    assert all(math.isnan(v) for v in (short.state_accuracy, *short.state_interval))


def test_purity_and_interchange_at_their_ends(learnt):
    books = insert(learnt.model.reinitialised(1), "resid_post.*", CodebookConfig(n_codes=1, k=1))
    assert set(code_purity(books, MACHINE).values()) == {0.0}  # one code fires after all
    table = interchange_table(books, MACHINE)
    assert all(math.isnan(v) for v in table.values())  # all runs are one: there is no distance
    with pytest.raises(ParameterError, match="after must be"):
        code_purity(books, MACHINE, after="digit")
    rich = interchange_table(learnt, MACHINE, pairs=20, prefix=3, seed=1)
    assert rich == interchange_table(learnt, MACHINE, pairs=20, prefix=3, seed=1)
    assert list(rich) == ["resid_post.0", "resid_post.1", "all resid_post"]


def test_classes_are_states_at_their_last_digits():
    tokens = MACHINE.sequences(5, 12, generator=torch.Generator().manual_seed(0))
    classes = _classes(MACHINE, tokens).reshape(5, 12)
    for row, own in zip(tokens, classes, strict=True):
        assert own[own >= 0].tolist() == MACHINE.states(row[1:])
        assert np.flatnonzero(own >= 0).tolist() == [2, 4, 6, 8, 10]
    assert state_tokens(MACHINE, torch.tensor([5, 0])).tolist() == [[4, 1, 1], [4, 0, 0]]


def test_forcing_is_reproducible_and_leaves_the_model_as_it_was(learnt):
    assert force_states(learnt, MACHINE, n=10) == force_states(learnt, MACHINE, n=10)
    assert not any(learnt._edits.values())
    one, again = (state_accuracy(learnt.model, MACHINE, n=5, length=20) for _ in range(2))
    assert one == again
