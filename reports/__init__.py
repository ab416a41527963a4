"""Reports: charts, tables, files for other programs, the command line. The only place for pixels and rounding."""

from reports.arguments import ReportError
from reports.charts import breakdown, roofline, save
from reports.explain import explain
from reports.export import comparison_document, op_rows, result_document
from reports.measured import compare_rows, compare_table, measured_points
from reports.tables import comparison_table, op_table, summary_table
from reports.units import UnitError, format_quantity, parse_quantity

__all__ = [
    "ReportError",
    "UnitError",
    "breakdown",
    "compare_rows",
    "compare_table",
    "comparison_document",
    "comparison_table",
    "explain",
    "format_quantity",
    "measured_points",
    "op_rows",
    "op_table",
    "parse_quantity",
    "result_document",
    "roofline",
    "save",
    "summary_table",
]
