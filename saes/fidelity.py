"""How well predictions fit activations, summed up over batches in float64."""

import torch
from torch import Tensor

__all__ = ["Fidelity"]


class Fidelity:
    """Sums over rows of targets y and predictions y_hat, from which every score follows.

    The variance is merged batch by batch (Chan et al. 1979), of rows less the first row: large
    means cost no digits, and constant rows have a variance of exactly 0. A batch split changes the
    scores by no more than float64's rounding.

    Parameters
    ----------
    bias : [d] what is predicted where no latent fires.
    """

    def __init__(self, bias: Tensor) -> None:
        self.bias = bias.double()
        d, device = len(bias), bias.device
        self.n = 0
        self.shift: Tensor | None = None
        self.mean = torch.zeros(d, dtype=torch.float64, device=device)
        self.deviation = torch.zeros(d, dtype=torch.float64, device=device)
        self.error = torch.zeros(d, dtype=torch.float64, device=device)
        self.sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=device)

    def add(self, y: Tensor, y_hat: Tensor) -> None:
        """Take in rows [n, d]."""
        y, y_hat = y.double(), y_hat.double()
        error = (y - y_hat).square()
        self.error += error.sum(0)
        self._merge(y)
        length, length_hat, inner = y.norm(dim=1), y_hat.norm(dim=1), (y * y_hat).sum(1)
        real, both = length > 0, (length > 0) & (length_hat > 0)
        one = torch.ones_like(length)
        latents, rest = y_hat - self.bias, y - self.bias
        self.sums += torch.stack(
            [
                real.sum(),
                both.sum(),
                (error.sum(1) / torch.where(real, length.square(), one))[real].sum(),
                (inner / torch.where(both, length * length_hat, one))[both].sum(),
                (length_hat / torch.where(real, length, one))[real].sum(),
                inner.sum(),
                length_hat.square().sum(),
                (rest * latents).sum(),
                latents.square().sum(),
            ]
        )

    def _merge(self, y: Tensor) -> None:
        """Bring rows into the running mean and the summed squared deviations from it."""
        if self.shift is None:
            self.shift = y[0].clone()
        rows = y - self.shift
        mean = rows.mean(0)
        total = self.n + len(rows)
        step = mean - self.mean
        self.deviation += (rows - mean).square().sum(0)
        self.deviation += step.square() * (self.n * len(rows) / total)
        self.mean += step * (len(rows) / total)
        self.n = total

    def scores(self) -> tuple[dict[str, float], dict[str, str]]:
        """The scores by name, and why those that are nan are so (`saes.Evaluation` says what each
        is).
        """
        s = dict(zip(_SUMS, self.sums.tolist(), strict=True))
        error, deviation = float(self.error.sum()), float(self.deviation.sum())
        constant = "the activations are constant, so there is no variance to explain"
        zeros = "every activation is 0"
        silent = "every prediction is 0"
        still = "no latent adds anything to the bias"
        cosine = zeros if not s["real"] else silent
        defined = {
            "fvu": (error, deviation, constant),
            "relative_error": (s["relative"], s["real"], zeros),
            "cosine": (s["cosine"], s["both"], cosine),
            "norm_ratio": (s["ratio"], s["real"], zeros),
            "rescale": (s["inner"], s["predicted"], silent),
            "latent_rescale": (s["latent_inner"], s["latents"], still),
        }
        scores, reasons = {"mse": error / self.n}, {}
        for name, (above, below, reason) in defined.items():
            scores[name] = above / below if below else float("nan")
            if not below:
                reasons[name] = reason
        scores["explained_variance"] = 1 - scores["fvu"]
        if "fvu" in reasons:
            reasons["explained_variance"] = constant
        return scores, reasons

    @property
    def zero_rows(self) -> int:
        """Rows whose target is 0."""
        return self.n - int(self.sums[0])


_SUMS = ("real", "both", "relative", "cosine", "ratio", "inner", "predicted", "latent_inner",
         "latents")  # fmt: skip
"""What is summed over rows, in the order of `Fidelity.add`."""
