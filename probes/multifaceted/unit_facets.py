"""The facets of one unit of a model: read, grouped, named, drawn and scored."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.capturing import Capture
from interp.data import Dataset
from interp.errors import DataError, InterpError, ParameterError
from interp.loading import load
from interp.models import Model
from interp.runs import versions
from probes.multifaceted.discover import (
    DRAWS,
    NEAREST,
    Grouping,
    adjusted_rand_index,
    check_options,
    find_facets,
    purity,
)
from probes.multifaceted.fired import Fired, collect
from probes.multifaceted.frames import Normalisation
from probes.multifaceted.pictures import Pictures, contrast, mean_images
from probes.multifaceted.record import Facets
from probes.multifaceted.schedules import Schedule, named
from probes.multifaceted.synthesis import synthesise, typical_cosines
from probes.multifaceted.units import Unit, coder_identity, deep_point, find_unit
from probes.multifaceted.words import distinctive_words, snippet

__all__ = ["check_request", "facets"]

N_TOP = 1000
EXAMPLES = 6
SNIPPETS = 5
SAME = 4
"""Snippets that agree in so many tokens before the one that fires are shown once."""
STAY = 3.0
SCHEDULES = {"recommended": "lucid", "paper": "mfv_mean"}
Progress = Callable[[int, int, str], None]


def facets(
    model: Any,
    data: Any,
    *,
    unit: Any,
    hookpoint: str | None = None,
    n_facets: int | None = None,
    codes_at: str | None = None,
    coder: Any = None,
    mode: str = "recommended",
    embed: str = "tsne",
    cluster: str = "kmeans",
    n_top: int = N_TOP,
    threshold: float = 0.0,
    nearest: int = NEAREST,
    label: str | None = None,
    schedule: str | Schedule | None = "auto",
    stay: float | None = None,
    normalise: Normalisation | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    name: str | None = None,
    progress: Progress | None = None,
) -> Facets:
    """The different things that make one unit fire.

    Inputs that fire it, their codes at a deeper hook point, 50 principal components, a map, groups
    in the map, and for images the mean of the 15 nearest each centre and an image synthesised from
    it. An input's activation is the greatest over its positions. The code of an image is the mean
    over positions; that of a text belongs to the token that fires most.

    Parameters
    ----------
    model, data : what `interp.load` and `interp.data.read` take.
    unit : an index, the name of an output, or a direction [d], such as a probe's.
    hookpoint : where the unit is; None is the model's output.
    n_facets : None lets the mode choose: ``recommended`` by the silhouette in the map, and one
        unless two tests find more (`find_facets`); ``paper`` ten.
    codes_at : where codes are read; None is the input of the last linear layer, of a language model
        the stream after its last block.
    coder : an autoencoder or codebook with ``encode``; the unit is then its latent or code.
    mode : ``recommended`` or ``paper``.
    embed : ``tsne``, ``umap`` or ``pca``.
    cluster : ``kmeans`` or ``hdbscan``.
    n_top : inputs that are grouped: those that fire most.
    threshold : an input fires above this activation. In the mode ``paper`` the images of a class
        unit are those of its class, where the data's label has a class of the unit's name.
    nearest : inputs that stand for a facet.
    label : column of known classes, to judge facets by; else the data's first label.
    schedule : of the synthesis (`probes.maximize`); ``"auto"`` is ``lucid``, in the mode ``paper``
        ``mfv_mean``; None makes no images.
    stay : weight that keeps a synthesised image with its facet (`probes.multifaceted.synthesis`);
        None is 3, in the mode ``paper`` 0.
    normalise : (mean, std) of the images' pixels in 0..1, where no processor says it.
    draws : Gaussians of the null.
    seed : of map, groups, tests and synthesis.
    name : of the result.
    progress : called with (done, total, what).

    Returns
    -------
    Facets
        Degenerate: no facet where no input fires the unit, and one where codes are equal or too
        few to test; ``reasons`` says so.

    Raises
    ------
    ParameterError
        There is no such unit or option.
    DataError
        Fewer inputs fire the unit than facets were asked for.
    ModelError
        The forward fails on this data, as that of a model of several inputs.

    Source: Nguyen, Yosinski, Clune 2016, "Multifaceted Feature Visualization" (arXiv 1602.03616).
    Differs: see `find_facets`; how many inputs a hidden unit gets is not published.
    """
    check_request(n_facets, mode=mode, embed=embed, cluster=cluster, nearest=nearest, draws=draws,
                  n_top=n_top, schedule=schedule, stay=stay)  # fmt: skip
    model = load(model)
    data = _read(data)
    which = find_unit(model, hookpoint, unit, coder=coder)
    deep = model.resolve(codes_at or deep_point(model, data.kind == "text"))
    if len(deep) != 1:
        raise ParameterError(f"codes are read at one hook point; {codes_at!r} means {len(deep)}.")
    work = Capture(model, data, [which.hookpoint, deep[0].name], "all", batch_size, None,
                   max_length)  # fmt: skip
    data = work.data
    column = _label(data, label)
    found = collect(work, which, deep[0].name, n_top=n_top, threshold=threshold,
                    among=_class_rows(data, which, mode), progress=progress)  # fmt: skip
    about = _about(work, which, deep[0].name, column, name, mode, seed)
    if not len(found.rows):
        return _nothing(found, about, n_facets, threshold)
    groups = find_facets(
        found.codes, n_facets, mode=mode, embed=embed, cluster=cluster, nearest=nearest,
        draws=draws, seed=seed,
    )  # fmt: skip
    result = _result(about, found, groups, data)
    if data.kind == "text":
        return _with_text(result, work, found)
    if not _is_images(data):
        return result
    chosen = SCHEDULES[mode] if schedule == "auto" else schedule
    pull = (0.0 if mode == "paper" else STAY) if stay is None else stay
    least = typical_cosines(found.codes, groups.labels, groups.centres, groups.parts.mean)
    return _with_images(result, work, which, groups, least, chosen, pull, normalise, seed, progress)


def check_request(
    n_facets: int | None = None,
    *,
    n_top: int = N_TOP,
    schedule: str | Schedule | None = "auto",
    stay: float | None = None,
    draws: int = DRAWS,
    **grouping: Any,
) -> None:
    """Refuse options of `facets` that are not there, before model and data are read.

    Parameters
    ----------
    grouping : ``mode``, ``embed``, ``cluster`` and ``nearest``; the others as in `facets`.

    Raises
    ------
    ParameterError
        One of them is wrong.
    """
    check_options(n_facets, draws=draws, **grouping)
    if n_top < 1:
        raise ParameterError(f"n_top must be at least 1; got {n_top}.")
    if stay is not None and not 0 <= stay < float("inf"):
        raise ParameterError(f"stay must be a number from 0; got {stay}.")
    if schedule is not None and schedule != "auto":
        named(schedule)


def _read(data: Any) -> Dataset:
    """The data set that is meant."""
    from interp.data import read

    return read(data)


# ---- what is read


def _is_images(data: Dataset) -> bool:
    return data.kind == "image" or (data.kind == "tensor" and getattr(data.inputs, "ndim", 0) == 4)


def _label(data: Dataset, label: str | None) -> str | None:
    if label is None:
        return data.labels[0] if data.labels and data.kind != "text" else None
    if label not in data.rows.columns:
        raise ParameterError(
            f"there is no label column {label!r}; the data has "
            f"{', '.join(map(str, data.rows.columns)) or 'none'}."
        )
    return label


def _class_rows(data: Dataset, unit: Unit, mode: str) -> list[int] | None:
    """In the mode paper, the images of the class that a unit is called after."""
    if mode != "paper" or not data.labels or data.kind == "text":
        return None
    classes = data.rows[data.labels[0]].astype(str).to_numpy()
    mine = np.flatnonzero(classes == unit.name)
    return mine.tolist() if len(mine) else None


def _about(
    work: Capture,
    unit: Unit,
    codes_at: str,
    label: str | None,
    name: str | None,
    mode: str,
    seed: int,
) -> dict[str, Any]:
    """The fields that do not depend on what was found."""
    data = work.data
    return {
        "name": name or f"{data.name}.{unit.name}",
        "mode": mode,
        "provenance": {
            "model": work.model.identity(),
            "data": {"name": data.name, "hash": data.hash, "n": len(data)},
            **({} if unit.coder is None else {"coder": coder_identity(unit.coder)}),
            "seed": seed,
            "versions": versions(),
        },
        "hookpoint": unit.hookpoint,
        "unit": unit.name,
        "index": unit.index,
        "codes_at": codes_at,
        "modality": "image" if _is_images(data) else data.kind,
        "label": label,
    }


def _nothing(found: Fired, about: dict[str, Any], n_facets: int | None, threshold: float) -> Facets:
    """The result where no input fires the unit."""
    why = (
        f"none of {found.read:,} inputs fires the unit above {threshold:g}; the greatest "
        f"activation is {found.strongest:.3g}."
    )
    if n_facets is not None:
        raise DataError(f"{n_facets} facets were asked for, and {why}")
    nan, none = float("nan"), np.zeros(0)
    whole = np.zeros(0, dtype=np.int64)
    return Facets(
        **about,
        n=0,
        read=found.read,
        firing=0,
        strongest=found.strongest,
        rows=whole,
        activation=none,
        position=whole,
        labels=whole,
        xy=np.zeros((0, 2)),
        settings={},
        tried={},
        tightness=none,
        silhouettes=none,
        silhouette=nan,
        code_silhouette=nan,
        control={},
        null={"found": nan, "p": nan, "drawn": none},
        valley=nan,
        several=None,
        classes=(),
        truth=whole,
        adjusted_rand_index=nan,
        purity=none,
        common=whole,
        nearest=np.zeros((0, 0), dtype=np.int64),
        reasons={"labels": why},
    )


# ---- what is made of it


def _result(about: dict[str, Any], found: Fired, groups: Grouping, data: Dataset) -> Facets:
    rows, reasons = found.rows, dict(groups.reasons)
    classes, truth = _truth(data.rows, about["label"], rows)
    share, common = purity(groups.labels, truth, groups.k)
    known = truth >= 0
    index = adjusted_rand_index(groups.labels[known], truth[known])
    control = dict(groups.control)
    if about["label"] is not None:
        control["adjusted_rand_index"] = adjusted_rand_index(
            groups.control_labels[known], truth[known]
        )
        if index != index:
            share = np.full(groups.k, np.nan)  # any group of one class alone is pure
            reasons["adjusted_rand_index"] = reasons["purity"] = (
                f"the inputs that fire the unit have one class of {about['label']} only."
            )
    notes = [
        f"{found.firing:,} of {found.read:,} inputs {'of its class ' * found.chosen}fire the unit"
        + (f"; the {len(rows):,} strongest were grouped" if found.taken > len(rows) else "")
        + ("; of a class all are taken" if found.chosen and found.firing < found.taken else ""),
        f"codes at {about['codes_at']}: {groups.parts.points.shape[1]} principal components, "
        f"{100 * groups.parts.share:.0f} % of the variance",
    ]
    near = np.where(groups.nearest >= 0, rows[groups.nearest.clip(0)], -1)
    return Facets(
        **about,
        n=len(rows),
        read=found.read,
        firing=found.firing,
        strongest=found.strongest,
        rows=rows,
        activation=found.activation,
        position=found.position,
        labels=groups.labels,
        xy=groups.xy.astype(np.float32),
        settings=groups.settings,
        tried={str(k): v for k, v in groups.tried.items()},
        tightness=groups.tightness,
        silhouettes=groups.silhouettes,
        silhouette=groups.silhouette,
        code_silhouette=groups.code_silhouette,
        control=control,
        null=groups.null,
        valley=groups.valley,
        several=groups.several,
        classes=classes,
        truth=truth,
        adjusted_rand_index=index,
        purity=share,
        common=common,
        nearest=near,
        reasons=reasons,
        notes=tuple(notes),
    )


def _truth(
    table: pd.DataFrame, label: str | None, rows: NDArray
) -> tuple[tuple[str, ...], NDArray]:
    """Names of the classes, and the class of each input; -1 where it is missing."""
    if label is None:
        return (), np.full(len(rows), -1, dtype=np.int64)
    column = table[label].iloc[rows]
    codes, names = pd.factorize(column, sort=True)
    return tuple(str(n) for n in names), codes.astype(np.int64)


def _with_text(result: Facets, work: Capture, found: Fired) -> Facets:
    """Snippets of the contexts nearest each centre, and words that only one facet's have."""
    ids = getattr(work.feed, "ids")  # noqa: B009  a text feed has them
    at = {int(row): i for i, row in enumerate(found.rows)}
    pieces = {}

    def tokens(row: int) -> list[str]:
        if row not in pieces:
            pieces[row] = [work.model.token_text(i) for i in ids[row]]
        return pieces[row]

    snippets = []
    for near in result.nearest:
        mine = {}
        for r in near[near >= 0].tolist():
            one = snippet(tokens(r), found.traces[at[r]], int(found.position[at[r]]))
            mine.setdefault(one[0][max(0, one[2] - SAME) : one[2] + 1], one)
        snippets.append(tuple(mine.values())[:SNIPPETS])
    contexts = []
    for i, row in enumerate(found.rows):
        shown, _, last = snippet(tokens(int(row)), found.traces[i], int(found.position[i]))
        contexts.append("".join(shown[: last + 1]))
    words = distinctive_words(contexts, result.labels, result.n_facets)
    reasons = dict(result.reasons)
    if result.n_facets == 1:
        reasons["words"] = "one facet has no other to be told from."
    elif not all(words):
        some = [str(i) for i, w in enumerate(words) if not w]
        reasons["words"] = f"no word tells facet {', '.join(some)} from the others."
    return replace(result, snippets=tuple(snippets), words=tuple(words), reasons=reasons)


