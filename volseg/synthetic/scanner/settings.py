"""What a user of the synthetic scanner can set: how the patient lies, where the slices are cut, and how their values are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from volseg.errors import InputError
from volseg.geometry import AXIS_CODES
from volseg.synthetic.scan import SyntheticScan

DOWN = {"S": (0, 1, 0), "P": (0, -1, 0), "DR": (-1, 0, 0), "DL": (1, 0, 0)}
"""Patient direction (LPS+) that points to the floor: supine, prone, lying on the right side and on the left (PS3.3 C.7.3.1.1.2)."""

INTO_BORE = {"HF": (0, 0, 1), "FF": (0, 0, -1)}
"""Patient direction (LPS+) that points into the bore: head first, feet first (PS3.3 C.7.3.1.1.2)."""

PATIENT_POSITIONS = tuple(entry + posture for entry in INTO_BORE for posture in DOWN)
"""Defined terms of PatientPosition (0018,5100) for CT and MR."""

LARGEST_TILT = 45.0
"""Largest gantry tilt (degrees); CT gantries stop at 30."""

Numbering = Literal["along", "reversed", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class ScannerSettings:
    """How the synthetic scanner takes and writes a series; the defaults are the plainest one.

    Parameters
    ----------
    patient_position : str, optional
        One of :data:`PATIENT_POSITIONS`: the voxels are then reordered into axial slices as that scanner sees them (:func:`scanner_orientation`); every voxel stays where it is
        in the patient. When omitted the slices are those of the scan's own grid and PatientPosition says HFS.
    numbering : str
        InstanceNumber (0020,0013) grows ``"along"`` the slices, is ``"reversed"``, or ``"shuffled"`` as when it follows the time of acquisition or nothing at all.
    shuffled_names : bool
        File names follow neither position nor InstanceNumber, as in an archive's export.
    tilt_degrees : float
        Gantry tilt (CT): slices are turned about their rows' axis and stay stacked along the table. A positive angle turns the columns towards the start of the stack, as GE
        writes it.
    offsets_mm : tuple of float, optional
        Where the slices lie along the table, from the first (mm), growing; the even steps of the grid when omitted.
    missing : tuple of int
        Slices (index along the table) that never arrived.
    signed : bool
        PixelRepresentation 1.
    bits_stored : int
        12 or 16 of 16 allocated bits.
    overlay_bits : bool
        Put the bits above a BitsStored of 12 to use, as old scanners did for overlays: a reader must mask them.
    padding_value : int, optional
        Stored value painted outside the circle inscribed in each slice, and PixelPaddingValue (0028,0120).
    monochrome1 : bool
        PhotometricInterpretation says that low values are shown white; the values stay the same.
    echo_times_ms : tuple of float
        Echo times (MR): one image a slice for each, in one series. Values decay with :data:`~volseg.synthetic.scanner.pixels.T2_STAR_MS` from the first echo on.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    patient_position: str | None = None
    numbering: Numbering = "along"
    shuffled_names: bool = False
    tilt_degrees: float = 0.0
    offsets_mm: tuple[float, ...] | None = None
    missing: tuple[int, ...] = ()
    signed: bool = False
    bits_stored: int = 16
    overlay_bits: bool = False
    padding_value: int | None = None
    monochrome1: bool = False
    echo_times_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        growing = self.offsets_mm is None or all(b > a for a, b in zip(self.offsets_mm, self.offsets_mm[1:], strict=False))
        low, high = (-(2 ** (self.bits_stored - 1)), 2 ** (self.bits_stored - 1) - 1) if self.signed else (0, 2**self.bits_stored - 1)
        echoes_grow = all(b > a for a, b in zip((0.0, *self.echo_times_ms), self.echo_times_ms, strict=False))
        checks = [
            (self.patient_position in (None, *PATIENT_POSITIONS), f"the patient position must be one of {', '.join(PATIENT_POSITIONS)}, got {self.patient_position!r}"),
            (self.numbering in ("along", "reversed", "shuffled"), f"numbering must be along, reversed or shuffled, got {self.numbering!r}"),
            (abs(self.tilt_degrees) <= LARGEST_TILT, f"the gantry tilt must lie within -{LARGEST_TILT:g}..{LARGEST_TILT:g} degrees, got {self.tilt_degrees:g}"),
            (growing, f"the slice offsets must grow, got {self.offsets_mm}"),
            (self.bits_stored in (12, 16), f"12 or 16 bits are stored, got {self.bits_stored}"),
            (self.bits_stored == 12 or not self.overlay_bits, "overlays need the bits above 12 stored ones; ask for bits_stored=12"),
            (self.padding_value is None or low <= self.padding_value <= high, f"the padding value must lie within {low}..{high}, got {self.padding_value}"),
            (echoes_grow, f"echo times must be positive and grow, got {self.echo_times_ms}"),
        ]
        for holds, message in checks:
            if not holds:
                raise InputError(message)

    def check(self, scan: SyntheticScan) -> None:
        """Raise InputError where the settings do not fit the scan: its modality or its number of slices."""
        count = scan.grid.shape[2] if self.offsets_mm is None else len(self.offsets_mm)
        checks = [
            (not self.tilt_degrees or scan.modality == "CT", f"only a CT gantry tilts, this is {scan.modality}"),
            (not self.echo_times_ms or scan.modality == "MR", f"only MR has echoes, this is {scan.modality}"),
            (all(0 <= k < count for k in self.missing) and len(set(self.missing)) < count, f"the missing slices must be some of 0 to {count - 1}, got {self.missing}"),
        ]
        for holds, message in checks:
            if not holds:
                raise InputError(message)


def scanner_orientation(patient_position: str) -> str:
    """Three letters: where the columns, rows and slices of an axial series run in a patient who lies so.

    The scanner's own view from the foot of the table never changes: columns to the viewer's right, rows to the floor, slices into the bore. What these are in the patient follows
    from how the patient lies (PS3.3 C.7.3.1.1.2): ``"HFS"`` gives ``"LPS"``, ``"FFS"`` ``"RPI"``.

    Raises
    ------
    InputError
        If it is none of :data:`PATIENT_POSITIONS`.
    """
    if patient_position not in PATIENT_POSITIONS:
        msg = f"the patient position must be one of {', '.join(PATIENT_POSITIONS)}, got {patient_position!r}"
        raise InputError(msg)
    down, into = DOWN[patient_position[2:]], INTO_BORE[patient_position[:2]]
    axes = np.array([np.cross(down, into), down, into]) * (-1, -1, 1)
    return "".join(AXIS_CODES[int(np.abs(axis).argmax())][int(axis.sum() > 0)] for axis in axes)
