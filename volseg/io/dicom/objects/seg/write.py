"""Label maps to DICOM Segmentation objects (PS3.3 A.51 and A.90): frames are placed by the positions of the scan's own slices, never by flips."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from volseg import __version__
from volseg.errors import InputError
from volseg.io.atomic import written_beside
from volseg.io.dicom.files.dataset import parse_errors, printable
from volseg.io.dicom.objects.origin import label_on_slices
from volseg.io.dicom.objects.seg.sources import character_set, frame_numbers, prepared_sources
from volseg.io.dicom.objects.segments import Algorithm, Code, Segment
from volseg.io.text import check_output
from volseg.io.volume import Volume

Kind = Literal["binary", "labelmap", "fractional"]
"""BINARY has one bit a voxel and segment and is what viewers know; LABELMAP (Supplement 243, 2024) one number a voxel; FRACTIONAL one byte of probability."""

MAX_FRACTION = 255
"""Maximum Fractional Value (0062,000E): a probability of 1."""

SERIES_OFFSET = 1000
"""Added to the scan's SeriesNumber, so that the result sorts behind the scans in a study list."""

MANUFACTURER = "volseg"

FAMILY = Code("123110", "DCM", "Artificial Intelligence")
"""Algorithm family, PS3.16 CID 7162; the context group has nothing narrower for deep learning."""


def write_seg(
    label: npt.NDArray[Any],
    volume: Volume,
    path: Path,
    *,
    segments: Mapping[int, Segment],
    algorithm: Algorithm,
    kind: Kind = "binary",
    probabilities: Mapping[int, npt.NDArray[Any]] | None = None,
) -> Path | None:
    """Write a label map as a DICOM Segmentation that refers to the scan's slices.

    Parameters
    ----------
    label : ndarray of int, (i, j, k)
        On ``volume.grid``, 0 for background. Not looked at for ``"fractional"``.
    volume : Volume
        The scan, from a DICOM series.
    path : Path
        File to write.
    segments : mapping of int to Segment
        What each label value means; values without a voxel are left out, since viewers stumble over empty segments.
    algorithm : Algorithm
        What made the label map.
    kind : {"binary", "labelmap", "fractional"}
        Segmentation type.
    probabilities : mapping of int to ndarray, (i, j, k), optional
        For ``"fractional"``: probability on ``volume.grid`` by label value; floats from 0 to 1, stored in steps of 1/255, or uint8 in such steps.

    Returns
    -------
    Path or None
        The file; None where there is nothing to write (no voxel is segmented), and then no file was touched.

    Raises
    ------
    InputError
        If the volume is not from DICOM, a header lacks what a segmentation must refer to, a label value has no segment, or probabilities are missing or outside 0 to 1.
    OutputError, WriteError
        If the file cannot be written.
    """
    if kind not in get_args(Kind):
        msg = f"{path}: {kind!r} is no segmentation type; choose one of {', '.join(get_args(Kind))}"
        raise InputError(msg)
    check_output(path)
    planes = _fractions(probabilities, volume, path) if kind == "fractional" else _labels(label, volume)
    values = sorted(planes) if isinstance(planes, dict) else [int(v) for v in _values(planes)]
    undescribed = [v for v in values if v not in segments]
    if undescribed:
        msg = f"{path}: label {', '.join(map(str, undescribed))} is in the label map but not among the described segments ({', '.join(map(str, segments)) or 'none'}); describe it"
        raise InputError(msg)
    if not values:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = _build(planes, [segments[v] for v in values], prepared_sources(volume), algorithm, kind)
        except parse_errors() as error:
            msg = f"{path}: no DICOM-SEG can be made from the headers of {volume.source.path} ({printable(str(error))[:200] or type(error).__name__}); repair them"
            raise InputError(msg) from error
        _name_frames(dataset, frame_numbers(volume))
        with written_beside(path) as partial:
            dataset.save_as(partial, enforce_file_format=True)
    return path


def _labels(label: npt.NDArray[Any], volume: Volume) -> npt.NDArray[Any]:
    on_slices = label_on_slices(label, volume)
    if on_slices.dtype in (np.uint8, np.uint16):
        return on_slices
    low, high = int(on_slices.min()), int(on_slices.max())
    if on_slices.dtype.kind not in "iub" or low < 0 or high > np.iinfo(np.uint16).max:
        msg = f"{volume.source.path}: a label map holds whole numbers from 0 to 65535 (US, PS3.3 C.8.20.4), this one {on_slices.dtype} from {low} to {high}"
        raise InputError(msg)
    return on_slices.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def _values(planes: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    counts = sum((np.bincount(plane.ravel(), minlength=2**16) for plane in planes), np.zeros(2**16, np.int64))
    found = np.flatnonzero(counts)
    return found[found > 0]


def _fractions(probabilities: Mapping[int, npt.NDArray[Any]] | None, volume: Volume, path: Path) -> dict[int, npt.NDArray[np.uint8]]:
    if not probabilities:
        msg = f"{path}: a fractional DICOM-SEG needs the probabilities of each label, and none were given; ask for a binary one"
        raise InputError(msg)
    planes = {}
    for value, array in probabilities.items():
        low, high = float(np.min(array)), float(np.max(array))
        if array.dtype != np.uint8 and not (low >= 0 and high <= 1):
            msg = f"{path}: probabilities of label {value} run from {low:g} to {high:g} instead of 0 to 1; give them after softmax or sigmoid"
            raise InputError(msg)
        on_slices = label_on_slices(array, volume)
        plane = on_slices if array.dtype == np.uint8 else np.rint(on_slices * np.float32(MAX_FRACTION)).astype(np.uint8)
        if plane.any():
            planes[int(value)] = plane
    return planes


def _build(planes: Any, described: Sequence[Segment], sources: Sequence[Any], algorithm: Algorithm, kind: Kind) -> Any:
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian

    name, version = _short(algorithm.name, "unnamed"), _short(algorithm.version, "unknown")
    numbers = [s.value if kind == "labelmap" else n for n, s in enumerate(described, 1)]
    first = sources[0]
    dataset = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=_pixels(planes, described, kind),
        segmentation_type=kind.upper(),
        segment_descriptions=[_describe(s, number, algorithm) for s, number in zip(described, numbers, strict=True)],
        series_instance_uid=hd.UID(),
        series_number=_series_number(first),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=name,
        software_versions=__version__,
        device_serial_number=algorithm.weights_sha256[:16] or version,
        max_fractional_value=MAX_FRACTION,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="SEGMENTATION",
        content_description=_short(f"{name} {version}"),
        content_creator_name="volseg^",
        series_description=_short(f"volseg {name} {version}"),
        specific_character_set=None,
    )
    chosen = character_set(first, [name, version, *(s.name for s in described), *(c.meaning for s in described for c in _codes(s))])
    if chosen is not None:
        dataset.SpecificCharacterSet = chosen
    if kind == "fractional":
        _put_fractions(dataset, [planes[s.value] for s in described], sources)
    return dataset


