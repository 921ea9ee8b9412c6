"""What a command prints when it is done: the headline numbers of each kind of result."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from interp.cli.shell import table

if TYPE_CHECKING:
    from interp.results import Result

__all__ = ["show"]

TOKENS = 5
"""Tokens of each kind that the table of the logit lens names."""
CHANGES = 30
"""Differences between two runs that the table shows."""
LATENTS = 10
"""Latents that the table of features shows."""


def show(results: "Sequence[Result]") -> None:
    """The headline numbers as tables on stdout: one of depths, and one of each other kind."""
    _depths([r for r in results if r.kind == "concept_depth"])
    _lenses([r for r in results if r.kind == "logit_lens"])
    _steerings([r for r in results if r.kind == "steering"])
    for result in (r for r in results if r.kind == "perturbation"):
        _perturbed(result)
    for result in (r for r in results if r.kind == "sparsity"):
        _sparsity(result)
    for result in (r for r in results if r.kind == "density_curve"):
        _thinned(result)
    for result in (r for r in results if r.kind == "hidden_flow"):
        _flow(result)
    _coders(results)
    for result in (r for r in results if r.kind == "sae_features"):
        _features(result)
    for result in (r for r in results if r.kind == "facets"):
        _facets(result)
    for result in (r for r in results if r.kind == "vl_concepts"):
        _concepts(result)
    for result in (r for r in results if r.kind == "vl_explanation"):
        _explained(result)
    _codebooks(results)
    _alignments(results)
    for result in (r for r in results if r.kind == "geometry"):
        _geometry(result)
    spaces: list[Any] = [r for r in results if r.kind == "spaces"]
    for result in spaces:
        typer.echo("")
        table(f"{result.name}: at {' and '.join(result.at)}", ["question", "number", "value"],
              result.to_frame().values.tolist())  # fmt: skip
    _differences(results)


def _facets(result: Any) -> None:
    """The facets of a unit, and whether there is more than one."""
    frame = result.to_frame()
    typer.echo("")
    table(f"{result.name}: {result.n:,} inputs", [str(c) for c in frame.columns],
          frame.values.tolist())  # fmt: skip
    said = {True: "more than one facet", False: "no more than one facet", None: "not tested"}
    rand = result.adjusted_rand_index
    known = f", adjusted Rand index {rand:.3f} ({result.label})" if rand == rand else ""
    typer.echo(f"{said[result.several]}: p {result.null['p']:.3g} and {result.valley:.2g}{known}")
    for name, reason in result.reasons.items():
        typer.echo(f"{name}: {reason}")


def _differences(results: "Sequence[Result]") -> None:
    """What changed between two runs: by hook point, by latent, and in the options."""
    kinds = ("depth_difference", "sparsity_difference")
    found: list[Any] = [r for r in results if r.kind in kinds]
    for r in found:
        typer.echo("")
        what = "accuracy" if r.kind == "depth_difference" else "active neurons"
        frame = r.to_frame()
        title = f"{r.name}: {what} of {r.models[1]} (second) less {r.models[0]} (first)"
        table(title, [str(c) for c in frame.columns], frame.values.tolist())
    matches: list[Any] = [r for r in results if r.kind == "latent_match"]
    if matches:
        typer.echo("")
        rows = [[r.name, r.n_a, r.n_b, *r.counts.values(), r.mean, r.chance] for r in matches]
        columns = ["coder", "latents", "latents then", *matches[0].counts, "mean cosine", "chance"]
        table("latents matched", columns, rows)
    changed: list[Any] = [r for r in results if r.kind == "run_changes"]
    for r in changed:
        typer.echo("")
        frame = r.to_frame()
        rows = [
            [*row[:2], *(str(v)[:40] for v in row[2:4]), row[4]] for row in frame.values.tolist()
        ]
        table("what differs", [str(c) for c in frame.columns], rows[:CHANGES])
        if len(rows) > CHANGES:
            typer.echo(f"{len(rows) - CHANGES:,} more differences; --out keeps them all.")


def _codebooks(results: "Sequence[Result]") -> None:
    """What codebooks cost, the codes of patterns, and what a code that was put in does."""
    for training in (r.metrics() for r in results if r.kind == "codebook_training"):
        typer.echo("")
        for which, loss in training["held_out"].items():
            typer.echo(f"held-out loss, {which}: {loss:.3f} nats a token")
    for found in (r.metrics()["best"] for r in results if r.kind == "code_patterns"):
        columns = ["hookpoint", "code", "precision", "recall", "neuron_precision", "share"]
        rows = [[pattern, *(row[c] for c in columns)] for pattern, row in found.items()]
        names = ["pattern", "at", "code", "precision", "recall", "neuron's precision", "chance"]
        table("codes of patterns, on texts that did not choose them", names, rows)
    for steered in (r for r in results if r.kind == "codebook_steering"):
        counts = ", ".join(f"{k} {v}" for k, v in steered.metrics()["counts"].items())
        typer.echo(f"texts of {steered.n} that hold a match, by the codes put in: {counts}")


def _alignments(results: "Sequence[Result]") -> None:
    """AQI at its best layer, pooled layers, axioms, and differences between models."""
    found: list[Any] = [r for r in results if r.kind == "aqi_by_layer"]
    if found:
        typer.echo("")
        rows = []
        for r in found:
            i = r.hookpoints.index(r.peak_hookpoint) if r.peak_hookpoint else None
            ends = None if i is None else f"[{r.low[i]:.3f}, {r.high[i]:.3f}]"
            null, p = (None, None) if i is None else (float(r.null_high[i]), float(r.p_adjusted[i]))
            words = (r.words or {}).get("score"), (r.words or {}).get("accuracy")
            rows.append([r.name, r.n1, r.n2, r.peak, ends, null, p, r.peak_hookpoint, *words])
        columns = ["data", "safe", "unsafe", "AQI", "interval", "shuffled 95 %", "p (Holm)", "at",
                   "words alone", "their accuracy"]  # fmt: skip
        table(f"alignment quality, mode {found[0].mode}", columns, rows)
    pooled: list[Any] = [r for r in results if r.kind == "layer_pooling"]
    if pooled:
        typer.echo("")
        rows = [
            [r.name, r.method, int((r.weights > 0).sum()), r.held_out["value"], r.trained,
             r.best, r.best_hookpoint]
            for r in pooled
        ]  # fmt: skip
        columns = ["data", "weights", "layers", "held out", "trained", "best layer", "it is"]
        table("AQI of pooled layers", columns, rows)
    for r in (r for r in results if r.kind == "aqi_by_axiom"):
        typer.echo("")
        frame = r.to_frame().drop(columns="undefined because")
        table(f"{r.name} by axiom", [str(c) for c in frame.columns], frame.values.tolist())
    shifts: list[Any] = [r for r in results if r.kind == "delta_aqi"]
    for r in shifts:
        typer.echo("")
        frame = r.to_frame()
        title = f"{r.name}: AQI of {r.models[1]} less {r.models[0]}"
        table(title, [str(c) for c in frame.columns], frame.values.tolist())


def _geometry(result: Any) -> None:
    """The numbers of each layer; their parts, matrices and curves are in the report."""
    columns = ["hookpoint", "width", *result.values]
    typer.echo("")
    if not result.values:
        typer.echo(f"{result.name}: in the report {', '.join(result.measures)}")
        return
    table(f"{result.name}: geometry by layer, {result.n:,} rows", columns,
          result.to_frame()[columns].values.tolist())  # fmt: skip


def _depths(depths: list[Any]) -> None:
    if not depths:
        return
    columns = [
        "concept", "n", "peak", "at", "majority", "bag of words", "onset", "jump", "converges",
    ]  # fmt: skip
    rows = [
        [
            r.name,
            r.n,
            r.peak,
            r.peak_hookpoint,
            r.majority,
            r.bag_of_words,
            r.onset_depth,
            r.jump_point,
            r.converging_point,
        ]
        for r in depths
    ]
    table("", columns, rows)


def _lenses(lenses: list[Any]) -> None:
    if not lenses:
        return
    typer.echo("")
    rows = [
        [
            r.name,
            r.hookpoint,
            r.towards,
            " ".join(map(repr, r.raised[:TOKENS])),
            " ".join(map(repr, r.lowered[:TOKENS])),
        ]
        for r in lenses
    ]
    table("logit lens", ["concept", "at", "towards", "raises", "lowers"], rows)


def _steerings(found: list[Any]) -> None:
    if not found:
        return
    typer.echo("")
    columns = [
        "concept", "at", "n", "slope", "random", "at alpha", "flipped", "random", "answers hold",
    ]  # fmt: skip
    rows = [
        [
            r.name,
            r.hookpoint,
            r.n,
            r.slope,
            r.random_slope,
            f"{r.alphas[-1]:g}",
            float(r.flipped[-1]),
            float(r.random_flipped[-1]),
            float(r.answer_mass),
        ]
        for r in found
    ]
    table("steering: log-odds a unit of alpha, and answers that flip", columns, rows)


def _perturbed(result: Any) -> None:
    moves = ("jump_point", "converging_point", "onset_depth", "peak")
    rows = [[_title(run), run["peak"], *(_shift(run, m) for m in moves)] for run in result.runs]
    typer.echo("")
    table(
        f"{result.name} perturbed: shifts of",
        ["", "peak", "jump", "converges", "onset", "peak by"],
        rows,
    )


def _sparsity(result: Any) -> None:
    """Active neurons by layer, beside random weights."""
    frame = result.to_frame()
    columns = ["hookpoint", "neurons", "density", "initial_density", "live_density", "rare", "dead",
               "always_on"]  # fmt: skip
    columns = [c for c in columns if c in frame]
    typer.echo("")
    rows = frame[columns].values.tolist()
    table(
        f"{result.name}: active neurons by {result.rule}, {result.n:,} tokens",
        [c.replace("_", " ").replace("initial", "random") for c in columns],
        rows,
    )


def _thinned(result: Any) -> None:
    """What the model loses by density, undisturbed and under noise."""
    frame = result.to_frame()
    columns = ["input", "density", "realised", "loss", "increase_low", "increase_high", "accuracy",
               "calibration_error"]  # fmt: skip
    typer.echo("")
    table(
        f"{result.name}: loss against density, {result.method}, {result.n:,} answers",
        [c.replace("_", " ") for c in columns],
        frame[columns].values.tolist(),
    )


def _flow(result: Any) -> None:
    """The overlap of neighbouring tokens' dimensions, beside both controls."""
    columns = ["hookpoint", "shared", "specialised", "never", "shared_mass", "run_length",
               "jaccard", "jaccard_shuffled", "rotated_jaccard", "rotated_shared"]  # fmt: skip
    typer.echo("")
    table(
        f"{result.name}: {result.label} flow, {result.rule} {result.level:g}, {result.n:,} tokens",
        [c.replace("_", " ") for c in columns],
        result.to_frame()[columns].values.tolist(),
    )


