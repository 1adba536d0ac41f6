"""Names that tell the cases of a dataset apart."""

from __future__ import annotations

from collections.abc import Sequence

from volseg.dataset.datalist import Case
from volseg.io import output_stems


def name_cases(cases: Sequence[Case]) -> list[str]:
    """A name for each case: the stem of its first image, with folders in front where files are named alike (``case_07/imaging.nii.gz``). Cases of one image share its name."""
    scans = list(dict.fromkeys(case.images[0].resolve() for case in cases))
    stems = dict(zip(scans, output_stems(scans), strict=True))
    return [stems[case.images[0].resolve()] for case in cases]
