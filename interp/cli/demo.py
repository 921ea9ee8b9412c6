"""``interp demo``: the analyses on the embedded model and data, and one report."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.aqi import Alignment, best_layer
from interp.cli.capture import show_plan
from interp.cli.demo_codes import learn_codes
from interp.cli.geometry import kept, measure_store
from interp.cli.probe import finish
from interp.cli.shell import bar, emit, note, say_notes
from interp.cli.show import show
from interp.cli.sparsity import count, signed
from interp.cli.study import HOOKPOINTS, Settings, Study, short_names

if TYPE_CHECKING:
    from interp.capturing import Capture
    from interp.data import Dataset
    from interp.models import Model
    from interp.runs import Run

SITE = "resid_post.2"
"""Where the autoencoder reads."""
LATENTS, ACTIVE, STEPS, BATCH = 1024, 16, 400, 2048
"""Eight latents a dimension; by then more steps lower the error little."""
ROWS = 1200
"""Windows of source whose tokens it learns from, about 90,000."""
COUNTED = 300
"""Texts over whose tokens, about 25,000, active neurons are counted."""
THINNED, DENSITIES = 40, (0.25, 0.1, 0.05, 0.02)
"""Texts over which the loss at each density is measured, and the densities."""
SPLICED = 60
"""Texts over which the loss with the autoencoder spliced in is measured."""
CLIMB = 128
"""Steps to the synthesised image of a facet."""
SHARED, SHARED_ACTIVE, SHARED_STEPS, SHARED_BATCH = 64, 8, 300, 512
"""Concepts that images and captions of digits share: two latents a dimension."""
KINDS = "string"
"""The concept whose two classes stand in for safe and unsafe prompts."""
STAND_IN = (
    "The demo has no unsafe prompts: text that ends inside a string or comment (1) stands in for "
    "safe, other code (0) for unsafe."
)


def run(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    seed: o.Seed = 0,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """All analyses on the embedded models and data, with a report; no downloads."""
    import interp
    from interp.capturing import Capture
    from interp.data import read
    from interp.runs import Run, find_run, metrics

    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before the model is loaded
    model = interp.load("demo:pylm")
    sets = [read(name) for name in ("demo:facts", "demo:python")]
    works = [Capture(model, data, HOOKPOINTS["recommended"], "last") for data in sets]
    for data in sets:
        say_notes(data)
    if dry_run:
        if as_json:
            emit([{"data": work.data.name, **vars(work.plan())} for work in works])
        else:
            for work in works:
                show_plan(work, as_json)
        return
    started = Run(out, "demo", {"seed": seed}, resume=resume, force=force)
    # A second capture, of random weights, would double the time: the demo is to be short.
    settings = Settings(seed=seed, random_model=False, lens=True)
    for work in works:
        study = Study(started, model, work, None, settings)
        study.depths()
        study.lenses()
    _count(started, model, sets[-1], seed)
    _align(started, works[1], seed)
    measure_store(
        started, kept(started, works[1]), works[1], [KINDS], group=works[1].data.group, seed=seed
    )
    _learn(started, model, seed)
    _facet(started, seed)
    _share(started, seed)
    learn_codes(started, model.spec, sets[-1], seed)
    path = finish(started, "What pylm represents")
    if as_json:
        emit(metrics(started.results))
    else:
        show(started.results)
        typer.echo(f"\nreport: {path}")


def _count(run: "Run", model: "Model", data: "Dataset", seed: int) -> None:
    """How few of pylm's ReLU neurons are active, beside random weights."""
    from interp.capturing import Capture
    from probes import DensityCurve, Sparsity, density_curve
    from probes.criteria import Criterion

    if run.found(Sparsity, data.name) is None:
        work = Capture(model, _few(data, COUNTED), ["mlp_act.*"], "all")
        run.add(count(work, Criterion("exact"), True, seed))
    if run.found(DensityCurve, data.name) is None:
        with bar(f"making {data.name} sparser") as progress:
            found = density_curve(
                model, _few(data, THINNED), DENSITIES, seed=seed, progress=progress
            )
        run.add(signed(found, model))


def _few(data: "Dataset", n: int) -> "Dataset":
    """The first n rows."""
    return replace(
        data,
        inputs=list(data.inputs)[:n],
        rows=data.rows.iloc[:n].reset_index(drop=True),
        marks={},
    )


def _align(run: "Run", work: "Capture", seed: int) -> None:
    """Alignment quality of two kinds of text, as it would be of safe and unsafe prompts."""
    study = Alignment(run, work, seed=seed, remark=STAND_IN)
    depth = study.layers(KINDS)
    study.pooled(KINDS, "sparsemax", 5.0)
    study.maps(KINDS, best_layer(depth), ["tsne"])


