"""Labels of single tokens: from places in a text to the tokens that end there."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from interp.data import Dataset
from interp.errors import DataError, ModelError

if TYPE_CHECKING:
    from interp.models import Model

__all__ = ["token_labels"]


def token_labels(model: "Model", data: Dataset, max_length: int | None = None) -> Dataset:
    """The data set with a list for each text in the columns that it marks: an entry a token.

    A token gets the label of the place (`Dataset.marks`) where it ends, and None where nothing is
    marked there. A text without marks in a column has None for the whole list. A capture with
    ``pool="all"`` does this by itself.

    Raises
    ------
    DataError
        The marks are not of these rows.
    ModelError
        The tokenizer does not say where its tokens lie in the text.
    """
    ends = _ends(model, cast("list[str]", data.inputs), max_length)
    rows, notes = data.rows.copy(), []
    for column, marks in data.marks.items():
        cells: list[list[Any] | None] = []
        labelled = 0
        if len(marks) != len(ends):
            raise DataError(
                f"{data.name} marks {len(marks)} texts for {column!r} and holds {len(ends)}; give "
                "both the same rows."
            )
        for own, places in zip(ends, marks, strict=True):
            labels = [places.get(end) for end in own]
            some = sum(v is not None for v in labels)
            labelled += some
            cells.append(labels if some else None)
        rows[column] = cells
        notes.append(f"{column}: {labelled:,} tokens have a label of their own")
    return replace(data, rows=rows, label_notes=(*data.label_notes, *notes))


def _ends(model: "Model", texts: list[str], max_length: int | None) -> list[list[int]]:
    """Where each token of each text ends, in characters; -1 for one that is no part of it."""
    from interp.models import quiet_transformers

    model.tokenize(texts[:1])  # refuses a model without a tokenizer
    options = {} if max_length is None else {"truncation": True, "max_length": max_length}
    with quiet_transformers():
        try:
            spans = model.tokenizer(texts, return_offsets_mapping=True, **options)["offset_mapping"]
        except (NotImplementedError, KeyError, TypeError) as error:
            raise ModelError(
                f"the tokenizer of {model.spec} does not say where its tokens lie in the text, so "
                "places in a text cannot be brought to tokens."
            ) from error
    return [[end if end > start else -1 for start, end in row] for row in spans]
