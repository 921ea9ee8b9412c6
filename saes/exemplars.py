"""`concepts`: what each latent of a VL-SAE stands for, from one pass over pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.capturing import Progress
from interp.errors import DataError, ParameterError, ShapeError
from interp.runs import versions
from interp.store import ActivationStore
from saes.concept_records import Concepts, Meaning
from saes.distinctive import ALPHA, Vocabulary, excess

__all__ = ["Strongest", "concepts", "similarities"]

SIDES = ("image", "text")
MODES = ("recommended", "released_code")
NAMED_FROM = 30
"""Texts, and images, that a name or a meaning is drawn from, at most."""
PIXELS = 48
"""Longer side of a thumbnail, at most."""
THUMBNAILS = 1_000_000
"""Bytes of base64 that a result keeps of images."""


def concepts(
    sae: Any,
    store: ActivationStore,
    data: Any = None,
    *,
    top: int = 10,
    columns: Sequence[str] | None = None,
    mode: str = "recommended",
    judge: ActivationStore | None = None,
    batch_size: int = 4096,
    seed: int = 0,
    name: str | None = None,
    progress: Progress | None = None,
) -> Concepts:
    """The top images and texts of each latent, a name, and how well the two agree.

    A latent's exemplars are the images, and the texts, at which it is strongest; an image that
    stands in several rows, or a text, counts once. Its name is made of the words (or two in a row)
    that at least half of its 30 strongest texts hold and that are in them more often than blind
    draws explain, at an adjusted probability of 0.01; where there is none, it has no name, and
    ``unnamed`` says why. ``named_control`` counts the names that the same rule gives where each
    text stands for another.

    Likewise a latent means a value of a label column where at least half of its 30 strongest
    images, and of its 30 strongest texts, belong to rows of that value, more than blind draws
    explain.

    Parameters
    ----------
    sae : a `saes.VLSAE`.
    store : of `interp.capture_pairs`: ``manifest["pairs"]`` names both hook points.
    data : the pairs, for thumbnails of the images; without them there are none.
    top : exemplars of each kind.
    columns : label columns; by default those of the store's data.
    mode : ``"recommended"``: inter-similarity over every two latents, both ways.
        ``"released_code"``: only of the images of an earlier latent and the texts of a later one,
        so that it depends on the order of the latents.
    judge : a store of the same rows whose vectors measure the similarities, such as another
        model's; by default the ones that the SAE read, which favours it.
    batch_size : rows that are encoded at once.
    seed : of the controls.
    name : for titles.

    Raises
    ------
    DataError
        The store is none of pairs, or the data are not its own.
    ShapeError
        The SAE has not the width of the store's hook points.

    Notes
    -----
    Source: Shen et al. 2025 (arXiv 2510.21323), section 4; mean activation, top 10 and both
    similarities as in the released code. Differs: the method gives exemplars and no names; the
    released similarities are of 100 random latents in a separate CLIP's space (see ``judge``).
    """
    if top < 1 or batch_size < 1:
        raise ParameterError(f"top and batch_size must be at least 1; got {top} and {batch_size}.")
    if mode not in MODES:
        raise ParameterError(f"mode must be one of {', '.join(MODES)}; got {mode!r}.")
    points = pair_of(store)
    rows = store.rows
    if data is not None and len(data) != len(rows):
        raise DataError(f"the data has {len(data)} pairs and the store {len(rows)}.")
    if judge is not None and len(judge.rows) != len(rows):
        raise DataError(f"the judge has {len(judge.rows)} rows and the store {len(rows)}.")
    texts = rows[store.manifest["data"]["text_column"]].astype(str).tolist()
    pictured = store.manifest["pairs"].get("image_column")
    images = [str(i) for i in (rows[pictured] if pictured in rows else range(len(rows)))]
    keys = {"image": _first_rows(images), "text": _first_rows(texts)}
    kept = max(top, NAMED_FROM)
    tallies = {side: Strongest(sae.n_latents, kept, keys[side]) for side in SIDES}
    done, total = 0, 2 * len(rows)
    for side in SIDES:
        matrix = store[points[side]]
        if matrix.shape[-1] != sae.d_in:
            raise ShapeError(
                f"the SAE reads {sae.d_in} numbers and {points[side]} has {matrix.shape[-1]}."
            )
        start = 0
        for x in matrix.batches(batch_size):
            with torch.inference_mode():
                codes = sae.encode_sparse(x.to(sae.W_dec[side].device).float(), modality=side)
            tallies[side].update(codes.values, codes.indices, start)
            start += len(x)
            done += len(x)
            if progress is not None:
                progress(done, total, "images and texts")
    vocabulary = Vocabulary(texts)
    alive = [i for i in range(sae.n_latents) if any(t.fires[i] for t in tallies.values())]
    names, unnamed = _names(vocabulary, texts, tallies["text"], alive)
    # The control: what a latent's strongest texts are named, if its rows are others'.
    blind = np.random.default_rng(seed).permutation(len(rows))
    control, _ = _names(vocabulary, [texts[i] for i in blind], tallies["text"], alive)
    chosen = tuple(store.manifest["data"].get("labels", ()) if columns is None else columns)
    labels = {c: rows[c].astype(str).to_numpy() for c in _existing(chosen, rows)}
    meanings = _meanings(labels, tallies, alive)
    shuffled = {c: v[blind] for c, v in labels.items()}
    space = store if judge is None else judge
    seen = {side: tallies[side].rows[:, :top] for side in SIDES}
    similarity, intra, inter, reasons = similarities(space, seen, mode)
    used = np.unique(np.concatenate([seen["image"][alive].ravel(), seen["text"][alive].ravel()]))
    used = used[used >= 0]
    thumbnails = {} if data is None else _thumbnails(data, seen["image"], names, alive)
    dead = {str(i): "it fires at no image and no text of the data"
            for i in range(sae.n_latents) if i not in set(alive)}  # fmt: skip
    return Concepts(
        name=name or f"{store.manifest['data'].get('name', 'pairs')}.concepts",
        n=len(rows),
        mode=mode,
        reasons=reasons,
        provenance={
            "model": store.manifest.get("model", {}),
            "data": {k: store.manifest["data"].get(k) for k in ("name", "hash", "n")},
            "sae": {"architecture": sae.architecture, "d_in": sae.d_in, **sae.config.to_dict()},
            "seed": seed,
            "versions": versions(),
        },
        hookpoints=points,
        n_latents=sae.n_latents,
        k=sae.config.k,
        image_fires=tallies["image"].fires,
        text_fires=tallies["text"].fires,
        mean_activation=(tallies["image"].total + tallies["text"].total) / (2 * len(rows)),
        image_rows=seen["image"],
        text_rows=seen["text"],
        image_values=tallies["image"].values[:, :top],
        text_values=tallies["text"].values[:, :top],
        similarity=similarity,
        intra=intra,
        inter=inter,
        names={str(i): [list(w) for w in words] for i, words in names.items()},
        named_control=len(control),
        meanings={str(i): list(m) for i, m in meanings.items()},
        meant_control=len(_meanings(shuffled, tallies, alive)),
        columns=tuple(labels),
        unnamed={str(i): why for i, why in unnamed.items()},
        dead=dead,
        texts={str(r): texts[r][:300] for r in used.tolist()},
        images={str(r): images[r][:200] for r in used.tolist()},
        thumbnails=thumbnails,
        notes=_notes(store, judge, mode, len(rows)),
    )


def pair_of(store: ActivationStore) -> dict[str, str]:
    """The hook points of a store's images and texts."""
    pairs = store.manifest.get("pairs") or {}
    if not all(pairs.get(side) in store for side in SIDES):
        raise DataError("the store is none of pairs; capture them with interp.capture_pairs.")
    return {side: pairs[side] for side in SIDES}


