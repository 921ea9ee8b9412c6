"""``interp sae codes``: what the codes of a trained model stand for, and which fire on a text."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.shell import bar, emit, note, table
from interp.errors import ParameterError


def run(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A model with codebooks/ beside it.")
    ],
    data: o.Data,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=REGEX: the codes of tokens where it ends, or where its first group begins; "
            "repeatable."
        ),
    ] = None,
    search: Annotated[str | None, typer.Option(help="Print the codes that fire on a text.")] = None,
    hookpoint: Annotated[
        list[str] | None,
        typer.Option("--hookpoint", "-p", help="Codebooks to give a page of records; else none."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/codes"),
    documents: Annotated[int, typer.Option(help="Texts to read at most, evenly spaced.")] = 1000,
    text_column: o.TextColumn = None,
    max_length: o.MaxLength = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Find the codes of patterns and labels, beside the best neurons, and write a report."""
    patterns = _patterns(pattern)
    from interp.runs import Run, find_run

    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before anything is read
    import interp
    from saes.codebook import Codebooks, code_features, codes_on, read_patterns

    books = Codebooks.load(folder, device=device)
    pages = [p for one in o.split_commas(hookpoint) for p in _names(books, one)]
    texts = interp.read(data, text_column=text_column)
    for line in texts.notes:
        note(f"{texts.name}: {line}")
    if dry_run:
        plan = {"texts": min(len(texts), documents), "codebooks": len(books),
                "codes": sum(books[n].n_latents for n in books.names)}  # fmt: skip
        emit(plan) if as_json else typer.echo(", ".join(f"{v:,} {k}" for k, v in plan.items()))
        return
    options = {
        "folder": str(folder), "data": data, "patterns": patterns, "search": search,
        "hookpoints": pages, "documents": documents, "text_column": text_column,
        "max_length": max_length, "seed": seed,
    }  # fmt: skip
    found: list[Any] = []
    if patterns or texts.marks:
        with bar(f"reading {texts.name}") as progress:
            found.append(
                read_patterns(books, texts, patterns, documents=documents, max_length=max_length,
                              seed=seed, progress=progress)
            )  # fmt: skip
    for page in pages:
        with bar(f"records of {page}") as progress:
            found.append(
                code_features(books, page, texts, documents=documents, max_length=max_length,
                              seed=seed, progress=progress)
            )  # fmt: skip
    fires = None if search is None else codes_on(books, search)
    if not found and fires is None:
        raise ParameterError(
            "interp sae codes needs --pattern, --search or -p: DATA has no labels of tokens."
        )
    if found:
        import dashboards

        work = Run(out, "sae codes", options, resume=resume, force=force)
        for result in found:
            work.add(result)
        work.finish()
        command = f"interp sae codes {folder} {data}"
        dashboards.Report(work.results, command=command).write(out / "report.html")
    for result in found:
        for name, reason in getattr(result, "reasons", {}).items():
            note(f"{name}: {reason}")
    if as_json:
        said = {r.kind: r.metrics() for r in found}
        emit({**said, **({} if fires is None else {"search": fires.to_dict("records")})})
        return
    if fires is not None:
        rows = [
            [repr(r["token"]), r["hookpoint"], " ".join(map(str, r["codes"]))]
            for r in fires.to_dict("records")
        ]
        table("codes that fire", ["token", "at", "codes"], rows)
    for result in (r for r in found if r.kind == "code_patterns"):
        columns = ["pattern", "at", "code", "precision", "recall", "neuron's precision", "chance"]
        rows = [[r.pattern, r.hookpoint, r.code, r.precision, r.recall, r.neuron_precision, r.share]
                for r in result.best()]  # fmt: skip
        table("codes of patterns, on texts that did not choose them", columns, rows)
    if found:
        typer.echo(f"report: {out / 'report.html'}")


def _patterns(given: list[str] | None) -> dict[str, str]:
    found = {}
    for one in given or []:
        name, equals, pattern = one.partition("=")
        if not equals or not name or not pattern:
            raise ParameterError(f"--pattern takes NAME=REGEX; got {one!r}.")
        if name in found:
            raise ParameterError(f"--pattern {name} is given twice; give each a name of its own.")
        found[name] = pattern
    return found


def _names(books: Any, expression: str) -> list[str]:
    """The codebooks at what an expression means."""
    names = [p.name for p in books.model.resolve(expression)]
    for name in names:
        books[name]  # refuses a place without a codebook
    return names
