"""A plan written out as a complete MONAI bundle."""

from __future__ import annotations

from volseg.planning.bundle.write import bundle_files, write_bundle

__all__ = ["bundle_files", "write_bundle"]
