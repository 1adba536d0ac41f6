"""What a folder of DICOM holds, and its series as image files with a description beside them."""