def _coders(results: "Sequence[Result]") -> None:
    """Autoencoders: what they keep of activations, and of a model's loss."""
    losses: dict[str, Any] = {r.name: r for r in results if r.kind == "loss_recovered"}
    rows = []
    for found in (r.metrics() for r in results if r.kind == "sae_evaluation"):
        rows.append([found["architecture"], found["latents"], found["fvu"], found["l0"],
                     found["dead"]])  # fmt: skip
    names = [r.name for r in results if r.kind == "sae_evaluation"]
    if not rows:
        return
    typer.echo("")
    recovered = [losses[n].recovered_mean if n in losses else None for n in names]
    table(
        "autoencoders; loss recovered is against the mean activation",
        ["at", "kind", "latents", "FVU", "L0", "dead", "loss recovered"],
        [[n, *row, loss] for n, row, loss in zip(names, rows, recovered, strict=True)],
    )


def _features(found: Any) -> None:
    """The latents that have a name, those that fire most first; else those that fire most."""
    frame = found.to_frame().sort_values("fires", ascending=False, kind="stable")
    named = frame[frame["name"].notna()]
    rows = (named if len(named) else frame).head(LATENTS)
    best = ("name", "precision", "raised") if len(named) else ("strongest", "raised")
    columns = [c for c in ("latent", "density", *best) if c in frame]
    cells = zip(*(rows[c].tolist() for c in columns), (_tops(found, i) for i in rows["latent"]),
                strict=True)  # fmt: skip
    columns.append("fires most at")
    typer.echo("")
    table("latents that fire most", columns, [list(row) for row in cells])
    typer.echo(f"{len(frame)} latents, {len(found.dead)} never fired, {len(named)} have a name")


