"""What tells the contexts of one facet from those of the others: its words, and snippets."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Snippet", "distinctive_words", "snippet"]

WORD = re.compile(r"\w+|[^\w\s]+")
BEFORE = 12
"""Tokens of a snippet before the one that fires."""
SURE = 1.96
"""z above which a word is distinctive."""
PRIOR = 10.0
"""Size of the prior, in words a facet."""

Snippet = tuple[tuple[str, ...], tuple[float, ...], int]
"""Tokens, their activations, and which one fires."""


def snippet(tokens: Sequence[str], trace: NDArray, at: int) -> Snippet:
    """The tokens around the one that fires, with their activations; unread ones have 0."""
    first = max(0, at - BEFORE)
    last = min(len(tokens), len(trace))
    shown = tuple(tokens[first:last])
    return shown, tuple(float(v) for v in trace[first:last]), at - first


def distinctive_words(
    texts: Sequence[str], labels: NDArray, k: int, most: int = 5
) -> list[tuple[tuple[str, float], ...]]:
    """Words of each facet that its contexts have more often than the others', with their z.

    A context counts a word once. z is the difference of the log odds over its standard deviation,
    with a Dirichlet prior in proportion to how often all contexts have the word; a word in one
    context only is never distinctive.

    Parameters
    ----------
    texts : a context each.
    labels : [n] facet of each; -1 is in none.
    k : facets.
    most : words of a facet.

    Range: z above 1.96, higher is more distinctive. Degenerate: an empty tuple where no word is, as
    for a single facet.
    Source: Monroe et al. 2008, "Fightin' Words", equations 15, 16 and 22.
    """
    counts = [Counter[str]() for _ in range(k)]
    for text, label in zip(texts, labels.tolist(), strict=True):
        if label >= 0:
            counts[label].update(set(WORD.findall(text)))
    whole = sum(counts, Counter[str]())
    total = whole.total()
    found = []
    for mine in counts:
        n, rest = mine.total(), total - mine.total()
        scored = []
        for word, c in mine.items():
            prior, other = PRIOR * whole[word] / total, whole[word] - c
            if c < 2 or rest == 0:
                continue
            a, b = c + prior, other + prior
            gap = np.log(a / (n + PRIOR - a)) - np.log(b / (rest + PRIOR - b))
            z = gap / np.sqrt(1 / a + 1 / b)
            if z > SURE:
                scored.append((word, float(z)))
        scored.sort(key=lambda pair: (-pair[1], pair[0]))
        found.append(tuple(scored[:most]))
    return found
