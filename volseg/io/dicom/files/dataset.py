"""Parsing one DICOM object with pydicom and reading its elements, with the tag named in every complaint."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from volseg.errors import InputError
from volseg.io.dicom.files.archive import Member

NATIVE_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes whose pixels lie in the file as they are: implicit, explicit and big-endian VR (PS3.5 annex A); deflated files are packed as a whole."""

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax whose whole data set is packed with deflate (PS3.5 A.5)."""


class TagError(Exception):
    """An element is missing, malformed or unusable; the message lacks the file, which the caller knows."""


def open_dataset(member: Member, *, pixels: bool, keywords: Sequence[str] = ()) -> Any:
    """Parse a member as DICOM.

    Parameters
    ----------
    member : Member
        What to read.
    pixels : bool
        Whether to read everything, or only ``keywords``.
    keywords : sequence of str
        Elements wanted where pixels are not; the SOP class and the character set come along.

    Returns
    -------
    pydicom.Dataset or None
        None when the bytes are not DICOM. Objects without preamble and file meta header (raw data sets, PS3.10 7.1 forbids them, old archives send them) are read too.

    Raises
    ------
    InputError
        If the bytes begin as DICOM and cannot be parsed.
    """
    import pydicom

    with member.open() as stream:
        start = stream.read(1024)
        bare = is_bare_dataset(start)
        if bare is None:
            return None
        # The file meta information, which names the syntax, comes first (PS3.10 7.1).
        if DEFLATED.encode() in start:
            from volseg.io.dicom.files.deflate import check_inflation

            check_inflation(stream, start, member)
        stream.seek(0)
        try:
            dataset = pydicom.dcmread(stream, force=bare, stop_before_pixels=not pixels, specific_tags=None if pixels else ["SOPClassUID", *keywords])
        except parse_errors() as error:
            raise damaged(member, error) from error
        except OSError as error:
            # pydicom says so too when an item of a sequence is cut off, without the system's number.
            if error.errno is None:
                raise damaged(member, error) from error
            raise
    if bare and "SOPClassUID" not in dataset:
        return None
    _name_encoding(dataset)
    return dataset


def parse_errors() -> tuple[type[Exception], ...]:
    """What pydicom and its decoders raise on damaged bytes; many elements are only converted, and fail, when they are first looked at."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    values = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError, MemoryError, struct.error, zlib.error)
    return (*values, BytesLengthException, InvalidDicomError)


def damaged(member: Member, error: Exception) -> InputError:
    """The error for a file whose bytes cannot be made sense of."""
    reason = printable(str(error)) or type(error).__name__
    # pydicom quotes whole elements, pixels among them.
    return InputError(f"{member}: damaged DICOM ({reason[:160]}{'...' if len(reason) > 160 else ''}); copy it again from its source")


def is_bare_dataset(start: bytes) -> bool | None:
    """Tell from its first 132 bytes or more a Part 10 file (False) from a raw data set (True) and from anything else (None)."""
    if start[128:132] == b"DICM":
        return False
    # A data set without preamble starts, little endian, with an element of group 0002 or 0008 and a short value.
    group, element = start[:2], start[2:4]
    return True if group in (b"\x02\x00", b"\x08\x00") and len(element) == 2 and element[1] == 0 and len(start) > 8 else None


def _name_encoding(dataset: Any) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" in getattr(dataset, "file_meta", {}):
        return
    implicit, _ = dataset.original_encoding
    dataset.file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def text_of(dataset: Any, keyword: str) -> str:
    """Text of an element, several values joined with a backslash as in the file; ``""`` where absent."""
    value = dataset.get(keyword)
    if value is None:
        return ""
    parts = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    return "\\".join(printable(str(part)) for part in parts)


def printable(text: str) -> str:
    """The text on one line, without the control characters a damaged or hostile header may send to a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def numbers_of(dataset: Any, keyword: str, count: int) -> tuple[float, ...]:
    """Read ``count`` finite numbers of one element.

    Raises
    ------
    TagError
        If the element is absent, empty, or anything else.
    """
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    name = f"{keyword} {Tag(tag_for_keyword(keyword) or 0)}".replace(", ", ",")
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            msg = f"has no {name}; without it it cannot be part of a volume"
            raise TagError(msg)
        values = tuple(float(v) for v in (value if count > 1 else [value]))
    except (ValueError, TypeError, OverflowError) as error:
        msg = f"{name} is not {count} number{'s' if count > 1 else ''}; repair the header"
        raise TagError(msg) from error
    if len(values) != count or not all(math.isfinite(v) for v in values):
        msg = f"{name} is {list(values)}, not {count} finite number{'s' if count > 1 else ''}; repair the header"
        raise TagError(msg)
    return values


def integer_of(dataset: Any, keyword: str, default: int) -> int:
    """One whole number of an element, ``default`` where absent; raises TagError when it is no number."""
    return int(numbers_of(dataset, keyword, 1)[0]) if dataset.get(keyword) not in (None, "") else default
