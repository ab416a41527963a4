"""Charts of results. Axes in, axes out; no display needed.

Each function draws on the axes given, or on a new figure of its own (`ax.figure`), never on pyplot's current one.
`save` writes a chart to a file.
"""

from reports.breakdown_chart import breakdown
from reports.canvas import CHART_SUFFIXES, save
from reports.roofline_chart import roofline, roofline_panels
from reports.roofline_markers import marker_area

__all__ = ["CHART_SUFFIXES", "breakdown", "marker_area", "roofline", "roofline_panels", "save"]
