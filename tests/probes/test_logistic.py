import numpy as np
import pytest
import torch

from probes import logistic
from probes.logistic import fit_logistic


def make(n, d, k, sets, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.7 + 1
    y = np.stack([(4 * X[:, :k] + rng.gumbel(size=(n, k))).argmax(1) for _ in range(sets)])
    return torch.from_numpy(X), torch.from_numpy(y)


def gradient(X, y, C, weights, coef, intercept):
    """The gradient of F for one problem, from its definition through autograd."""
    w, b = coef.clone().requires_grad_(), intercept.clone().requires_grad_()
    margin = X @ w.T + b
    if len(w) == 1:
        margin = torch.cat([torch.zeros_like(margin), margin], 1)
    loss = torch.nn.functional.cross_entropy(margin, y, reduction="none")
    (C * (weights * loss).sum() + w.square().sum() / 2).backward()
    return w.grad, b.grad


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(("n", "d"), [(80, 10), (30, 60)])
def test_batched_is_one_by_one_and_at_the_optimum(n, d, k):
    X, y = make(n, d, k, sets=4)
    C = torch.tensor([1e-3, 1.0, 100.0, 1.0], dtype=torch.float64)
    weights = torch.ones(4, n, dtype=torch.float64)
    weights[3, : n // 5] = 0  # a fold that is left out
    together = fit_logistic(X, y, C, n_classes=k, weights=weights, tol=1e-8)
    assert together.converged.all()
    for i in range(4):
        part = slice(i, i + 1)
        kept = weights[i] > 0
        alone = fit_logistic(X[kept], y[part, kept], C[part], n_classes=k, tol=1e-8)
        torch.testing.assert_close(together.coef[i], alone.coef[0], rtol=1e-6, atol=1e-7)
        w, b = together.coef[i], together.intercept[i]
        g, gb = gradient(X, y[i], C[i], weights[i], w, b)
        assert g.norm() <= 1e-6 * w.norm()
        assert gb.abs().max() <= 1e-6 * C[i] * n
        assert gradient(X, y[i], C[i], weights[i], 1.01 * w, b)[0].norm() > 1e-4 * w.norm()


@pytest.mark.parametrize(("n", "d"), [(80, 10), (30, 60)])
@pytest.mark.parametrize(("small", "patience"), [(256, 8), (0, 0), (0, 2), (0, 5)])
def test_one_alone_by_gradients_by_factors_and_by_both(monkeypatch, n, d, small, patience):
    """Small X is factorised at once; else gradients come first, and a factor if they fail."""
    X, y = make(n, d, 2, sets=1)
    monkeypatch.setattr(logistic, "SMALL", small)
    monkeypatch.setattr(logistic, "PATIENCE", patience or 1 / 1000)
    made = []
    monkeypatch.setattr(
        logistic, "_factor", lambda m, factor=logistic._factor: made.append(1) or factor(m)
    )
    plain = []
    solve = logistic._Alone.solve

    def counted(self, metric, rest):
        plain.append(self.factor is None)
        return solve(self, metric, rest)

    monkeypatch.setattr(logistic._Alone, "solve", counted)
    for C in (1e-3, 1.0, 1e3):
        strength = torch.tensor([C], dtype=torch.float64)
        fits = fit_logistic(X, y, strength, tol=1e-8)
        assert fits.converged.all()
        w, b = fits.coef[0], fits.intercept[0]
        g, gb = gradient(X, y[0], C, torch.ones(n, dtype=torch.float64), w, b)
        assert g.norm() <= 1e-6 * w.norm()
        assert gb.abs().max() <= 1e-6 * C * n
    assert bool(made) == (patience > 0)  # with patience without end no factor is needed
    if patience and small == 0:  # of each of the three fits; one solve begins a step
        assert 0 < sum(plain) <= 3 * (int(min(n, d) / patience) + 1)


def test_error_bounds_the_distance_to_the_optimum():
    X, y = make(100, 20, 2, sets=3)
    C = torch.tensor([0.01, 1.0, 10.0], dtype=torch.float64)
    best = fit_logistic(X, y, C, tol=1e-11).coef
    for tol in (1e-1, 1e-3, 1e-5):
        fits = fit_logistic(X, y, C, tol=tol)
        assert (fits.error <= tol).all()
        apart = (fits.coef - best).norm(dim=(1, 2)) / fits.coef.norm(dim=(1, 2))
        assert (apart <= fits.error + 1e-9).all()


def test_stops_where_asked_and_says_so():
    X, y = make(60, 5, 2, sets=2)
    fits = fit_logistic(X, y, torch.tensor([1e-6, 1e3]), max_iter=2)
    assert fits.converged.tolist() == [True, False]
    assert fits.n_iter.tolist()[1] == 2
    assert fits.error[1] > 1e-6


def test_chunks_do_not_change_the_numbers(monkeypatch):
    X, y = make(60, 5, 3, sets=7)
    C = torch.logspace(-2, 2, 7, dtype=torch.float64)
    whole = fit_logistic(X, y, C, n_classes=3)
    monkeypatch.setattr(logistic, "CHUNK", 2 * 60 * 3)
    torch.testing.assert_close(whole.coef, fit_logistic(X, y, C, n_classes=3).coef)


def test_margins_are_those_of_the_coefficients():
    X, y = make(40, 5, 3, sets=2)
    fits = fit_logistic(X, y, torch.ones(2), n_classes=3)
    by_hand = X @ fits.coef[1].T + fits.intercept[1]
    torch.testing.assert_close(fits.decision(X)[1], by_hand.T)


@pytest.mark.parametrize("k", [2, 3])
def test_extremes_stay_finite(k):
    X, y = make(12, 3, k, sets=1)
    cases = {
        "separable, hardly any penalty": (X, 1e8),
        "equal rows": (torch.ones(12, 3, dtype=torch.float64), 1.0),
        "large values": (X * 1e6, 1.0),
        "small values": (X * 1e-6, 1.0),
        "one direction dwarfs the others": (X * torch.tensor([1e4, 1.0, 1e-4]), 1.0),
    }
    for name, (rows, C) in cases.items():
        fits = fit_logistic(rows.double(), y, torch.tensor([C]), n_classes=k)
        assert fits.coef.isfinite().all(), name
        assert fits.intercept.isfinite().all(), name
        assert fits.converged.all(), name


def test_a_class_of_no_weight_leaves_the_intercept_alone():
    X, y = make(20, 3, 2, sets=1)
    fits = fit_logistic(X, y, torch.ones(1), weights=(y == 1).double())
    assert fits.converged.all()
    assert fits.coef.abs().max() < 1e-6
    assert fits.intercept.item() > 10
