"""Points in the plane that the page's script draws: thousands, each with what it stands for.

Plotly draws a point as an element of its own, which takes seconds where there are thousands, and
its canvas needs what the page's policy forbids. So these are drawn on a plain canvas.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards import html, tables
from dashboards.packed import pack, texts
from dashboards.style import light

__all__ = ["points"]

GROUPS = ("curve", "bag", "untrained", "shuffled", "features", "majority")
"""Colours of the groups; each group has a shape of its own as well."""
TEXT = 160
"""Characters of what a point stands for."""


def points(
    id: str,
    xy: NDArray,
    groups: Sequence[str],
    said: Sequence[str],
    *,
    alt: str,
    kind: str,
    link: str | None = None,
    number: ArrayLike | None = None,
    caption: str = "",
) -> html.Part:
    """A map whose points are found by mouse, by arrow keys and by search.

    Parameters
    ----------
    xy : [m, 2] places.
    groups : [m] class of each point: colour and shape. The commonest five have their own, the
        others are one.
    said : [m] what each stands for.
    alt : what the map shows, from the data.
    kind : what a point is called, such as ``latent`` or ``input``.
    link : what a link of a point begins with; its number follows. None: a point opens its text.
    number : [m] what each point is called by; its place among them where there is none.
    """
    names, place = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    count = np.bincount(place, minlength=len(names))
    order = np.argsort(-count, kind="stable")
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    most = len(GROUPS) - 1 if len(names) > len(GROUPS) else len(GROUPS)
    own = [str(n) for n in names[order][:most]]
    counts = [
        *count[order][:most].tolist(),
        *([int(count[order][most:].sum())] * (len(names) > most)),
    ]
    own += [tables.plural(len(names) - most, "other")] * (len(names) > most)
    data = {
        "alt": alt,
        "caption": caption,
        "kind": kind,
        "link": link,
        "x": pack(xy[:, 0], "f4"),
        "y": pack(xy[:, 1], "f4"),
        "group": pack(np.minimum(rank[place], most)),
        "groups": texts(own),
        "counts": counts,
        "colours": [light(name) for name in GROUPS],
        "number": pack(np.arange(len(xy)) if number is None else np.asarray(number)),
        "said": texts(said, TEXT),
    }
    note = html.Paragraph((alt, " Drawing it needs scripts."), "note")
    return html.Live(id, "points", data, (note,))