def _pixels(planes: Any, described: Sequence[Segment], kind: Kind) -> npt.NDArray[Any]:
    """What highdicom is given: segment numbers; for fractions only where they are not 0, because it would sort all floats to check them."""
    if kind == "labelmap":
        return np.ascontiguousarray(planes)
    if kind == "fractional":
        return np.stack([planes[s.value] > 0 for s in described], axis=-1)
    if [s.value for s in described] == list(range(1, len(described) + 1)):
        return np.ascontiguousarray(planes)
    number_of = np.zeros(int(max(s.value for s in described)) + 1, np.uint8 if len(described) < 256 else np.uint16)
    number_of[[s.value for s in described]] = np.arange(1, len(described) + 1)
    numbered: npt.NDArray[Any] = number_of[planes]
    return numbered


def _put_fractions(dataset: Any, planes: Sequence[npt.NDArray[np.uint8]], sources: Sequence[Any]) -> None:
    """Replace the frames' pixels by the probabilities, found by segment number and position."""
    positions = np.array(_source_positions(sources), dtype=np.float64)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = []
    for item in dataset.PerFrameFunctionalGroupsSequence:
        identified = item if "SegmentIdentificationSequence" in item else shared
        number = identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        k = int(np.linalg.norm(positions - position, axis=1).argmin())
        frames.append(np.ascontiguousarray(planes[number - 1][k]).tobytes())
    content = b"".join(frames)
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    # Probabilities of neighbouring segments are above 0 in the same voxels; whether that is an overlap is for the reader to say.
    dataset.SegmentsOverlap = "UNDEFINED" if len(planes) > 1 else "NO"


def _source_positions(sources: Sequence[Any]) -> list[Any]:
    if "PerFrameFunctionalGroupsSequence" in sources[0]:
        return [item.PlanePositionSequence[0].ImagePositionPatient for item in sources[0].PerFrameFunctionalGroupsSequence]
    return [s.ImagePositionPatient for s in sources]


def _describe(segment: Segment, number: int, algorithm: Algorithm) -> Any:
    import highdicom as hd

    identification = hd.AlgorithmIdentificationSequence(
        name=_short(algorithm.name, "unnamed"),
        family=_concept(FAMILY),
        version=_short(algorithm.version, "unknown"),
        source=MANUFACTURER,
        parameters={"weights_sha256": algorithm.weights_sha256} if algorithm.weights_sha256 else None,
    )
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=_short(segment.name, f"label {segment.value}"),
        segmented_property_category=_concept(segment.category),
        segmented_property_type=_concept(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=identification,
        tracking_uid=hd.UID(),
        tracking_id=f"{_short(segment.name, 'segment')} (label {segment.value})",
        anatomic_regions=None if segment.anatomic_region is None else [_concept(segment.anatomic_region)],
        display_color=None if segment.rgb is None else hd.color.CIELabColor.from_rgb(*segment.rgb),
    )
    if segment.type_modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [_concept(segment.type_modifier)]
    return description


def _codes(segment: Segment) -> list[Code]:
    return [c for c in (segment.category, segment.type, segment.type_modifier, segment.anatomic_region) if c is not None]


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _series_number(source: Any) -> int:
    try:
        number = int(source.get("SeriesNumber") or 0)
    except parse_errors():
        number = 0
    # VR IS ends at 2^31 - 1 (PS3.5 6.2).
    return SERIES_OFFSET + (number if 0 <= number < 2**31 - SERIES_OFFSET else 0)


def _short(text: str, otherwise: str = "") -> str:
    """Text that fits VR LO: one line of at most 64 characters without backslash (PS3.5 6.2)."""
    return printable(text).replace("\\", "/")[:64].strip() or otherwise


def _name_frames(dataset: Any, numbers: list[int] | None) -> None:
    """Refer to the frames of a multi-frame source by their true numbers; the headers given to highdicom held only the volume's."""
    if numbers is None:
        return
    for item in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in item.DerivationImageSequence:
            for source in derivation.SourceImageSequence:
                source.ReferencedFrameNumber = numbers[int(source.ReferencedFrameNumber) - 1]
