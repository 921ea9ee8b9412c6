"""The whole recommended sweep against the same sweep as a loop of scikit-learn fits.

    python examples/bench_probe.py [--quick] [--layers 12] [--n 2000] [--d 768] [--threads 2]

The sweep is 5 grouped folds, 7 strengths and 10 sets of shuffled labels, as `concept_depth` runs
it, intervals included; the control on random features has no counterpart in the loop and is left
out. The loop does what the sweep does: a fit for each pair of folds left out, strength and label
set, and one for each fold and label set. scikit-learn's time is the mean of a random sample of
these fits for each strength, times their number. It is timed three times: to the optimum with
its default solver, lbfgs (tol=1e-10); the same with newton-cholesky, which factorises a d x d
matrix a step; and at its defaults (tol=1e-4, 100 iterations), which stop earlier. The sweep itself
ends within a relative error of 1e-5 on the coefficients that answer, and of 1e-2 on those that
only rank strengths ten times apart.

Activations have a spectrum that decays as those of language models do, on axes turned at random;
isotropic ones stand beside them.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from interp.store import ActivationStore
from probes import LinearProbe, concept_depth, grouped_folds
from probes.sweep import STRENGTHS

FOLDS, SHUFFLES = 5, 10
DECAY = 0.6
"""Standard deviations fall as rank to the power of minus this."""


def activations(n, d, layers, decay, seed):
    """Labels, groups and a matrix a layer, in which the label is ever easier to read."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // 4
    y = rng.integers(0, 2, n)
    tensors = {}
    for i in range(layers):
        turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
        latent = rng.standard_normal((n, d))
        latent[:, 1:9] += 0.5 * (i + 1) / layers * (2 * y[:, None] - 1)
        X = latent * (1 + np.arange(d)) ** -decay @ turn
        tensors[f"resid_post.{i}"] = torch.from_numpy(X).float()
    return y, groups, tensors


def fit_seconds(X, y, C, **options):
    probe = LogisticRegression(C=C, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = time.perf_counter()
        probe.fit(X, y)
    return time.perf_counter() - start


def loop_seconds(tensors, y, groups, sample, seed, **options):
    """Estimated seconds of the loop, and how many fits it has and were timed."""
    rng = np.random.default_rng(seed)
    fold, sets = grouped_folds(y, groups, folds=FOLDS), 1 + SHUFFLES
    pairs = FOLDS * (FOLDS - 1) // 2
    means = []
    for C in STRENGTHS:
        seconds = []
        for _ in range(sample):
            X = tensors[f"resid_post.{rng.integers(len(tensors))}"].double().numpy()
            out = rng.choice(FOLDS, 2, replace=False)
            rows = ~np.isin(fold, out)
            labels = y if rng.random() < 1 / sets else rng.permutation(y)
            Z = StandardScaler().fit_transform(X[rows])
            seconds.append(fit_seconds(Z, labels[rows], C, **options))
        means.append(np.mean(seconds))
    fits = len(tensors) * sets * (pairs * len(STRENGTHS) + FOLDS)
    # The last fits have the strength chosen; the mean over the strengths stands for it.
    return fits * float(np.mean(means)), fits, sample * len(STRENGTHS)


def report(name, args, decay):
    y, groups, tensors = activations(args.n, args.d, args.layers, decay, args.seed)
    store = ActivationStore.from_tensors(tensors, {"label": y, "group": groups})
    start = time.perf_counter()
    depth = concept_depth(
        store, "label", "group", permutations=SHUFFLES, random_features=False, device="cpu"
    )
    ours = time.perf_counter() - start
    print(f"\n{name}: {args.layers} layers, n={args.n}, d={args.d}, {args.threads} threads")
    print(f"  accuracy {depth.accuracy[0]:.3f} to {depth.accuracy[-1]:.3f}")
    print(f"  interp's sweep              {ours:10.1f} s")
    for title, options in (
        ("lbfgs, tol=1e-10", {"tol": 1e-10, "max_iter": 10000}),
        ("newton-cholesky, tol=1e-10", {"solver": "newton-cholesky", "tol": 1e-10}),
        ("lbfgs, defaults", {}),
    ):
        theirs, fits, timed = loop_seconds(tensors, y, groups, args.sample, args.seed, **options)
        print(f"  {title:28s}{theirs:10.1f} s  {theirs / ours:6.1f}x  ({timed} of {fits:,} fits)")
    single(tensors, y)


def single(tensors, y):
    """One fit of each, C = 1, standardised: the median of three."""
    X = StandardScaler().fit_transform(next(reversed(tensors.values())).double().numpy())
    ours, theirs = [], {"tol=1e-10": [], "defaults": []}
    for _ in range(3):
        start = time.perf_counter()
        LinearProbe(1.0).fit(X, y)
        ours.append(time.perf_counter() - start)
        theirs["tol=1e-10"].append(fit_seconds(X, y, 1.0, tol=1e-10, max_iter=10000))
        theirs["defaults"].append(fit_seconds(X, y, 1.0))
    mine = np.median(ours)
    shown = ", ".join(
        f"scikit-learn at {k} {np.median(v):.3f} s ({np.median(v) / mine:.2f}x)"
        for k, v in theirs.items()
    )
    print(f"  a single fit: LinearProbe {mine:.3f} s, {shown}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small case, in seconds")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sample", type=int, default=2, help="scikit-learn fits timed a strength")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.quick:
        args.n, args.d, args.layers, args.sample = 400, 96, 2, 1
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        report("activation-like", args, DECAY)
        report("isotropic", args, 0.0)


if __name__ == "__main__":
    main()
