"""Planted concepts: found by the latents that hold them, and by nothing where labels are noise."""

import numpy as np
import pytest
import torch
from scipy import sparse

from interp.errors import DataError, ParameterError, ShapeError
from interp.results import Result
from probes import LinearProbe
from saes import TopKConfig, TopKSAE, sparse_probing
from saes.k_sparse import associations

D, F = 8, 20


@pytest.fixture(scope="module")
def planted():
    """An SAE whose latent 7 alone holds a direction that no single dimension shows well."""
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(TopKConfig(n_latents=F, k=3), D, generator=generator)
    direction = torch.ones(D) / D**0.5 * torch.tensor([1.0, -1.0] * (D // 2))
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    x = torch.from_numpy(rng.normal(0, 1, (300, D))).float()
    x -= (x @ direction)[:, None] * direction  # only the label lies along it
    x += torch.from_numpy(y)[:, None] * 2.0 * direction
    with torch.no_grad():
        sae.encoder -= (sae.encoder @ direction)[:, None] * direction
        sae.encoder[7] = 10 * direction
        sae.decoder.copy_(sae.encoder)
    return sae, x, np.array(["no", "yes"], dtype=object)[y]


def test_one_latent_reads_what_one_dimension_cannot(planted):
    sae, x, labels = planted
    r = sparse_probing(sae, x, labels, ks=(1, 4), folds=3)
    assert r.accuracy[0] == r.auc[0] == r.full_accuracy == 1 and (r.chosen[:, 0] == 7).all()
    assert r.majority < 0.6 and r.majority < r.raw_accuracy[0] < 0.85
    assert r.raw_accuracy[1] > r.raw_accuracy[0]
    assert (abs(r.shuffled - 0.5) < 0.1).all() and (abs(r.raw_shuffled - 0.5) < 0.1).all()
    assert (r.raw_low < r.raw_accuracy).all() and (r.raw_accuracy < r.raw_high).all()
    assert r.classes == ("no", "yes") and r.n == 300 == sum(r.class_counts.values())


def test_features_are_chosen_on_training_rows_alone():
    """Labels of noise, many latents: chosen on all rows, the best of them would look good."""
    rng = np.random.default_rng(0)
    f, n = 400, 60
    sae = TopKSAE(TopKConfig(n_latents=f, k=40), 8, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(rng.normal(0, 1, (n, 8))).float()
    honest, leaky = [], []
    for seed in range(4):
        y = rng.permutation(np.repeat([0, 1], n // 2))
        honest.append(
            sparse_probing(sae, x, y, ks=(5,), folds=3, permutations=1, seed=seed).accuracy[0]
        )
        z = sae.encode(x).detach().double().numpy()
        explained, _ = associations(z, y, np.full(n, -1), 0)  # no row is held out
        best = z[:, np.argsort(-explained)[:5]]
        right = []
        for k in range(3):
            test = np.arange(n) % 3 == k
            right.append(
                LinearProbe(standardize=True).fit(best[~test], y[~test]).score(best[test], y[test])
            )
        leaky.append(np.mean(right))
    assert abs(np.mean(honest) - 0.5) < 0.09
    assert np.mean(leaky) > 0.65


def test_explained_variance_by_hand_sparse_and_dense():
    z = np.array([[1.0, 0, 5, 0], [3, 0, 5, 2], [0, 0, 5, 2], [0, 0, 5, 0], [99, 9, 9, 9]])
    y, fold = np.array([1, 1, 0, 0, 0]), np.array([0, 0, 0, 0, 1])
    for features in (z, sparse.csr_array(z)):
        explained, means = associations(features, y, fold, 1)
        np.testing.assert_allclose(explained, [4 / 6, 0, 0, 0])
        np.testing.assert_allclose(means, [[0, 0, 5, 1], [2, 0, 5, 1]])
    r = np.corrcoef(z[:4, 0], y[:4])[0, 1]
    assert explained[0] == pytest.approx(r**2)


def test_groups_are_never_split(planted):
    """Each group has a mark and a label of chance: split by rows the mark gives the label away."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 8)
    y = np.repeat(rng.permutation([0, 1] * 20), 8)
    x = np.repeat(rng.normal(0, 3, (40, D)), 8, axis=0) + rng.normal(0, 0.01, (320, D))
    sae, *_ = planted
    free = sparse_probing(sae, x.astype(np.float32), y, ks=(8,), folds=4, permutations=1)
    kept = sparse_probing(
        sae, x.astype(np.float32), y, groups=groups, ks=(8,), folds=4, permutations=1
    )
    assert kept.accuracy[0] < free.accuracy[0] - 0.05
    assert kept.accuracy_high[0] - kept.accuracy_low[0] > 0.15  # 40 groups, not 320 rows


def test_three_classes_and_missing_labels(planted):
    sae, x, labels = planted
    three = labels.copy()
    three[:60] = "maybe"
    three[60:80] = None
    r = sparse_probing(sae, x, three, ks=(2,), permutations=1)
    assert r.classes == ("maybe", "no", "yes") and r.n == 280
    assert "20 of 300 rows have no 'label'" in r.notes[0] and 0.5 < r.accuracy[0] < 1


def test_saved_and_loaded(planted, tmp_path):
    r = sparse_probing(*planted, ks=(1, 2), folds=2, permutations=1)
    back = Result.load(r.save(tmp_path / "r.json"))
    assert back.metrics() == r.metrics() and len(back.to_frame()) == 2


def test_bad_input_is_refused(planted):
    sae, x, labels = planted
    for ks in ((0,), (9,), ()):
        with pytest.raises(ParameterError, match="ks must be from 1 to 8"):
            sparse_probing(sae, x, labels, ks=ks)
    with pytest.raises(ShapeError, match="299 for 300"):
        sparse_probing(sae, x, labels[1:], ks=(1,))
    with pytest.raises(DataError, match="one class only"):
        sparse_probing(sae, x, np.zeros(300), ks=(1,))
    with pytest.raises(ParameterError, match="permutations"):
        sparse_probing(sae, x, labels, ks=(1,), permutations=0)
    bad = x.clone()
    bad[5, 2] = torch.nan
    with pytest.raises(DataError, match="first in row 5"):
        sparse_probing(sae, bad, labels, ks=(1,))