class Strongest:
    """For each latent how often it fires, its sum, and the rows where it is strongest.

    Rows of one key, such as those of one image, count once among the strongest: the first of the
    strongest. What is kept does not depend on the batches.

    Parameters
    ----------
    n_latents : of the SAE.
    top : rows kept of each latent.
    keys : [n] a number a row, equal where rows show the same.
    """

    def __init__(self, n_latents: int, top: int, keys: np.ndarray) -> None:
        self.top, self._keys = top, keys
        self.fires = np.zeros(n_latents, np.int64)
        self.total = np.zeros(n_latents, np.float64)
        self.rows = np.full((n_latents, top), -1, np.int64)
        self.values = np.zeros((n_latents, top), np.float32)

    def update(self, values: Tensor, indices: Tensor, start: int) -> None:
        """Count a batch's codes [b, k], of the rows from ``start`` on."""
        v = values.detach().cpu().float().numpy()
        i = indices.cpu().numpy()
        rows = np.broadcast_to(np.arange(start, start + len(v))[:, None], v.shape)
        on = v > 0
        v, i, rows = v[on], i[on], rows[on]
        np.add.at(self.fires, i, 1)
        np.add.at(self.total, i, v.astype(np.float64))
        held = np.nonzero(self.rows >= 0)
        latents = np.concatenate([held[0], i])
        rows = np.concatenate([self.rows[held], rows])
        v = np.concatenate([self.values[held], v])
        order = np.lexsort((rows, -v, self._keys[rows], latents))
        pair = np.stack([latents[order], self._keys[rows[order]]])
        first = np.r_[True, (pair[:, 1:] != pair[:, :-1]).any(0)] if len(order) else order > 0
        order = order[first]
        order = order[np.lexsort((rows[order], -v[order], latents[order]))]
        counts = np.bincount(latents[order], minlength=len(self.fires))
        place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        keep, where = place < self.top, latents[order]
        self.rows.fill(-1)
        self.values.fill(0)
        self.rows[where[keep], place[keep]] = rows[order][keep]
        self.values[where[keep], place[keep]] = v[order][keep]


