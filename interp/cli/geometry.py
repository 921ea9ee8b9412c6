"""``interp geometry``: measures of a model's representations, from its input to its output."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.capture import show_plan
from interp.cli.probe import finish
from interp.cli.shell import bar, emit, note, say_notes
from interp.cli.show import show
from interp.cli.study import short_names
from interp.errors import InterpError, ParameterError

if TYPE_CHECKING:
    from interp.capturing import Capture
    from interp.data import Dataset
    from interp.runs import Run
    from interp.store import ActivationStore

__all__ = ["kept", "measure_store", "run"]

HOOKPOINTS = ["embed", "resid_post.*"]
EXTRAS = ("information_plane", "variance_explained")
"""Measures whose results are of a kind of their own, with a figure of their own."""
ROWS = 2000
"""Most rows that those read, drawn by the seed."""
WORDS = 4096
"""Most words that stand for the input of a text model, the most frequent ones."""


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_STORE", help="A model as for capture, or the folder of a store."
        ),
    ],
    data: o.MaybeData = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure", "-m", help="Of the names above, repeated or with commas; all by default."
        ),
    ] = None,
    hookpoints: o.Hookpoints = None,
    compare: Annotated[
        str | None,
        typer.Option(help="A second model, or store, of the same data: what do the two share?"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/geometry"),
    pool: o.Pool = "mean",
    batch_size: o.BatchSize = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column whose values stay on one side of a split.")
    ] = None,
    seed: o.Seed = 0,
    dtype: o.Dtype = None,
    max_length: o.MaxLength = None,
    device: o.Device = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """What happens to the geometry of the data from layer to layer, and a report.

    --measure is of: how far classes stand apart (gdv), likeness of layers to each other (cka, rsa),
    to the input and to the classes (alignment_input, alignment_target), dimensions in use (rank,
    rank_curve, coding_rate, rate_reduction, sparse_rate), accuracy of the first dimensions alone
    (prefixes), bits of input and label (information_input, information_label, and of all layers in
    information_plane), the share of a layer that labels explain (variance_explained) and that ten
    prototypes leave (prototype_rest).
    --compare adds CKA of two models' layers, relative representations, zero-shot stitching and
    backward compatibility.
    """
    from interp.runs import Run, find_run, metrics
    from probes.geometry import choose_measures

    named = o.split_commas(measure)
    own = [m for m in named if m not in EXTRAS]
    asked = [m.name for m in choose_measures(own or None)] if own or not named else []
    asked += [m for m in EXTRAS if m in named or not named]
    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before anything is read
    labels = o.split_commas(label_column)
    wanted = o.split_commas(hookpoints)
    options: dict[str, Any] = {"measures": asked, "group": group_column, "seed": seed}
    works: list[Capture] = []
    stores: list[ActivationStore] = []
    specs = [model, *([compare] if compare is not None else [])]
    if data is None:
        stores = [_open(spec) for spec in specs]
        options |= {"stores": [_identity(s) for s in stores], "hookpoints": wanted}
    else:
        source = _read(data, text_column, labels, group_column)
        how = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
        for spec in specs:
            own = wanted if spec == model else []
            how["revision"] = revision if spec == model else None
            works.append(_capture(spec, source, own, pool, batch_size, max_length, **how))
        labels, group_column = list(source.labels), source.group
        options |= {
            "models": [w.model.identity() for w in works],
            "data": [source.name, source.hash],
            "hookpoints": [[p.name for p in w.points] for w in works],
            "pool": pool,
            "batch_size": batch_size,
            "max_length": max_length,
        }
    options |= {"labels": labels, "group": group_column}
    if dry_run:
        _plan(works, stores, wanted, as_json)
        return
    started = Run(out, "geometry", options, resume=resume, force=force)
    names = short_names([w.model.spec for w in works] or [Path(spec).name for spec in specs])
    several = len(specs) > 1
    try:
        for i, short in enumerate(names):
            work = works[i] if works else None
            if work is not None:
                stores.append(kept(started, work, short if several else None))
            measure_store(
                started, stores[i], work, labels, group=group_column, measures=asked, seed=seed,
                hookpoints=None if work else wanted or None, short=short if several else None,
            )  # fmt: skip
        if several:
            _compare(started, stores, labels, group_column, (names[0], names[1]), seed)
    except InterpError:
        started.drop()  # a store that cannot be read leaves no run behind
        raise
    path = finish(started, f"Geometry of {' and '.join(names)}")
    if as_json:
        emit(metrics(started.results))
    else:
        show(started.results)
        typer.echo(f"\nreport: {path}")


def kept(run: "Run", work: "Capture", short: str | None = None) -> "ActivationStore":
    """The activations of a capture, in the run's folder."""
    acts = run.path / "acts"
    folder = (acts / short if short else acts) / work.data.name
    with bar(f"capturing {work.data.name}{f' ({short})' if short else ''}") as progress:
        return work.on_disk(folder, resume=True, force=False, progress=progress)


