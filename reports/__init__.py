"""Reports: charts, tables, files for other programs, the command line. The only place for pixels and rounding."""

from reports.arguments import ReportError
from reports.charts import breakdown, roofline, save
from reports.explain import explain
from reports.export import comparison_document, op_rows, result_document
from reports.tables import comparison_table, op_table, summary_table
from reports.units import UnitError, format_quantity, parse_quantity

__all__ = [
    "ReportError",
    "UnitError",
    "breakdown",
    "comparison_document",
    "comparison_table",
    "explain",
    "format_quantity",
    "op_rows",
    "op_table",
    "parse_quantity",
    "result_document",
    "roofline",
    "save",
    "summary_table",
]
