"""Studies: each claim of the argument as a question with networks, chips, numbers, a chart and a verdict."""

from reports.studies.catalogue import studies, study
from reports.studies.study import Bench, Chart, Finding, Outside, Study, StudyError, Table

__all__ = ["Bench", "Chart", "Finding", "Outside", "Study", "StudyError", "Table", "studies", "study"]
