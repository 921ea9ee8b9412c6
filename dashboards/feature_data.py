"""The records of latents as the page's script reads them: arrays, and each text once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboards.packed import pack, texts
from interp.images import encoded
from saes.records import Features

__all__ = ["feature_data", "order_of"]

NOTHING = -1


def order_of(result: Features) -> NDArray[np.int64]:
    """The latents that fire, named ones first, best predicted first; then the commonest first."""
    alive = np.flatnonzero(result.fires > 0)
    first = np.where(result.named[alive], -np.nan_to_num(result.f1[alive]), 1.0)
    return alive[np.lexsort((alive, -result.fires[alive], first))]


def feature_data(
    result: Features, rows: NDArray[np.int64], shown: int, ids: dict[str, str]
) -> dict[str, Any]:
    """What the table and the pages of some latents need.

    Parameters
    ----------
    rows : which latents, by their place in ``result``, in the order of the table.
    shown : of how many of them, the first, the examples are given.
    ids : ``page``, what a link to one begins with.
    """
    examples, words = _examples(result, rows[:shown])
    data: dict[str, Any] = {
        **ids,
        "unit": result.unit,
        "n": result.n,
        "latent": pack(result.latents[rows]),
        "fires": pack(result.fires[rows]),
        "mean": pack(result.mean[rows], "f4"),
        "strongest": pack(result.strongest[rows], "f4"),
        "histogram": pack(result.histogram[rows]),
        "edges": pack(result.edges, "f4"),
        "quantiles": list(result.quantiles),
        "examples": examples,
        "partners": {
            "index": pack(result.partners["index"][rows]),
            "count": pack(result.partners["count"][rows]),
            "expected": pack(result.partners["expected"][rows], "f4"),
        },
        "near": None,
        "probes": texts(result.probes),
        "alignment": None,
        "random": result.random_alignment,
        "predicts": _predicts(result, rows),
        "logits": _logits(result, rows, words),
        "images": _images(result, rows[:shown]),
    }
    if result.neighbours is not None:
        data["near"] = {
            "index": pack(result.neighbours["index"][rows]),
            "cosine": pack(result.neighbours["cosine"][rows], "f2"),
        }
    if result.alignment is not None:
        data["alignment"] = pack(result.alignment[rows], "f2")
    names = sorted(words, key=lambda w: words[w])
    data["words"] = texts(result.words[w] for w in names)
    return data


def _examples(result: Features, rows: NDArray) -> tuple[dict[str, Any], dict[int, int]]:
    """Top examples, then those of each band, [rows, examples, window]; and which words they use."""
    tables: dict[str, NDArray] = {}
    for key in ("document", "position", "tokens", "activations"):
        top, bands = result.top[key][rows], result.bands[key][rows]
        wide = bands.shape[1] * bands.shape[2]
        bands = bands[:, ::-1].reshape(len(rows), wide, *bands.shape[3:])  # the highest band first
        tables[key] = np.concatenate([top, bands], axis=1)
    used = np.unique(tables["tokens"])
    used = used[used >= 0]
    words = {int(w): i for i, w in enumerate(used)}
    tokens = np.where(tables["tokens"] < 0, NOTHING, np.searchsorted(used, tables["tokens"]))
    return {
        "top": int(result.top["document"].shape[1]),
        "each": int(result.bands["document"].shape[2]),
        "context": result.context,
        "document": pack(tables["document"]),
        "position": pack(tables["position"]),
        "tokens": pack(tokens),
        "activations": pack(tables["activations"], "f2"),
        "edges": pack(result.band_edges[rows], "f4"),
    }, words


def _predicts(result: Features, rows: NDArray) -> dict[str, Any] | None:
    if not result.labels:
        return None
    scores = ("precision", "recall", "f1", "base_rate", "chance_f1")
    asked = [result.about.get(name.rpartition("=")[0], "") for name in result.labels]
    return {
        "labels": texts(result.labels),
        "about": texts(asked, 120),
        "label": pack(result.predicts[rows]),
        "named": pack(result.named[rows]),
        **{k: pack(getattr(result, k)[rows], "f2") for k in scores},
    }


def _logits(result: Features, rows: NDArray, words: dict[int, int]) -> dict[str, Any] | None:
    """Raised and lowered tokens; their words are added to ``words``."""
    found: dict[str, Any] = {}
    for side in ("raised", "lowered"):
        table, logits = getattr(result, side), getattr(result, f"{side}_logits")
        if table is None or logits is None:
            return None
        mine = table[rows]
        for w in np.unique(mine):
            if w >= 0:
                words.setdefault(int(w), len(words))
        known = np.array([words.get(int(w), NOTHING) for w in mine.ravel()], dtype=np.int64)
        found[side] = pack(known.reshape(mine.shape))
        found[f"{side}_by"] = pack(logits[rows], "f2")
    return found


def _images(result: Features, rows: NDArray) -> dict[str, Any] | None:
    """Small pictures of the documents of the examples, as JPEG."""
    if result.images is None:
        return None
    from PIL import Image

    wanted = {int(d) for table in (result.top, result.bands) for d in table["document"][rows].flat}
    known = result.images["document"].tolist()
    pictures = {}
    for document, pixels in zip(known, result.images["pixels"], strict=True):
        if document not in wanted:
            continue
        pictures[str(document)] = encoded(Image.fromarray(pixels), "JPEG", quality=85)
    return {"grid": [int(v) for v in result.images["grid"]], "jpeg": pictures}
