"""``interp facets``: the different things that make a unit fire, as images or as contexts."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.probe import finish
from interp.cli.shell import bar, emit, note, say_notes
from interp.cli.show import show
from interp.cli.sparsity import signed
from interp.cli.study import short_names
from interp.errors import ParameterError

if TYPE_CHECKING:
    from interp.models import Model


def run(
    model: o.Model,
    data: o.Data,
    unit: Annotated[
        list[str] | None,
        typer.Option(help="Index of the unit, or name of an output; repeat for several."),
    ] = None,
    hookpoints: o.Hookpoints = None,
    codes_at: Annotated[
        str | None,
        typer.Option(
            help="Hook point of the codes; else the last linear layer's input, of a "
            "language model the stream after its last block."
        ),
    ] = None,
    sae: Annotated[
        Path | None,
        typer.Option(help="Folder of an autoencoder or codebook: units are its latents."),
    ] = None,
    n_facets: Annotated[
        int | None, typer.Option(help="Facets; else chosen by the silhouette, and by two tests.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="recommended or paper (ten facets, climbed as released).")
    ] = "recommended",
    embed: Annotated[str, typer.Option(help="Map: tsne, umap or pca.")] = "tsne",
    cluster: Annotated[str, typer.Option(help="kmeans or hdbscan.")] = "kmeans",
    n_top: Annotated[int, typer.Option(help="Inputs that are grouped: the strongest.")] = 1000,
    threshold: Annotated[float, typer.Option(help="An input fires above this activation.")] = 0.0,
    nearest: Annotated[int, typer.Option(help="Inputs that stand for a facet.")] = 15,
    schedule: Annotated[
        str, typer.Option(help="Of synthesised images: auto, lucid, maco, mfv_mean, mfv_cbr, none.")
    ] = "auto",
    stay: Annotated[
        float | None,
        typer.Option(help="How strongly an image is kept with its facet; 3, in the mode paper 0."),
    ] = None,
    image_mean: Annotated[
        str | None, typer.Option(help="Of the images' normalisation, such as 0.485,0.456,0.406.")
    ] = None,
    image_std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/facets"),
    batch_size: o.BatchSize = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    group_column: Annotated[str | None, typer.Option(help="Column of groups.")] = None,
    max_length: o.MaxLength = None,
    seed: o.Seed = 0,
    dtype: o.Dtype = None,
    device: o.Device = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Group the inputs that fire a unit, test whether there is more than one kind, and show each.

    The unit is one of the model's outputs unless --hookpoints names another place.
    """
    import interp
    from interp.capturing import Capture
    from interp.runs import Run, find_run, metrics
    from probes import Facets
    from probes.multifaceted.unit_facets import check_request
    from probes.multifaceted.units import coder_identity, deep_point, find_unit

    if not unit:
        raise ParameterError("--unit is needed: an index, or the name of an output.")
    normalise = _normalise(image_mean, image_std)
    check_request(
        n_facets, mode=mode, embed=embed, cluster=cluster, nearest=nearest, n_top=n_top,
        schedule=None if schedule == "none" else schedule, stay=stay,
    )  # fmt: skip
    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before anything is read
    loaded = interp.load(model, device, dtype, revision, trust_remote_code=trust_remote_code)
    coder, own = _coder(sae)
    places: list[str | None] = [*o.split_commas(hookpoints)] or [own]
    points = [p.name for place in places if place for p in loaded.resolve(place)]
    source = interp.read(
        data, text_column=text_column, label_column=label_column, group_column=group_column
    )
    say_notes(source)
    wanted = [
        (place, find_unit(loaded, place, name, coder=coder))
        for place in (points or [None])
        for name in unit
    ]
    deep = codes_at or deep_point(loaded, source.kind == "text")
    work = Capture(
        loaded, source, [*dict.fromkeys(u.hookpoint for _, u in wanted), deep], "all", batch_size,
        None, max_length,
    )  # fmt: skip
    for _, one in wanted:  # a unit that is not there is told before anything is run
        one.check(_width(work, one.hookpoint))
    if dry_run:
        _plan(work, len(wanted), as_json)
        return
    options: dict[str, Any] = {
        "n_facets": n_facets, "mode": mode, "embed": embed, "cluster": cluster, "n_top": n_top,
        "threshold": threshold, "nearest": nearest, "stay": stay, "seed": seed,
        "max_length": max_length, "schedule": None if schedule == "none" else schedule,
        "normalise": normalise,
    }  # fmt: skip
    started = Run(out, "facets", {
        **options, "model": loaded.identity(), "data": [source.name, source.hash],
        "labels": list(source.labels), "codes_at": deep, "sae": coder and coder_identity(coder),
        "units": [[one.hookpoint, one.name] for _, one in wanted], "batch_size": batch_size,
    }, resume=resume, force=force)  # fmt: skip
    names = label_column or [None]
    for place, one in wanted:
        name = f"{source.name}.{one.name}"
        if started.found(Facets, name) is not None:
            note(f"{name}: found in {out}")
            continue
        started.add(
            _facets(
                loaded, source, one, place, coder,
                {**options, "codes_at": deep, "label": names[0], "batch_size": batch_size},
            )
        )  # fmt: skip
    path = finish(started, f"Facets of {short_names([loaded.spec])[0]}")
    if as_json:
        emit(metrics(started.results))
    else:
        show(started.results)
        typer.echo(f"\nreport: {path}")


def _facets(
    model: "Model", data: Any, one: Any, place: str | None, coder: Any, options: dict[str, Any]
) -> Any:
    """The facets of one unit, signed."""
    import probes

    with bar(f"facets of {one.name}") as progress:
        found = probes.facets(
            model, data, unit=one.index, hookpoint=place, coder=coder, progress=progress,
            **options,
        )  # fmt: skip
    return signed(replace(found, name=f"{data.name}.{one.name}"), model)


def _normalise(mean: str | None, std: str | None) -> Any:
    """(mean, std) of two comma lists, or None."""
    if (mean is None) != (std is None):
        raise ParameterError("--image-mean and --image-std go together; give both.")
    if mean is None or std is None:
        return None
    try:
        return tuple(tuple(float(v) for v in text.split(",")) for text in (mean, std))
    except ValueError:
        raise ParameterError(
            f"--image-mean and --image-std take numbers such as 0.5,0.5,0.5; got {mean!r} and "
            f"{std!r}."
        ) from None


def _coder(folder: Path | None) -> tuple[Any, str | None]:
    """An autoencoder, and the hook point that it says it reads."""
    if folder is None:
        return None, None
    import saes

    coder = saes.SAE.from_pretrained(folder)
    return coder, coder.metadata.get("hookpoint")


def _width(work: Any, hookpoint: str) -> int:
    width = 1
    for side in work.outlines[hookpoint].shape:
        width *= side
    return width


def _plan(work: Any, units: int, as_json: bool) -> None:
    """Print what reading the data would cost, once a unit; nothing is stored."""
    plan = {**vars(work.plan()), "bytes": 0, "shards": 0, "units": units}
    plan["seconds"] *= units
    del plan["peak_bytes"]  # that of a capture into a store
    if as_json:
        emit(plan)
        return
    typer.echo(
        f"{work.data.name}: {plan['rows']} rows, {units} units: nothing is stored; reading takes "
        f"about {plan['seconds']:.0f} s, maps and images come on top"
    )
