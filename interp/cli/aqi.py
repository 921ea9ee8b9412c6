"""``interp aqi``: do a model's safe and unsafe representations stand apart?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.capture import show_plan
from interp.cli.probe import finish
from interp.cli.shell import bar, emit, note
from interp.cli.show import show
from interp.cli.study import short_names
from interp.errors import DataError, ParameterError, closest

if TYPE_CHECKING:
    from interp.capturing import Capture
    from interp.data import Dataset
    from interp.models import Model
    from interp.runs import Run
    from interp.store import ActivationStore
    from probes import AQIByLayer

__all__ = ["Alignment", "best_layer", "run"]

HOOKPOINTS = {
    "recommended": ["embed", "resid_post.*"],
    "paper": ["mlp_act.*"],
    "released_code": ["final_norm"],
}
"""Where each mode reads: the residual stream, the MLPs' units, or the last hidden state."""
MODES = tuple(HOOKPOINTS)
MAPS = ("tsne", "umap")
POOLINGS = ("sparsemax", "softmax")


def run(
    model: o.Model,
    data: o.Data,
    hookpoints: o.Hookpoints = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/aqi"),
    mode: Annotated[str, typer.Option(help="recommended, paper or released_code.")] = "recommended",
    variant: Annotated[
        str | None,
        typer.Option(help="Of released_code: dbs_dunn, chi_sil, sil_xb or xb_chi."),
    ] = None,
    tsne: Annotated[
        bool,
        typer.Option("--tsne", help="Of released_code: indices on a t-SNE map, as its scripts do."),
    ] = False,
    safe: Annotated[
        str | None, typer.Option(help="The label that is safe, of two; else 1, or 'safe'.")
    ] = None,
    axiom_column: Annotated[
        str | None, typer.Option(help="Column of what each prompt is about, for a table.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="A model to compare with MODEL on the same prompts, repeatable."),
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="Layers pooled by learned weights: sparsemax, softmax or none.")
    ] = "sparsemax",
    margin: Annotated[float, typer.Option(help="Of the hinge that learns the weights.")] = 5.0,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="tsne, umap, or none; repeatable. For the eye only."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Hook point of axioms and maps; else the layer of MODEL's highest AQI."),
    ] = None,
    pool: o.Pool = "last",
    batch_size: o.BatchSize = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    group_column: Annotated[
        str | None,
        typer.Option(help="Column whose values are drawn together and never split."),
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
    """Alignment quality: AQI of every layer on prompts labelled 1 (safe) and 0, and a report.

    With --compare the difference to another model on the same prompts, and an alarm where it has
    fallen. A high AQI says that the two kinds of prompts lie apart, not that the model behaves.
    """
    import interp
    from interp.capturing import Capture
    from interp.runs import Run, find_run, metrics

    maps = _check(mode, variant, tsne, pooling, margin, o.split_commas(map_))
    if variant == "xb_chi" and axiom_column is None:
        raise ParameterError("--variant xb_chi is normalised over axioms; name --axiom-column.")
    if not dry_run:
        find_run(out, resume=resume, force=force)  # refuse before the model is loaded
    source = _read(data, text_column, label_column, group_column, axiom_column, safe, pool)
    specs = [model, *(compare or [])]
    if len(specs) > 1 and mode == "released_code":
        raise ParameterError("--compare needs the mode recommended or paper: the released indices "
                             "have no paired interval.")  # fmt: skip
    wanted = o.split_commas(hookpoints) or HOOKPOINTS[mode]
    works: list[Capture] = []
    for spec in specs:
        own = revision if spec == model else None
        loaded = interp.load(spec, device, dtype, own, trust_remote_code=trust_remote_code)
        if not hookpoints and not loaded.points.stacks:
            raise ParameterError(
                f"--hookpoints is needed: {spec} has no stack of blocks; `interp hookpoints "
                f"{spec}` lists what it has."
            )
        works.append(Capture(loaded, source, wanted, _pool(pool), batch_size, None, max_length))
    known = [p.name for p in works[0].points]
    if at is not None and at not in known:
        raise ParameterError(f"--at {at!r} is not captured; {closest(at, known) or known}")
    for line in source.notes:
        note(f"{source.name}: {line}")
    if dry_run:
        if as_json:
            emit([{"model": w.model.spec, "data": source.name, **vars(w.plan())} for w in works])
        else:
            for work in works:
                show_plan(work, as_json)
        return
    options = {
        "model": works[0].model.identity(),
        "compare": [w.model.identity() for w in works[1:]],
        "data": [source.name, source.hash, list(source.labels), source.group],
        "hookpoints": [[p.name for p in w.points] for w in works],
        "mode": mode,
        "variant": variant,
        "tsne": tsne,
        "safe": safe,
        "axiom": axiom_column,
        "pooling": pooling,
        "margin": margin,
        "map": maps,
        "at": at,
        "pool": pool,
        "batch_size": batch_size,
        "seed": seed,
        "max_length": max_length,
    }
    started = Run(out, "aqi", options, resume=resume, force=force)
    names = short_names(specs)
    several = len(specs) > 1
    studies = [
        Alignment(started, w, short if several else None, safe=safe, axiom=axiom_column, seed=seed)
        for short, w in zip(names, works, strict=True)
    ]
    for label in source.labels:
        where = at
        for study in studies:
            depth = study.layers(label, mode=mode, variant=variant, tsne=tsne)
            where = where or best_layer(depth)
            study.axioms(label, where, mode)
            if pooling != "none" and mode != "released_code":
                study.pooled(label, pooling, margin)
            study.maps(label, where, maps)
        for study in studies[1:]:
            study.against(studies[0], label, (names[0], study.short or ""))
    path = finish(started, f"Alignment quality of {' and '.join(names)}")
    if as_json:
        emit(metrics(started.results))
    else:
        show(started.results)
        typer.echo(f"\nreport: {path}")


class Alignment:
    """One model on one data set: its capture, and what is found of each label.

    Parameters
    ----------
    run, work : the run, and the model's checked capture of the data.
    short : the model's name among several, or None where it is alone.
    safe, axiom, seed : options of all measures.
    remark : a sentence that is added to the notes of AQI by layer.
    """

    def __init__(
        self,
        run: "Run",
        work: "Capture",
        short: str | None = None,
        *,
        safe: str | None = None,
        axiom: str | None = None,
        seed: int = 0,
        remark: str | None = None,
    ) -> None:
        self.remark = remark
        self.run, self.work, self.short = run, work, short
        self.safe, self.axiom, self.seed = safe, axiom, seed
        self.data: Dataset = work.data
        self.model: Model = work.model
        self._store: ActivationStore | None = None

    @property
    def store(self) -> "ActivationStore":
        """The activations, captured when they are first asked for."""
        if self._store is None:
            acts = self.run.path / "acts"
            folder = (acts / self.short if self.short else acts) / self.data.name
            title = f"{self.data.name} ({self.short})" if self.short else self.data.name
            with bar(f"capturing {title}") as progress:
                self._store = self.work.on_disk(folder, resume=True, force=False, progress=progress)
        return self._store

    def name(self, label: str) -> str:
        """The results' name: the concept, after the model's where there are several."""
        import probes

        concept = probes.concept_name(self.data.name, label)
        return f"{self.short}/{concept}" if self.short else concept

    def layers(self, label: str, **options: Any) -> "AQIByLayer":
        """AQI of every hook point."""
        import probes

        known = self._found(probes.AQIByLayer, self.name(label))
        if known is not None:
            return known
        with bar(f"AQI of {self.name(label)}") as progress:
            found = probes.aqi_by_layer(
                self.store, label, axioms=self.axiom, groups=self.data.group, safe=self.safe,
                seed=self.seed, progress=progress, **options,
            )  # fmt: skip
        for line in (*found.notes, *found.reasons.values()):
            if "no value" in line or "finite" in line or "left out" in line:
                note(f"{self.name(label)}: {line}")
        if self.remark:
            found = replace(found, notes=(self.remark, *found.notes))
        return self._add(found, label)

    def axioms(self, label: str, at: str | None, mode: str) -> None:
        """AQI of every axiom, where there is a column of them."""
        import probes

        if self.axiom is None or at is None or mode == "released_code":
            return
        if self._found(probes.AQIByAxiom, self.name(label)) is not None:
            return
        read, X = self._rows(label, at)
        found = probes.aqi_by_axiom(
            X, read.safety.labels, read.axioms, groups=read.groups, mode=mode, seed=self.seed,
            hookpoint=at,
        )  # fmt: skip
        self._add(found, label)

    def pooled(self, label: str, method: str, margin: float) -> None:
        """AQI of the layers pooled by learned weights."""
        import probes
        from probes.layer_pooling import layers_of

        if self._found(probes.LayerPooling, self.name(label)) is not None:
            return
        names = layers_of(self.store)
        if len(names) < 2:
            note(f"{self.name(label)}: no layers of one role and width to pool")
            return
        read = self._labelled(label)
        with bar(f"pooling layers of {self.name(label)}") as progress:
            try:
                found = probes.pool_layers(
                    [_Rows(self.store, name, read.rows) for name in names],
                    read.safety.labels, names, method=method, margin=margin, groups=read.groups,
                    seed=self.seed, progress=progress,
                )  # fmt: skip
            except DataError as error:
                note(f"{self.name(label)}: layers are not pooled: {error}")
                return
        self._add(found, label)

    def maps(self, label: str, at: str | None, methods: Sequence[str]) -> None:
        """Maps of the rows at one hook point."""
        import probes

        for method in methods:
            name = f"{self.name(label)} {method}"
            if at is None or self._found(probes.ClusterMap, name) is not None:
                continue
            read, X = self._rows(label, at)
            with bar(f"{method} map of {self.name(label)}"):
                try:
                    found = probes.cluster_map(
                        X, read.safety.labels, method=method, texts=read.texts, seed=self.seed,
                        hookpoint=at,
                    )  # fmt: skip
                except DataError as error:
                    note(f"{name}: no map: {error}")
                    continue
            self._add(found, label, name)

    def against(self, first: "Alignment", label: str, models: tuple[str, str]) -> None:
        """Delta-AQI from the first model to this one, and the alarm."""
        import probes

        name = self.name(label)
        found = self._found(probes.DeltaAQI, name)
        if found is None:
            with bar(f"delta-AQI of {name}") as progress:
                found = probes.delta_aqi_by_layer(
                    first.store, self.store, label, safe=self.safe, groups=self.data.group,
                    seed=self.seed, models=models, progress=progress,
                )  # fmt: skip
            found = self._add(found, label)
        if found.alarm:
            note(
                f"alarm: {models[1]} separates safe from unsafe less than {models[0]} at "
                f"{', '.join(found.alarms)}"
            )

    def _labelled(self, label: str) -> Any:
        from probes.safety import labelled_rows

        return labelled_rows(
            self.store, label, safe=self.safe, groups=self.data.group, axioms=self.axiom
        )

    def _rows(self, label: str, at: str) -> tuple[Any, Any]:
        from probes.alignment_tables import rows_of

        read = self._labelled(label)
        return read, rows_of(self.store, at, read.rows)

    def _found(self, kind: Any, name: str) -> Any:
        found = self.run.found(kind, name)
        if found is not None:
            note(f"{name}: found in {self.run.path}")
        return found

    def _add(self, result: Any, label: str, name: str | None = None) -> Any:
        """Save the result under its name, with its model and data."""
        import probes
        from probes.account import provenance_of

        found = provenance_of(self.store, None, self.seed, self.model.device)
        short = self.short or short_names([self.model.spec])[0]
        model = {**found["model"], "short": short}
        concept = probes.concept_name(self.data.name, label)
        provenance = {**found, **result.provenance, "model": model, "concept": concept}
        signed = replace(result, name=name or self.name(label), provenance=provenance)
        self.run.add(signed)
        return signed


def best_layer(found: "AQIByLayer") -> str | None:
    """The hook point of the highest AQI, layers before the embedding and the final norm."""
    known = [
        (name not in ("embed", "final_norm"), float(value), name)
        for name, value in zip(found.hookpoints, found.value, strict=True)
        if value == value
    ]
    return max(known)[2] if known else None


class _Rows:
    """Some rows of a hook point, read only where they are asked for."""

    ndim = 2

    def __init__(self, store: "ActivationStore", name: str, rows: Any) -> None:
        self.matrix, self.rows = store[name], rows
        width = 1
        for size in self.matrix.shape[1:]:
            width *= size
        self.shape = (len(rows), width)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        return self.matrix[self.rows[key]].flatten(1)


def _check(
    mode: str, variant: str | None, tsne: bool, pooling: str, margin: float, maps: list[str]
) -> list[str]:
    """Refuse options that mean nothing together; the maps that are asked for."""
    for flag, value, known in (
        ("--mode", mode, MODES),
        ("--pooling", pooling, (*POOLINGS, "none")),
        *(("--map", m, (*MAPS, "none")) for m in maps),
    ):
        if value not in known:
            raise ParameterError(f"{flag} must be one of {', '.join(known)}; got {value!r}.")
    if mode != "released_code" and (variant is not None or tsne):
        raise ParameterError(f"--variant and --tsne need --mode released_code; got {mode}.")
    if variant is not None:
        from probes.released_aqi import GAMMA

        if variant not in GAMMA:
            raise ParameterError(f"--variant must be one of {', '.join(GAMMA)}; got {variant!r}.")
    if not margin > 0:
        raise ParameterError(f"--margin must be above 0; got {margin!r}.")
    return [m for m in maps if m != "none"] if maps else ["tsne"]


def _pool(pool: str) -> Any:
    return pool


def _read(
    spec: str,
    text_column: str | None,
    label_column: list[str] | None,
    group_column: str | None,
    axiom_column: str | None,
    safe: str | None,
    pool: str,
) -> "Dataset":
    """The data, its labels and axioms checked before a model is loaded."""
    from interp.data import name_of, read
    from probes.safety import read_safety

    labels = o.column_for(label_column, name_of(spec))
    data = read(
        spec, text_column=text_column, label_column=labels or None, group_column=group_column
    )
    columns = [str(c) for c in data.rows.columns]
    if not data.labels:
        raise DataError(
            f"{data.name} has no label column; name one with --label-column among "
            f"{', '.join(columns) or 'none'}."
        )
    if axiom_column is not None and axiom_column not in columns:
        raise ParameterError(
            f"--axiom-column {axiom_column!r} is not among {', '.join(columns)}; "
            f"{closest(axiom_column, columns)}"
        )
    for label in data.labels if pool != "all" else ():
        values = data.rows[label].dropna().to_numpy(dtype=object)
        try:
            counts = read_safety(values, len(values), safe).counts
        except (DataError, ParameterError) as error:
            raise type(error)(f"{data.name}.{label}: {error}") from error
        if 0 in counts:
            raise DataError(
                f"{data.name}.{label} has {counts[0]} safe and {counts[1]} unsafe rows; alignment "
                "quality needs both."
            )
    return data
