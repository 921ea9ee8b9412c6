"""The `interp` command: parse, one library call, write. A file a command.

Exit codes: 0 done, 1 failed, 2 wrong usage; 130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by
SIGHUP. A failure is one sentence on stderr; ``--debug`` shows where it came from.
"""

import os
import sys
from typing import Annotated

import typer

import interp
from interp.cli import (
    aqi,
    capture,
    demo,
    diff,
    doctor,
    facets,
    geometry,
    hookpoints,
    probe,
    report,
    sae,
    sparsity,
)
from interp.cli.shell import State, command, speaks
from interp.stopping import heeding

__all__ = ["app", "main"]

app = typer.Typer(
    name="interp",
    help="Look inside a trained network: capture activations, probe concepts by depth, read the "
    "report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = {
    "demo": demo.run,
    "hookpoints": hookpoints.run,
    "capture": capture.run,
    "probe": probe.run,
    "sparsity": sparsity.run,
    "aqi": aqi.run,
    "facets": facets.run,
    "geometry": geometry.run,
    "report": report.run,
    "diff": diff.run,
    "doctor": doctor.run,
}
for _name, _run in COMMANDS.items():
    command(app, _name, _run, distributed=_name == "capture")
app.add_typer(sae.app, name="sae")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"interp {interp.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where a failure comes from.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes and bars on stderr.")] = False,
) -> None:
    """Look inside a trained network."""


def main() -> None:
    """Entry point of ``interp`` and ``python -m interp``."""
    for flag, name in (("--debug", "debug"), ("--quiet", "quiet")):
        if flag in sys.argv[1:]:  # the options above, allowed after the command too
            sys.argv.remove(flag)
            setattr(State, name, True)
    if not speaks():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    with heeding(leave=True):
        app()
