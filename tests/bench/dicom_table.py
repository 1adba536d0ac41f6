"""Every DICOM folder of the real scans as a markdown table: what it is, what volseg makes of it, and how far its voxels are from dcm2niix's and from the published NIfTI.

Run as ``python -m tests.bench.dicom_table [DATA]``; DATA is the folder of the real scans, by default ``$VOLSEG_TEST_DATA``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.uid import UID

from tests.conformance.test_dicom_oracles import dcm2niix_images, dicom_folders
from tests.conftest import real_data
from volseg.errors import InputError
from volseg.geometry import Grid, reorient
from volseg.io.dicom import find_series, read_series
from volseg.io.volume import Volume


def largest_difference(volume: Volume, oracle: nib.Nifti1Image) -> str:
    """Largest absolute difference of the voxels, and of their positions (mm), axis flips aside."""
    ours, our_grid = reorient(volume.array, volume.grid, "RAS")
    theirs, their_grid = reorient(np.asanyarray(oracle.dataobj), Grid(oracle.shape[:3], oracle.affine), "RAS")
    if our_grid.shape != their_grid.shape:
        return f"other shape {their_grid.shape}"
    return f"{np.abs(ours.astype(np.float64) - theirs).max():g} ({our_grid.distance(their_grid):.1e} mm)"


def row(folder: Path, data: Path) -> str:
    """One line of the table."""
    found = [series for series in find_series(folder) if series.is_scan] or find_series(folder)
    first = found[0].slices[0]
    size = " + ".join(f"{len(series.slices)}" for series in found)
    about = f"| {folder.relative_to(data)} | {found[0].modality} | {UID(first.transfer_syntax).name} | {first.columns}x{first.rows}x{size} |"
    try:
        volume = read_series(folder)
    except InputError as error:
        return f"{about} refused: {str(error).partition(': ')[2][:150]} | | |"
    published = folder.parent / f"{folder.name}_ground_truth.nii.gz"
    with tempfile.TemporaryDirectory() as temporary:
        images, _ = dcm2niix_images(folder, Path(temporary))
        niix = largest_difference(volume, nib.load(images[0])) if len(images) == 1 else f"makes {len(images)} images"
    return f"{about} {volume.array.dtype} | {niix} | {largest_difference(volume, nib.load(published)) if published.exists() else 'none published'} |"


def main() -> None:
    """Print the table."""
    data = (Path(sys.argv[1]) if len(sys.argv) > 1 else real_data()) / "dicom"
    print("| series | modality | transfer syntax | matrix | volseg | max abs difference to dcm2niix (positions) | to the published NIfTI (positions) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in dicom_folders(data):
        print(row(data / name, data))


if __name__ == "__main__":
    main()
