"""``interp sae``: sparse autoencoders. A file a command."""

import typer

from interp.cli.sae import codes, concepts, convert, explain, features, force, steer, train
from interp.cli.sae import eval as evaluation
from interp.cli.shell import command

__all__ = ["app"]

app = typer.Typer(
    name="sae",
    help="Sparse autoencoders: learn them, judge them, and read their features.",
    no_args_is_help=True,
)
COMMANDS = {
    "train": train.run,
    "eval": evaluation.run,
    "features": features.run,
    "concepts": concepts.run,
    "explain": explain.run,
    "steer": steer.run,
    "convert": convert.run,
    "codes": codes.run,
    "force": force.run,
}
for _name, _run in COMMANDS.items():
    command(app, _name, _run, distributed=_name == "train")
