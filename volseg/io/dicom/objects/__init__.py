"""DICOM objects about a series: Segmentations, RT Structure Sets and measurement reports, out and back."""
