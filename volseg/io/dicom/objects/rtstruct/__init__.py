"""DICOM RT Structure Sets: contours written for a label map, and contours read back as one."""

from __future__ import annotations

from volseg.io.dicom.objects.rtstruct.raster import Rasterised, rasterise, rtstruct_on_volume
from volseg.io.dicom.objects.rtstruct.read import Contour, Roi, StructureSet, read_rtstruct
from volseg.io.dicom.objects.rtstruct.write import write_rtstruct

__all__ = ["Contour", "Rasterised", "Roi", "StructureSet", "rasterise", "read_rtstruct", "rtstruct_on_volume", "write_rtstruct"]
