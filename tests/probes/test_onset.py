import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm, t

from interp.store import ActivationStore
from probes import concept_depth
from probes.onset import holm, null_of, onset_interval
from probes.scores import accuracy_in_draws, bootstrap_weights, hits_of_groups

NAMES = ("embed", *(f"resid_post.{i}" for i in range(6)))


def stream(y, onset, seed, d=8, names=NAMES):
    """A residual stream: each layer adds to the one before, and layer ``onset`` adds the label."""
    rng = np.random.default_rng(seed)
    X, tensors = rng.standard_normal((len(y), d)), {}
    for i, name in enumerate(names):
        X = X + 0.5 * rng.standard_normal(X.shape)
        if i == onset:
            X = X + 4.0 * y[:, None] * np.eye(d)[0]
        tensors[name] = torch.from_numpy(X)
    return ActivationStore.from_tensors(tensors, pd.DataFrame({"label": y}))


def run(store, **options):
    return concept_depth(store, folds=3, strengths=0.1, random_features=False, **options)


@pytest.mark.parametrize(("at", "depth"), [(0, 0.0), (1, 0.0), (3, 2 / 6), (6, 5 / 6)])
def test_a_planted_concept_begins_exactly_where_it_is_planted(at, depth):
    for seed in range(5):
        y = np.random.default_rng(seed).permutation(np.arange(90) % 2)
        r = run(stream(y, at, seed), seed=seed)
        assert r.onset_hookpoint == NAMES[at]
        assert r.onset_depth == pytest.approx(depth)
        assert r.onset_low <= r.onset_depth <= r.onset_high
        assert (r.p_adjusted[:at] > 0.05).all()
        assert (r.p_adjusted[at:] <= 0.05).all()


def test_random_labels_have_no_onset_in_95_of_100_seeds():
    none = covered = uncorrected = pointwise = 0
    for seed in range(100):
        y = np.random.default_rng(1000 + seed).permutation(np.arange(60) % 2)
        r = run(stream(y, None, seed, d=6), seed=seed)
        none += r.onset_depth is None and "no layer beats" in r.reasons["onset_depth"]
        covered += bool(((r.selectivity_low <= 0) & (0 <= r.selectivity_high)).all())
        uncorrected += bool((r.p_value > 0.05).all())
        # The same interval for one place by itself.
        narrow = t.ppf(0.975, 9) / t.ppf(1 - 0.025 / 7, 9) * (r.selectivity_high - r.selectivity)
        pointwise += bool((np.abs(r.selectivity) <= narrow).all())
    assert none >= 95
    assert covered >= 95
    # Without a correction for the seven places both promises are broken.
    assert uncorrected < 95
    assert pointwise < 95


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])
    np.testing.assert_allclose(holm([[0.2], [0.3]]), [[0.2], [0.3]])
    p = np.random.default_rng(0).random(9)
    assert (holm(p) >= p).all() and (np.argsort(holm(p), kind="stable")[0] == p.argmin())


def test_p_values_are_uniform_where_accuracies_are_one_more_shuffle():
    draws = np.random.default_rng(0).normal(0.5, 0.03, (4000, 11))
    null = null_of(draws[:, 1:], np.zeros(4000), n=10**6)
    p = null.p_values(draws[:, 0])
    for level in (0.01, 0.05, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=4 * np.sqrt(level / 4000))
    naive = norm.sf((draws[:, 0] - draws[:, 1:].mean(1)) / draws[:, 1:].std(1, ddof=1))
    assert (naive <= 0.01).mean() > 0.02  # ten shuffles are no normal distribution


def test_shuffles_that_vary_too_little_do_not_make_an_onset():
    shuffled = np.full((1, 10), 0.5)
    shuffled[0, ::2] += 0.002
    tight, wide = (null_of(shuffled, np.array([e]), n=1000) for e in (0.0, 0.05))
    assert tight.p_values(np.array([0.53]))[0] < 1e-4
    assert wide.p_values(np.array([0.53]))[0] > 0.2
    # Equal shuffles: the spread is that of rounding to whole rows.
    flat = null_of(np.full((1, 10), 0.5), np.zeros(1), n=100)
    assert flat.p_values(np.array([0.5]))[0] == pytest.approx(0.5)


def test_too_few_shuffles_are_undefined():
    null = null_of(np.full((2, 1), 0.5), np.zeros(2), n=10)
    assert np.isnan(null.p_values(np.array([0.9, 0.5]))).all()
    assert np.isnan(null.interval(np.array([0.9, 0.5]))[0]).all()
    r = run(stream(np.arange(30) % 2, 1, 0, names=NAMES[:3]), permutations=1)
    assert r.onset_depth is None
    assert "two permutations" in r.reasons["onset_depth"]
    assert np.isnan(r.p_adjusted).all()


def test_interval_of_the_onset():
    rng = np.random.default_rng(0)
    share = (0.5, 0.5, 0.62, 0.95, 0.95)
    right = np.stack([rng.random(200) < s for s in share])
    ids = np.arange(200)
    weights = bootstrap_weights(ids, draws=500, seed=0)

    def drawn(right):
        return accuracy_in_draws(*hits_of_groups(right, ids), weights)

    null = null_of(rng.normal(0.5, 0.035, (5, 10)), np.full(5, 0.035), n=200)
    assert onset_interval(drawn(right), null) == (2, 3)  # the middle place is in doubt
    sure = np.stack([rng.random(200) < s for s in (0.5, 0.5, 0.97, 0.95, 0.95)])
    assert onset_interval(drawn(sure), null) == (2, 2)
    nothing = np.stack([rng.random(200) < 0.5 for _ in share])
    assert onset_interval(drawn(nothing), null)[1] is None


def test_what_the_embedding_and_the_final_norm_count_for():
    y = np.arange(90) % 2
    names = ("embed", "resid_post.0", "resid_post.1", "final_norm")
    r = run(stream(y, 3, 0, names=names))
    assert r.onset_depth is None  # only the final norm has it, which is no layer
    assert np.isnan(r.p_adjusted[3]) and r.p_value[3] < 1e-4
    r = run(stream(y, 0, 0, names=names))
    assert (r.onset_depth, r.onset_hookpoint) == (0.0, "embed")
    mixed = run(stream(y, 0, 0, names=("resid_post.0", "mlp_out.0")))
    assert "mix roles" in mixed.reasons["onset_depth"]
