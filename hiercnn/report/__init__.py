"""A run folder, or several, → one self-contained HTML page: overview, linked views of the errors, learning, faults."""

from hiercnn.report._report import Report, write_report

__all__ = ["Report", "write_report"]
