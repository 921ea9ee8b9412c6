"""The options that several commands share, each defined once."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.shell import note, read_config

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Hugging Face id or folder, tl:ID, nnsight:ID, file.py:factory, demo:pylm, "
        "demo:digits-clip.",
    ),
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="csv, tsv, jsonl, json, parquet, txt, safetensors, image folder, hf:NAME[split], "
        "file.py:factory, demo:facts, demo:python.",
    ),
]
Pairs = Annotated[
    str,
    typer.Argument(
        metavar="PAIRS",
        help="csv, jsonl, json, parquet with columns of image files and texts, a folder of images "
        "with texts, hf:NAME[split], file.py:factory, demo:digits-clip.",
    ),
]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of the image files of pairs; else found by name.")
]
TextModel = Annotated[
    str | None, typer.Option(help="Reads the texts of pairs, if MODEL reads the images alone.")
]
PairPrompt = Annotated[
    str | None,
    typer.Option("--prompt", help="Of a decoder that reads images: <image>, and {text} after it."),
]
PairPool = Annotated[
    str, typer.Option(help="mean, last, first or max; or two, as first,last: image and text.")
]
MaybeModel = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="As for capture; else give --store.")
]
MaybeData = Annotated[str | None, typer.Argument(metavar="[DATA]", help="As for capture.")]
Store = Annotated[
    Path | None, typer.Option(help="Read activations from this store, in place of MODEL and DATA.")
]
Target = Annotated[str | None, typer.Option(help="Hook point that a transcoder predicts.")]
RowsPool = Annotated[str, typer.Option(help="Rows of MODEL and DATA: all, or as for capture.")]
ForwardBatchSize = Annotated[
    int | None, typer.Option(help="Rows of a forward of MODEL; else 4,096 tokens.")
]
ManyData = Annotated[
    list[str],
    typer.Argument(metavar="DATA...", help="One or several data sets, each as for capture."),
]
Hookpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--hookpoints",
        "-p",
        help="Names, globs, roles or slices, such as resid_post.* or transformer.h.3.mlp; repeat "
        "or separate with commas.",
    ),
]
Pool = Annotated[
    str,
    typer.Option(
        help="last, first, mean, weighted_mean (later tokens more), max, or all (a row a token)."
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Rows of a forward; by default 4,096 tokens or 64 images.")
]
TextColumn = Annotated[str | None, typer.Option(help="Column of the texts; else found by name.")]
LabelColumn = Annotated[
    list[str] | None,
    typer.Option(help="Column of labels, repeatable; DATA=COLUMN holds for one data set."),
]
GroupColumn = Annotated[
    list[str] | None,
    typer.Option(
        help="Column whose values stay on one side of a split; DATA=COLUMN for one data set."
    ),
]
Dtype = Annotated[
    str | None, typer.Option(help="Of the model: float32, bfloat16, …; else the checkpoint's own.")
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:1; map spreads a Hugging Face model over all GPUs, memory and "
        "disk, map:FILE.json as a file says."
    ),
]


def _say_status(remote: bool) -> bool:
    if remote:
        from interp.remote import RemoteModel

        RemoteModel.tell = staticmethod(note)
    return remote


Remote = Annotated[
    bool,
    typer.Option(
        "--remote",
        callback=_say_status,
        help="Run nnsight:ID on an NDIF server (NDIF_HOST, NDIF_API_KEY): token ids go there, "
        "activations come back.",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a hub model run its own code.")
]
MaxLength = Annotated[
    int | None, typer.Option(help="Cut texts to so many tokens; else long ones are refused.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of splits, shuffles and intervals.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say rows, bytes and seconds (a batch is timed); write nothing."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        callback=read_config,
        is_eager=True,
        help="TOML or JSON file with any of these options; the command line wins.",
    ),
]


def split_commas(values: list[str] | None) -> list[str]:
    """Repeated options and comma lists as one list; commas inside brackets stay."""
    return [part for value in values or [] for part in value.split(",") if part]


def column_for(values: list[str] | None, data: str) -> list[str]:
    """The columns that hold for a data set: plain ones, and those given as DATA=COLUMN."""
    plain, own = [], []
    for value in values or []:
        name, equals, column = value.partition("=")
        if not equals:
            plain.append(value)
        elif name == data:
            own.append(column)
    return own or plain
