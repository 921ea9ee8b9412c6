"""``interp report``: build a report again from the results of runs, without the models."""

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
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """One self-contained HTML page from the results of one run or several."""
    import dashboards
    from interp.runs import read_results

    results = [result for folder in runs for result in read_results(folder)]
    name = title or f"Report of {', '.join(r.name for r in runs)}"
    path = dashboards.Report(results, title=name).write(out or runs[0] / "report.html")
    if as_json:
        emit({"path": str(path), "bytes": path.stat().st_size, "results": len(results)})
    else:
        typer.echo(f"report: {path}")
