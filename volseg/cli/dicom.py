"""``volseg dicom``: list what is in a DICOM folder, and convert its series."""

from __future__ import annotations

import click

from volseg.cli.dicom_convert import convert
from volseg.cli.dicom_info import info


@click.group()
def dicom() -> None:
    """List and convert DICOM: a folder (searched recursively), a .zip, a DICOMDIR, or one file.

    \b
    Examples:
      volseg dicom info DICOM_FOLDER
      volseg dicom convert DICOM_FOLDER -o nifti
    """


dicom.add_command(info)
dicom.add_command(convert)
