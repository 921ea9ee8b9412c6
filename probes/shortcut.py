"""Shortcut bias: how much more than the best classifier a model relies on a latent that is easy to
see, on generated data whose two latents are known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interp.errors import ParameterError
from interp.results import Result
from interp.runs import versions

__all__ = [
    "ShortcutBias",
    "ShortcutData",
    "mlp_fit",
    "predictivity_mean",
    "reliance",
    "shortcut_bias",
    "shortcut_data",
]

Fit = Callable[[Tensor, Tensor, int], Callable[[Tensor], Tensor]]
GRID = 64


class ShortcutData(NamedTuple):
    """Inputs with the two latents that made them, and probe items where those are unrelated.

    Attributes
    ----------
    x : [n, d] inputs.
    y : [n] labels, 1 or -1.
    z : [n, 2] latents: the shortcut, the core.
    probe_x, probe_z : [4,096, d] and [4,096, 2], a uniform grid from -mu to mu in each latent.
    mu : [2] class means of the latents; what the best classifier weighs them by.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    probe_x: Tensor
    probe_z: Tensor
    mu: NDArray


@dataclass(frozen=True, kw_only=True)
class ShortcutBias(Result):
    """Shortcut bias over a grid of availabilities (rows) and predictivities (columns).

    Attributes
    ----------
    availability : amplification of the shortcut over that of the core.
    predictivity : share of rows whose shortcut's sign is the label.
    core : that share of the core latent.
    bias : [rows, columns] -1 to 1; 0 relies as the best classifier does, above 0 on the shortcut.
    accuracy : [rows, columns] of the model on rows that it did not see.
    best : [columns] accuracy of the best classifier, expected.
    nesting : layers of the random network that makes the input of the shortcut and of the core.
    seeds : trainings that each number is the mean of.
    spread : [rows, columns] standard deviation of the bias over them; nan of one.
    model : what was trained.
    """

    kind: ClassVar[str] = "shortcut_bias"

    availability: tuple[float, ...]
    predictivity: tuple[float, ...]
    core: float
    bias: NDArray
    accuracy: NDArray
    best: NDArray
    nesting: tuple[int, int]
    seeds: int
    spread: NDArray
    model: str

    def to_frame(self) -> pd.DataFrame:
        """A row an availability and predictivity."""
        rows, columns = len(self.availability), len(self.predictivity)
        return pd.DataFrame(
            {
                "availability": np.repeat(self.availability, columns),
                "predictivity": np.tile(self.predictivity, rows),
                "bias": self.bias.ravel(),
                "spread": self.spread.ravel(),
                "accuracy": self.accuracy.ravel(),
                "best_accuracy": np.tile(self.best, rows),
            }
        )

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "model", "availability", "predictivity", "core", "bias", "accuracy", "best",
                 "nesting", "seeds", "spread")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def predictivity_mean(rho: float) -> float:
    """Class mean ``sqrt 2 erfinv(2 rho - 1)`` of a unit Gaussian whose sign is right at rate rho.

    Range: 0 at .5, rising; rho .85 gives 1.0364, .9 gives 1.2816.
    """
    if not 0.5 <= rho < 1:
        raise ParameterError(f"a predictivity is .5 to below 1; got {rho!r}.")
    return float(np.sqrt(2) * torch.erfinv(torch.tensor(2 * rho - 1, dtype=torch.float64)))


