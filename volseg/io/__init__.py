"""Files to volumes and back: NIfTI, NRRD, MHA and DICOM."""

from __future__ import annotations

from volseg.io.volume import Source, Volume

__all__ = ["Source", "Volume"]