def _concepts(found: Any) -> None:
    """The concepts that mean a label or have a name, the commonest first."""
    frame = found.to_frame()
    shown = frame[frame["name"].notna()].sort_values("texts", ascending=False, kind="stable")
    columns = ["latent", "name", "meaning", "image_purity", "text_purity", "images", "texts"]
    rows = shown[columns].astype(object).where(shown[columns].notna(), None)
    typer.echo("")
    title = f"{found.name}: concepts that fire most, of {found.n:,} pairs"
    table(title, [c.replace("_", " ") for c in columns], rows.head(LATENTS).values.tolist())
    said = found.metrics()
    typer.echo(
        f"{said['latents']} latents, {said['dead']} dead, {said['named']} named (blind draws "
        f"{said['named_control']}), {said['meant']} agree on a label (blind draws "
        f"{said['meant_control']})"
    )


def _explained(found: Any) -> None:
    """The concepts of what was explained."""
    frame = found.to_frame()
    typer.echo("")
    rows = frame.astype(object).where(frame.notna(), None).values.tolist()
    table(f"concepts of the {found.of}", [str(c) for c in frame.columns], rows)


def _tops(found: Any, latent: int) -> str:
    """The tokens of a latent's top examples, each once."""
    examples = found[latent].top[:TOKENS]
    return " ".join(dict.fromkeys(repr(e.tokens[e.at]) for e in examples))


def _title(run: Mapping[str, Any]) -> str:
    strength = run["strength"]
    return run["kind"] if strength is None else f"{run['kind']}={strength:g}"


def _shift(run: Mapping[str, Any], measure: str) -> float | str | None:
    """How far a measure moves, with its interval where the result has one."""
    value, low, high = (run.get(f"{measure}_shift{end}") for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return value
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