def measure_store(
    run: "Run",
    store: "ActivationStore",
    work: "Capture | None",
    labels: list[str],
    *,
    group: str | None = None,
    measures: list[str] | None = None,
    hookpoints: list[str] | None = None,
    short: str | None = None,
    seed: int = 0,
) -> Any:
    """The geometry of a store with its first label, found in the run or added to it.

    ``short`` names the model where there are several.
    """
    import probes
    from probes.geometry import MEASURES

    data = str((store.manifest.get("data") or {}).get("name") or "data")
    label = labels[0] if labels else None
    concept = probes.concept_name(data, label) if label else data
    name = f"{short}/{concept}" if short else concept
    measures = [*MEASURES, *EXTRAS] if measures is None else measures
    for extra in (m for m in measures if m in EXTRAS):
        _extra(run, store, extra, labels, group, hookpoints, (name, concept, short), seed)
    measures = [m for m in measures if m not in EXTRAS]
    known = run.found(probes.Geometry, name) if measures else None
    if known is not None:
        note(f"{name}: found in {run.path}")
    if known is not None or not measures:
        return known
    inputs, words = _inputs(work) if work is not None else (None, None)
    heads = probes.head_projections(work.model) if work is not None else None
    with bar(f"measuring {name}") as progress:
        found = probes.geometry_by_layer(
            store, label, groups=group, features=labels, measures=measures, inputs=inputs,
            inputs_are=words, heads=heads, hookpoints=hookpoints, seed=seed, progress=progress,
        )  # fmt: skip
    for line in found.notes:
        note(f"{name}: {line}")
    found = _signed(found, name, concept, short)
    run.add(found)
    return found


def _extra(
    run: "Run",
    store: "ActivationStore",
    measure: str,
    labels: list[str],
    group: str | None,
    hookpoints: list[str] | None,
    names: tuple[str, str, str | None],
    seed: int,
) -> None:
    """One of `EXTRAS`, on rows that have the first label, found in the run or added to it."""
    import numpy as np
    import torch

    import probes
    from probes.account import provenance_of
    from probes.concepts import groups_of, read_concept
    from probes.geometry import NOISE
    from probes.measured import float_rows
    from probes.plan import choose_hookpoints

    group = groups_of(store, group)
    name, concept, short = names
    kind = {"information_plane": probes.InformationPlane}.get(measure, probes.VarianceExplained)
    if run.found(kind, name) is not None:
        note(f"{name}: {measure} found in {run.path}")
        return
    if measure == "variance_explained" and not labels:
        note(f"{name}: no {measure}, which needs labels")
        return
    read = read_concept(store.rows, labels[0], group) if labels else None
    every = read.rows if read is not None else np.arange(len(store.rows))
    columns: dict[str, Any] = {}
    if measure == "variance_explained":
        every, columns = _features(store, labels, group)
    some = np.sort(np.random.default_rng(seed).permutation(len(every))[:ROWS])
    points = choose_hookpoints(store.hookpoints, hookpoints, "recommended")
    layers = {h: float_rows(store[h][every[some]]) for h in points}
    with bar(f"{measure.replace('_', ' ')} of {name}"):
        if measure == "information_plane":
            y = None if read is None else read.y[some]  # every is the rows of that label
            found = probes.information_plane(
                layers, y, method="kernel", noise=NOISE, relative=True, name=name
            )
        else:
            assert read is not None  # noqa: S101  there are labels
            at = np.searchsorted(read.rows, every[some])
            found = probes.variance_explained(
                layers, {label: values[some] for label, values in columns.items()},
                groups=None if read.groups is None else read.groups[at], seed=seed, name=name,
            )  # fmt: skip
    made = provenance_of(store, None, seed, torch.device("cpu"))
    found = replace(found, provenance={**found.provenance, **made})
    run.add(_signed(found, name, concept, short))


