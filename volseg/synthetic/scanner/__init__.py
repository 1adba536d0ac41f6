"""A synthetic scanner: phantoms as the DICOM objects that CT, MR and PET scanners write, in all their ways."""

from __future__ import annotations

from volseg.synthetic.scanner.multiframe import write_multiframe
from volseg.synthetic.scanner.planes import Planes, slice_planes
from volseg.synthetic.scanner.series import write_series
from volseg.synthetic.scanner.settings import PATIENT_POSITIONS, ScannerSettings, scanner_orientation

__all__ = ["PATIENT_POSITIONS", "Planes", "ScannerSettings", "scanner_orientation", "slice_planes", "write_multiframe", "write_series"]
