"""SHOW: results as Plotly figures, and as one report that opens from disk with no network."""

from dashboards.figures import figure, heatmap
from dashboards.report import Report, summary_html

__all__ = ["Report", "figure", "heatmap", "summary_html"]
