"""Codebooks: how their training went, what their codes stand for, and what codes put in do."""

import math

import numpy as np

from dashboards import tables
from dashboards.html import clip, label
from dashboards.style import Plot, f32, house, light
from saes.codebook.control import wilson
from saes.codebook.log import CodebookTraining
from saes.codebook.reading import CodePatterns
from saes.codebook.steering import CodeSteering
from saes.codebook.tokfsm_scores import TokFSMScores

__all__ = [
    "codebook_curves",
    "codebook_reading",
    "pattern_dots",
    "pattern_reading",
    "steering_bars",
    "steering_bars_reading",
    "tokfsm_bars",
    "tokfsm_reading",
]

COLOURS = ("curve", "bag", "shuffled", "untrained", "features")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def codebook_curves(result: CodebookTraining) -> Plot:
    """Language loss over the steps, and below it the share of variance that codes leave.

    Parameters
    ----------
    result : of `saes.codebook.train_codebooks`.
    """
    fig = Plot()
    x = f32(result.steps)
    _line(fig, x, result.language, "loss of next tokens", 0, "y")
    if result.reference is not None:
        flat = np.full(len(x), result.reference)
        _line(fig, x, flat, f"floor {result.reference:.4f}", 1, "y")
    for i, (name, values) in enumerate(result.fvu.items()):
        _line(fig, x, values, clip(name, 24), i + 2, "y2")
    house(fig, label(f"{tables.concept(result)}, training"), alt=_training_alt(result))
    base = fig.to_dict()["layout"]["yaxis"]
    split = bool(result.fvu)
    rows = [("yaxis", [0.52, 1.0] if split else [0.0, 1.0], "nats a token")]
    rows += [("yaxis2", [0.0, 0.42], "FVU of codes")] if split else []
    for axis, domain, title in rows:
        heading = {"text": title, "font": {"size": 13, "color": light("soft")}}
        look = {**base, "domain": domain, "anchor": "x", "nticks": 5, "title": heading}
        fig.update_layout({axis: look})
    if split:
        fig.update_layout(yaxis2={"type": "log", "tickformat": "~g"})
    fig.update_xaxes(title_text="step", anchor="y2" if split else "y", rangemode="tozero")
    fig.update_layout(hovermode="x unified", height=560 if split else 400)
    return fig


def codebook_reading(result: CodebookTraining) -> str:
    """How to read the curves, and the losses on held-out texts."""
    text = "Each point is the batch of its step."
    if result.fvu:
        text += (
            " FVU is the squared error of a row's codes over the rows' variance; it can exceed 1, "
            "for codes serve the model's loss first."
        )
    if result.held_out:
        said = "; ".join(f"{k}, {v:.3f}" for k, v in result.held_out.items())
        text += f" Nats a token on texts that were held out: {said}."
    return text


def tokfsm_bars(result: TokFSMScores) -> Plot:
    """State accuracy, and where there are codebooks what forced codes do and interchange leaves.

    Parameters
    ----------
    result : of `saes.codebook.evaluate_tokfsm`.
    """
    fig = Plot()
    names, values, low, high = [], [], [], []
    shares = {"state accuracy": (result.state_accuracy, *result.state_interval)}
    for condition, (hits, n) in result.forced.items():
        shares[f"goes on as forced: {condition}"] = (hits / n, *wilson(hits, n))
    shares |= {f"interchange: {k}": (v, math.nan, math.nan) for k, v in result.interchange.items()}
    for name, (value, down, up) in shares.items():
        names.append(name)
        values.append(value)
        low.append(down)
        high.append(up)
    y, v = np.arange(len(names), dtype=np.float32), np.array(values)
    kinds = ["bag" if n.startswith("interchange") else "curve" for n in names]
    fig.add_bar(
        x=f32(v),
        y=y,
        orientation="h",
        marker={"color": [light(k) for k in kinds]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": f32(np.array(high) - v),
            "arrayminus": f32(v - np.array(low)),
            "color": light("ink"),
            "thickness": 1,
        },
        text=[label(n) for n in names],
        textposition="none",
        hovertemplate="%{text}: %{x:.3f}<extra></extra>",
        showlegend=False,
    )
    house(fig, label(tables.concept(result)), alt=_tokfsm_alt(result))
    _rows(fig, names)
    fig.update_xaxes(title_text="share", rangemode="tozero")
    fig.add_vline(x=result.state_chance, line={"color": light("soft"), "width": 1, "dash": "dot"})
    return fig


def tokfsm_reading(result: TokFSMScores) -> str:
    """How to read the bars."""
    text = (
        f"The loss is {result.loss:.4f} nats a token, where {result.floor:.4f} is the least "
        f"possible; accuracy {result.accuracy:.2%} of {result.best_accuracy:.2%}. The dotted line "
        "is the chance that a step follows an edge. Whiskers are 95 % Wilson intervals."
    )
    if result.interchange:
        text += (
            " Interchange is the divergence from a run after its codes were taken over, as a share "
            "of that without: 0 where these codes decide all."
        )
    if result.states:
        text += (
            f" A state's best code has precision {result.states['code precision']:.3f} and recall "
            f"{result.states['code recall']:.3f}, its best neuron "
            f"{result.states['neuron precision']:.3f} and {result.states['neuron recall']:.3f}, "
            "means over states on walks that did not choose them."
        )
    return text


