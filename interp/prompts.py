"""Prompts around texts: the question that a text is followed or led by when a model reads it.

A probe on the last token reads what the model makes of the text so far. A prompt after the text
gives every row the same last token; a prompt before it leaves the text's own.
"""

from dataclasses import replace
from typing import Literal, NamedTuple, cast

from interp.data import Dataset
from interp.errors import DataError, ParameterError

__all__ = ["LAYOUTS", "RELEASED", "TASKS", "Layout", "Task", "task_of", "with_prompt"]

Layout = Literal["after", "before"]
LAYOUTS = ("after", "before")

RELEASED = "According to the sentence, judge the emotion is Positive or Negative."
"""The one prompt that Concept Depth's released code puts around every text of every data set
(github Luckfort/CD, main.py); its prompts for single data sets are never reached."""


class Task(NamedTuple):
    """A kind of question.

    Attributes
    ----------
    wording : of interp's own; the paper's are not published word by word.
    layout : where the prompt stands, as the paper's code has it for data sets of this kind.
    names : data sets of this kind, as they are named in the paper's code and in interp.
    """

    wording: str
    layout: Layout
    names: tuple[str, ...] = ()


TASKS: dict[str, Task] = {
    "truth": Task(
        "Is the following statement true or false?",
        "before",
        ("cities", "neg_cities", "common", "common_claim", "counterfact", "facts"),
    ),
    "sentiment": Task(
        "Is the writer of this text positive or negative?",
        "after",
        ("stsa", "imdb", "sentiment", "sst2"),
    ),
    "hate": Task("Does this text express hate, yes or no?", "after", ("hateeval",)),
    "sarcasm": Task("Is the following headline meant seriously or not?", "before", ("sarcasm",)),
    "reasoning": Task(
        "Answer the following question with yes or no, after thinking step by step.",
        "before",
        ("strategyqa", "strategyqa_task"),
    ),
    "coin flip": Task("Answer yes or no.", "after", ("coinflip", "coin_flip")),
    "other": Task("Which label does this text deserve?", "after"),
}
"""Kinds of task -> the default prompt of each."""


def task_of(data: Dataset) -> str:
    """The kind of task of a data set, told by its name; ``"other"`` where the name is unknown."""
    name = data.name.lower().split("~")[0].split(".")[0]
    return next((kind for kind, task in TASKS.items() if name in task.names), "other")


def with_prompt(data: Dataset, prompt: str | None = None, layout: Layout | None = None) -> Dataset:
    """The data set with a prompt around every text.

    The table of the rows keeps the texts as they were, so the bag of words reads them without the
    prompt. A note says what was added, and where.

    Parameters
    ----------
    data : of texts.
    prompt : the words; by default interp's own wording for the kind of task (`TASKS`, `task_of`).
    layout : ``"after"`` gives ``text + " " + prompt``, ``"before"`` ``prompt + " " + text``; by
        default as the kind of task has it.

    Raises
    ------
    DataError
        The data are no texts.
    ParameterError
        An empty prompt, or a layout that is none.
    """
    if data.kind != "text":
        raise DataError(f"{data.name} holds no texts ({data.kind}), so it takes no prompt.")
    if layout is not None and layout not in LAYOUTS:
        raise ParameterError(f"layout must be after or before; got {layout!r}.")
    if prompt is not None and not prompt.strip():
        raise ParameterError("the prompt is empty; give words, or leave it out for no prompt.")
    kind = task_of(data)
    words, place = prompt or TASKS[kind].wording, layout or TASKS[kind].layout
    texts = cast("list[str]", data.inputs)
    marks = data.marks
    if place == "after":
        inputs = [f"{text} {words}" for text in texts]
    else:
        inputs, by = [f"{words} {text}" for text in texts], len(words) + 1
        marks = {k: [{at + by: v for at, v in row.items()} for row in rows]
                 for k, rows in marks.items()}  # fmt: skip
    own = "" if prompt else f" (interp's wording for the task {kind!r})"
    note = f"the prompt {words!r}{own} stands {place} each text"
    return replace(data, inputs=inputs, marks=marks, notes=(*data.notes, note))
