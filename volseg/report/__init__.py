"""Pictures and reports of segmented scans."""

from __future__ import annotations

from volseg.report.case import write_case_report
from volseg.report.preview import write_preview

__all__ = ["write_case_report", "write_preview"]
