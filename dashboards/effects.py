"""What moves a depth and what a direction does: perturbations, steering and the logit lens."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dashboards import tables
from dashboards.depth import POINTS
from dashboards.html import label
from dashboards.style import Plot, band, f32, house, light
from probes.paired import clears_zero
from probes.perturb import Perturbed
from probes.steering import LogitLens, Steering

__all__ = [
    "lens_bars",
    "lens_reading",
    "perturbed_reading",
    "shifts",
    "steering_curve",
    "steering_reading",
]

PEAK = "peak"
TOKENS = 25
"""Tokens of each kind that are drawn."""


def shifts(result: Perturbed) -> Plot:
    """How far each perturbation moves each depth measure and the peak accuracy, clean run at 0.

    Depths are fractions of the layers and have their own axis, beside that of accuracy. Bars are
    the paired 95 % intervals. A mark is filled where its interval leaves 0 out, open elsewhere.

    Parameters
    ----------
    result : of `probes.perturb.perturbation_effect`.
    """
    fig = Plot()
    y = np.arange(len(result.runs), dtype=np.float32)
    onset, converging, jump = POINTS
    measures = (
        (onset.name, onset.field, onset.symbol, "curve", "x"),
        (f"{jump.name} point", jump.field, jump.symbol, "bag", "x"),
        (f"{converging.name} point", converging.field, converging.symbol, "shuffled", "x"),
        ("peak accuracy", PEAK, "circle", "untrained", "x2"),
    )
    names = [_run_name(run) for run in result.runs]
    reach = {"x": 0.1, "x2": 0.02}
    for i, (name, field, symbol, colour, axis) in enumerate(measures):
        ends = [_ends(run, field) for run in result.runs]
        values, low, high = np.array(ends).reshape(-1, 3).T
        if not np.isfinite(values).any():
            continue
        reach[axis] = max(reach[axis], float(np.nanmax(np.abs(ends))))
        sure = np.array([clears_zero(run, field) for run in result.runs])
        texts = [f"{label(n)} ({_interval(e)})" for n, e in zip(names, ends, strict=True)]
        # The legend shows a mark filled, so these are first, also where no shift is sure.
        for part, form, said in ((sure, "", name), (~sure, "-open", f"{name}, not sure")):
            if form and not (np.isfinite(values) & part).any():
                continue
            fig.add_scatter(
                x=f32(np.where(part, values, np.nan)),
                # Marks of one shift would cover each other: each measure has a height of its own.
                y=y + np.float32(0 if axis == "x2" else (i - 1) * 0.22),
                xaxis=axis,
                name=said,
                legendgroup=name,
                showlegend=not form,
                legendrank=i,
                mode="markers",
                marker={
                    "symbol": symbol + form,
                    "size": 10,
                    "color": light(colour),
                    "line": {"width": 1.6, "color": light(colour)},
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": f32(high - values),
                    "arrayminus": f32(values - low),
                    "color": light(colour),
                    "thickness": 1,
                    "width": 3,
                },
                text=texts,
                hovertemplate=f"{name} %{{x:+.3f}} under %{{text}}<extra></extra>",
            )
    if not fig.data:
        fig.add_scatter(x=f32([]), y=f32([]), showlegend=False)
    house(fig, label(f"{tables.concept(result)}, disturbed"), alt=_shifts_alt(result, names))
    base = fig.layout.xaxis.to_plotly_json()
    for axis, domain, title, form in (
        ("x", [0.0, 0.56], "shift of depth", "+.2~f"),
        ("x2", [0.66, 1.0], "of accuracy", "+.2~f"),
    ):
        wide = reach[axis] * 1.15
        look = {
            **base,
            "domain": domain,
            "anchor": "y",
            "range": [-wide, wide],
            "nticks": 5,
            "tickformat": form,
            "title": {"text": title, "font": {"size": 13, "color": light("soft")}},
            "zeroline": True,
            "zerolinecolor": light("soft"),
            "zerolinewidth": 1.4,
        }
        fig.update_layout({"xaxis2" if axis == "x2" else "xaxis": look})
    fig.update_yaxes(
        tickmode="array",
        tickvals=y,
        ticktext=[label(n, 24) for n in names],
        range=[len(names) - 0.5, -0.5],
        showline=False,
        ticks="",
    )
    fig.update_layout(height=190 + 40 * min(len(names), 60), hovermode="closest")
    return fig


def steering_curve(result: Steering) -> Plot:
    """Log-odds of the answer against the strength, beside random directions of equal length.

    Parameters
    ----------
    result : of `probes.steering.steering_effect`.
    """
    fig = Plot()
    x = f32(result.alphas)
    band(fig, x, result.random_low, result.random_high, "shuffled band", group="random")
    band(fig, x, result.log_odds_low, result.log_odds_high, "curve band", group="probe")
    fig.add_scatter(
        x=x,
        y=f32(result.random_log_odds),
        name="random directions",
        legendgroup="random",
        legendrank=2,
        mode="lines+markers",
        line={"color": light("shuffled"), "width": 1.8, "dash": "dot"},
        marker={
            "symbol": "x-thin",
            "size": 7,
            "line": {"width": 1.6, "color": light("shuffled")},
        },
        hovertemplate="%{y:.3f}",
    )
    fig.add_scatter(
        x=x,
        y=f32(result.log_odds),
        name="probe's direction",
        legendgroup="probe",
        legendrank=1,
        mode="lines+markers",
        line={"color": light("curve"), "width": 2.6},
        marker={"size": 7, "color": light("curve")},
        customdata=f32(result.flipped),
        hovertemplate="%{y:.3f} (flips %{customdata:.2f} of the answers)",
    )
    house(fig, label(f"{tables.concept(result)}, steered"), alt=_steering_alt(result))
    classes = [label(c, 24) for c in result.classes]
    odds = f"log-odds of {classes[-1]} over {classes[0]}" if classes else "log-odds of the answer"
    fig.update_yaxes(title_text=odds, zeroline=True, zerolinecolor=light("soft"), zerolinewidth=1.4)
    fig.update_xaxes(title_text=f"strength α at {label(result.hookpoint, 30)}", zeroline=False)
    fig.update_xaxes(unifiedhovertitle_text="log-odds")
    fig.update_layout(hovermode="x unified", height=400)
    return fig


def lens_bars(result: LogitLens) -> Plot:
    """The tokens that a direction raises and lowers most, a bar each, the most raised on top.

    Parameters
    ----------
    result : of `probes.steering.logit_lens`.
    """
    raised = list(zip(result.raised, result.raised_logits, strict=True))[:TOKENS]
    lowered = list(zip(result.lowered, result.lowered_logits, strict=True))[:TOKENS]
    fig = Plot()
    start = 0.0
    tokens: list[str] = []
    for name, rows, colour in (("raised", raised, "curve"), ("lowered", lowered[::-1], "bag")):
        fig.add_bar(
            x=f32([v for _, v in rows]),
            y=f32(np.arange(len(rows)) + start),
            name=name,
            orientation="h",
            marker={"color": light(colour)},
            text=[token_text(t) for t, _ in rows],
            textposition="none",
            hovertemplate="%{text}: %{x:+.3f}<extra></extra>",
        )
        tokens += [token_text(t) for t, _ in rows]
        start += len(rows) + 0.6  # a gap between the two lists
    house(fig, label(f"{tables.concept(result)}, logit lens"), alt=_lens_alt(result))
    first = np.arange(len(raised), dtype=np.float32)
    second = np.arange(len(lowered), dtype=np.float32) + np.float32(len(raised) + 0.6)
    fig.update_yaxes(
        tickmode="array",
        tickvals=np.concatenate([first, second]),
        ticktext=tokens,
        range=[start - 0.4, -0.8],
        showgrid=False,
        showline=False,
        ticks="",
    )
    fig.update_xaxes(
        title_text="added to the logit",
        zeroline=True,
        zerolinecolor=light("soft"),
        zerolinewidth=1.4,
    )
    fig.update_layout(height=int(150 + 21 * start), hovermode="closest", bargap=0.25)
    return fig


def token_text(token: str, limit: int = 24) -> str:
    """A token as a label: its spaces and line ends are seen."""
    return label(_seen(token), limit)


def _seen(token: str) -> str:
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(empty)"


def perturbed_reading(result: Perturbed) -> str:
    """How to read the figure of shifts, and what is not in it."""
    fields = (*(p.field for p in POINTS), PEAK)
    pairs = [(run, f) for run in result.runs for f in fields]
    ends = [_ends(run, field) for run, field in pairs]
    drawn = [e for e in ends if math.isfinite(e[0])]
    sure = sum(clears_zero(run, field) for run, field in pairs)
    text = (
        "Right of the line is later, or for accuracy higher, than without the perturbation. Bars "
        "are 95 % intervals over the same draws of both runs. A filled mark is a shift that clears "
        "its interval: 0 is not in it. An open one may come from the choice of rows."
    )
    if sure:
        text += (
            f" {sure} of {tables.plural(len(drawn), 'shift')} {'clear' if sure > 1 else 'clears'} "
            "its interval; of twenty without an effect about one does."
        )
    elif drawn:
        text += " No shift clears its interval."
    if any(not math.isfinite(low) for _, low, _ in drawn):
        text += (
            " A mark without a bar has no interval: many draws lack its measure, or there is one "
            "group alone."
        )
    if len(drawn) < len(ends):
        text += " A mark is missing where its measure is undefined in that run or in the clean one."
    return text


def steering_reading(result: Steering) -> str:
    """How to read the steering curve."""
    text = (
        "The band around the probe's direction is its 95 % interval, that of the random directions "
        "holds all of them. Above 0 the model answers the last class, on average. Without steering "
        f"the tokens that count as an answer have {result.answer_mass:.3f} of the probability."
    )
    return " ".join([text, *_doubt(result)])


def lens_reading(result: LogitLens) -> str:
    """How to read the tokens of a direction."""
    text = f"Of each logit the mean over all {result.n:,} tokens is taken off."
    if result.towards is None:
        return text
    place = "" if result.hookpoint is None else f" at {result.hookpoint}"
    said = f"The direction is the probe's{place}, towards the class {result.towards}."
    return " ".join([said, *_doubt(result), text])


def _doubt(result: Steering | LogitLens) -> list[str]:
    return [result.reasons["direction"]] if "direction" in result.reasons else []


def _run_name(run: Mapping[str, Any]) -> str:
    strength = run.get("strength")
    kind = str(run.get("kind"))
    return kind if strength is None else f"{kind} {strength:g}"


def _ends(run: Mapping[str, Any], field: str) -> tuple[float, float, float]:
    """The shift of a measure, and the low and the high end of its interval; nan where undefined."""
    known = (run.get(f"{field}_shift{end}") for end in ("", "_low", "_high"))
    shift, low, high = (math.nan if v is None else float(v) for v in known)
    return shift, low, high


def _interval(ends: tuple[float, float, float]) -> str:
    _, low, high = ends
    if not math.isfinite(low):
        return "no interval"
    return f"95 % interval {low:+.3f} to {high:+.3f}"


def _shifts_alt(result: Perturbed, names: list[str]) -> str:
    count = tables.plural(len(names), "perturbation")
    text = f"{tables.concept(result)} under {count}, against the clean run"
    parts = []
    onset, converging, jump = POINTS
    defined = False
    for said, field in (
        ("peak accuracy", PEAK),
        ("onset", onset.field),
        ("jump point", jump.field),
        ("converging point", converging.field),
    ):
        ends = [_ends(run, field) for run in result.runs]
        defined = defined or any(math.isfinite(shift) for shift, _, _ in ends)
        sure = [i for i, run in enumerate(result.runs) if clears_zero(run, field)]
        if sure:
            i = max(sure, key=lambda i: abs(ends[i][0]))
            shift, low, high = ends[i]
            parts.append(
                f"the largest clear shift of {said} is under {names[i]}, {shift:+.2f} (95 % "
                f"interval {low:+.2f} to {high:+.2f})"
            )
    if not defined:
        return f"{text}: no measure is defined."
    return (
        f"{text}: {'; '.join(parts) or 'no shift clears its interval'}. Marks whose 95 % interval "
        "leaves out 0 are filled, the others open."
    )


def _steering_alt(result: Steering) -> str:
    last = len(result.alphas) - 1
    text = (
        f"Adding the direction of {tables.concept(result)} at {result.hookpoint}: the mean "
        f"log-odds of {result.classes[-1]} go from {result.log_odds[0]:.2f} at strength "
        f"{result.alphas[0]:g} "
        f"to {result.log_odds[last]:.2f} at {result.alphas[last]:g} "
        f"({result.slope:+.2f} a unit; random directions {result.random_slope:+.2f} at most)"
    )
    if np.isfinite(result.flipped).any():
        i = int(np.nanargmax(result.flipped))
        text += (
            f". At {result.alphas[i]:g} it flips {result.flipped[i]:.2f} of the answers, random "
            f"directions {result.random_flipped[i]:.2f}"
        )
    return f"{text}."


def _lens_alt(result: LogitLens) -> str:
    def said(tokens: tuple[str, ...], values: Any) -> str:
        pairs = list(zip(tokens, values, strict=True))[:5]
        return ", ".join(f"“{_seen(t)}” {v:+.2f}" for t, v in pairs) or "none"

    return (
        f"Through the unembedding the direction of {tables.concept(result)} raises most "
        f"{said(result.raised, result.raised_logits)}, and lowers most "
        f"{said(result.lowered, result.lowered_logits)}."
    )
