"""What ``interp probe`` asks of directions, lens and steering, checked before any work."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from interp.cli.shell import note
from interp.errors import DataError, ModelError, ParameterError

if TYPE_CHECKING:
    from interp.data import Dataset
    from interp.models import Model

__all__ = ["Asked", "check_asked", "check_model", "read_answers", "steered_labels"]

Asked = Sequence[str]
"""Those of ``--lens`` and ``--steer`` that were given."""
NO_DIRECTION = ("random_forest",)
"""Kinds of probe that have no direction."""


def read_answers(
    values: Sequence[str] | None, sets: "Sequence[Dataset]" = ()
) -> dict[str, list[str]]:
    """``["1= True", "1= Yes"]`` as {class: words}; a space before a word is part of it.

    A class whose name has an equals sign is told by the data's own classes, the longest first.
    """
    known = {c for data in sets for label in data.labels for c in _classes(data, label)}
    answers: dict[str, list[str]] = {}
    for value in values or ():
        name = max((c for c in known if value.startswith(f"{c}=")), key=len, default="")
        name, equals, word = (name, "=", value[len(name) + 1 :]) if name else value.partition("=")
        if not (name and equals and word.strip()):
            raise ParameterError(f"--answer takes CLASS=WORD, such as '1= True'; got {value!r}.")
        answers.setdefault(name, []).append(word)
    return answers


def check_asked(
    asked: Asked,
    answers: Mapping[str, Sequence[str]],
    probe: str,
    pool: str,
    sets: "Sequence[Dataset]",
) -> None:
    """Refuse what the options and the data rule out, before a model is loaded."""
    if answers and "--steer" not in asked:
        raise ParameterError("--answer says how a model answers, and needs --steer.")
    if asked and probe in NO_DIRECTION:
        raise ParameterError(
            f"a linear probe is needed for {' and '.join(asked)}; {probe} has no direction."
        )
    if "--steer" not in asked:
        return
    if pool == "all":
        raise ParameterError(
            "--steer reads one answer a text, and with --pool all each token has a row; use "
            "another pool."
        )
    for data in sets:
        if data.kind != "text":
            raise DataError(f"--steer reads an answer after a text, and {data.name} holds none.")
    known = sorted({c for data in sets for label in data.labels for c in _classes(data, label)})
    for name in answers:
        if name not in known:
            raise ParameterError(
                f"--answer names the class {name!r}; the classes are {', '.join(known[:20])}."
            )


def check_model(asked: Asked, model: "Model", hookpoints: Sequence[str]) -> None:
    """Refuse a model without words, and hook points that the logit lens cannot read."""
    if not asked:
        return
    from probes.steering import check_language_model, stream_hookpoints

    try:
        check_language_model(model)
    except ModelError as error:
        raise ModelError(
            f"a language model is needed for {' and '.join(asked)}: {error}"
        ) from error
    names = [p.name for p in model.resolve(hookpoints)]
    if "--lens" in asked and not stream_hookpoints(model, names):
        raise ParameterError(
            f"--lens reads directions of the residual stream, in which {names[0]} is not known to "
            "lie; probe resid_post.* too (-p), or leave --lens out."
        )


def steered_labels(
    models: "Sequence[Model]", sets: "Sequence[Dataset]", answers: Mapping[str, Sequence[str]]
) -> list[list[tuple[str, ...]]]:
    """The labels that each model can be steered by, for each data set; it says which it cannot.

    Raises
    ------
    ParameterError
        No model can be steered by any.
    """
    found: list[list[tuple[str, ...]]] = []
    refused: list[str] = []
    for model in models:
        found.append([])
        for data in sets:
            why = {label: _why_not(model, data, label, answers) for label in data.labels}
            refused += [f"{data.name}.{k} is not steered: {v}" for k, v in why.items() if v]
            found[-1].append(tuple(k for k, v in why.items() if not v))
    if not any(labels for row in found for labels in row):
        raise ParameterError(f"--steer has no concept to steer by: {refused[0]}")
    for sentence in dict.fromkeys(refused):
        note(sentence)
    return found


def _why_not(
    model: "Model", data: "Dataset", label: str, answers: Mapping[str, Sequence[str]]
) -> str | None:
    from probes.steering import answer_tokens

    classes = _classes(data, label)
    if len(classes) != 2:
        return f"steering needs two classes; it has {len(classes)}."
    try:
        answer_tokens(model, classes, {c: answers[c] for c in classes if c in answers} or None)
    except ParameterError as error:
        return str(error)
    return None


def _classes(data: "Dataset", label: str) -> tuple[str, ...]:
    from probes.concepts import read_concept

    return read_concept(data.rows, label, data.group).classes
