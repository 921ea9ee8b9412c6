"""What a result says, in two or three plain sentences: the story that its numbers allow."""

import math

import numpy as np

from dashboards import html, tables
from dashboards.depth import curve_of
from probes.depth import ConceptDepth

__all__ = ["finding", "peak_at"]


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
    if result.onset_hookpoint is not None:
        if result.onset_hookpoint == result.hookpoints[at]:
            return ["read first and best at ", where, f", with an accuracy of {best}{common}"]
        onset = html.Code(result.onset_hookpoint, 40)
        return ["read from ", onset, f" on, best with an accuracy of {best} at ", where, common]
    if curve_of(result, "p_adjusted") is not None:
        said = f"not read at any depth: the best accuracy, {best} at "
        return [said, where, ", is no higher than shuffled labels give by chance."]
    return [f"at best an accuracy of {best}, at ", where, common]


def _words(result: ConceptDepth, at: int, unread: bool) -> str | None:
    words, low, high = result.bag_of_words, result.bag_of_words_low, result.bag_of_words_high
    if words is None or low is None or high is None:
        return None
    if unread and result.accuracy_high[at] >= low:
        return f"The words alone give {words:.2f}."
    if result.accuracy_low[at] > high:
        more = result.accuracy[at] - words
        return f"The words alone give {words:.2f}: the model has {more:.2f} more."
    if result.accuracy_high[at] < low:
        return f"The words alone give more, {words:.2f}."
    return f"That is no clear gain over the words alone, {words:.2f}."


def _untrained(result: ConceptDepth, at: int) -> str | None:
    values, high = result.random_model, result.random_model_high
    if values is None or high is None or not math.isfinite(high[at]):
        return None
    if result.accuracy_low[at] > high[at]:
        return f"With random weights it gives {values[at]:.2f} there."
    return f"With random weights it gives as much there, {values[at]:.2f}: that is not learned."
