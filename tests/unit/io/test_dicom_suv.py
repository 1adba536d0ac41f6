"""Body-weight SUV: the analytic value for every way a header can say what is needed, and a refusal naming the tag where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, PositronEmissionTomographyImageStorage

import volseg
from tests.dicom_factory import Scan, ramp, write
from volseg.errors import InputError

WEIGHT, DOSE, HALF_LIFE = 80.0, 4e8, 6586.2
SLOPES = (0.5, 2.0, 4.0, 1.0, 0.25)


def pet(**tags: object) -> list[Dataset]:
    """A five-slice PET, injected at 10:00, scanned from 11:00, bed after bed; each slice has its own slope."""
    datasets = Scan(ramp()).datasets()
    drug = Dataset()
    drug.RadiopharmaceuticalStartTime, drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "100000", str(DOSE), str(HALF_LIFE)
    nuclide = Dataset()
    nuclide.CodeValue, nuclide.CodingSchemeDesignator, nuclide.CodeMeaning = "C-111A1", "SRT", "18F"
    drug.RadionuclideCodeSequence = [nuclide]
    for k, ds in enumerate(datasets):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        ds.Modality, ds.Units, ds.DecayCorrection, ds.CorrectedImage = "PT", "BQML", "START", ["DECY", "ATTN", "SCAT"]
        ds.SeriesDate, ds.SeriesTime, ds.AcquisitionDate, ds.AcquisitionTime = "20240301", "110000", "20240301", f"11{2 * k:02d}00.25"
        ds.PatientWeight, ds.RescaleSlope = str(WEIGHT), str(SLOPES[k])
        ds.RadiopharmaceuticalInformationSequence = [drug]
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
    return datasets


def drug_of(datasets: list[Dataset]) -> Dataset:
    return datasets[0].RadiopharmaceuticalInformationSequence[0]


def measured() -> np.ndarray:
    """Rescaled values, (i, j, k)."""
    return (ramp() * np.array(SLOPES)[:, None, None]).T


def factor(hours: float) -> float:
    """g/ml per Bq/ml after decay for so many hours."""
    return WEIGHT * 1000 / (DOSE * 0.5 ** (hours * 3600 / HALF_LIFE))


def suv(datasets: list[Dataset], folder: Path) -> volseg.Volume:
    return volseg.load(write(datasets, folder), suv=True)


def test_start_decays_the_dose_to_the_scan(tmp_path: Path) -> None:
    volume = suv(pet(), tmp_path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, measured() * factor(1), rtol=1e-6)
    assert volume.source.details["units"] == "SUVbw"
    record = json.loads(json.dumps(volume.source.details["suv"]))
    assert record["decay_s"] == 3600
    assert (record["weight_kg"], record["dose_bq"], record["half_life_s"]) == (WEIGHT, DOSE, HALF_LIFE)
    assert volume.warnings == ()


def test_without_asking_units_stay(tmp_path: Path) -> None:
    volume = volseg.load(write(pet(), tmp_path))
    assert volume.source.details["units"] == "BQML"
    np.testing.assert_allclose(volume.array, measured(), rtol=1e-6)


def test_admin_does_not_decay(tmp_path: Path) -> None:
    np.testing.assert_allclose(suv(pet(DecayCorrection="ADMIN"), tmp_path).array, measured() * factor(0), rtol=1e-6)


def test_whole_numbered_pet(tmp_path: Path) -> None:
    volume = suv(pet(RescaleSlope="1"), tmp_path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, ramp().T * factor(1), rtol=1e-6)


def test_injected_before_midnight(tmp_path: Path) -> None:
    datasets = pet(SeriesTime="003000", AcquisitionTime="003000")
    drug_of(datasets).RadiopharmaceuticalStartTime = "233000"
    np.testing.assert_allclose(suv(datasets, tmp_path).array, measured() * factor(1), rtol=1e-6)


@pytest.mark.parametrize("clock", ["231500", None])
def test_injection_with_its_date(tmp_path: Path, clock: str | None) -> None:
    datasets = pet(SeriesTime="014500", AcquisitionTime="014500")
    drug = drug_of(datasets)
    drug.RadiopharmaceuticalStartDateTime = "20240229231500.00"
    del drug.RadiopharmaceuticalStartTime
    if clock:
        drug.RadiopharmaceuticalStartTime = clock
    # 2024 has a 29 February: 23:15 to 01:45 is 2.5 h.
    np.testing.assert_allclose(suv(datasets, tmp_path).array, measured() * factor(2.5), rtol=1e-6)


def test_a_series_time_after_the_data_is_replaced(tmp_path: Path) -> None:
    volume = suv(pet(SeriesDate="20240305", SeriesTime="090000"), tmp_path)
    # The earliest acquisition is 11:00:00.25.
    np.testing.assert_allclose(volume.array, measured() * factor(1 + 0.25 / 3600), rtol=1e-6)
    assert any("SeriesTime (0008,0031)" in note for note in volume.warnings)


def test_an_injection_date_after_the_scan_gives_way_to_its_time(tmp_path: Path) -> None:
    datasets = pet()
    drug_of(datasets).RadiopharmaceuticalStartDateTime = "20240302100000"
    volume = suv(datasets, tmp_path)
    np.testing.assert_allclose(volume.array, measured() * factor(1), rtol=1e-6)
    assert any("(0018,1078)" in note for note in volume.warnings)


@pytest.mark.parametrize("kind", ["BW", None])
def test_gml_is_suv_already(tmp_path: Path, kind: str | None) -> None:
    datasets = pet(Units="GML", **({"SUVType": kind} if kind else {}))
    for ds in datasets:
        del ds.RadiopharmaceuticalInformationSequence
    volume = suv(datasets, tmp_path)
    np.testing.assert_allclose(volume.array, measured(), rtol=1e-6)
    assert volume.source.details["units"] == "SUVbw"


def philips(element: int, value: str, **tags: object) -> list[Dataset]:
    datasets = pet(Units="CNTS", **tags)
    for ds in datasets:
        ds.private_block(0x7053, "Philips PET Private Group", create=True).add_new(element, "DS", value)
    return datasets


@pytest.mark.parametrize("implicit", [False, True])
def test_philips_counts(tmp_path: Path, implicit: bool) -> None:
    datasets = philips(0x00, "0.0002")
    for ds in datasets:
        if implicit:
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_allclose(suv(datasets, tmp_path).array, measured() * 0.0002, rtol=1e-6)


def test_philips_counts_by_activity(tmp_path: Path) -> None:
    np.testing.assert_allclose(suv(philips(0x09, "1.75"), tmp_path).array, measured() * 1.75 * factor(1), rtol=1e-6)


def test_suv_and_fix_geometry_together(tmp_path: Path) -> None:
    datasets = pet(RescaleSlope="1")
    del datasets[2]
    for ds in datasets:
        ds.PixelData = np.full((4, 6), 100, np.int16).tobytes()
    volume = volseg.load(write(datasets, tmp_path), suv=True, fix_geometry=True)
    np.testing.assert_allclose(volume.array, 100 * factor(1), rtol=1e-6)
    assert volume.array.shape == (6, 4, 5)


def _drug(**changes: str) -> Callable[[list[Dataset]], None]:
    return lambda datasets: [setattr(drug_of(datasets), keyword, value) for keyword, value in changes.items()] and None


def _without(keyword: str) -> Callable[[list[Dataset]], None]:
    def change(datasets: list[Dataset]) -> None:
        if keyword in drug_of(datasets):
            delattr(drug_of(datasets), keyword)
            return
        for ds in datasets:
            delattr(ds, keyword)

    return change


def _all(**tags: object) -> Callable[[list[Dataset]], None]:
    return lambda datasets: [setattr(ds, keyword, value) for ds in datasets for keyword, value in tags.items()] and None


REFUSALS = [
    ("no weight", _without("PatientWeight"), r"PatientWeight \(0010,1030\) is absent"),
    ("weight in grams", _all(PatientWeight="80000"), r"PatientWeight \(0010,1030\) is 80000 kg, outside"),
    ("no dose", _without("RadionuclideTotalDose"), r"RadionuclideTotalDose \(0018,1074\) is absent"),
    ("dose in MBq", _drug(RadionuclideTotalDose="400"), r"RadionuclideTotalDose \(0018,1074\) is 400 Bq, outside .*another unit was typed"),
    ("no half-life", _without("RadionuclideHalfLife"), r"RadionuclideHalfLife \(0018,1075\) is absent"),
    ("half-life in minutes", _drug(RadionuclideHalfLife="109.77"), r"RadionuclideHalfLife \(0018,1075\) is 109\.77 s; that of 18F is 6586\.2 s"),
    ("no half-life at all", _drug(RadionuclideHalfLife="0"), r"RadionuclideHalfLife \(0018,1075\) is 0 s"),
    ("no injection time", _without("RadiopharmaceuticalStartTime"), r"neither .*\(0018,1078\) nor .*\(0018,1072\)"),
    ("two injection times", _drug(RadiopharmaceuticalStartDateTime="20240301093000"), r"\(0018,1078\) 20240301093000 and .*\(0018,1072\) 100000 contradict"),
    ("injected just after the scan", _drug(RadiopharmaceuticalStartTime="110500"), r"23\.9 h from injection .* do not go with a half-life of 1\.83 h"),
    ("no drug", _without("RadiopharmaceuticalInformationSequence"), r"RadiopharmaceuticalInformationSequence \(0054,0016\) has 0 items"),
    ("no decay correction", _without("DecayCorrection"), r"DecayCorrection \(0054,1102\) is absent"),
    ("not decay-corrected", _all(DecayCorrection="NONE"), r"DecayCorrection \(0054,1102\) is NONE"),
    ("not attenuation-corrected", _all(CorrectedImage=["DECY", "SCAT"]), r"CorrectedImage \(0028,0051\) lacks ATTN"),
    ("nothing corrected", _without("CorrectedImage"), r"CorrectedImage \(0028,0051\) lacks ATTN and DECY"),
    ("no units", _without("Units"), r"Units \(0054,1001\) are absent"),
    ("other units", _all(Units="PROPCNTS"), r"Units \(0054,1001\) are PROPCNTS"),
    ("lean body mass", _all(Units="GML", SUVType="LBM"), r"SUVType \(0054,1006\) is LBM"),
    ("counts of another maker", _all(Units="CNTS"), r"CNTS and neither Philips' SUV factor \(7053,1000\) nor"),
    ("an intercept", _all(RescaleIntercept="-5"), r"RescaleIntercept \(0028,1052\) is not 0"),
    ("no series time", _without("SeriesTime"), r"SeriesTime \(0008,0031\) is absent"),
    ("no acquisition date", _without("AcquisitionDate"), r"AcquisitionDate \(0008,0022\) is absent"),
    ("no PET", _all(Modality="CT"), r"Modality \(0008,0060\) is CT; only a PET"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_what_is_missing_is_named(change: Callable[[list[Dataset]], None], message: str, tmp_path: Path) -> None:
    datasets = pet()
    change(datasets)
    with pytest.raises(InputError, match=rf"\.dcm: SUV cannot be computed: .*{message}") as caught:
        suv(datasets, tmp_path)
    assert "\n" not in str(caught.value)
    assert "Phantom" not in str(caught.value)


@pytest.mark.parametrize(("keyword", "value"), [("SeriesTime", "99"), ("SeriesDate", "2024-13")])
def test_broken_dates_and_times(keyword: str, value: str, tmp_path: Path) -> None:
    datasets = pet()
    for ds in datasets:
        ds[keyword if keyword in ds else "SeriesTime"]._value = value
    with pytest.raises(InputError, match=rf"{keyword} .* is {value}, no (date|time)"):
        suv(datasets, tmp_path)


def test_a_broken_date_and_time(tmp_path: Path) -> None:
    datasets = pet()
    drug_of(datasets).add_new("RadiopharmaceuticalStartDateTime", "DT", "")
    drug_of(datasets)["RadiopharmaceuticalStartDateTime"]._value = "yesterday"
    with pytest.raises(InputError, match=r"\(0018,1078\) is yesterday, no date and time"):
        suv(datasets, tmp_path)


def test_a_broken_private_factor(tmp_path: Path) -> None:
    datasets = philips(0x00, "1")
    for ds in datasets:
        ds.private_block(0x7053, "Philips PET Private Group")[0x00]._value = "much"
    with pytest.raises(InputError, match=r"\(7053,1000\) is no number"):
        suv(datasets, tmp_path)


def test_only_dicom_has_suv(tmp_path: Path) -> None:
    import nibabel as nib

    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "pet.nii.gz")
    with pytest.raises(InputError, match="needs the patient's weight and the injected dose"):
        volseg.load(tmp_path / "pet.nii.gz", suv=True)
