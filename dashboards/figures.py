"""Results as Plotly figures, each with its alternative text in ``layout.meta["alt"]``.

Colours are the light ones of `COLOURS`; a page in dark mode swaps each for its partner there. They
are told apart with every common kind of colour vision (after Okabe and Ito), and no curve is told
by its colour alone: dashes and markers differ too.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from dashboards.html import label
from interp.errors import ParameterError
from interp.results import Result
from probes.depth import ConceptDepth

__all__ = ["COLOURS", "CONFIG", "FIGURES", "Plot", "depth_curve", "figure", "heatmap"]

CONFIG: dict[str, Any] = {
    "showSendToCloud": False,  # plotly 7 shows an upload button unless told not to
    "plotlyServerURL": "",
    "displaylogo": False,
    "responsive": True,
    "typesetMath": False,
}
"""What every figure is shown with: nothing leaves the page."""

COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1b1f24", "#e4e8ec"),
    "soft": ("#57606a", "#a0a9b3"),
    "line": ("#e3e7eb", "#2b333b"),
    "paper": ("#ffffff", "#14181d"),
    "curve": ("#0b62a8", "#63b3f0"),
    "curve band": ("rgba(11,98,168,0.16)", "rgba(99,179,240,0.22)"),
    "bag": ("#b4530b", "#eda24e"),
    "shuffled": ("#8b3f80", "#d990cc"),
    "shuffled band": ("rgba(139,63,128,0.13)", "rgba(217,144,204,0.18)"),
    "majority": ("#5d656e", "#9aa4ae"),
}
"""Name -> (light, dark)."""

# One hue, so that lightness alone carries the value. Black and white both read at 4.5:1 on the
# middle; dark mode runs the scale backwards, and each number in a cell swaps its colour with it.
SCALE = [
    "#f1f6fc",
    "#cfe1f3",
    "#9ec2e4",
    "#6b9fd0",
    "#3f79b4",
    "#2c5f97",
    "#1c4675",
    "#102f54",
    "#081d38",
]
ON_PALE, ON_DEEP = "#000001", "#fffffe"
PARTNERS = {
    **dict(COLOURS.values()),
    **dict(zip(SCALE, reversed(SCALE), strict=True)),
    ON_PALE: ON_DEEP,
    ON_DEEP: ON_PALE,
}
"""Colour in a figure -> its partner in dark mode."""
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif'
NUMBERS = 600
"""Cells of a heat map beyond which no numbers are printed in it."""


class Plot(go.Figure):
    """A Plotly figure that shows itself without the upload button, also in a notebook."""

    def show(self, *args: Any, config: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Show it as `plotly.graph_objects.Figure.show` does, with `CONFIG`."""
        return super().show(*args, config={**CONFIG, **(config or {})}, **kwargs)

    def to_html(self, *args: Any, config: dict[str, Any] | None = None, **kwargs: Any) -> str:
        """HTML as from `plotly.graph_objects.Figure.to_html`, with `CONFIG`."""
        return super().to_html(*args, config={**CONFIG, **(config or {})}, **kwargs)

    def write_html(self, *args: Any, config: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write what `to_html` gives."""
        super().write_html(*args, config={**CONFIG, **(config or {})}, **kwargs)

    def _ipython_display_(self) -> None:
        import plotly.io as pio

        if pio.renderers.render_on_display and pio.renderers.default:
            self.show()
        else:
            print(repr(self))  # noqa: T201  as plotly does where nothing can be drawn

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None, validate: bool = True, **kwargs: Any
    ) -> Any:
        return super()._repr_mimebundle_(include, exclude, validate, config=CONFIG, **kwargs)


def figure(result: Result | Sequence[Result]) -> Plot:
    """The figure of a result, or one figure that compares several.

    Parameters
    ----------
    result : a result of a kind in `FIGURES`, or several of concept depth over the same hook points.

    Returns
    -------
    Plot
        A `plotly.graph_objects.Figure`; ``layout.meta["alt"]`` says in words what it shows.

    Raises
    ------
    ParameterError
        No figure is known for this type, or the results cannot be drawn together.
    """
    if isinstance(result, Sequence):
        return heatmap(result)
    for known in type(result).__mro__:
        if known in FIGURES:
            return FIGURES[known](result)
    kinds = ", ".join(t.__name__ for t in FIGURES)
    raise ParameterError(
        f"figure draws {kinds}, or a list of results, and got {type(result).__name__}."
    )


def depth_curve(result: ConceptDepth) -> Plot:
    """Accuracy by depth with its 95 % interval, the controls, and the jump and converging points.

    Parameters
    ----------
    result : of `probes.concept_depth`.
    """
    x = np.arange(len(result.hookpoints), dtype=np.float32)
    fig = Plot()
    shuffled = bool(np.isfinite(result.shuffled).any())
    if shuffled:
        _band(fig, x, result.shuffled_low, result.shuffled_high, "shuffled band")
    _band(fig, x, result.accuracy_low, result.accuracy_high, "curve band")
    if shuffled:
        fig.add_scatter(
            x=x,
            y=_f32(result.shuffled),
            name="shuffled labels",
            legendrank=4,
            mode="lines+markers",
            line={"color": _light("shuffled"), "width": 1.6, "dash": "dot"},
            marker={
                "symbol": "x-thin",
                "size": 7,
                "line": {"width": 1.6, "color": _light("shuffled")},
            },
            hovertemplate="%{y:.3f}",
        )
    for name, value, dash in (
        ("majority", result.majority, "dash"),
        ("bag", result.bag_of_words, "longdashdot"),
    ):
        if value is not None and math.isfinite(value):
            fig.add_scatter(
                x=x,
                y=np.full(len(x), value, dtype=np.float32),
                name={"majority": "majority class", "bag": "bag of words"}[name],
                legendrank={"majority": 3, "bag": 2}[name],
                mode="lines",
                line={"color": _light(name), "width": 1.8, "dash": dash},
                hovertemplate="%{y:.3f}",
            )
    bounds = np.stack([_f32(result.accuracy_low), _f32(result.accuracy_high)], axis=1)
    fig.add_scatter(
        x=x,
        y=_f32(result.accuracy),
        name="probe",
        legendrank=1,
        mode="lines+markers",
        line={"color": _light("curve"), "width": 2.6},
        marker={"size": 7, "color": _light("curve")},
        customdata=bounds,
        text=[label(h) for h in result.hookpoints],
        hovertemplate="%{y:.3f} at %{text} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
    )
    _marks(fig, result)
    _layout(fig, label(result.name), alt=depth_alt(result))
    _depth_axis(fig, result.hookpoints)
    bottom, top = _accuracy_range(result)
    fig.update_yaxes(
        title_text="accuracy on held-out rows",
        range=[bottom, top],
        tickformat=".1f" if top - bottom > 0.4 else ".2f",
    )
    # Plotly knows only the number of x in this title, which is not the layer's: the row names it.
    fig.update_xaxes(unifiedhovertitle_text="accuracy")
    fig.update_layout(hovermode="x unified", height=430)
    return fig


def heatmap(
    results: Sequence[Result], value: Literal["accuracy", "selectivity"] = "accuracy"
) -> Plot:
    """Concept by depth: one row a result, one column a hook point, the peak of each row in bold.

    Parameters
    ----------
    results : of `probes.concept_depth`, all over the same hook points in the same order.
    value : ``"accuracy"``, or ``"selectivity"`` (accuracy less that on shuffled labels).

    Raises
    ------
    ParameterError
        There are no results, they are of another kind, or their hook points differ.
    """
    depths = [r for r in results if isinstance(r, ConceptDepth)]
    if not depths or len(depths) < len(results):
        raise ParameterError("heatmap draws one or more results of concept_depth and no others.")
    if len({r.hookpoints for r in depths}) > 1:
        raise ParameterError(
            "heatmap draws results over the same hook points, and these differ; draw one for each "
            "model."
        )
    if value not in ("accuracy", "selectivity"):
        raise ParameterError(f"heatmap shows accuracy or selectivity, and got {value!r}.")
    z = np.stack([_f32(getattr(r, value)) for r in depths])
    x = np.arange(z.shape[1], dtype=np.float32)
    y = np.arange(z.shape[0], dtype=np.float32)
    low, high = (0.0, 1.0) if value == "accuracy" else (min(0.0, _least(z)), max(_most(z), 0.1))
    if value == "accuracy":
        low = min(0.5, math.floor(_least(z) * 10) / 10)
    ticks, _ = _ticks(depths[0].hookpoints)
    fig = Plot()
    fig.add_heatmap(
        x=x,
        y=y,
        z=z,
        zmin=low,
        zmax=high,
        xgap=1.5,
        ygap=1.5,
        colorscale=[[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)],
        colorbar={
            "title": {
                "text": value,
                "side": "right",
                "font": {"size": 13, "color": _light("soft")},
            },
            "thickness": 11,
            "outlinewidth": 0,
        },
        hovertemplate="%{y} at %{x}: %{z:.3f}<extra></extra>",
    )
    if z.size <= NUMBERS:
        full = [[label(h) for h in depths[0].hookpoints]] * len(depths)
        fig.data[0].update(
            customdata=full, hovertemplate="%{y} at %{customdata}: %{z:.3f}<extra></extra>"
        )
        _print_numbers(fig, z, low, high)
    names = [label(r.name, 34) for r in depths]
    title = {"accuracy": "Accuracy by concept and depth", "selectivity": "Selectivity by depth"}
    _layout(fig, title[value], alt=heatmap_alt(depths, value))
    _depth_axis(fig, depths[0].hookpoints)
    fig.update_xaxes(showgrid=False, showline=False, ticks="")
    fig.update_yaxes(
        tickmode="array",
        tickvals=y,
        ticktext=names,
        range=[len(depths) - 0.5, -0.5],
        showgrid=False,
        showline=False,
        ticks="",
    )
    fig.update_layout(height=150 + 34 * min(len(depths), 60), hovermode="closest")
    return fig


def depth_alt(result: ConceptDepth) -> str:
    """The curve in words: where it starts, peaks and ends, its controls and its two points."""
    curve, names = result.accuracy, result.hookpoints
    known = [i for i in range(len(names)) if math.isfinite(curve[i])]
    if not known:
        return f"{result.name}: the accuracy is undefined at every hook point."
    first, last = known[0], known[-1]
    peak = max(known, key=lambda i: (curve[i], -i))
    start, top = f"{curve[first]:.2f} at {names[first]}", f"{curve[peak]:.2f} at {names[peak]}"
    if peak == first:
        text = f"{result.name}: accuracy is highest at the first hook point, {start}"
    else:
        text = f"{result.name}: accuracy rises from {start} to {top}"
    low, high = result.accuracy_low[peak], result.accuracy_high[peak]
    text += f" (95 % interval {low:.2f} to {high:.2f})"
    if last != peak:
        text += f" and is {curve[last]:.2f} at {names[last]}"
    parts = []
    for name, value in (("majority", result.majority), ("bag of words", result.bag_of_words)):
        if value is not None and math.isfinite(value):
            parts.append(f"{name} {value:.2f}")
    if np.isfinite(result.shuffled).any():
        parts.append(
            f"shuffled labels {_least(result.shuffled):.2f} to {_most(result.shuffled):.2f}"
        )
    for name, at in (("jump", result.jump_hookpoint), ("convergence", result.converging_hookpoint)):
        if at is not None:
            parts.append(f"{name} at {at}")
    return f"{text}; {', '.join(parts)}." if parts else f"{text}."


def heatmap_alt(results: Sequence[ConceptDepth], value: str = "accuracy") -> str:
    """The heat map in words: the peak of each concept, for at most twelve of them."""
    peaks = []
    for r in results[:12]:
        curve = getattr(r, value)
        if np.isfinite(curve).any():
            i = int(np.nanargmax(curve))
            peaks.append(f"{r.name} {curve[i]:.2f} at {r.hookpoints[i]}")
        else:
            peaks.append(f"{r.name} undefined")
    more = f", and {len(results) - 12} more in the table" if len(results) > 12 else ""
    return f"Highest {value} of each concept: {'; '.join(peaks)}{more}."


def _light(name: str) -> str:
    return COLOURS[name][0]


def _f32(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def _least(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.min()) if finite.size else 0.0


def _most(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 1.0


def _print_numbers(fig: Plot, z: np.ndarray, low: float, high: float) -> None:
    """Two decimals in each cell, the first peak of each row in bold."""
    rows, columns = np.indices(z.shape)
    texts, colours = [], []
    for row in z:
        peak = int(np.nanargmax(row)) if np.isfinite(row).any() else -1
        for i, value in enumerate(row):
            text = f"{value:.2f}" if math.isfinite(value) else "—"
            texts.append(f"<b>{text}</b>" if i == peak else text)
            colours.append(ON_DEEP if (value - low) / (high - low) >= 0.5 else ON_PALE)
    fig.add_scatter(
        x=_f32(columns.ravel()),
        y=_f32(rows.ravel()),
        mode="text",
        text=texts,
        textfont={"size": 12, "color": colours},
        hoverinfo="skip",
        showlegend=False,
    )


def _band(fig: Plot, x: np.ndarray, low: Any, high: Any, colour: str) -> None:
    """A filled interval; undefined hook points are left out."""
    low, high = _f32(low), _f32(high)
    known = np.isfinite(low) & np.isfinite(high)
    fig.add_scatter(
        x=np.concatenate([x[known], x[known][::-1]]),
        y=np.concatenate([low[known], high[known][::-1]]),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=_light(colour),
        hoverinfo="skip",
        showlegend=False,
    )


def _accuracy_range(result: ConceptDepth) -> list[float]:
    """The least of all that is drawn, less a little, up to just above 1."""
    values = [result.accuracy_low, result.accuracy, result.shuffled, result.shuffled_low]
    values += [[v] for v in (result.majority, result.bag_of_words) if v is not None]
    least = _least(np.concatenate([_f32(v).ravel() for v in values]))
    return [max(0.0, math.floor((least - 0.03) * 20) / 20), 1.03]


def _marks(fig: Plot, result: ConceptDepth) -> None:
    """Mark the jump and converging points on the curve, each with a labelled line to the axis."""
    wide = len(result.hookpoints) - 1
    taken: float | None = None
    for name, point, hookpoint, symbol, rank in (
        ("jump", result.jump_point, result.jump_hookpoint, "triangle-up", 5),
        ("converging", result.converging_point, result.converging_hookpoint, "square", 6),
    ):
        if point is None or hookpoint is None:
            continue
        at = result.hookpoints.index(hookpoint)
        fig.add_scatter(
            x=_f32([at]),
            y=_f32([result.accuracy[at]]),
            name=f"{name} point",
            legendrank=rank,
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 13,
                "color": _light("paper"),
                "line": {"width": 2.4, "color": _light("curve")},
            },
            hoverinfo="skip",
        )
        # Two labels side by side would overlap on a phone: the second then goes to the foot.
        crowded = taken is not None and abs(at - taken) < 0.5 * wide
        taken = at
        fig.add_vline(
            x=at,
            line={"width": 1, "dash": "2px,3px", "color": _light("soft")},
            layer="below",
            annotation={
                "text": f"{name} {point:.2f}",
                "yref": "paper",
                "y": 0.0 if crowded else 1.0,
                "yanchor": "bottom",
                "xanchor": "right" if at > wide / 2 else "left",
                "showarrow": False,
                "font": {"size": 12, "color": _light("soft")},
            },
        )


def _ticks(hookpoints: Sequence[str]) -> tuple[list[str], str]:
    """Short names for an axis, and the role whose layers are shown by number alone ("" if none)."""
    roles = [h.rpartition(".") for h in hookpoints]
    numbered = [role for role, _, layer in roles if role and layer.isdecimal()]
    role = max(set(numbered), key=numbered.count) if numbered else ""
    if len(set(numbered)) == 1 and len(numbered) >= max(2, len(hookpoints) - 2):
        return [
            t[2] if t[0] == role else label(h, 18) for h, t in zip(hookpoints, roles, strict=True)
        ], role
    return [label(h, 24) for h in hookpoints], ""


def _depth_axis(fig: Plot, hookpoints: Sequence[str]) -> None:
    ticks, role = _ticks(hookpoints)
    step = math.ceil(len(ticks) / 16)
    shown = range(0, len(ticks), step)
    fig.update_xaxes(
        tickmode="array",
        tickvals=_f32(list(shown)),
        ticktext=[ticks[i] for i in shown],
        range=[-0.5, len(ticks) - 0.5],
        title_text=f"depth (i is {label(role, 30)}.i)" if role else "hook point, by depth",
        automargin=True,
    )


def _layout(fig: Plot, title: str, alt: str) -> None:
    """The house style: no box, light grid, legend under the axis where it covers nothing."""
    axis = {
        "gridcolor": _light("line"),
        "linecolor": _light("soft"),
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": _light("soft"),
        "title": {"font": {"size": 13, "color": _light("soft")}},
        "automargin": True,
    }
    fig.update_layout(
        template=None,
        dragmode=False,  # a finger on a figure scrolls the page
        modebar={"remove": ["select2d", "lasso2d"]},
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 16}},
        meta={"alt": alt},
        font={"family": FONT, "size": 13, "color": _light("ink")},
        paper_bgcolor=_light("paper"),
        plot_bgcolor=_light("paper"),
        margin={"l": 50, "r": 16, "t": 56, "b": 50},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
        },
        hoverlabel={"bgcolor": _light("paper"), "font": {"color": _light("ink")}, "namelength": -1},
        xaxis=axis,
        yaxis=axis,
    )


FIGURES: dict[type[Result], Callable[[Any], Plot]] = {ConceptDepth: depth_curve}
"""Result type -> what draws it; subclasses are drawn as their base."""