def similarities(
    store: ActivationStore, rows: dict[str, np.ndarray], mode: str
) -> tuple[np.ndarray, float | None, float | None, dict[str, str]]:
    """Cosine of each latent's mean image and mean text, its mean, that between latents, reasons.

    Parameters
    ----------
    store : whose vectors are compared.
    rows : side -> [f, top] rows of the exemplars, -1 where there is none.
    mode : ``"recommended"`` or ``"released_code"``; see `concepts`.

    Returns
    -------
    (similarity [f], intra, inter, reasons)
        Range: [-1, 1]. Degenerate: nan for a latent without images or texts; intra is None
        without any, inter with fewer than two, as where the two sides have different widths.
    """
    points = pair_of(store)
    means = {side: _means(store[points[side]], rows[side]) for side in SIDES}
    f = len(rows["image"])
    if means["image"].shape[1] != means["text"].shape[1]:
        why = "images and texts have vectors of different widths here, so none can be compared"
        return np.full(f, np.nan), None, None, {"intra": why, "inter": why}
    u, v = (_unit(means[side]) for side in SIDES)
    similarity = (u * v).sum(1)
    both = np.isfinite(similarity)
    u, v, n = u[both], v[both], int(both.sum())
    reasons = {}
    if n < 1:
        reasons["intra"] = "no latent has both images and texts"
    if n < 2:
        reasons["inter"] = "fewer than two latents have both images and texts"
        return similarity, float(similarity[both][0]) if n else None, None, reasons
    if mode == "released_code":
        later = v[::-1].cumsum(0)[::-1] - v  # the texts of later latents
        inter = float((u * later).sum() / (n * (n - 1) / 2))
    else:
        inter = float((u.sum(0) @ v.sum(0) - (u * v).sum()) / (n * (n - 1)))
    return similarity, float(similarity[both].mean()), inter, reasons


def _means(matrix: Any, rows: np.ndarray) -> np.ndarray:
    """[f, d] mean vectors of some rows, a latent at a time; nan where there is none."""
    out = np.full((len(rows), matrix.shape[-1]), np.nan)
    for i, mine in enumerate(rows):
        held = mine[mine >= 0]
        if len(held):
            out[i] = matrix[held].double().mean(0).numpy()
    return out


def _unit(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, lengths, out=np.full_like(x, np.nan), where=lengths > 0)


