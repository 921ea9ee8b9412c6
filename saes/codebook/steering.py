"""Topic steering: how often generated text holds a pattern with codes put in, and without."""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from interp.errors import ModelError, ParameterError
from interp.results import Result
from interp.runs import versions
from saes.codebook.control import Code, forced, wilson
from saes.codebook.generating import sample
from saes.codebook.model import Codebooks
from saes.rows import seeded

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CodeSteering", "steer_codes"]

CONDITIONS = ("without", "with", "random codes")
SHOWN = 3
"""Texts of each condition that are kept."""


@dataclass(frozen=True, kw_only=True)
class CodeSteering(Result):
    """How often text that a model generates holds a pattern, by what its codebooks were made to do.

    Attributes
    ----------
    n : texts of each condition.
    codes : (hook point, latent) pairs that were put in.
    pattern : regular expression; ``prompts`` are what was gone on from, and do not count.
    counts : ``"without"``, ``"with"``, ``"random codes"`` -> texts that hold the pattern. Random
        codes are others of the same hook points and groups, new ones for each prompt.
    intervals : the same -> 95 % Wilson interval of the share.
    texts : the same -> some of the texts.
    tokens, temperature, seed : of the generation.
    every_slot : whether a code took all k slots.
    """

    kind: ClassVar[str] = "codebook_steering"

    codes: tuple[tuple[str, int], ...]
    pattern: str
    prompts: tuple[str, ...]
    counts: dict[str, int]
    intervals: dict[str, tuple[float, float]]
    texts: dict[str, tuple[str, ...]]
    tokens: int
    temperature: float
    seed: int
    every_slot: bool

    def to_frame(self) -> "pd.DataFrame":
        """A row a condition."""
        import pandas as pd

        rows = [
            (k, self.counts[k], self.n, self.counts[k] / self.n, *self.intervals[k], text)
            for k in self.counts
            for text in self.texts[k][:1]
        ]
        columns = ["codes", "texts", "of", "share", "low", "high", "such as"]
        return pd.DataFrame(rows, columns=columns)

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "codes", "pattern", "prompts", "counts", "intervals", "tokens",
                 "temperature", "seed", "every_slot")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def steer_codes(
    books: Codebooks,
    codes: Sequence[Code],
    pattern: str,
    prompts: Sequence[str],
    *,
    samples: int = 10,
    tokens: int = 50,
    temperature: float = 1.0,
    every_slot: bool = False,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> CodeSteering:
    """How often a pattern is generated with codes put in at every token, without, and at random.

    Parameters
    ----------
    codes : (hook point, latent) pairs, as for `saes.codebook.control.forced`.
    pattern : regular expression, looked for in the continuation, letter case aside.
    prompts : texts to go on from; an empty one is the tokenizer's start token.
    samples : continuations of each prompt.
    tokens, temperature : of a continuation.
    every_slot : put a code into all k slots of its group.
    seed : of the draws, the same for all conditions, and of the random codes.

    Raises
    ------
    ParameterError
        A code is not there, the pattern is no regular expression, or a number is too small.
    ModelError
        The model has no tokenizer, or an empty prompt and no start token.

    Source: "Codebook Features", section 4.3.
    """
    if samples < 1 or not prompts or not codes:
        raise ParameterError("steer_codes needs a code, a prompt, and at least one sample.")
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ParameterError(f"{pattern!r} is no regular expression: {error}.") from error
    with forced(books, codes, every_slot=every_slot):
        pass  # refuses codes that are not there before anything is generated
    said: dict[str, list[str]] = {c: [] for c in CONDITIONS}
    hits: dict[str, int] = dict.fromkeys(CONDITIONS, 0)
    words = books.model.tokenizer
    for i, prompt in enumerate(prompts):
        ids = torch.tensor(_start(books, prompt)).expand(samples, -1).to(books.model.device)
        others = _random_codes(books, codes, seed, i)
        for condition, chosen in zip(CONDITIONS, ((), codes, others), strict=True):
            context = forced(books, chosen, every_slot=every_slot) if chosen else nullcontext()
            with context:
                out = sample(
                    books.model, ids, tokens, temperature=temperature,
                    generator=seeded(seed, "steer", i),
                )  # fmt: skip
            new = [words.decode(row, skip_special_tokens=True) for row in out[:, ids.shape[1] :]]
            hits[condition] += sum(wanted.search(text) is not None for text in new)
            said[condition] += [prompt + text for text in new[:1]]
        if progress is not None:
            progress(i + 1, len(prompts), "prompts")
    n = samples * len(prompts)
    return CodeSteering(
        name=name or pattern,
        n=n,
        provenance={
            "model": books.model.identity(),
            "codebooks": {c: books[c].config.to_dict() for c, _ in codes},
            "versions": versions(),
        },
        codes=tuple((c, int(latent)) for c, latent in codes),
        pattern=pattern,
        prompts=tuple(prompts),
        counts=hits,
        intervals={c: wilson(count, n) for c, count in hits.items()},
        texts={c: tuple(texts[:SHOWN]) for c, texts in said.items()},
        tokens=tokens,
        temperature=temperature,
        seed=seed,
        every_slot=every_slot,
    )


def _start(books: Codebooks, prompt: str) -> list[int]:
    ids = books.model.tokenize([prompt])[0] if prompt else []
    if ids:
        return ids
    start = getattr(books.model.tokenizer, "bos_token_id", None)
    if start is None:
        raise ModelError(f"{books.model.spec} has no start token, so a prompt cannot be empty.")
    return [start]


def _random_codes(books: Codebooks, codes: Sequence[Code], seed: int, i: int) -> list[Code]:
    """As many other codes of the same groups; the code itself where a group has no other left."""
    generator, found = seeded(seed, "random codes", i), []
    for name, latent in codes:
        size = books[name].config.n_codes
        first = latent // size * size
        order = (first + torch.randperm(size, generator=generator)).tolist()
        left = [(name, c) for c in order if (name, c) not in (*codes, *found)]
        found.append(left[0] if left else (name, latent))
    return found
