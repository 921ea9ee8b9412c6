"""Nearest decoder rows and their map, against cosines worked out by hand."""

import numpy as np
import pytest
import torch

import saes
from interp.errors import ParameterError
from saes.directions import nearest, spread


def rows(table):
    """An SAE with these decoder rows."""
    table = torch.as_tensor(table, dtype=torch.float32)
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=len(table), k=1), table.shape[1])
    with torch.no_grad():
        sae.decoder.copy_(table)
    return sae


def test_the_nearest_are_by_cosine_and_not_by_length():
    sae = rows([[1, 0], [5, 5], [0, 1], [-10, -1], [0, 0]])
    found = nearest(sae, np.arange(5), 2)
    assert found["index"][:4].tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    half, low = np.sqrt(0.5), np.sqrt(1 / 101)
    np.testing.assert_allclose(
        found["cosine"][:4],
        [[half, 0], [half, half], [half, 0], [-low, -11 * low * half]],
        atol=1e-6,
    )
    assert found["index"][4].tolist() == [-1, -1]  # a row of zeros is near nothing
    assert np.isnan(found["cosine"][4]).all()
    assert nearest(sae, np.array([2]), 2)["index"].tolist() == [[1, 0]]  # among all latents


def test_blocks_change_nothing(monkeypatch):
    sae = rows(np.random.default_rng(0).normal(size=(40, 6)))
    whole = nearest(sae, np.arange(40), 3)
    monkeypatch.setattr("saes.directions.BLOCK", 100)
    again = nearest(sae, np.arange(40), 3)
    np.testing.assert_array_equal(whole["index"], again["index"])
    one = nearest(rows([[1.0, 0.0]]), np.arange(1), 3)
    assert one["index"].shape == (1, 0)


def test_a_map_keeps_two_dimensions_and_leaves_out_the_dead():
    flat = np.random.default_rng(1).normal(size=(12, 2))
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0][:2]
    fires = np.ones(12)
    fires[3] = 0
    places, how, why = spread(rows(flat @ turn), np.arange(12), fires, "pca", 0)
    assert how == "pca" and why is None and np.isnan(places[3]).all()
    kept = np.arange(12) != 3

    def distances(x):
        return np.linalg.norm(x[:, None] - x[None], axis=2)

    np.testing.assert_allclose(distances(places[kept]), distances(flat[kept]), atol=1e-5)


def test_few_latents_are_drawn_by_pca_and_too_few_not_at_all():
    sae = rows(np.random.default_rng(0).normal(size=(12, 4)))
    umap = spread(sae, np.arange(12), np.ones(12), "umap", 0)
    pca = spread(sae, np.arange(12), np.ones(12), "pca", 0)
    assert umap[1] == "pca"
    np.testing.assert_array_equal(umap[0], pca[0])
    places, how, why = spread(sae, np.arange(2), np.ones(2), "umap", 0)
    assert places is None and how is None and "at least 3" in why
    assert spread(sae, np.arange(12), np.ones(12), None, 0)[2] == "no map was asked for"
    with pytest.raises(ParameterError, match="layout must be one of umap, pca"):
        spread(sae, np.arange(12), np.ones(12), "tsne", 0)


@pytest.mark.slow
def test_umap_keeps_two_bundles_apart():
    rng = np.random.default_rng(0)
    ends = np.repeat(np.eye(8)[:2], 40, axis=0)
    sae = rows(ends + 0.05 * rng.normal(size=ends.shape))
    places, how, _ = spread(sae, np.arange(80), np.ones(80), "umap", 0)
    assert how == "umap"
    gap = np.linalg.norm(places[:40].mean(0) - places[40:].mean(0))
    assert gap > places[:40].std() + places[40:].std()
