"""Time and memory of reading one CT series: volseg with all its checks, SimpleITK's GDCM reader, and dicom2nifti.

    python tests/bench/read_dicom.py [--syntax explicit|implicit|rle|jpegls|jpeg2000] [--slices 500] [--rounds 5]

Writes a synthetic series into a temporary folder, then runs each reader as a whole process (interpreter and imports included), in turn, several rounds. Prints medians of seconds
and of the peak of resident memory, whole and over that of a process which only imports, and beside the volume in int16. The files are in the page cache, so no disk is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

SIZE = 512

SYNTAXES = {"explicit": ExplicitVRLittleEndian, "implicit": ImplicitVRLittleEndian, "rle": RLELossless, "jpegls": JPEGLSLossless, "jpeg2000": JPEG2000Lossless}

MEASURE = """
import json, os, resource, sys
def report():
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({"peak_mib": peak / 1024, **facts}))
facts = {}
"""

READERS = {
    "volseg": (
        "import volseg, volseg.io.dicom.read",
        "v = volseg.load(sys.argv[1]); facts = {'dtype': str(v.array.dtype), 'sum': int(v.array.sum(dtype='int64'))}",
    ),
    "SimpleITK": (
        "import SimpleITK as sitk",
        "r = sitk.ImageSeriesReader(); r.SetFileNames(r.GetGDCMSeriesFileNames(sys.argv[1])); image = r.Execute(); v = sitk.GetArrayViewFromImage(image); "
        "facts = {'dtype': str(v.dtype), 'sum': int(v.sum(dtype='int64'))}",
    ),
    "dicom2nifti": (
        "import dicom2nifti, dicom2nifti.convert_dicom as c, numpy",
        "v = c.dicom_series_to_nifti(sys.argv[1], None, reorient_nifti=False)['NII']; d = numpy.asanyarray(v.dataobj); "
        "facts = {'dtype': str(d.dtype), 'sum': int(d.sum(dtype='int64'))}",
    ),
}
"""Imports, and the reading itself; the sum shows that all three read the same values."""


def write_series(folder: Path, slices: int, syntax: str) -> None:
    """Write a noisy disc of soft tissue in air, 12 bits in 16, with a header as long as scanners write (some 100 elements)."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, (SIZE, SIZE))
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(slices):
        body = np.hypot(x, y) < 200 + 20 * np.sin(k / 40)
        stored = np.clip(np.where(body, 1064 + k % 60, 24) + np.roll(noise, k, axis=1), 0, 4095).astype(np.uint16)
        dataset = header(k, study, series, frame)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if syntax == "implicit" else ExplicitVRLittleEndian
        dataset.PixelData = stored.tobytes()
        if syntax == "rle":
            dataset.compress(RLELossless, generate_instance_uid=False)
        file = folder / f"{(k * 7919) % slices if slices % 7919 else k:05d}.dcm"
        dataset.save_as(file, enforce_file_format=True)
        if syntax in ("jpegls", "jpeg2000"):
            recompress(file, syntax)


def header(k: int, study: str, series: str, frame: str) -> Dataset:
    """Everything but the pixels."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
    ds.PatientName, ds.PatientID, ds.PatientSex, ds.PatientBirthDate, ds.PatientAge = "Bench^Phantom", "bench", "O", "20000101", "024Y"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.Modality, ds.Manufacturer, ds.SeriesDescription, ds.ImageType = "CT", "none", "benchmark", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AccessionNumber, ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "", "1", 1, 1, k + 1
    ds.KVP, ds.XRayTubeCurrent, ds.ExposureTime, ds.Exposure, ds.ConvolutionKernel = "120", 200, 500, 100, "B"
    ds.SliceThickness, ds.SliceLocation, ds.TableHeight, ds.GantryDetectorTilt, ds.PatientPosition = "1", f"{k}", "150", "0", "HFS"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-200, -200, k], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.PositionReferenceIndicator = [0.78125, 0.78125], ""
    ds.Rows = ds.Columns = SIZE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, "MONOCHROME2", 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType, ds.WindowCenter, ds.WindowWidth = "-1024", "1", "HU", "40", "400"
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "P5-09051", "SRT", "Computed tomography"
    ds.ProcedureCodeSequence = ds.RequestAttributesSequence = [procedure]
    block = ds.private_block(0x0019, "VOLSEG BENCH", create=True)
    for n in range(50):
        block.add_new(n, "LO", f"private value {n}")
    return ds


def recompress(file: Path, syntax: str) -> None:
    """Have GDCM compress the file in place."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(file))
    wanted = gdcm.TransferSyntax.JPEGLSLossless if syntax == "jpegls" else gdcm.TransferSyntax.JPEG2000Lossless
    change.SetTransferSyntax(gdcm.TransferSyntax(wanted))
    ok = reader.Read()
    change.SetInput(reader.GetImage())
    ok = ok and change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(file))
    if not (ok and writer.Write()):
        msg = f"{file}: GDCM cannot write {syntax}"
        raise RuntimeError(msg)


def measure(imports: str, work: str, folder: Path) -> dict[str, Any]:
    """Seconds of the whole process, and what it says of itself."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", f"{imports}\n{MEASURE}\n{work}\nreport()", str(folder)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        msg = f"a reader ended with {done.returncode}: {done.stderr}"
        raise RuntimeError(msg)
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--syntax", choices=sorted(SYNTAXES), default="explicit")
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_series(folder, options.slices, options.syntax)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in READERS}
        for _ in range(options.rounds):
            for name, (imports, work) in READERS.items():
                runs[name].append(measure(imports, work, folder))
        baselines = {name: measure(imports, "", folder)["peak_mib"] for name, (imports, _) in READERS.items()}
    volume_mib = options.slices * SIZE * SIZE * 2 / 2**20
    seconds = {name: statistics.median(run["seconds"] for run in result) for name, result in runs.items()}
    print(f"{options.slices} slices of {SIZE}x{SIZE}, {SYNTAXES[options.syntax].name}; int16 volume {volume_mib:.0f} MiB; {os.cpu_count()} CPUs; {options.rounds} rounds")
    for name, result in runs.items():
        peak = statistics.median(run["peak_mib"] for run in result)
        extra = (peak - baselines[name]) / volume_mib
        print(f"{name:12} {seconds[name]:6.2f} s  peak {peak:6.0f} MiB ({extra:.2f} volumes over the {baselines[name]:.0f} MiB of its imports)  {result[0]['dtype']}")
    print(f"volseg takes {seconds['volseg'] / seconds['SimpleITK']:.2f} of SimpleITK's time and is {seconds['dicom2nifti'] / seconds['volseg']:.1f} times as fast as dicom2nifti")
    if len({run["sum"] for result in runs.values() for run in result}) > 1:
        print("the readers do not agree on the values")
        sys.exit(1)


if __name__ == "__main__":
    main()
