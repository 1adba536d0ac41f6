"""Label maps to RT Structure Sets (DICOM PS3.3 A.19): closed planar contours on the scan's own slices, placed by each slice's plane equation."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.geometry import FloatArray
from volseg.io.atomic import written_beside
from volseg.io.dicom.files.header import SliceHeader
from volseg.io.dicom.objects.origin import label_on_slices, series_of, slice_affine
from volseg.io.dicom.objects.rtstruct.contours import outlines
from volseg.io.dicom.objects.rtstruct.modules import LONG, SHORT, code_item, fit, interpreted_type, new_structure_set, reference, sources_of, values_present
from volseg.io.dicom.objects.rtstruct.read import LABEL_MARK
from volseg.io.dicom.objects.segments import Algorithm, Segment
from volseg.io.text import check_output
from volseg.io.volume import Volume

COORDINATE_DECIMALS = 4
"""Decimals of a coordinate: exact to 0.00005 mm, and any place within a kilometre takes 12 of the 16 characters of a decimal string (PS3.5 6.2)."""

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
"""For segments without a colour, by label value: the set of Okabe and Ito (2008) without black, as in volseg's previews."""


def write_rtstruct(label: npt.NDArray[Any], volume: Volume, path: Path, *, segments: Mapping[int, Segment], algorithm: Algorithm) -> Path | None:
    """Write a label map as an RT Structure Set that refers to the scan's slices.

    Parameters
    ----------
    label : ndarray of int, (i, j, k)
        On ``volume.grid``, 0 for background.
    volume : Volume
        The scan, from a DICOM series.
    path : Path
        File to write.
    segments : mapping of int to Segment
        What each label value means.
    algorithm : Algorithm
        What made the label map.

    Returns
    -------
    Path or None
        The file; None where no voxel on a slice is segmented, and then no file was touched.

    Raises
    ------
    InputError
        If the volume is not from DICOM, its files have gone or lack what a structure set refers to, or a label value is no whole number or has no segment.
    GeometryError
        If the label map's shape is not the volume's.
    OutputError, WriteError
        If the file cannot be written.

    Notes
    -----
    One ROI per label value with voxels; its ROI Number is the value, and so says its ROI Description, from which :func:`~volseg.io.dicom.objects.rtstruct.rtstruct_on_volume` gives
    the same label map back, voxel for voxel. Outlines follow pixel borders, holes are cut in by the keyhole technique; :mod:`~volseg.io.dicom.objects.rtstruct.contours` says why.
    Contours
    are ``CLOSED_PLANAR``, LPS+ mm. Implicit VR Little Endian: explicit VR has no room for contours above 64 kB in a decimal string (PS3.5 7.1.2).
    """
    from volseg import __version__

    if not np.issubdtype(label.dtype, np.integer):
        msg = f"{path}: the label map's values are {label.dtype}, not whole numbers; give one label value per voxel"
        raise InputError(msg)
    stack = np.ascontiguousarray(label_on_slices(label, volume))
    present = values_present(_voxel_counts(stack), segments, path)
    if not present:
        return None
    check_output(path)
    with warnings.catch_warnings():
        # pydicom warns of every oddity that a scan's header hands down.
        warnings.simplefilter("ignore")
        sources = sources_of(volume)
        structure = new_structure_set(volume, sources, algorithm, __version__)
        by_member: dict[Any, Any] = {}
        for header in series_of(volume).slices:
            if header.member not in by_member:
                by_member[header.member] = sources[len(by_member)]
        _add_rois(structure, stack, [segments[value] for value in present], algorithm, series_of(volume).slices, by_member)
        _save(structure, path)
    return path


def _voxel_counts(stack: npt.NDArray[np.integer[Any]]) -> Counter[int]:
    # Slice by slice, since sorting a whole scan takes seconds and eight times its memory.
    counts: Counter[int] = Counter()
    for image in stack:
        found, pixels = np.unique(image, return_counts=True)
        counts.update(dict(zip(found.tolist(), pixels.tolist(), strict=True)))
    return counts


def _add_rois(
    structure: Any, stack: npt.NDArray[np.integer[Any]], segments: list[Segment], algorithm: Algorithm, slices: tuple[SliceHeader, ...], sources: Mapping[Any, Any]
) -> None:
    from pydicom.dataset import Dataset

    structure.StructureSetROISequence, structure.ROIContourSequence, structure.RTROIObservationsSequence = [], [], []
    for segment in segments:
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ReferencedFrameOfReferenceUID = segment.value, structure.FrameOfReferenceUID
        roi.ROIName = fit(segment.name, LONG)
        weights = f", weights SHA-256 {algorithm.weights_sha256}" if algorithm.weights_sha256 else ""
        roi.ROIDescription = f"{LABEL_MARK} {segment.value}: {fit(algorithm.name, LONG)} {fit(algorithm.version, LONG)}{weights}"
        roi.ROIGenerationAlgorithm, roi.ROIGenerationDescription = "AUTOMATIC", fit(f"{algorithm.name} {algorithm.version}", LONG)
        drawn.ReferencedROINumber = segment.value
        drawn.ROIDisplayColor = list(segment.rgb or COLOURS[(segment.value - 1) % len(COLOURS)])
        drawn.ContourSequence = list(_contour_items(stack == segment.value, slices, sources))
        observed.ObservationNumber, observed.ReferencedROINumber = segment.value, segment.value
        observed.ROIObservationLabel = fit(segment.name, SHORT)
        observed.RTROIIdentificationCodeSequence = [code_item(segment)]
        observed.RTROIInterpretedType, observed.ROIInterpreter = interpreted_type(segment), ""
        structure.StructureSetROISequence.append(roi)
        structure.ROIContourSequence.append(drawn)
        structure.RTROIObservationsSequence.append(observed)


def _contour_items(mask: npt.NDArray[np.bool_], slices: tuple[SliceHeader, ...], sources: Mapping[Any, Any]) -> Iterator[Any]:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    data_tag = Tag("ContourData")
    number = 0
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        to_lps = slice_affine(slices[k])
        image = reference(sources[slices[k].member], slices[k].frame)
        for polygon in outlines(mask[k]):
            number += 1
            item = Dataset()
            item.ContourImageSequence = [image]
            item.ContourGeometricType, item.NumberOfContourPoints, item.ContourNumber = "CLOSED_PLANAR", len(polygon), number
            # Bytes are written as they are, and implicit VR names no VR; of a decimal string (DS, what this is) pydicom would make an object per number.
            data = _decimal_strings(polygon @ to_lps[:3, :2].T + to_lps[:3, 3])
            item[data_tag] = DataElement(data_tag, "OB", data)
            yield item


def _decimal_strings(points: FloatArray) -> bytes:
    text = "\\".join([f"%.{COORDINATE_DECIMALS}f"] * points.size) % tuple(points.ravel().tolist())
    # Every element has an even length (PS3.5 7.1.1); text is padded with a space.
    return (text + " " * (len(text) % 2)).encode("ascii")


def _save(structure: Any, path: Path) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian

    structure.file_meta = FileMetaDataset()
    structure.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    structure.file_meta.MediaStorageSOPClassUID, structure.file_meta.MediaStorageSOPInstanceUID = structure.SOPClassUID, structure.SOPInstanceUID
    with written_beside(path) as partial:
        structure.save_as(partial, enforce_file_format=True)
