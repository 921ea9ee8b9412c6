"""``interp sae explain``: the concepts of one image, one text, or of both together."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.sae.concepts import finish_pairs
from interp.cli.sae.inputs import weights_hash
from interp.cli.sae.pairs import pair_sites, pairs_work
from interp.cli.shell import emit
from interp.errors import ParameterError


def run(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="Folder of a saved VL-SAE.")],
    model: o.Model,
    concepts: Annotated[
        Path, typer.Argument(metavar="CONCEPTS", help="Run folder of `interp sae concepts`.")
    ],
    image: Annotated[Path | None, typer.Option(help="File of an image.")] = None,
    text: Annotated[str | None, typer.Option(help="A text; with --image, its pair.")] = None,
    top: Annotated[int, typer.Option(help="Concepts, at most.")] = 5,
    hookpoint: Annotated[
        list[str] | None,
        typer.Option("--hookpoint", "-p", help="As for `interp sae concepts`."),
    ] = None,
    text_model: o.TextModel = None,
    prompt: o.PairPrompt = None,
    pool: o.PairPool = "mean",
    max_length: o.MaxLength = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/explained"),
    device: o.Device = "auto",
    dtype: o.Dtype = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Say which concepts stand out in an image, a text, or in what the two share."""
    import interp
    import saes
    from interp.runs import Run, find_run, read_config, read_results

    if image is None and text is None:
        raise ParameterError("interp sae explain takes --image, --text, or both.")
    if not dry_run:
        find_run(out, resume=resume, force=force)
    coder = saes.SAE.from_pretrained(sae)
    known = [r for r in read_results(concepts) if isinstance(r, saes.Concepts)]
    if not known:
        raise ParameterError(f"{concepts} holds no concepts; `interp sae concepts` finds them.")
    earlier = read_config(concepts)
    if earlier.get("sae", own := weights_hash(coder)) != own:
        raise ParameterError(f"the concepts in {concepts} are those of another SAE than {sae}.")
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision,
                               "trust_remote_code": trust_remote_code}  # fmt: skip
    loaded = interp.load(model, **loading)
    places = pair_sites(coder, o.split_commas(hookpoint))
    if image is None and len(places) == 1:
        raise ParameterError("this model reads a text after its image, so give --image too.")
    # The side that is not asked about is fed something, and what comes out is left unread.
    pair = (_blank() if image is None else image, "a" if text is None else text)
    work = pairs_work(loaded, [pair], places, text_model=text_model, loading=loading, pool=pool,
                      prompt=prompt, max_length=max_length)  # fmt: skip
    if dry_run:
        emit({"rows": 1, "bytes": 0}) if as_json else typer.echo("one pair: one forward")
        return
    options = {"sae": weights_hash(coder), "acts": work.key(), "top": top,
               "concepts": earlier, "of": [str(image), text]}  # fmt: skip
    started = Run(out, "sae explain", options, resume=resume, force=force)
    if started.found(saes.Explanation, "explanation") is None:
        store = work.in_memory()
        seen = {s: store[h][0] for s, h in work.sides.items()}
        found = saes.explain(
            coder,
            known[0],
            image=None if image is None else seen["image"],
            text=None if text is None else seen["text"],
            top=top,
            said=text or "",
            shown="" if image is None else image.name,
        )
        started.add(found)
    finish_pairs(started, as_json)


def _blank() -> Any:
    from PIL import Image

    return Image.new("RGB", (32, 32), "grey")
