"""What volseg writes goes through real DICOM stores (dcmtk, Orthanc) and comes back the same, element by element, beside the slices it belongs to."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.dicom_peers import by_uid, dcmqrscp, differences, orthanc, program, run, storescp
from volseg.evaluation.regions.statistics import label_statistics
from volseg.io import load
from volseg.io.dicom.objects.origin import find_referenced_series
from volseg.io.dicom.objects.rtstruct import rtstruct_on_volume, write_rtstruct
from volseg.io.dicom.objects.seg import seg_on_volume, write_seg
from volseg.io.dicom.objects.segments import Algorithm, describe_segments
from volseg.io.dicom.objects.sr import write_sr
from volseg.synthetic import make_ct, write_series

LABELS = {0: "background", 2: "tumor", 7: "bone"}
BONE_HU = 250
ALGORITHM = Algorithm("ct_tumor", "0.1.0", "ab" * 32)


@dataclass(frozen=True)
class Export:
    """A CT series with the SEG, RTSTRUCT and report of a label map."""

    folder: Path
    label: np.ndarray

    @property
    def sent(self) -> dict[str, Dataset]:
        return by_uid(self.folder)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("export")
    scan = make_ct(3, shape=(48, 40, 14), spacing=(4, 4, 6), oblique=12)
    write_series(scan, folder / "scan")
    volume = load(folder / "scan")
    label = np.where(volume.array > BONE_HU, 7, 2 * (scan.label == 1)).astype(np.uint8)
    assert set(np.unique(label)) == set(LABELS)
    segments = describe_segments(LABELS)
    seg = write_seg(label, volume, folder / "scan_seg.dcm", segments=segments, algorithm=ALGORITHM)
    assert seg is not None
    assert write_rtstruct(label, volume, folder / "scan_rtstruct.dcm", segments=segments, algorithm=ALGORITHM)
    measurements = [entry.measurements() for entry in label_statistics(label, volume, LABELS) if entry.value]
    write_sr(measurements, volume, folder / "scan_sr.dcm", segments=segments, algorithm=ALGORITHM, seg=seg)
    return Export(folder, label)


def assert_same(received: dict[str, Dataset], sent: dict[str, Dataset]) -> None:
    """Nothing lost, added or changed; pixels among it."""
    assert sorted(received) == sorted(sent)
    for uid, dataset in sent.items():
        assert differences(dataset, received[uid]) == [], f"{dataset.SOPClassUID.name} {uid}"


def assert_usable(folder: Path, label: np.ndarray) -> None:
    """What an archive gave back, under its own names and all in one folder, finds its scan and means the same."""
    by_modality = {str(ds.Modality): Path(ds.filename) for ds in by_uid(folder).values()}
    volume = load(*find_referenced_series(by_modality["SEG"]))
    np.testing.assert_array_equal(seg_on_volume(by_modality["SEG"], volume), label)
    drawn = rtstruct_on_volume(by_modality["RTSTRUCT"], load(*find_referenced_series(by_modality["RTSTRUCT"])))
    report = pydicom.dcmread(by_modality["SR"])
    groups = [item for item in report.ContentSequence[-1].ContentSequence if item.ValueType == "CONTAINER"]
    reported = [item.MeasuredValueSequence[0].NumericValue for group in groups for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Volume"]
    for value, millilitres in zip((2, 7), reported, strict=True):
        ours, theirs = label == value, drawn == value
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) >= 0.98
        assert float(millilitres) == pytest.approx(ours.sum() * 4 * 4 * 6 / 1000)


def test_a_change_would_be_seen(export: Export) -> None:
    original = next(ds for ds in export.sent.values() if ds.Modality == "SEG")
    changed = deepcopy(original)
    assert differences(original, changed) == []
    changed.PixelData = bytes([original.PixelData[0] ^ 1]) + original.PixelData[1:]
    changed.SegmentSequence[1].SegmentNumber = 3
    changed.InstitutionName = "Elsewhere"
    del changed.StudyID
    assert set(differences(original, changed)) == {"PixelData", "SegmentSequence", "InstitutionName", "StudyID"}


def test_sent_to_storescp(export: Export, tmp_path: Path) -> None:
    sent = export.sent
    with storescp(tmp_path) as port:
        run(program("storescu"), "--required", "--scan-directories", "--recurse", "127.0.0.1", str(port), export.folder)
    assert_same(by_uid(tmp_path), sent)


def test_sent_to_dcmqrscp_and_fetched_back(export: Export, tmp_path: Path) -> None:
    sent = export.sent
    study = next(iter(sent.values())).StudyInstanceUID
    key = ["--study", "--key", "QueryRetrieveLevel=STUDY", "--key", f"StudyInstanceUID={study}"]
    (got := tmp_path / "got").mkdir()
    (moved := tmp_path / "moved").mkdir()
    with dcmqrscp(tmp_path / "archive") as archive:
        titles = ["--aetitle", archive.client, "--call", archive.title]
        there = ["localhost", str(archive.port)]
        run(*archive.enter, program("storescu"), "--required", "--scan-directories", "--recurse", *titles, *there, export.folder)
        run(*archive.enter, program("getscu"), *key, *titles, "--output-directory", got, *there)
        run(*archive.enter, program("movescu"), *key, *titles, "--move", archive.client, "--port", str(archive.client_port), "--output-directory", moved, *there)
    assert_same(by_uid(got), sent)
    assert_same(by_uid(moved), sent)


def test_sent_to_orthanc_and_fetched_back(export: Export, tmp_path: Path) -> None:
    sent = export.sent
    (forwarded := tmp_path / "forwarded").mkdir()
    with storescp(forwarded) as port, orthanc(tmp_path / "orthanc", {"ONWARD": port}) as server:
        answers = [json.loads(server.send("/instances", file.read_bytes())) for file in sorted(export.folder.rglob("*.dcm"))]
        assert [answer["Status"] for answer in answers] == ["Success"] * len(sent)
        (fetched := tmp_path / "fetched").mkdir()
        for answer in answers:
            (fetched / f"{answer['ID']}.dcm").write_bytes(server.send(f"/instances/{answer['ID']}/file"))
        assert len(json.loads(server.send("/studies"))) == len(json.loads(server.send("/patients"))) == 1
        json.loads(server.send("/modalities/ONWARD/store", json.dumps(json.loads(server.send("/studies"))).encode()))
    assert_same(by_uid(fetched), sent)
    assert_same(by_uid(forwarded), sent)
    assert_usable(fetched, export.label)
