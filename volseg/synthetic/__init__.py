"""Made-up CT and MR scans with ground truth, as arrays, NIfTI, DICOM series and labelled datasets. Everything written says that it is synthetic."""

from __future__ import annotations

from volseg.synthetic.dataset import make_scan, write_dataset
from volseg.synthetic.extremity import make_ct
from volseg.synthetic.head import make_mr
from volseg.synthetic.sample import write_sample
from volseg.synthetic.scan import SyntheticScan
from volseg.synthetic.scanner import ScannerSettings, write_multiframe, write_series

__all__ = ["ScannerSettings", "SyntheticScan", "make_ct", "make_mr", "make_scan", "write_dataset", "write_multiframe", "write_sample", "write_series"]
