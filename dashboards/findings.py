"""What a result says, in two or three plain sentences: the story that its numbers allow."""

import math

import numpy as np

from dashboards import html, tables
from dashboards.depth import curve_of
from probes.depth import ConceptDepth
from probes.onset import LEVEL

__all__ = ["finding", "peak_at"]

SHUFFLES = 5
"""Shuffles of the labels below which a test that finds nothing says nothing."""


def finding(
    result: ConceptDepth, link: str | None = None, model: str = ""
) -> tuple[html.Cell, ...]:
    """From where on a concept is read, how well at best, and what reads as much without the model.

    "More" and "less" are said where the 95 % intervals of the two accuracies do not overlap.

    Parameters
    ----------
    link : id of the part that the concept's name points to.
    model : name of the model, where there are several.
    """
    name = tables.concept(result)
    text: list[html.Cell] = [html.Link(name, link) if link else html.Strong(name)]
    text += [" in ", html.Code(model, 60), ": "] if model else [": "]
    at = peak_at(result)
    if at is None:
        return (*text, "no accuracy is defined.")
    text += _read(result, at)
    unread = result.onset_hookpoint is None and curve_of(result, "p_adjusted") is not None
    for said in (_words(result, at, unread), None if unread else _untrained(result, at)):
        text += [" ", said] if said else []
    if result.warnings:
        text.append(" Read its warning before these numbers.")
    return tuple(text)


def peak_at(result: ConceptDepth) -> int | None:
    """Index of the first highest accuracy, or None where none is defined."""
    return int(np.nanargmax(result.accuracy)) if np.isfinite(result.accuracy).any() else None


def _read(result: ConceptDepth, at: int) -> list[html.Cell]:
    """Where the onset lies and where the peak, beside the commonest class."""
    best, where = f"{result.accuracy[at]:.2f}", html.Code(result.hookpoints[at], 40)
    common = f" (the commonest class alone: {result.majority:.2f})."
    p, onset = curve_of(result, "p_adjusted"), result.onset_hookpoint
    if onset is None and p is not None:
        said = (
            f"{result.permutations} shuffles are too few to tell from which depth on; the best"
            if result.permutations < SHUFFLES
            else "not clearly read at any depth: the best"
        )
        least = f" (the least p over all depths is {np.nanmin(p):.2g})."
        beats = ", does not beat shuffled labels" if result.permutations >= SHUFFLES else ""
        return [f"{said} accuracy, {best} at ", where, beats, least]
    if onset is None:
        return [f"at best an accuracy of {best}, at ", where, common]
    if onset == result.hookpoints[at]:
        return ["first read, and best, at ", where, f", with an accuracy of {best}{common}"]
    later = [] if p is None else p[result.hookpoints.index(onset) :]
    lasts = all(value <= LEVEL for value in later if math.isfinite(value))
    first: list[html.Cell] = ["read from " if lasts else "first read at ", html.Code(onset, 40)]
    on = " on" if lasts else ", though not at every depth after it"
    return [*first, f"{on}, best with an accuracy of {best} at ", where, common]


def _words(result: ConceptDepth, at: int, unread: bool) -> str | None:
    words, low, high = result.bag_of_words, result.bag_of_words_low, result.bag_of_words_high
    if words is None or low is None or high is None or not math.isfinite(words + low + high):
        return None
    if high < result.majority:
        return (
            f"The words alone give {words:.2f}, below the commonest class, as they do where a "
            "split parts rows that are matched: no gain over them is told."
        )
    if unread and result.accuracy_high[at] >= low:
        return f"The words alone give {words:.2f}."
    if result.accuracy_low[at] > max(high, result.majority):
        more = result.accuracy[at] - max(words, result.majority)
        than = "" if words >= result.majority else " than the commonest class"
        return f"The words alone give {words:.2f}: the model has {more:.2f} more{than}."
    if result.accuracy_high[at] < low:
        return f"The words alone give more, {words:.2f}."
    return f"That is no clear gain over the words alone, {words:.2f}."


def _untrained(result: ConceptDepth, at: int) -> str | None:
    names = ("random_model", "random_model_low", "random_model_high")
    curves = [curve_of(result, name) for name in names]
    if any(c is None or not math.isfinite(c[at]) for c in curves):
        return None
    value, low, high = (float(c[at]) for c in curves if c is not None)
    if result.accuracy_low[at] > high:
        return f"With random weights it gives {value:.2f} there."
    if result.accuracy_high[at] < low:
        return f"With random weights it gives more there, {value:.2f}."
    return f"That is no clear gain over random weights, {value:.2f} there."
