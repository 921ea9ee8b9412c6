"""Figures as files, PNG and SVG, where kaleido and a Chromium or Chrome are there."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dashboards.figures import FIGURES, figure
from interp.errors import MissingExtra, ParameterError
from interp.results import Result
from interp.runs import slug, whole_files

__all__ = ["save_figures"]

FORMATS = ("png", "svg", "pdf", "jpeg", "webp")
WIDTH, SCALE = 900, 2
"""Pixels of a figure's width, and how many of a file's make one of them."""


def save_figures(
    results: Iterable[Result], folder: str | Path, *, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Draw every result that has a figure into files, in light colours; kaleido makes them.

    Parameters
    ----------
    results : of any kind; those without a figure are left out.
    folder : where ``KIND.NAME.FORMAT`` goes; made if absent.
    formats : of ``png``, ``svg``, ``pdf``, ``jpeg``, ``webp``.

    Returns
    -------
    list
        The files.

    Raises
    ------
    ParameterError
        A format is unknown, or no result has a figure.
    MissingExtra
        kaleido is not installed, or finds no browser.
    StoreError
        A file cannot be written.
    """
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or not formats:
        raise ParameterError(f"formats are of {', '.join(FORMATS)}; got {', '.join(unknown)}.")
    drawn = [r for r in results if any(t in FIGURES for t in type(r).__mro__)]
    if not drawn:
        raise ParameterError("none of these results has a figure to save.")
    folder = Path(folder)
    names = [f"{r.kind}.{slug(r.name)}" for r in drawn]
    figures = [figure(r) for r in drawn]
    files = [folder / f"{name}.{end}" for name in names for end in formats]
    with whole_files(folder) as beside:
        _write([f for f in figures for _ in formats], [beside / file.name for file in files])
    return files


def _write(figures: Sequence[object], files: Sequence[Path]) -> None:
    import plotly.io

    try:
        plotly.io.write_images(figures, list(map(str, files)), width=WIDTH, scale=SCALE)
    except RuntimeError as error:  # plotly has no class of its own for it
        if "kaleido" not in str(error).lower():
            raise
        raise MissingExtra(
            "pictures of figures need kaleido and a Chromium or Chrome: pip install "
            "'interp[pictures]', and set BROWSER_PATH where the browser is not found."
        ) from error
