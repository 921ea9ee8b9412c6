"""VL-SAE's training as its authors ran it: settings of `saes.train`, and how a training is named.

Source: the released code of Shen et al. 2025 (arXiv 2510.21323), its trainer and script for CLIP.
"""

from collections.abc import Mapping
from typing import Any

from interp.errors import ParameterError

__all__ = ["RELEASED", "released_vl", "training_mode"]

RELEASED: dict[str, Any] = {
    "decay": "vl_paper",
    "normalize": False,
    "b_dec": "zero",
    "clip": None,
    "optimizer": "adam",
    "ema": None,
    "autocast": None,
    "k_start": None,
    "resample_every": None,
}
"""What names a training ``released_code``, together with ``VLConfig(ties="strict")``."""
BATCH, EPOCHS, LR = 512, 10, 1e-3


def released_vl(n: int, *, lr: float = LR, batch_size: int = BATCH) -> dict[str, Any]:
    """The authors' settings, to be handed on: ``saes.train(pairs, config, **released_vl(n))``.

    With ``VLConfig(ties="strict", …)`` the result's ``mode`` is then ``"released_code"``. Ten
    epochs, the last of which has a rate of 0.

    Parameters
    ----------
    n : how many pairs there are.
    lr : 1e-3 is theirs for CLIP, 1e-4 for LLaVA.
    batch_size : at most n; fewer pairs than that make one batch an epoch.

    Raises
    ------
    ParameterError
        There is no pair.

    Notes
    -----
    Differs: rows are shuffled anew each epoch, biases begin at 0, all rows are learnt from, and the
    last weights are kept; the authors hold back a fifth and keep the best epoch's weights.
    """
    if n < 1 or batch_size < 1:
        raise ParameterError(
            f"released_vl: n and batch_size must be above 0; got {n}, {batch_size}."
        )
    size = min(batch_size, n)
    return {"steps": EPOCHS * (n // size), "batch_size": size, "lr": lr, **RELEASED}


def training_mode(ties: str, design: str, settings: Mapping[str, Any]) -> str:
    """``"released_code"`` where the settings are the authors', else ``"recommended"``.

    Sizes do not count: they are n_latents, k, lr, steps and batch_size.
    """
    theirs = all(settings[name] == value for name, value in RELEASED.items())
    return "released_code" if theirs and (ties, design) == ("strict", "vl") else "recommended"
