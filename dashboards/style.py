"""The look of every figure: colours of both modes, layout, axes and bands.

Colours are the light ones of `COLOURS`; a page in dark mode swaps each for its partner there. They
are told apart with every common kind of colour vision (after Okabe and Ito), and no curve is told
by its colour alone: dashes and markers differ too.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboards.html import label

__all__ = [
    "COLOURS",
    "CONFIG",
    "PARTNERS",
    "SCALE",
    "Plot",
    "band",
    "depth_axis",
    "f32",
    "house",
    "least",
    "light",
    "most",
    "ticks",
]

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
    "bag band": ("rgba(180,83,11,0.13)", "rgba(237,162,78,0.18)"),
    "shuffled": ("#8b3f80", "#d990cc"),
    "shuffled band": ("rgba(139,63,128,0.13)", "rgba(217,144,204,0.18)"),
    "majority": ("#5d656e", "#9aa4ae"),
    "majority band": ("rgba(93,101,110,0.13)", "rgba(154,164,174,0.18)"),
    "untrained": ("#00735a", "#4cc3a2"),
    "untrained band": ("rgba(0,115,90,0.13)", "rgba(76,195,162,0.18)"),
    "features": ("#7a6400", "#cdb44a"),
    "features band": ("rgba(122,100,0,0.13)", "rgba(205,180,74,0.18)"),
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


def light(name: str) -> str:
    """The light one of the two colours of a name."""
    return COLOURS[name][0]


def f32(values: Any) -> np.ndarray:
    """Numbers as four bytes each, which halves a page."""
    return np.asarray(values, dtype=np.float32)


def least(values: np.ndarray) -> float:
    """The least finite value, or 0."""
    finite = values[np.isfinite(values)]
    return float(finite.min()) if finite.size else 0.0


def most(values: np.ndarray) -> float:
    """The greatest finite value, or 1."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 1.0


def band(
    fig: Plot,
    x: np.ndarray,
    low: Any,
    high: Any,
    colour: str,
    *,
    group: str | None = None,
    visible: Any = True,
) -> None:
    """A filled interval; undefined hook points are left out. The legend hides a group as one."""
    low, high = f32(low), f32(high)
    known = np.isfinite(low) & np.isfinite(high)
    fig.add_scatter(
        x=np.concatenate([x[known], x[known][::-1]]),
        y=np.concatenate([low[known], high[known][::-1]]),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=light(colour),
        hoverinfo="skip",
        showlegend=False,
        legendgroup=group,
        visible=visible,
    )


def ticks(hookpoints: Sequence[str]) -> tuple[list[str], str]:
    """Short names for an axis, and the role whose layers are shown by number alone ("" if none)."""
    roles = [h.rpartition(".") for h in hookpoints]
    numbered = [role for role, _, layer in roles if role and layer.isdecimal()]
    role = max(set(numbered), key=numbered.count) if numbered else ""
    if len(set(numbered)) == 1 and len(numbered) >= max(2, len(hookpoints) - 2):
        return [
            t[2] if t[0] == role else label(h, 18) for h, t in zip(hookpoints, roles, strict=True)
        ], role
    return [label(h, 24) for h in hookpoints], ""


def spread(n: int, most: int) -> list[int]:
    """At most so many of n places, evenly apart, the first and the last always."""
    step = max(1, math.ceil(n / most))
    return [i for i in range(0, n - 1, step) if n - 1 - i >= step] + [n - 1] * (n > 0)


def depth_axis(fig: Plot, hookpoints: Sequence[str]) -> None:
    """Name the hook points under the axis, at most sixteen of them."""
    names, role = ticks(hookpoints)
    shown = spread(len(names), 16)
    fig.update_xaxes(
        tickmode="array",
        tickvals=f32(shown),
        ticktext=[names[i] for i in shown],
        range=[-0.5, len(names) - 0.5],
        autotickangles=[0, -30, -90],  # a name that falls to the right is cut off at the last place
        title_text=f"depth (i is {label(role, 30)}.i)" if role else "hook point, by depth",
        automargin=True,
    )


def house(fig: Plot, title: str, alt: str) -> None:
    """The house style: no box, light grid, legend under the axis where it covers nothing."""
    axis = {
        "gridcolor": light("line"),
        "linecolor": light("soft"),
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": light("soft"),
        "title": {"font": {"size": 13, "color": light("soft")}},
        "automargin": True,
    }
    fig.update_layout(
        template=None,
        dragmode=False,  # a finger on a figure scrolls the page
        modebar={"remove": ["select2d", "lasso2d"]},
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 16}},
        meta={"alt": alt},
        font={"family": FONT, "size": 13, "color": light("ink")},
        paper_bgcolor=light("paper"),
        plot_bgcolor=light("paper"),
        margin={"l": 50, "r": 16, "t": 56, "b": 50},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
        },
        hoverlabel={"bgcolor": light("paper"), "font": {"color": light("ink")}, "namelength": -1},
        xaxis=axis,
        yaxis=axis,
    )
