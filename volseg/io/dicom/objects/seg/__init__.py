"""DICOM Segmentation objects (PS3.3 A.51): label maps out to them and back."""

from __future__ import annotations

from volseg.io.dicom.objects.seg.place import seg_on_volume
from volseg.io.dicom.objects.seg.read import SegFrame, SegObject, SegSegment, read_seg
from volseg.io.dicom.objects.seg.write import write_seg

__all__ = ["SegFrame", "SegObject", "SegSegment", "read_seg", "seg_on_volume", "write_seg"]
