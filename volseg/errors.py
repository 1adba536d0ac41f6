"""The error tree of volseg.

Every message names the file, what is wrong with it (with the tag, value or number), and what to do about it, on one line. The command line prints the message and exits with
``exit_code``; a traceback appears only with ``--debug``.
"""

from __future__ import annotations

from collections.abc import Sequence


class VolsegError(Exception):
    """Base of every error volseg raises on purpose.

    Attributes
    ----------
    exit_code : int
        Exit status of the command line: 2 for bad input or usage, 1 for anything else.
    """

    exit_code = 1


class InputError(VolsegError):
    """A file, folder or argument the user gave cannot be used."""

    exit_code = 2


class GeometryError(InputError):
    """The voxels of a scan cannot be placed in space without guessing (gap, tilt, shear, duplicate positions, mismatched grids)."""


class SeriesError(InputError):
    """A DICOM folder holds no usable series, or more than one and none was chosen."""


class BundleError(InputError):
    """A MONAI bundle is missing, incomplete, or disagrees with its weights."""


class DatasetError(InputError):
    """A dataset or datalist is missing, malformed, or disagrees with its files.

    Attributes
    ----------
    problems : tuple of str
        Everything that was found wrong, one line each, where there is more than the message can hold; the command line prints them all.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class OutputError(InputError):
    """The place the user named for the output cannot be written to."""


class WriteError(VolsegError):
    """Writing failed half way (disk full, I/O error); nothing half-written was left behind."""


class DeviceError(InputError):
    """The requested device is not available on this machine."""


def root_cause(error: BaseException) -> str:
    """Type and message of the innermost error of a chain, on one line; libraries such as MONAI wrap what went wrong several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
