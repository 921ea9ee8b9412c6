"""Latents matched one to one: permutations, noise, and what chance alone would call alike."""

import numpy as np
import pytest
import torch

from interp.errors import DataError, ParameterError, ShapeError
from saes import LatentMatch, match_latents


def directions(f=40, d=64, seed=0):
    x = torch.randn(f, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def test_a_dictionary_in_another_order_is_kept_whole():
    a = directions()
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(1))
    found = match_latents(a, 3 * a[order])
    assert found.counts == {"kept": 40, "changed": 0, "gone": 0, "new": 0}
    np.testing.assert_allclose(found.cosine, 1)
    assert np.array_equal(order.numpy()[found.latent_b], found.latent_a)


def test_random_dictionaries_are_gone_and_new_but_for_chance():
    found = match_latents(directions(), directions(seed=1))
    assert found.counts["kept"] == 0
    assert found.counts["gone"] == found.counts["new"] >= 0.8 * 40
    assert found.mean < found.chance < 0.7


def test_each_latent_is_counted_once():
    a = directions()
    b = a.clone()
    b[:10] = directions(10, seed=2)  # ten are other ones
    e = directions(10, seed=3)
    b[10:20] = 0.5 * a[10:20] + 3**0.5 / 2 * (e - (e * a[10:20]).sum(1, keepdim=True) * a[10:20])
    found = match_latents(a, b[:35])  # and five have no partner
    held = [int(i) for i in found.latent_a if i >= 0]
    assert sorted(held) == list(range(40))
    assert sorted(int(i) for i in found.latent_b if i >= 0) == list(range(35))
    assert found.counts["kept"] == 15 and found.counts["changed"] >= 9
    assert found.counts["gone"] - found.counts["new"] == 5


def test_dead_latents_are_left_out_and_indexes_stay():
    a = directions()
    a[3] = 0
    found = match_latents(a, a)
    assert found.n_a == 39 and 3 not in found.latent_a and 39 in found.latent_a
    assert "1 latents of the first" in found.notes[0]
    frame = found.to_frame()
    assert list(frame.state.unique()) == ["kept"] and len(frame) == 39


def test_signs_count():
    a = directions()
    assert match_latents(a, -a).counts["kept"] == 0


def test_what_is_refused():
    a = directions()
    with pytest.raises(ShapeError, match="64 and 32 dimensions"):
        match_latents(a, directions(d=32))
    with pytest.raises(DataError, match="all directions of b are 0"):
        match_latents(a, torch.zeros(3, 64))
    with pytest.raises(DataError, match="nan or inf"):
        match_latents(a, a * torch.nan)
    for same in (0, -0.5, 1.5):
        with pytest.raises(ParameterError, match="same is a cosine"):
            match_latents(a, a, same=same)


def test_it_is_saved_and_read_back(tmp_path):
    found = match_latents(directions(), directions(seed=1))
    again = LatentMatch.load(found.save(tmp_path / "m.json"))
    assert again.counts == found.counts and np.array_equal(again.latent_b, found.latent_b)
