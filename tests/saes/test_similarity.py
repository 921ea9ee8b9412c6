"""Cosines by hand, matching against every permutation, and dictionaries that hold each other."""

from itertools import permutations

import numpy as np
import pytest
import torch

from interp.errors import DataError, ShapeError
from interp.results import Result
from saes import max_cosine, mean_max_cosine, seed_stability
from saes import similarity as similarity_module


def dictionary(f=40, d=12, seed=0):
    return torch.randn(f, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosines_by_hand():
    rows = [[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-4.0, 0.0]]
    half = 2**-0.5
    np.testing.assert_allclose(max_cosine(rows), [half, half, half, 0], atol=1e-15)
    # [0, 1] is best held by [0, 3]; [-1, -1] by [-4, 0]: a sign is another direction
    assert mean_max_cosine(rows, [[0.0, 1.0], [-1.0, -1.0]]) == pytest.approx((1 + half) / 2)
    assert mean_max_cosine([[1.0, 0.0]], [[-1.0, 0.0]]) == -1


def test_rows_of_zeros_are_no_directions():
    rows = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    best = max_cosine(rows)
    assert best[1].isnan() and best[0] == pytest.approx(2**-0.5) == best[2]
    assert max_cosine([[1.0, 2.0]]).isnan().all()
    assert mean_max_cosine(rows, [[0.0, 1.0]]) == pytest.approx(2**-0.5)
    assert np.isnan(mean_max_cosine([[0.0, 0.0]], [[0.0, 1.0]]))
    with pytest.raises(DataError, match="row 1 of true is 0"):
        mean_max_cosine(rows, rows)
    with pytest.raises(DataError, match="row 1 of b is 0"):
        seed_stability([[1.0, 0.0]], rows)


def test_a_dictionary_holds_itself_in_any_order_and_length():
    true = dictionary()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found = 3.7 * true[order]
    assert mean_max_cosine(found, true) == pytest.approx(1, abs=1e-12)
    assert mean_max_cosine(torch.cat([found, dictionary(100, seed=2)]), true) == pytest.approx(1)
    r = seed_stability(found, true)
    np.testing.assert_array_equal(r.latents_b, order)
    assert (
        r.mean == r.median == pytest.approx(1) and r.shared == 1 and r.mmcs_ba == pytest.approx(1)
    )
    assert 0.3 < r.chance < 0.8
    other = seed_stability(dictionary(seed=5), true)
    assert other.mean == pytest.approx(other.chance, abs=0.1) and other.shared < 0.5
    half = seed_stability(torch.cat([true[:20], -true[20:]]), true)
    assert 0.5 <= half.shared < 0.8 and half.mean < 0.9


def test_the_matching_is_the_best_of_all():
    a, b = dictionary(6, 3), dictionary(6, 3, seed=1)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (a, b)]
    cosines = (unit[0] @ unit[1].T).numpy()
    best = max(cosines[range(6), list(p)].mean() for p in permutations(range(6)))
    r = seed_stability(a, b)
    assert r.mean == pytest.approx(best, abs=1e-12)
    assert sorted(r.latents_b) == list(range(6))
    greedy = cosines.max(1).mean()  # each its own best, several the same one
    assert r.mmcs_ab == pytest.approx(greedy) and greedy > best + 1e-3


def test_of_two_sizes_all_of_the_smaller_are_matched():
    true = dictionary()
    r = seed_stability(true[5:15], true)
    np.testing.assert_array_equal(r.latents_b, range(5, 15))
    assert r.n == 10 and r.mean == pytest.approx(1) and r.mmcs_ab == pytest.approx(1)
    assert r.mmcs_ba < 0.9


def test_blocks_change_nothing(monkeypatch):
    true = dictionary()
    whole = max_cosine(true)
    monkeypatch.setattr(similarity_module, "BLOCK", 90)
    torch.testing.assert_close(max_cosine(true), whole, rtol=1e-12, atol=0)
    cosine = (true @ true.T) / true.norm(dim=1)[:, None] / true.norm(dim=1)
    torch.testing.assert_close(whole, cosine.fill_diagonal_(-9).amax(1))


def test_saes_give_their_decoder(small, tmp_path):
    sae = small("topk")
    torch.testing.assert_close(max_cosine(sae), max_cosine(sae.decoder), rtol=0, atol=0)
    r = seed_stability(sae, sae)
    assert r.mean == pytest.approx(1)
    back = Result.load(r.save(tmp_path / "r.json"))
    assert back.metrics() == r.metrics() and len(back.to_frame()) == 6


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ShapeError, match="3 and 4 dimensions"):
        mean_max_cosine(dictionary(5, 3), dictionary(5, 4))
    with pytest.raises(ShapeError, match=r"directions must be directions \[f, d\]; got \[3\]"):
        max_cosine(torch.ones(3))
    with pytest.raises(DataError, match="a holds nan"):
        seed_stability(torch.full((2, 2), torch.nan), torch.ones(2, 2))
