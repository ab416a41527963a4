"""Charts of results. Axes in, axes out; no display needed.

Each function draws on the axes given, or on a new figure of its own (`ax.figure`), never on pyplot's current one.
`save` writes a chart to a file.
"""

from reports.breakdown_chart import breakdown
from reports.canvas import CHART_SUFFIXES, save
from reports.heat_map_chart import heat_map
from reports.pareto_chart import pareto
from reports.roofline_chart import roofline, roofline_panels
from reports.roofline_markers import marker_area
from reports.roofline_path_chart import roofline_path
from reports.tornado_chart import tornado
from reports.tune_chart import tuned
from reports.utilisation_chart import utilisation

__all__ = [
    "CHART_SUFFIXES",
    "breakdown",
    "heat_map",
    "marker_area",
    "pareto",
    "roofline",
    "roofline_panels",
    "roofline_path",
    "save",
    "tornado",
    "tuned",
    "utilisation",
]
