"""``interp report``: build a report again from the results of runs, without the models."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from interp.cli import options as o
from interp.cli.shell import emit


def run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; else report.html in the first run.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also each figure as PNG and SVG into this folder.")
    ] = None,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """One self-contained HTML page from the results of one run or several."""
    import dashboards
    from interp.runs import read_results

    results = [result for folder in runs for result in read_results(folder)]
    name = title or f"Report of {', '.join(r.name for r in runs)}"
    report = dashboards.Report(results, title=name, command=command_of(runs))
    path = report.write(out or runs[0] / "report.html")
    files = [] if figures is None else dashboards.save_figures(results, figures)
    if as_json:
        numbers = {"bytes": path.stat().st_size, "results": len(results)}
        emit({"path": str(path), **numbers, "figures": [str(f) for f in files]})
    else:
        typer.echo(f"report: {path}" + (f"; {len(files)} figures in {figures}" if files else ""))


def command_of(runs: Sequence[Path]) -> str | None:
    """The command lines that made some runs, as they were typed; None where no run says one.

    A run's manifest holds the arguments of the program that made it, which is not always `interp`.
    A run that was cut short and resumed says what an unbroken one says.
    """
    from interp.cli import COMMANDS, sae
    from interp.runs import parse_json

    found = []
    for folder in runs:
        try:
            argv = parse_json((folder / "manifest.json").read_text(encoding="utf-8"))["argv"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a run that was cut short has none
        if isinstance(argv, list) and argv and argv[0] in (*COMMANDS, sae.app.info.name):
            typed = [str(a) for a in argv if a not in ("--resume", "--force")]
            found.append(shlex.join(["interp", *typed]))
    return "; ".join(dict.fromkeys(found)) or None