def _features(
    store: "ActivationStore", labels: list[str], group: str | None
) -> tuple[Any, dict[str, Any]]:
    """Rows that have every label, and the class of each of them by label."""
    import numpy as np

    from interp.errors import DataError
    from probes.concepts import read_concept

    read = {labels[0]: read_concept(store.rows, labels[0], group)}
    for label in labels[1:]:
        try:
            read[label] = read_concept(store.rows, label, group)
        except DataError as error:
            note(f"variance explained leaves {label} out: {error}")
    rows = read[labels[0]].rows
    for concept in read.values():
        rows = np.intersect1d(rows, concept.rows)
    return rows, {k: c.y[np.searchsorted(c.rows, rows)] for k, c in read.items()}


def _signed(found: Any, name: str, concept: str, short: str | None) -> Any:
    """The result with the names under which the report groups it."""
    about = dict(found.provenance.get("model") or {})
    spec = str(about.get("spec") or "")
    if short or spec:
        about["short"] = short or short_names([spec])[0]
    provenance = {**found.provenance, "model": about, "concept": concept}
    return replace(found, name=name, provenance=provenance)


def _compare(
    run: "Run",
    stores: "list[ActivationStore]",
    labels: list[str],
    group: str | None,
    models: tuple[str, str],
    seed: int,
) -> None:
    """What the two models' spaces share, found in the run or added to it."""
    import probes

    data = str((stores[0].manifest.get("data") or {}).get("name") or "data")
    label = labels[0] if labels else None
    concept = probes.concept_name(data, label) if label else data
    name = f"{' and '.join(models)}/{concept}"
    if run.found(probes.Spaces, name) is not None:
        note(f"{name}: found in {run.path}")
        return
    with bar(f"comparing {' and '.join(models)}"):
        found = probes.compare_spaces(
            stores[0], stores[1], label, groups=group, models=models, seed=seed
        )
    for question, why in found.reasons.items():
        note(f"{name}: no {question}: {why}")
    run.add(_signed(found, name, concept, " and ".join(models)))


def _inputs(work: "Capture") -> tuple[Any, str | None]:
    """What stands for the input, a row a row of the store: pixels, or counts of words."""
    data = work.data
    if work.pool == "all":
        return None, None  # a row is a token or a position: the first hook point stands for it
    if data.kind == "tensor":
        return data.inputs, "its own numbers"
    if data.kind != "text":
        return None, None
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(max_features=WORDS, token_pattern=r"\w+|[^\w\s]")
    try:
        return counter.fit_transform([str(t) for t in data.inputs]), "the counts of its words"
    except ValueError:
        return None, None  # no words at all


def _open(path: str) -> "ActivationStore":
    from interp.store import ActivationStore

    if not (Path(path) / "manifest.json").is_file():
        raise ParameterError(
            f"geometry takes a model and its DATA, or the folder of a store; {path!r} is no store, "
            "and no DATA is given."
        )
    return ActivationStore.open(path)


def _identity(store: "ActivationStore") -> dict[str, Any]:
    """What tells a store from another, without its place."""
    names = ("model", "data", "pool", "dtype", "n")
    return {name: store.manifest.get(name) for name in names}


def _read(spec: str, text_column: str | None, labels: list[str], group: str | None) -> "Dataset":
    from interp.data import read

    data = read(
        spec, text_column=text_column, label_column=labels or None, group_column=group
    )  # fmt: skip
    say_notes(data)
    if not data.labels:
        note(f"{data.name}: no label column; what needs labels is left out (--label-column)")
    return data


def _capture(
    spec: str,
    data: "Dataset",
    hookpoints: list[str],
    pool: Any,
    batch_size: int | None,
    max_length: int | None,
    **how: Any,
) -> "Capture":
    import interp
    from interp.capturing import Capture

    trust = how.pop("trust_remote_code")
    model = interp.load(spec, how["device"], how["dtype"], how["revision"], trust_remote_code=trust)
    if not hookpoints and not model.points.stacks:
        raise ParameterError(
            f"--hookpoints is needed: {spec} has no stack of blocks; `interp hookpoints {spec}` "
            "lists what it has."
        )
    return Capture(model, data, hookpoints or HOOKPOINTS, pool, batch_size, None, max_length)


def _plan(
    works: "list[Capture]", stores: "list[ActivationStore]", wanted: list[str], as_json: bool
) -> None:
    """What a run would cost."""
    if as_json and works:
        emit([{"model": w.model.spec, **vars(w.plan())} for w in works])
        return
    for work in works:
        show_plan(work, as_json)
    plans = [
        {"rows": len(s.rows), "hookpoints": wanted or list(s.hookpoints), "bytes": 0}
        for s in stores
    ]
    if as_json:
        emit(plans)
        return
    for plan in plans:
        count = len(plan["hookpoints"])
        typer.echo(f"{plan['rows']} rows of {count} hook points are read; nothing is stored")
