"""``interp sae train --architecture codebook``: codebooks in a model, and the model with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from interp.cli.capture import size
from interp.cli.shell import bar, emit, note, table
from interp.errors import InterpError, ParameterError

if TYPE_CHECKING:
    from saes.codebook import CodebookConfig

CODES = 1000
"""Codes of a codebook, or of each head's, where none are asked for."""
TIMED = 3
"""Steps that a dry run takes."""


def train_in_model(
    model: Any,
    data: str,
    points: list[str],
    fields: dict[str, Any],
    options: dict[str, Any],
    *,
    out: Path,
    tokens: int,
    from_scratch: bool,
    text_column: str | None,
    max_length: int | None,
    checkpoint_every: int | None,
    resume: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train codebooks at hook points of a model on its own loss, and write a report.

    ``fields`` are the config's, ``options`` those of `saes.codebook.train_codebooks`, ``tokens``
    those of a step.
    """
    from saes.codebook import TextBatches, insert, train_codebooks

    seed = options["seed"]
    loaded = model.reinitialised(seed) if from_scratch else model
    config = codebook_config(fields)
    books = insert(loaded, points, config, seed=seed)
    columns = {"text_column": text_column}
    length = max_length or min(256, loaded.max_length or 256)
    windows = max(1, tokens // length)
    parts = [
        TextBatches(loaded, data, windows, max_length=length, seed=seed, part=part, columns=columns)
        for part in ("train", "held out")
    ]
    batches, held_out = parts
    for line in batches.data.notes:
        note(f"{batches.data.name}: {line}")
    if options["steps"] is None:
        options["steps"] = max(1000, batches.steps_per_epoch)
    if options["init"] is None:
        options["init"] = "normal" if from_scratch else "kmeans"
    if dry_run:
        _plan(books, batches, options, as_json)
        return
    from interp.runs import Run, find_run

    identity = {
        "architecture": "codebook",
        "batches": batches.identity(),
        "books": {n: books[n].config.to_dict() for n in books.names},
        "from_scratch": from_scratch,
        **options,
    }
    whose = model.identity()
    identity |= {"model": {k: whose[k] for k in ("class", "fingerprint", "tokenizer", "dtype")}}
    about = {"model": whose, "data": batches.data.name, "from_scratch": from_scratch}
    # A run that is there is compared now; a new one begins with the first step, when settings have
    # been looked at. What is refused leaves no run behind and costs no earlier one.
    found = find_run(out, resume=resume, force=force)
    run = None if found is None or force else Run(out, "sae train", identity, resume=True)

    def step(done: int, total: int, words: str) -> None:
        nonlocal run
        run = run or Run(out, "sae train", identity, force=force)
        progress(done, total, words)

    try:
        with bar("training") as progress:
            log = train_codebooks(
                books,
                batches,
                held_out=held_out,
                out=out,
                checkpoint_every=checkpoint_every,
                resume=run is not None,
                force=force,
                name=f"{batches.data.name}.codebooks",
                provenance=about,
                progress=step,
                **options,
            )
    except InterpError:
        if run is not None:
            run.drop()
        raise
    run = run or Run(out, "sae train", identity, force=force)
    run.add(log)
    run.finish()
    import dashboards
    from interp.runs import metrics

    report = dashboards.Report(run.results, title="Codebooks in training")
    path = report.write(run.path / "report.html")
    if as_json:
        emit(metrics(run.results))
        return
    last = log.metrics()["codebooks"]
    rows = [[n, c["n_codes"], c["k"], c["fvu"], c["dead"]] for n, c in last.items()]
    table("", ["codebook", "codes", "k", "fvu", "dead"], rows)
    for which, loss in log.held_out.items():
        typer.echo(f"held-out loss, {which}: {loss:.3f} nats a token")
    typer.echo(f"\nmodel and codebooks: {out / 'model'}\nreport: {path}")


def codebook_config(fields: dict[str, Any]) -> "CodebookConfig":
    """The config that the options mean.

    Raises
    ------
    ParameterError
        A comma list is among them, or a field is outside what it allows.
    """
    from saes.codebook import CodebookConfig

    given = {k: v for k, v in fields.items() if v is not None}
    for name, value in given.items():
        if isinstance(value, str) and "," in value:
            raise ParameterError(
                f"--{name.replace('_', '-')} takes one number for codebooks, which change the "
                f"model; got {value!r}."
            )
    for ours, theirs in (("n_latents", "n_codes"), ("k", "k")):
        if ours in given:
            given[theirs] = _whole(ours, given.pop(ours))
    return CodebookConfig.from_dict({"n_codes": CODES, "k": 8, **given})


def refuse_unused(options: dict[str, Any]) -> None:
    """Refuse options of `interp sae train` that mean nothing for codebooks in a model.

    Raises
    ------
    ParameterError
        One of the options was given.
    """
    for name, value in options.items():
        if value:
            raise ParameterError(
                f"--{name.replace('_', '-')} means nothing for codebooks in a model; leave it out."
            )


def _whole(name: str, value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise ParameterError(
            f"--{name.replace('_', '-')} takes a whole number; got {value!r}."
        ) from None


def _plan(books: Any, batches: Any, options: dict[str, Any], as_json: bool) -> None:
    """Time a few steps and print what the training would cost."""
    import time

    from saes.codebook import train_codebooks

    stamps: list[float] = []
    train_codebooks(
        books,
        batches,
        progress=lambda done, total, what: stamps.append(time.perf_counter()),
        **{**options, "steps": TIMED, "warmup": 0, "decay_steps": 0, "k_start": None,
           "replace_every": None, "init": "normal"},
    )  # fmt: skip
    steps = options["steps"]
    numbers = sum(p.numel() for p in (*books.parameters(), *books.model.module.parameters()))
    plan = {
        "windows": len(batches.windows),
        "steps": steps,
        "epochs": steps / batches.steps_per_epoch,
        "codebooks": len(books),
        "bytes": 4 * numbers,
        "checkpoint_bytes": 12 * numbers,
        "seconds": (stamps[-1] - stamps[0]) / (TIMED - 1) * steps,
    }
    if as_json:
        emit(plan)
        return
    typer.echo(
        f"{plan['windows']} windows, {steps} steps of {batches.size} ({plan['epochs']:.1f} epochs) "
        f"for {len(books)} codebooks: {size(4 * numbers)} of weights and a checkpoint of "
        f"{size(12 * numbers)}, about {plan['seconds']:.0f} s"
    )
