"""SHOW: results as Plotly figures, and as one report that opens from disk with no network."""

from dashboards.compare import compare, depth_points
from dashboards.figures import figure
from dashboards.heat import heatmap
from dashboards.pictures import save_figures
from dashboards.report import Report, summary_html

__all__ = ["Report", "compare", "depth_points", "figure", "heatmap", "save_figures", "summary_html"]
