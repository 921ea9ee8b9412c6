"""Which words, or labels, some rows hold more often than rows drawn blindly would.

The null is a draw of as many rows without regard to what they hold, so that a word in m of n of
them, and in K of all N, has the hypergeometric probability of m or more. It is exact; times the
number of words and of latents that were looked at (Bonferroni) it bounds the chance that any is
found.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["ALPHA", "COVERAGE", "Distinctive", "Vocabulary", "excess", "terms"]

ALPHA = 0.01
"""Greatest adjusted probability of a word that names."""
COVERAGE = 0.5
"""Least share of the texts that hold a word that names."""
WORDS = 3
"""Words of a name, at most."""
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class Distinctive(NamedTuple):
    """A word, or two that follow each other: the share of the texts that hold it, that of all
    texts, and the adjusted probability under the null.
    """

    term: str
    share: float
    base_rate: float
    p: float


def terms(text: str) -> frozenset[str]:
    """The words of a text in small letters, and each two that follow each other."""
    words = WORD.findall(text.casefold())
    return frozenset(words) | {f"{a} {b}" for a, b in zip(words, words[1:], strict=False)}


class Vocabulary:
    """How many of some texts hold each term; equal texts count once.

    Parameters
    ----------
    texts : any number.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.n = 0
        self.counts: Counter[str] = Counter()
        for text in dict.fromkeys(texts):
            self.n += 1
            self.counts.update(terms(text))

    def name(self, texts: Sequence[str], units: int) -> tuple[tuple[Distinctive, ...], str]:
        """The distinctive terms of some of the texts, best first; or none, and why.

        A term names where half of the texts or more hold it, and its probability, times the number
        of terms in these texts and of ``units``, is at most 0.01. Of equal ones the shorter leads.
        A term that holds a better one, or lies within one, is left out.
        """
        if len(texts) < 2:
            return (), f"{len(texts)} texts are too few to have distinctive words"
        held = Counter(term for text in texts for term in terms(text))
        if not held:
            return (), "its texts hold no words"
        names = sorted(held)
        m = np.array([held[t] for t in names])
        k = np.array([self.counts[t] for t in names])
        log_p = excess(m, len(texts), k, self.n) + np.log(len(names) * max(units, 1))
        order = sorted(range(len(names)), key=lambda i: (log_p[i], len(names[i].split()), names[i]))
        found: list[Distinctive] = []
        for i in order:
            share = m[i] / len(texts)
            if log_p[i] > np.log(ALPHA) or share < COVERAGE:
                continue
            words = set(names[i].split())
            if any(words & set(d.term.split()) for d in found):
                continue
            p = float(np.exp(min(log_p[i], 0.0)))
            found.append(Distinctive(names[i], float(share), float(k[i] / self.n), p))
            if len(found) == WORDS:
                break
        if found:
            return tuple(found), ""
        best = names[order[0]]
        return (), (
            f"no word is distinctive: the most, {best!r}, is in {held[best]} of {len(texts)} texts "
            f"and in {self.counts[best] / self.n:.1%} of all"
        )


def excess(m: np.ndarray, n: int, k: np.ndarray, total: int) -> np.ndarray:
    """Natural logarithm of the chance that n of ``total`` rows, drawn blindly, hold m or more of k.

    Parameters
    ----------
    m, k : arrays of one shape: rows that hold a thing, among the n and among all.
    """
    from scipy.stats import hypergeom

    with np.errstate(divide="ignore"):
        tail = hypergeom.sf(np.asarray(m) - 1, total, np.asarray(k), n)
        return np.log(np.maximum(tail, 1e-300))
