"""``interp sae force``: what a model says while codes are put in, counted over many texts."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli import options as o
from interp.cli.shell import bar, emit, table
from interp.errors import ParameterError


def run(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A model with codebooks/ beside it.")
    ],
    code: Annotated[
        list[str] | None,
        typer.Option(help="HOOKPOINT:NUMBER of a code to put in; repeatable."),
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="Regular expression that is looked for in what is said.")
    ] = r"\w",
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What the model goes on from; repeatable; else the start token."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/force"),
    samples: Annotated[int, typer.Option(help="Texts of each prompt.")] = 10,
    tokens: Annotated[int, typer.Option(help="New tokens.")] = 50,
    temperature: Annotated[float, typer.Option(help="Of the draws; 0 takes the likeliest.")] = 1.0,
    every_slot: Annotated[
        bool, typer.Option("--every-slot", help="A code takes all k slots, not the last one.")
    ] = False,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Generate without codes, with them, and with random ones; count a pattern with intervals."""
    codes = [_code(one) for one in code or []]
    if not codes:
        raise ParameterError("interp sae force needs --code HOOKPOINT:NUMBER, as mlp_out.1:17.")
    prompts = prompt or [""]
    from interp.runs import Run, find_run
    from saes.codebook import Codebooks, forced, steer_codes

    if samples < 1 or tokens < 1:
        raise ParameterError(
            f"--samples and --tokens must be at least 1; got {samples} and {tokens}."
        )
    if dry_run:
        with forced(Codebooks.load(folder, device=device), codes, every_slot=every_slot):
            pass  # refuses codes that are not there
        plan = {"texts": 3 * samples * len(prompts), "tokens": 3 * samples * len(prompts) * tokens}
        emit(plan) if as_json else typer.echo(", ".join(f"{v:,} {k}" for k, v in plan.items()))
        return
    find_run(out, resume=resume, force=force)
    import dashboards

    options = {
        "folder": str(folder), "codes": codes, "pattern": pattern, "prompts": prompts,
        "samples": samples, "tokens": tokens, "temperature": temperature,
        "every_slot": every_slot, "seed": seed,
    }  # fmt: skip
    books = Codebooks.load(folder, device=device)
    with bar("generating") as progress:
        found = steer_codes(
            books, codes, pattern, prompts, samples=samples, tokens=tokens,
            temperature=temperature, every_slot=every_slot, seed=seed, progress=progress,
        )  # fmt: skip
    work = Run(out, "sae force", options, resume=resume, force=force)
    work.add(found)
    work.finish()
    page = dashboards.Report(work.results, command=f"interp sae force {folder}")
    page.write(out / "report.html")
    if as_json:
        emit(found.metrics())
        return
    rows = [[k, n, found.n, n / found.n, *found.intervals[k]] for k, n in found.counts.items()]
    columns = ["codes", "texts", "of", "share", "low", "high"]
    table(f"texts that hold {pattern}", columns, rows)
    for condition, texts in found.texts.items():
        typer.echo(f"\n{condition}:\n{texts[0]}")
    typer.echo(f"\nreport: {out / 'report.html'}")


def _code(text: str) -> tuple[str, int]:
    name, colon, number = text.rpartition(":")
    if not colon or not number.isdigit():
        raise ParameterError(f"--code takes HOOKPOINT:NUMBER, as mlp_out.1:17; got {text!r}.")
    return name, int(number)
