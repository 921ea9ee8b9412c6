"""Codebooks finetuned into demo:pylm: what they cost, what codes stand for, and steering by one.

    python examples/codebook_pylm.py --out runs/codebook-pylm       # some minutes on one CPU core

Writes ``report.html`` with the loss before and after, the codes of patterns and of `demo:python`'s
exact labels beside the best neurons, a page of records, and text generated with a code put in.
"""

import argparse
from pathlib import Path

import dashboards
import interp
from interp.runs import Run
from saes.codebook import (
    CodebookConfig,
    Codebooks,
    TextBatches,
    code_features,
    insert,
    read_patterns,
    steer_codes,
    train_codebooks,
)

PATTERNS = {
    "self.": r"self\.",
    "import": r"\bimport ",
    "return": r"\breturn\b",
    "quote": r"[\"']",
    "def": r"\bdef ",
    "raise": r"\braise\b",
    "None": r"\bNone\b",
    "comment": r"#",
    "line end": r"\n",
}
STEERED = ("self.", "import", "return", "raise")
"""Patterns whose code is put in."""
PROMPTS = ("", "def area(", "class Shape:\n", "x = 1\n")


def main():
    parser = argparse.ArgumentParser(description="codebooks in demo:pylm")
    parser.add_argument("--out", type=Path, default=Path("runs/codebook-pylm"))
    parser.add_argument("--hookpoints", default="mlp_out.*", help="a comma list")
    parser.add_argument("--n-codes", type=int, default=1000)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32, help="windows of a step")
    parser.add_argument("--documents", type=int, default=600, help="texts that codes are read on")
    parser.add_argument("--samples", type=int, default=10, help="texts of each prompt")
    args = parser.parse_args()
    config = {k: str(v) for k, v in vars(args).items() if k != "out"}
    run = Run(args.out, "codebook pylm", config, resume=True)
    model, data = interp.load("demo:pylm"), interp.read("demo:python")
    books = insert(
        model, args.hookpoints.split(","), CodebookConfig(n_codes=args.n_codes, k=args.k)
    )
    log = train_codebooks(
        books,
        TextBatches(model, data, args.batch, part="train"),
        steps=args.steps,
        held_out=TextBatches(model, data, args.batch, part="held out"),
        replace_every=max(1, args.steps // 10),
        out=args.out,
        resume=True,
        name="python.codebooks",
        progress=lambda done, steps, words: done % 20 or print(done, steps, words, flush=True),
        provenance={"model": model.identity(), "data": {"name": "python"}},
    )
    run.add(log)
    print(log.metrics())
    books = Codebooks.load(args.out / "model")
    found = read_patterns(books, data, PATTERNS, documents=args.documents)
    run.add(found)
    for row in found.best():
        print(row)
    best = {row.pattern: row for row in found.best() if row.pattern in STEERED}
    for pattern, row in best.items():
        steered = steer_codes(
            books, [(row.hookpoint, row.code)], PATTERNS[pattern], PROMPTS, samples=args.samples,
            tokens=30, every_slot=True, name=pattern,
        )  # fmt: skip
        run.add(steered)
        print(steered.to_frame().to_string())
    most = max(found.best(), key=lambda r: r.precision or 0)
    run.add(code_features(books, most.hookpoint, data, documents=args.documents, top=5))
    run.finish()
    report = dashboards.Report(run.results, title="Codebooks in demo:pylm")
    print(report.write(args.out / "report.html"))


if __name__ == "__main__":
    main()