def _first_rows(values: Sequence[str]) -> np.ndarray:
    """For each row the first one with the same value."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(v, i) for i, v in enumerate(values)])


def _names(
    vocabulary: Vocabulary, texts: Sequence[str], strongest: Strongest, alive: Sequence[int]
) -> tuple[dict[int, Any], dict[int, str]]:
    """The words of each latent that has a name, and why others have none."""
    names, unnamed = {}, {}
    for i in alive:
        rows = strongest.rows[i, :NAMED_FROM].tolist()
        held = list(dict.fromkeys(str(texts[r]) for r in rows if r >= 0))
        words, why = vocabulary.name(held, len(alive))
        if words:
            names[i] = words
        else:
            unnamed[i] = why if held else "it fires at no text of the data"
    return names, unnamed


def _meanings(
    labels: dict[str, np.ndarray],
    tallies: dict[str, Strongest],
    alive: Sequence[int],
) -> dict[int, Meaning]:
    """The label value that each latent's images and texts agree on beyond chance."""
    values = [(c, v) for c, column in labels.items() for v in np.unique(column)]
    tested = np.log(max(1, len(values) * len(alive) * 2))
    found: dict[int, Meaning] = {}
    for i in alive:
        best: Meaning | None = None
        for column, value in values:
            is_value = labels[column] == value
            shares, worst = [], -np.inf
            for side in SIDES:
                held = tallies[side].rows[i, :NAMED_FROM]
                held = held[held >= 0]
                if not len(held):
                    break
                m = int(is_value[held].sum())
                log_p = excess(np.array(m), len(held), is_value.sum(), len(is_value))
                worst = max(worst, float(log_p) + tested)
                shares.append(m / len(held))
            if len(shares) < 2 or worst > np.log(ALPHA) or min(shares) < 0.5:
                continue
            one = Meaning(
                column,
                str(value),
                shares[0],
                shares[1],
                float(is_value.mean()),
                float(np.exp(worst)),
            )
            if best is None or one.p < best.p:
                best = one
        if best is not None:
            found[i] = best
    return found


def _existing(columns: Sequence[str], rows: Any) -> list[str]:
    missing = [c for c in columns if c not in rows]
    if missing:
        raise ParameterError(
            f"there is no column {missing[0]!r}; the store's rows have {', '.join(rows.columns)}."
        )
    return list(columns)


def _thumbnails(
    data: Any, rows: np.ndarray, names: dict[int, Any], alive: Sequence[int]
) -> dict[str, str]:
    """PNGs of top images, those of named latents first, within `THUMBNAILS` bytes."""
    from interp.images import encoded, open_image

    kept: dict[str, str] = {}
    room = THUMBNAILS
    for latent in sorted(alive, key=lambda i: (i not in names, i)):
        for row in rows[latent].tolist():
            if row < 0 or str(row) in kept:
                continue
            image = open_image(data.inputs[row][0], row)
            image.thumbnail((PIXELS, PIXELS))
            text = encoded(image, "PNG", optimize=True)
            if len(text) > room:
                return kept
            room -= len(text)
            kept[str(row)] = text
    return kept


def _notes(
    store: ActivationStore, judge: ActivationStore | None, mode: str, n: int
) -> tuple[str, ...]:
    space = "another model's vectors" if judge is not None else "the vectors that the SAE read"
    ways = (
        "images of a latent with texts of later latents alone, as the released code does"
        if mode == "released_code"
        else "images of a latent with texts of every other"
    )
    return (
        f"One pass over {n:,} pairs; an image or a text that stands in several rows counts once "
        "among the strongest.",
        f"A name is made of words that half of up to {NAMED_FROM} strongest texts hold, at a "
        f"probability of at most {ALPHA:g} under blind draws, times all words and latents tried.",
        "A latent whose images and texts agree on a label may stand for something narrower: its "
        "images may be alike in more than its texts say.",
        "The mean activation is half the mean over images and half that over texts, zeros "
        "included.",
        f"Similarities are cosines of mean exemplars in {space}; inter compares {ways}.",
    )