def shortcut_data(
    n: int,
    *,
    predictivity: tuple[float, float] = (0.85, 0.9),
    availability: tuple[float, float] = (1.0, 1.0),
    nesting: tuple[int, int] = (0, 0),
    d: int = 16,
    seed: int = 0,
) -> ShortcutData:
    """Rows whose label shows in two latents; each pair is (of the shortcut, of the core).

    ``y = +-1`` and ``z_i ~ N(y mu_i, 1)``. A latent enters d / 2 inputs of its own along a unit
    vector, times its availability; with nesting it goes through so many random invertible layers
    (an orthogonal matrix and a leaky ReLU of slope .25) first, and is the less linear.

    Parameters
    ----------
    predictivity : share of rows in which the latent's sign is the label.
    availability : amplification of the latent in the input.
    nesting : layers of a random network between the latent and the input.
    d : inputs, an even number.
    seed : of rows, vectors and networks.

    Source: Hermann et al., arXiv 2310.16228, section 3. Differs: the random network is ours.
    """
    if n < 2 or d < 2 or d % 2 or min(availability) <= 0 or min(nesting) < 0:
        raise ParameterError(
            "shortcut_data needs 2 rows or more, an even d, availabilities above 0 and nestings "
            f"from 0; got {n}, {d}, {availability}, {nesting}."
        )
    rng = np.random.default_rng(seed)
    mu = np.array([predictivity_mean(rho) for rho in predictivity])
    if not mu.all():
        raise ParameterError(
            "shortcut_data needs predictivities above .5, as the probe items of .5 are all one "
            f"point; got {predictivity}."
        )
    y = np.where(np.arange(n) % 2, 1.0, -1.0)
    z = y[:, None] * mu + rng.normal(size=(n, 2))
    axis = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    probe = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) * mu
    both, parts = np.concatenate([z, probe]), []
    for i in range(2):
        h = np.zeros((len(both), d // 2))
        h[:, 0] = both[:, i]
        turns = [np.linalg.qr(rng.normal(size=(d // 2, d // 2)))[0] for _ in range(nesting[i] + 1)]
        for turn in turns[:-1]:
            h = h @ turn
            h = np.where(h > 0, h, 0.25 * h)
        parts.append(availability[i] * h @ turns[-1])
    x = torch.from_numpy(np.concatenate(parts, 1)).float()
    latents = torch.from_numpy(both)
    return ShortcutData(
        x[:n], torch.from_numpy(y), latents[:n], x[n:], latents[n:], mu
    )  # fmt: skip


def reliance(predicted: Tensor, data: ShortcutData) -> float:
    """Shortcut bias of predictions (any numbers, whose sign counts) on the probe items.

    ``1/2 [(rel_s - rel_c) of the model - (rel_s - rel_c) of the best classifier]`` with rel_i the
    mean over probe items of the predicted sign times the sign of latent i. The best classifier
    (LDA) is the sign of ``mu . z``.

    Range: -1 to 1; 0 as the best classifier, above 0 leans on the shortcut. A classifier of the
    shortcut's sign alone less one of the core's is 1 exactly (+.673 and -.327 at .85 and .9).
    Degenerate: predictions that are all one sign have reliance 0 on both; 0 is told by accuracy.
    Source: Hermann et al., arXiv 2310.16228; they name the reference, not the normalisation, which
    is ours, as is the probe grid.
    """
    if predicted.shape != (len(data.probe_z),):
        raise ParameterError(
            f"predictions are one a probe item, {len(data.probe_z)}; got {list(predicted.shape)}."
        )
    sign = data.probe_z.sign()
    lda = (data.probe_z @ torch.from_numpy(data.mu)).sign()

    def gap(found: Tensor) -> float:
        apart = (found.double()[:, None] * sign).mean(0)
        return float(apart[0] - apart[1])

    return (gap(predicted.sign()) - gap(lda)) / 2


def mlp_fit(hidden: Sequence[int] = (64,), *, steps: int = 300, lr: float = 0.02) -> Fit:
    """A function that trains a ReLU network of these hidden widths on all rows; () is linear.

    It gives the network's output, whose sign is the answer. Gradient descent with momentum .9 on
    the logistic loss: Adam, which scales each weight's step, hides availability.
    """

    def fit(x: Tensor, y: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
        generator = torch.Generator().manual_seed(seed)
        widths = [x.shape[1], *hidden, 1]
        weights = [
            nn.Parameter(torch.randn(a, b, generator=generator) * (2 / a) ** 0.5)
            for a, b in zip(widths, widths[1:], strict=False)
        ]
        offsets = [nn.Parameter(torch.zeros(b)) for b in widths[1:]]

        def run(x: Tensor) -> Tensor:
            for i, (w, b) in enumerate(zip(weights, offsets, strict=True)):
                x = x @ w + b
                x = x.relu() if i < len(weights) - 1 else x
            return x[:, 0]

        optimizer = torch.optim.SGD([*weights, *offsets], lr=lr, momentum=0.9)
        with torch.enable_grad():
            for _ in range(steps):
                loss = nn.functional.softplus(-y.float() * run(x)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return lambda x: run(x).detach()

    return fit


def shortcut_bias(
    fit: Fit | None = None,
    *,
    availability: Sequence[float] = (1.0, 4.0, 16.0),
    predictivity: Sequence[float] = (0.7, 0.8, 0.9),
    core: float = 0.9,
    nesting: tuple[int, int] = (0, 0),
    n: int = 1024,
    d: int = 16,
    seeds: int = 3,
    seed: int = 0,
    model: str = "a ReLU network of one hidden layer",
) -> ShortcutBias:
    """Train a model on `shortcut_data` over a grid and measure its `reliance` at each point.

    Parameters
    ----------
    fit : (x [n, d], y [n] of 1 and -1, seed) -> a function of inputs whose sign is the answer; by
        default `mlp_fit`.
    availability : amplifications of the shortcut; the core's is 1.
    predictivity, core : of the shortcut, several, and of the core.
    nesting, n, d : as for `shortcut_data`.
    seeds, seed : trainings a point, with data of their own, from ``seed`` on.
    model : its name in the result.

    Range: -1 to 1, `reliance`. A linear model is about 0 where both latents enter linearly.
    Cost: that of ``len(availability) len(predictivity) seeds`` trainings.
    Source: Hermann et al., arXiv 2310.16228, sections 3 and 4. Differs: they report a bias of one
    hidden layer from amplification alone (.53 in an example); on these data, where each latent has
    inputs of its own, there is none, and nesting the core is what gives one.
    """
    if seeds < 1 or not availability or not predictivity:
        raise ParameterError("shortcut_bias needs an availability, a predictivity and a seed.")
    fit = fit or mlp_fit()
    shape = (len(availability), len(predictivity), seeds)
    bias, accuracy = np.empty(shape), np.empty(shape)
    for i, j, k in np.ndindex(shape):
        data = shortcut_data(
            2 * n,
            predictivity=(predictivity[j], core),
            availability=(availability[i], 1.0),
            nesting=nesting,
            d=d,
            seed=seed + k,
        )
        answer = fit(data.x[:n], data.y[:n], seed + k)
        bias[i, j, k] = reliance(answer(data.probe_x), data)
        accuracy[i, j, k] = float((answer(data.x[n:]).sign() == data.y[n:]).double().mean())
    separation = [float(np.hypot(predictivity_mean(r), predictivity_mean(core)))
                  for r in predictivity]  # fmt: skip
    best = 0.5 * (1 + torch.erf(torch.tensor(separation, dtype=torch.float64) / 2**0.5)).numpy()
    none = np.full(shape[:2], np.nan)
    return ShortcutBias(
        name="shortcut bias",
        n=n,
        provenance={"seed": seed, "d": d, "model": model, "versions": versions()},
        reasons={} if seeds > 1 else {"spread": "one training has no spread."},
        availability=tuple(map(float, availability)),
        predictivity=tuple(map(float, predictivity)),
        core=core,
        bias=bias.mean(2),
        accuracy=accuracy.mean(2),
        best=best,
        nesting=nesting,
        seeds=seeds,
        spread=bias.std(2, ddof=1) if seeds > 1 else none,
        model=model,
    )
