"""Body-weight SUV (g/ml) of a PET series: activity concentration (Bq/ml) x patient weight (g) / injected activity (Bq) at the moment the images are decay-corrected to.

The recipe is that of QIBA's vendor-neutral pseudo-code for SUV calculation (QIBA FDG-PET/CT Profile, appendix G) with the attributes of DICOM PS3.3 C.8.9. Whatever it needs and a
header lacks, or says implausibly, is refused with the tag: a SUV that is wrong by a factor looks like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from volseg.errors import InputError
from volseg.io.dicom.files.archive import Member
from volseg.io.dicom.files.dataset import TagError, damaged, open_dataset, parse_errors, text_of
from volseg.io.dicom.series import Series

SUV_UNITS = "SUVbw"
"""``details["units"]`` of a converted volume: body-weight SUV, g/ml."""

PLAUSIBLE_DOSE_BQ = (1e5, 1e11)
"""RadionuclideTotalDose is in Bq: people get some 10 MBq to 1 GBq (3e8 for FDG, EANM guideline 2015). A dose typed in MBq (300) or kBq (300 000 is in range and cannot be told)."""

PLAUSIBLE_WEIGHT_KG = (0.2, 700.0)
"""From the smallest newborn to beyond the heaviest person on record (635 kg); a weight in grams lies above."""

MAX_HALF_LIVES = 10.0
"""Between injection and scan: later than this a thousandth of the activity is left and nobody scans, so a date or clock is wrong."""

F18_HALF_LIFE_S = 6586.2
"""109.77 minutes (Decay Data Evaluation Project); a half-life in minutes or of another nuclide differs by far more than 2 %."""

F18_CODES = ("C-111A1", "77004003")
"""18F in SNOMED RT and SNOMED CT (PS3.16 CID 4020)."""

PHILIPS_SUV, PHILIPS_ACTIVITY = (0x7053, 0x00), (0x7053, 0x09)
"""Philips private elements (7053,xx00): counts to SUVbw, and (7053,xx09): counts to Bq/ml (QIBA pseudo-code)."""

ACQUISITION = ("AcquisitionDate", "AcquisitionTime")

SAME_CLOCK = timedelta(minutes=1)
"""Two elements for one injection may differ by rounding to the minute."""

DAY = timedelta(days=1)


@dataclass(frozen=True)
class SuvScale:
    """What turns a volume into SUV.

    Parameters
    ----------
    factor : float
        Multiplies rescaled values; 1 where they are SUV already.
    record : dict
        What was used, for JSON: ``method`` and, where they were needed, ``weight_kg``, ``dose_bq``, ``half_life_s``, ``decay_s`` (from injection to the time of decay correction),
        ``decayed_dose_bq``.
    notes : tuple of str
        What a user should know.
    """

    factor: float
    record: dict[str, Any]
    notes: tuple[str, ...] = ()


def suv_scale(series: Series) -> SuvScale:
    """Read what SUV needs from the headers of a PET series.

    Parameters
    ----------
    series : Series
        A PET; the first slice's header is read in full, and the acquisition time of every slice where decay matters.

    Returns
    -------
    SuvScale

    Raises
    ------
    InputError
        If it is no PET, or an element is missing, implausible or contradicts another; the message names the file and the tag.
    """
    first = series.slices[0]
    try:
        if series.modality != "PT":
            msg = f"Modality (0008,0060) is {series.modality or 'absent'}; only a PET (PT) has SUV"
            raise TagError(msg)
        dataset = _read(first.member)
        if text_of(dataset, "Units") in ("BQML", "CNTS") and any(s.intercept != 0 for s in series.slices):
            msg = "RescaleIntercept (0028,1052) is not 0, as it must be for PET (PS3.3 C.8.9.4)"
            raise TagError(msg)
        members = dict.fromkeys(s.member for s in series.slices)
        return scale_of(dataset, lambda: [_moment(_read(member, ACQUISITION), *ACQUISITION) for member in members])
    except TagError as reason:
        msg = f"{first.member}: SUV cannot be computed: {reason}; repair the header, or take the values as they are (volseg dicom convert without --suv makes a NIfTI of them)"
        raise InputError(msg) from None
    except parse_errors() as error:
        raise damaged(first.member, error) from error


def scale_of(dataset: Any, acquisitions: Callable[[], Sequence[datetime]]) -> SuvScale:
    """Compute the factor of one header.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Header of any slice of the series.
    acquisitions : callable
        Gives the acquisition times of all slices; called only where decay matters.

    Raises
    ------
    TagError
        If an element is missing, implausible or contradicts another.
    """
    units = text_of(dataset, "Units")
    if units == "GML":
        kind = text_of(dataset, "SUVType")
        if kind not in ("", "BW"):
            msg = f"SUVType (0054,1006) is {kind}, not BW: it is normalised to something else than body weight"
            raise TagError(msg)
        return SuvScale(1.0, {"method": "Units (0054,1001) are GML already"})
    if units not in ("BQML", "CNTS"):
        msg = f"Units (0054,1001) are {units or 'absent'}; SUV follows from BQML, GML, or CNTS with Philips' private factors"
        raise TagError(msg)
    _check_corrections(dataset)
    if units == "BQML":
        return _from_activity(dataset, acquisitions, 1.0, "Units (0054,1001) are BQML")
    factor = _philips(dataset, PHILIPS_SUV)
    if factor:
        return SuvScale(factor, {"method": "Philips counts to SUV (7053,1000)"})
    activity = _philips(dataset, PHILIPS_ACTIVITY)
    if activity:
        return _from_activity(dataset, acquisitions, activity, "Philips counts to Bq/ml (7053,1009)")
    msg = "Units (0054,1001) are CNTS and neither Philips' SUV factor (7053,1000) nor its activity factor (7053,1009) is there"
    raise TagError(msg)


def _check_corrections(dataset: Any) -> None:
    done = text_of(dataset, "CorrectedImage").split("\\")
    missing = [name for name in ("ATTN", "DECY") if name not in done]
    if missing:
        msg = f"CorrectedImage (0028,0051) lacks {' and '.join(missing)} (attenuation ATTN, decay DECY)"
        raise TagError(msg)


def _philips(dataset: Any, element: tuple[int, int]) -> float | None:
    from pydicom.tag import Tag

    group, number = element
    for block in range(0x10, 0x100):
        creator = dataset.get(Tag(group, block))
        if creator is not None and str(creator.value).startswith("Philips PET Private"):
            found = dataset.get(Tag(group, block << 8 | number))
            if found is None or found.value in (None, "", b""):
                return None
            # An implicit VR file does not say what kind of value a private element has.
            value = found.value.decode("ascii", "replace").strip(" \0") if isinstance(found.value, bytes) else found.value
            try:
                return max(float(value), 0.0)
            except (TypeError, ValueError) as error:
                msg = f"Philips' private factor ({group:04X},{block:02X}{number:02X}) is no number"
                raise TagError(msg) from error
    return None


def _from_activity(dataset: Any, acquisitions: Callable[[], Sequence[datetime]], to_bqml: float, method: str) -> SuvScale:
    weight = _number(dataset, "PatientWeight")
    _check_range(weight, PLAUSIBLE_WEIGHT_KG, "PatientWeight (0010,1030)", "kg")
    drug = _radiopharmaceutical(dataset)
    dose = _number(drug, "RadionuclideTotalDose")
    _check_range(dose, PLAUSIBLE_DOSE_BQ, "RadionuclideTotalDose (0018,1074)", "Bq")
    correction = text_of(dataset, "DecayCorrection")
    record: dict[str, Any] = {"method": method, "decay_correction": correction, "weight_kg": weight, "dose_bq": dose}
    notes: tuple[str, ...] = ()
    if correction == "START":
        half_life = _half_life(drug)
        decay, notes = _decay_seconds(dataset, drug, acquisitions(), half_life)
        record |= {"half_life_s": half_life, "decay_s": decay}
        dose *= 2 ** (-decay / half_life)
    elif correction != "ADMIN":
        msg = f"DecayCorrection (0054,1102) is {correction or 'absent'}, not START (to the scan) or ADMIN (to the injection)"
        raise TagError(msg)
    record["decayed_dose_bq"] = dose
    return SuvScale(to_bqml * weight * 1000.0 / dose, record, notes)


def _radiopharmaceutical(dataset: Any) -> Any:
    items = dataset.get("RadiopharmaceuticalInformationSequence") or []
    if len(items) != 1:
        msg = f"RadiopharmaceuticalInformationSequence (0054,0016) has {len(items)} items instead of one"
        raise TagError(msg)
    return items[0]


def _check_range(value: float, limits: tuple[float, float], name: str, unit: str) -> None:
    if not limits[0] <= value <= limits[1]:
        msg = f"{name} is {value:g} {unit}, outside {limits[0]:g} to {limits[1]:g}: another unit was typed"
        raise TagError(msg)


def _half_life(drug: Any) -> float:
    value = _number(drug, "RadionuclideHalfLife")
    codes = [text_of(item, "CodeValue") for item in drug.get("RadionuclideCodeSequence") or []]
    if value <= 0 or (any(code in F18_CODES for code in codes) and abs(value / F18_HALF_LIFE_S - 1) > 0.02):
        msg = f"RadionuclideHalfLife (0018,1075) is {value:g} s" + (f"; that of 18F is {F18_HALF_LIFE_S:g} s" if value > 0 else "")
        raise TagError(msg)
    return value


def _decay_seconds(dataset: Any, drug: Any, acquisitions: Sequence[datetime], half_life: float) -> tuple[float, tuple[str, ...]]:
    """Seconds from injection to the moment that ``START`` means."""
    earliest = min(acquisitions)
    scan = _moment(dataset, "SeriesDate", "SeriesTime")
    notes: tuple[str, ...] = ()
    if scan > earliest:
        # A series made again later has a later SeriesTime than its data.
        notes = (f"SUV: SeriesTime (0008,0031) {scan} is after the first acquisition {earliest}, which was taken as the time of decay correction",)
        scan = earliest
    injection, note = _injection(drug, scan)
    seconds = (scan - injection).total_seconds()
    if not 0 <= seconds <= MAX_HALF_LIVES * half_life:
        tags = "RadiopharmaceuticalStartTime (0018,1072), StartDateTime (0018,1078), SeriesTime (0008,0031)"
        apart = f"{seconds / 3600:.1f} h from injection ({injection}) to the time of decay correction ({scan})"
        msg = f"{apart} do not go with a half-life of {half_life / 3600:.2f} h ({tags})"
        raise TagError(msg)
    return seconds, notes + note


def _injection(drug: Any, scan: datetime) -> tuple[datetime, tuple[str, ...]]:
    """When the activity was measured and injected, and a warning where the header had to be read against its word."""
    whole, clock = text_of(drug, "RadiopharmaceuticalStartDateTime"), text_of(drug, "RadiopharmaceuticalStartTime")
    dated = _date_time(whole) if whole else None
    if not clock:
        if dated is None:
            msg = "has neither RadiopharmaceuticalStartDateTime (0018,1078) nor RadiopharmaceuticalStartTime (0018,1072)"
            raise TagError(msg)
        return dated, ()
    at = datetime.combine(scan.date(), _clock(drug, "RadiopharmaceuticalStartTime"))
    # The time has no date: injected before midnight and scanned after it.
    undated = at - DAY if at > scan else at
    if dated is None or dated == undated:
        return undated, ()
    if min((dated - undated) % DAY, (undated - dated) % DAY) > SAME_CLOCK:
        msg = f"RadiopharmaceuticalStartDateTime (0018,1078) {whole} and RadiopharmaceuticalStartTime (0018,1072) {clock} contradict each other"
        raise TagError(msg)
    if dated > scan:
        # De-identification often shifts dates unevenly and leaves the clock alone.
        return undated, (f"SUV: RadiopharmaceuticalStartDateTime (0018,1078) {whole} is after the scan; its time of day was used on the scan's date",)
    return dated, ()


def _moment(dataset: Any, date_keyword: str, time_keyword: str) -> datetime:
    from pydicom.valuerep import DA

    text = text_of(dataset, date_keyword)
    try:
        day: date | None = DA(text)
    except ValueError:
        day = None
    if day is None:
        msg = f"{_named(date_keyword)} is {text or 'absent'}, no date"
        raise TagError(msg)
    return datetime.combine(day, _clock(dataset, time_keyword))


def _clock(dataset: Any, keyword: str) -> time:
    from pydicom.valuerep import TM

    text = text_of(dataset, keyword)
    try:
        clock: time | None = TM(text)
    except ValueError:
        clock = None
    if clock is None:
        msg = f"{_named(keyword)} is {text or 'absent'}, no time"
        raise TagError(msg)
    return clock.replace(tzinfo=None)


def _date_time(text: str) -> datetime:
    from pydicom.valuerep import DT

    try:
        moment: datetime | None = DT(text)
    except (ValueError, TypeError):
        moment = None
    if moment is None:
        msg = f"RadiopharmaceuticalStartDateTime (0018,1078) is {text}, no date and time"
        raise TagError(msg)
    # Dates and times of the series have no offset either.
    return datetime.combine(moment.date(), moment.time())


def _number(dataset: Any, keyword: str) -> float:
    text = text_of(dataset, keyword)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"{_named(keyword)} is {text or 'absent'}, no number"
        raise TagError(msg)
    return value


def _named(keyword: str) -> str:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    return f"{keyword} {Tag(tag_for_keyword(keyword) or 0)}".replace(", ", ",")


def _read(member: Member, keywords: Sequence[str] | None = None) -> Any:
    """A header without its pixels: all of it, or only the named elements."""
    import pydicom

    if keywords is not None:
        return open_dataset(member, pixels=False, keywords=keywords)
    with member.open() as stream:
        return pydicom.dcmread(stream, force=True, stop_before_pixels=True)
