"""Files to volumes and back: NIfTI, NRRD, MHA and DICOM.

``load`` reads any of them, ``load_label`` label maps (DICOM Segmentations and RT Structure Sets too),
``discover`` lists the scans under a path, ``output_stems`` names their outputs, ``save_label``, ``save_probability`` and ``save_volume`` write. Importing this package
imports numpy and the standard library only; each format's library is loaded when a file of that format is met.
"""

from __future__ import annotations

from volseg.io.atomic import written_beside
from volseg.io.discover import discover
from volseg.io.labels import load_label
from volseg.io.load import load
from volseg.io.names import output_stems, scan_stem
from volseg.io.save import save_label, save_probability, save_volume
from volseg.io.volume import Source, Volume

__all__ = ["Source", "Volume", "discover", "load", "load_label", "output_stems", "save_label", "save_probability", "save_volume", "scan_stem", "written_beside"]
