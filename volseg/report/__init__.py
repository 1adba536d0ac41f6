"""Pictures of segmented scans."""

from __future__ import annotations

from volseg.report.preview import write_preview

__all__ = ["write_preview"]