def _with_images(
    result: Facets,
    work: Capture,
    unit: Unit,
    groups: Grouping,
    least: NDArray,
    schedule: str | Schedule | None,
    stay: float,
    normalise: Normalisation | None,
    seed: int,
    progress: Progress | None,
) -> Facets:
    """Mean images, examples, and images synthesised from the means."""
    model: Model = work.model
    pictures = Pictures(model, work.data, normalise)
    try:
        means = mean_images(pictures, result.nearest)
    except DataError as error:  # the facets stand without a picture
        return replace(result, reasons={**result.reasons, "means": str(error)})
    real = [pictures.read(row[row >= 0][:EXAMPLES]) for row in result.nearest]
    shown = np.zeros((len(means), EXAMPLES, *means.shape[1:]), dtype=np.uint8)
    for i, own in enumerate(real):
        shown[i, : len(own)] = np.round(own * 255).astype(np.uint8)
    result = replace(
        result,
        means=means,
        contrast=contrast(pictures, result.nearest, means),
        shown=shown,
    )
    if schedule is None:
        return result
    try:
        made = synthesise(
            model, unit, result.codes_at, means, groups.centres, groups.parts.mean, least,
            best=result.strongest, stay=stay, schedule=schedule, normalise=normalise, seed=seed,
            progress=progress,
        )  # fmt: skip
    except ParameterError:
        raise
    except InterpError as error:
        return replace(result, reasons={**result.reasons, "images": str(error)})
    return replace(
        result,
        images=made.images,
        image_scores=made.scores,
        diversity=made.diversity,
        schedule=made.schedule,
        reasons={**result.reasons, **made.reasons},
        notes=(*result.notes, *made.notes),
    )
