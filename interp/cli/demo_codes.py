"""Codebooks in ``interp demo``: put into demo:pylm, trained a little, read, and used to steer."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interp.cli.shell import bar, note
from interp.cli.study import short_names

if TYPE_CHECKING:
    from interp.data import Dataset
    from interp.runs import Run

SITE = "resid_post.2"
"""The hook point whose rows become codes."""
CODES, ACTIVE, STEPS, WINDOWS = 400, 8, 60, 8
"""Of the codebook and its training. A few steps: the codes are those of k-means, moved a little."""
READ = 250
"""Texts that codes are read on."""
PATTERNS = {
    "self.": r"self\.",
    "import": r"\bimport ",
    "return": r"\breturn\b",
    "quote": r"[\"']",
    "comment": r"#",
    "line end": r"\n",
}
STEERED = "quote"
"""The pattern whose best code is put in."""
PROMPTS, SAMPLES, TOKENS = ("", "def area(", "class Shape:\n", "x = 1\n"), 10, 24


def learn_codes(run: "Run", spec: str, data: "Dataset", seed: int) -> None:
    """A codebook of the residual stream: the loss before and after, its codes, and one put in."""
    import interp
    from saes.codebook import (
        CodebookConfig,
        CodebookTraining,
        CodePatterns,
        CodeSteering,
        TextBatches,
        code_features,
        insert,
        read_patterns,
        steer_codes,
        train_codebooks,
    )
    from saes.records import Features

    name = f"codebook {SITE}"
    if run.found(CodeSteering, name) is not None:  # the last that is added
        for kind in (CodebookTraining, CodePatterns, Features):
            run.found(kind, name)
        note(f"{name}: found in {run.path}")
        return
    model = interp.load(spec)  # its own: training changes the weights
    about = {**model.identity(), "short": short_names([spec])[0]}

    def sign(result: Any) -> None:
        named = {"name": data.name, "hash": data.hash, "n": len(data)}
        signed = {**result.provenance, "model": about, "data": named}
        run.add(replace(result, name=name, provenance=signed))

    books = insert(model, SITE, CodebookConfig(n_codes=CODES, k=ACTIVE), seed=seed)
    parts = [TextBatches(model, data, WINDOWS, seed=seed, part=p) for p in ("train", "held out")]
    with bar(f"learning {CODES:,} codes of {SITE}") as progress:
        log = train_codebooks(
            books, parts[0], steps=STEPS, held_out=parts[1], seed=seed, progress=progress
        )
    sign(log)
    with bar("reading what the codes stand for") as progress:
        found = read_patterns(
            books, data, PATTERNS, documents=READ, labels=False, seed=seed, progress=progress
        )
        sign(found)
        sign(code_features(books, SITE, data, documents=READ, seed=seed, progress=progress))
    best = {row.pattern: row for row in found.best()}[STEERED]
    with bar(f"putting the code of {STEERED} in") as progress:
        steered = steer_codes(
            books, [(SITE, best.code)], PATTERNS[STEERED], PROMPTS, samples=SAMPLES,
            tokens=TOKENS, every_slot=True, seed=seed, progress=progress,
        )  # fmt: skip
    sign(steered)
