"""What is wrong with a data set: ``examine(folder)`` looks at everything that lies in a folder and says what it found."""

from unifashion.apps.doctor.findings import SetReport, as_json, format_reports
from unifashion.apps.doctor.sets import examine

__all__ = ["SetReport", "as_json", "examine", "format_reports"]