def pattern_dots(result: CodePatterns) -> Plot:
    """Precision of the best code of each pattern beside the best neuron's, and chance.

    Parameters
    ----------
    result : of `saes.codebook.read_patterns`.
    """
    fig = Plot()
    best = result.best()
    y = np.arange(len(best), dtype=np.float32)
    marks = (
        ("code", [r.precision for r in best], "circle", "curve"),
        ("neuron", [r.neuron_precision for r in best], "diamond", "bag"),
        ("share of tokens", [r.share for r in best], "line-ns-open", "soft"),
    )
    for name, values, symbol, colour in marks:
        fig.add_scatter(
            x=f32(np.array([math.nan if v is None else v for v in values])),
            y=y,
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 11, "color": light(colour), "line": {"width": 2}},
            text=[label(f"{r.pattern}: {r.hookpoint} code {r.code}") for r in best],
            hovertemplate=f"%{{text}}, {name} %{{x:.3f}}<extra></extra>",
        )
    if not best:
        fig.add_scatter(x=f32([]), y=f32([]), showlegend=False)
    house(fig, label(f"{tables.concept(result)}, codes of patterns"), alt=_pattern_alt(result))
    _rows(fig, [r.pattern for r in best])
    fig.update_xaxes(title_text="precision", range=[-0.03, 1.03])
    return fig


def pattern_reading(result: CodePatterns) -> str:
    """How to read the dots."""
    return (
        f"Over {result.n:,} tokens of {result.documents:,} texts; half of the texts chose code and "
        "neuron, the other half scores them. The neuron's threshold was set for the code's recall. "
        "The share of tokens is the precision of chance."
    )


def steering_bars(result: CodeSteering) -> Plot:
    """Share of generated texts that hold the pattern, without codes, with them, and at random.

    Parameters
    ----------
    result : of `saes.codebook.steer_codes`.
    """
    fig = Plot()
    names = list(result.counts)
    v = np.array([result.counts[k] / result.n for k in names])
    ends = np.array([result.intervals[k] for k in names])
    fig.add_bar(
        x=f32(v),
        y=np.arange(len(names), dtype=np.float32),
        orientation="h",
        marker={"color": [light(c) for c in ("majority", "curve", "shuffled")][: len(names)]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": f32(ends[:, 1] - v),
            "arrayminus": f32(v - ends[:, 0]),
            "color": light("ink"),
            "thickness": 1,
        },
        hovertemplate="%{x:.1%} of the texts<extra></extra>",
        showlegend=False,
    )
    said = "; ".join(f"{k}: {result.counts[k]} of {result.n}" for k in names)
    alt = f"Texts that hold {clip(result.pattern, 60)}, by the codes put in. {said}."
    house(fig, label(f"{tables.concept(result)}, steered"), alt=alt)
    _rows(fig, names)
    fig.update_xaxes(title_text="texts that hold the pattern", range=[0, 1.02], tickformat="~p")
    return fig


def steering_bars_reading(result: CodeSteering) -> str:
    """How to read the bars."""
    codes = ", ".join(f"{latent} at {name}" for name, latent in result.codes)
    slots = "all slots" if result.every_slot else "the slot of the least similar code"
    return (
        f"{result.n} texts of {result.tokens} tokens each, temperature {result.temperature:g}; "
        f"codes {codes} took {slots} at every token. Whiskers are 95 % Wilson intervals. Random "
        "codes are others of the same places."
    )


def _rows(fig: Plot, names: list[str]) -> None:
    """A row a name, from the top down."""
    fig.update_yaxes(
        tickmode="array",
        tickvals=np.arange(len(names), dtype=np.float32),
        ticktext=[label(n, 34) for n in names],
        range=[len(names) - 0.5, -0.5],
        showline=False,
        automargin=True,
    )
    fig.update_layout(height=150 + 30 * max(3, len(names)))


def _line(fig: Plot, x: np.ndarray, y: np.ndarray, name: str, i: int, axis: str) -> None:
    fig.add_scatter(
        x=x,
        y=f32(np.where(y > 0, y, np.nan)),
        name=label(name),
        yaxis=axis,
        xaxis="x",
        mode="lines" if len(x) > 1 else "markers",
        line={
            "color": light(COLOURS[i % len(COLOURS)]),
            "width": 2,
            "dash": DASHES[(i // len(COLOURS) + (axis == "y" and i)) % len(DASHES)],
        },
        hovertemplate="%{y:.4g}",
    )


def _training_alt(result: CodebookTraining) -> str:
    found = result.metrics()
    text = (
        f"{tables.concept(result)} from step {int(result.steps[0]):,} to {found['steps']:,}: the "
        f"loss goes from {found['first_loss']:.4f} to {found['loss']:.4f} nats a token"
    )
    if result.reference is not None:
        text += f", where {result.reference:.4f} is the least possible"
    for name, book in found["codebooks"].items():
        text += (
            f"; {clip(name, 40)} leaves {book['fvu']:.3f} of the variance, {book['dead']:.1%} dead"
        )
    return text + "."


def _tokfsm_alt(result: TokFSMScores) -> str:
    text = (
        f"{tables.concept(result)}: loss {result.loss:.4f}, state accuracy "
        f"{result.state_accuracy:.3f}"
    )
    for condition, (hits, n) in result.forced.items():
        text += f"; forced by {condition}: {hits} of {n}"
    for name, value in result.interchange.items():
        text += f"; interchange of {clip(name, 40)} {value:.3f}"
    return text + "."


def _pattern_alt(result: CodePatterns) -> str:
    parts = []
    for r in result.best():
        ours, theirs = (
            "none" if v is None else f"{v:.2f}" for v in (r.precision, r.neuron_precision)
        )
        parts.append(f"{clip(r.pattern, 40)}: code {ours}, neuron {theirs}")
    return f"{tables.concept(result)}, precision of codes and neurons. {'; '.join(parts)}."