def _facet(run: "Run", seed: int) -> None:
    """The facets of demo:digits's unit "even", which are known: the even digits."""
    import interp
    import probes
    from probes.multifaceted.schedules import lucid

    name = "digits.even"
    if run.found(probes.Facets, name) is not None:
        note(f"{name}: found in {run.path}")
        return
    net = interp.load("demo:digits")
    with bar("finding what makes a unit of demo:digits fire") as progress:
        found = probes.facets(
            net, "demo:digits", unit="even", schedule=lucid(CLIMB), seed=seed, name=name,
            progress=progress,
        )  # fmt: skip
    run.add(signed(found, net))


def _learn(run: "Run", model: "Model", seed: int) -> None:
    """A TopK autoencoder of the residual stream: trained, judged, and its features read."""
    import saes
    from interp.capturing import Capture
    from interp.demo.python import python_source
    from probes import ConceptDepth

    data = python_source(ROWS)
    known = [run.found(kind, SITE) for kind in (saes.Training, saes.Evaluation)]
    known += [run.found(kind, SITE) for kind in (saes.LossRecovered, saes.Features)]
    if all(known):
        note(f"{SITE}: found in {run.path}")
        return
    with bar(f"capturing all tokens of {data.name}") as progress:
        work = Capture(model, data, [SITE], "all")
        store = work.on_disk(run.path / "acts" / "tokens", resume=True, force=False,
                             progress=progress)  # fmt: skip
    config = saes.TopKConfig(n_latents=LATENTS, k=ACTIVE)
    with bar(f"learning {LATENTS:,} latents of {SITE}") as progress:
        sae = saes.train(
            store[SITE], config, steps=STEPS, batch_size=BATCH, seed=seed, name=SITE,
            progress=progress,
        )  # fmt: skip
    sae.metadata |= {"hookpoint": SITE, "model": model.spec}
    sae.save_pretrained(run.path / "sae")
    run.add(_signed(sae.training_log, model, data))
    run.add(_signed(saes.evaluate(sae, store[SITE], name=SITE), model, data))
    with bar("splicing the autoencoder into the model") as progress:
        recovered = saes.loss_recovered(
            model, sae, _few(data, SPLICED), SITE, name=SITE, progress=progress
        )
    run.add(_signed(recovered, model, data))
    depths = [r for r in run.results if isinstance(r, ConceptDepth) and SITE in r.hookpoints]
    with bar("reading what the latents fire for") as progress:
        found = saes.features(
            sae, store, data, SITE, model=model, probes=depths, layout="umap", seed=seed,
            name=SITE, progress=progress,
        )  # fmt: skip
    run.add(_signed(found, model, data))


def _share(run: "Run", seed: int) -> None:
    """A VL-SAE of a small CLIP: concepts that images of digits and captions share."""
    import interp
    import saes
    from interp.demo.captions import FACTS, captioned
    from interp.pair_capture import PairCapture

    data = captioned(seed, captions=1)
    name = f"{data.name}.concepts"
    if run.found(saes.Concepts, name) is not None:
        note(f"{name}: found in {run.path}")
        return
    model = interp.load("demo:digits-clip")
    work = PairCapture(model, data)
    with bar(f"capturing the pairs of {data.name}") as progress:
        store = work.on_disk(run.path / "acts" / "pairs", resume=True, force=False,
                             progress=progress)  # fmt: skip
    seen = (store.rows["split"] == "train").to_numpy().nonzero()[0]
    pair = tuple(store[work.sides[side]][seen] for side in ("image", "text"))
    with bar(f"learning {SHARED} concepts of images and captions") as progress:
        sae = saes.train(
            pair, saes.VLConfig(n_latents=SHARED, k=SHARED_ACTIVE), steps=SHARED_STEPS,
            batch_size=SHARED_BATCH, lr=1e-3, seed=seed, name=data.name, progress=progress,
        )  # fmt: skip
    sae.metadata |= {"hookpoints": work.sides, "model": model.spec}
    sae.save_pretrained(run.path / "sae" / data.name)
    found = saes.concepts(sae, store, data, columns=FACTS, seed=seed, name=name)
    about = {**found.provenance["model"], "short": short_names([model.spec])[0]}
    run.add(replace(found, provenance={**found.provenance, "model": about}))


def _signed(result: Any, model: "Model", data: "Dataset") -> Any:
    """The result with the names under which the report groups it."""
    provenance = {
        **result.provenance,
        "model": {**model.identity(), "short": short_names([model.spec])[0]},
        "data": {"name": data.name, "hash": data.hash, "n": len(data)},
    }
    return replace(result, name=SITE, provenance=provenance)
