"""What is wrong with a data set: ``examine(folder)`` reports on every data set in a folder."""

from unifashion.apps.doctor.findings import SetReport, as_json, format_reports
from unifashion.apps.doctor.sets import examine

__all__ = ["SetReport", "as_json", "examine", "format_reports"]
