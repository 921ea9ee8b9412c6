"""Decoder directions side by side: the nearest of each latent, and a map of all."""

import importlib
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from interp.errors import ParameterError
from saes.base import SAE

__all__ = ["LAYOUTS", "nearest", "spread"]

LAYOUTS = ("umap", "pca")
BLOCK = 2**24
"""Most cosines held at once: 64 MiB."""
FEWEST, MOST, CROWD = 3, 20_000, 50
"""Latents of a map, at least and at most; and of a UMAP at least."""


def nearest(sae: SAE, chosen: NDArray[np.int64], k: int) -> dict[str, NDArray]:
    """The latents whose decoder rows have the greatest cosine with those of some latents.

    Returns
    -------
    dict
        ``index`` [chosen, k] among all latents of the SAE, the nearest first, -1 where there are
        fewer; ``cosine`` [chosen, k], -1 to 1, nan beside a -1. A row of zeros has no direction:
        it is near nothing.
    """
    rows = _units(sae)
    known = rows.isfinite().all(1)
    k = min(k, max(int(known.sum()) - 1, 0))
    index = np.full((len(chosen), k), -1, np.int64)
    cosine = np.full((len(chosen), k), np.nan, np.float32)
    if k == 0:
        return {"index": index, "cosine": cosine}
    among = torch.where(known[:, None], rows, torch.zeros_like(rows))
    step = max(1, BLOCK // len(rows))
    for start in range(0, len(chosen), step):
        mine = torch.from_numpy(chosen[start : start + step])
        table = among[mine] @ among.T
        table[:, ~known] = -torch.inf
        table[torch.arange(len(mine)), mine] = -torch.inf
        best = table.topk(k, dim=1)
        good = known[mine].numpy()
        index[start : start + step][good] = best.indices.numpy()[good]
        cosine[start : start + step][good] = best.values.numpy()[good]
    return {"index": index, "cosine": cosine}


def spread(
    sae: SAE, chosen: NDArray[np.int64], fires: NDArray, layout: str | None, seed: int
) -> tuple[NDArray[np.float32] | None, str | None, str | None]:
    """A map [chosen, 2] of the decoder rows' directions, how it was made, and why there is none.

    Latents that never fired are left out, as are those beyond the 20,000 that fire most: their
    places are nan. Distances on a UMAP mean little; it is for the eye.

    Parameters
    ----------
    fires : [chosen] how often each fires.
    layout : ``umap`` (by cosine; fewer than 50 latents by PCA), ``pca``, or None for no map.
    """
    if layout is None:
        return None, None, "no map was asked for"
    if layout not in LAYOUTS:
        raise ParameterError(
            f"layout must be one of {', '.join(LAYOUTS)}, or None; got {layout!r}."
        )
    rows = _units(sae)[torch.from_numpy(chosen)].numpy()
    drawn = np.flatnonzero((fires > 0) & np.isfinite(rows).all(1))
    drawn = np.sort(drawn[np.argsort(-fires[drawn], kind="stable")][:MOST])
    if len(drawn) < FEWEST:
        why = f"a map needs at least {FEWEST} latents that fire; there are {len(drawn)}"
        return None, None, why
    places = np.full((len(chosen), 2), np.nan, np.float32)
    layout = layout if len(drawn) >= CROWD else "pca"
    places[drawn] = _umap(rows[drawn], seed) if layout == "umap" else _pca(rows[drawn])
    return places, layout, None


def _units(sae: SAE) -> Tensor:
    rows = sae.decoder.detach().cpu().flatten(1).float()
    return rows / rows.norm(dim=1, keepdim=True)  # a row of zeros gives nan: no direction


def _pca(rows: NDArray) -> NDArray:
    x = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    values, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, np.argsort(-values)[:2]]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), [0, 1][: axes.shape[1]]] < 0, -1, 1)
    flat = np.zeros((len(x), 2))
    flat[:, : axes.shape[1]] = x @ axes
    return flat


def _umap(rows: NDArray, seed: int) -> NDArray:
    # One thread: UMAP raises their number, and what follows waits for them most of its time.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # its word on Tensorflow, the seed and its threads
        umap: Any = importlib.import_module("umap")
        made = umap.UMAP(
            n_neighbors=min(15, len(rows) - 1), min_dist=0.1, metric="cosine", random_state=seed
        )
        return np.asarray(made.fit_transform(rows))
