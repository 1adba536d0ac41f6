"""Finding the elements of a DICOM data set in a buffer: PS3.5 section 7.1 (data elements) and 7.5 (sequences), bounded in depth and number, without converting any value."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from volseg.io.dicom.files.dataset import TagError
from volseg.io.dicom.files.tags import WANTED

MAX_ELEMENTS = 20_000
"""Most elements of one level: vendors write up to a few thousand, while a file of zeros would be one element every 8 bytes."""

MAX_DEPTH = 32
"""Deepest nesting that is followed: functional groups and structured reports nest fewer than 16 deep."""

ANY = 0xFFFFFFFF
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
# PS3.5 7.1.2: these have 2 reserved bytes and a length of 4, all others a length of 2.
_LONG = frozenset(v.encode() for v in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_IMPLICIT_HEAD = {order: Struct(order + "HHL").unpack_from for order in "<>"}
_EXPLICIT_HEAD = {order: Struct(order + "HH2sH").unpack_from for order in "<>"}
_LENGTH = {order: Struct(order + "L").unpack_from for order in "<>"}

Found = dict[int, tuple[bytes, int, int]]
"""Tag to VR as written (``b""`` in implicit VR), and where its value starts and stops in the buffer."""


class ShortError(Exception):
    """The bytes at hand end inside an element."""


@dataclass(frozen=True)
class Encoding:
    """How a data set is written: with or without VRs; ``order`` is ``<`` for little endian, ``>`` for big."""

    implicit: bool
    order: str


UN_ENCODING = Encoding(implicit=True, order="<")
"""How the items of a sequence of unknown VR are written (PS3.5 6.2.2)."""


def looks_explicit(data: bytes, at: int) -> bool:
    """Whether the element at ``at`` names its VR: two capitals, which as the length of an implicit element would be above 16 kB."""
    vr = data[at + 4 : at + 6]
    return vr.isalpha() and vr.isupper()


def walk(data: bytes, position: int, stop: int, encoding: Encoding, found: Found, last: int = ANY, depth: int = 0, *, delimited: bool = False) -> int:
    """Note where the wanted elements of one level are.

    Parameters
    ----------
    data : bytes
        Buffer.
    position, stop : int
        Where the level starts and must end.
    encoding : Encoding
        How it is written. An element without a valid VR in an explicit data set is taken as implicit, as some writers switch.
    found : dict
        Gets the elements in :data:`~volseg.io.dicom.files.tags.WANTED`.
    last : int
        The walk ends before the first element with a larger tag.
    depth : int
        How deep this level is nested.
    delimited : bool
        Whether the level ends with an item delimiter instead of at ``stop``.

    Returns
    -------
    int
        Where the walk ended.

    Raises
    ------
    ShortError
        If the buffer ends inside an element.
    TagError
        If what is there is no data set.
    """
    implicit, order = encoding.implicit, encoding.order
    head, length_at, plain = _EXPLICIT_HEAD[order], _LENGTH[order], _IMPLICIT_HEAD[order]
    for _ in range(MAX_ELEMENTS):
        if position + 8 > stop:
            if delimited or (position != stop and depth == 0):
                raise ShortError
            return position
        vr = b""
        if implicit:
            group, element, length = plain(data, position)
            value = position + 8
        else:
            group, element, vr, length = head(data, position)
            value = position + 8
            if vr in _LONG:
                if value + 4 > stop:
                    raise ShortError
                length = length_at(data, value)[0]
                value += 4
            elif not (vr.isalpha() and vr.isupper()):
                vr, length = b"", length_at(data, position + 4)[0]
        tag = group << 16 | element
        if tag > last:
            return position
        if tag == _ITEM_END:
            return value
        if length == _UNDEFINED:
            position = _skip(data, value, stop, UN_ENCODING if vr == b"UN" else encoding, depth + 1)
            end = position - 8
        else:
            position = end = value + length
            if end > stop:
                if depth and not delimited:
                    msg = f"damaged DICOM (element ({group:04X},{element:04X}) is said to have {length} bytes, of which {stop - value} are there); copy it again from its source"
                    raise TagError(msg)
                raise ShortError
        if tag in WANTED:
            found[tag] = (vr, value, end)
    msg = f"damaged DICOM (more than {MAX_ELEMENTS} elements on one level); copy it again from its source"
    raise TagError(msg)


def _skip(data: bytes, position: int, stop: int, encoding: Encoding, depth: int) -> int:
    """Where a sequence of undefined length, whose items start at ``position``, is over (behind its delimiter)."""
    if depth > MAX_DEPTH:
        msg = f"damaged DICOM (sequences nested more than {MAX_DEPTH} deep); copy it again from its source"
        raise TagError(msg)
    while True:
        tag, length, position = _item_head(data, position, stop, encoding.order)
        if tag == _SEQUENCE_END:
            return position
        position = walk(data, position, stop, encoding, {}, ANY, depth, delimited=True) if length == _UNDEFINED else position + length
        if position > stop:
            raise ShortError


def walk_items(data: bytes, position: int, stop: int, encoding: Encoding) -> list[Found]:
    """Note where the wanted elements of each item of a sequence are; ``stop`` is where its items end, before any delimiter.

    Raises
    ------
    ShortError
        If an item ends beyond the sequence.
    TagError
        If what is there is no sequence.
    """
    items: list[Found] = []
    while position < stop:
        tag, length, position = _item_head(data, position, stop, encoding.order)
        if tag == _SEQUENCE_END:
            break
        found: Found = {}
        if length == _UNDEFINED:
            position = walk(data, position, stop, encoding, found, ANY, 1, delimited=True)
        else:
            if position + length > stop:
                raise ShortError
            walk(data, position, position + length, encoding, found, ANY, 1)
            position += length
        items.append(found)
    return items


def _item_head(data: bytes, position: int, stop: int, order: str) -> tuple[int, int, int]:
    if position + 8 > stop:
        raise ShortError
    group, element, length = _IMPLICIT_HEAD[order](data, position)
    tag = group << 16 | element
    if tag not in (_ITEM, _SEQUENCE_END):
        msg = f"damaged DICOM (a sequence holds ({group:04X},{element:04X}) where an item should start); copy it again from its source"
        raise TagError(msg)
    return tag, length, position + 8


def pixel_element(data: bytes, position: int, encoding: Encoding) -> tuple[int, int | None] | None:
    """Offset of PixelData's value and its length (None: undefined, i.e. compressed) where the element at ``position`` is PixelData (7FE0,0010), else None."""
    if position + 12 > len(data):
        return None
    group, element, length = _IMPLICIT_HEAD[encoding.order](data, position)
    if (group, element) != (0x7FE0, 0x0010):
        return None
    if not encoding.implicit and looks_explicit(data, position):
        long = data[position + 4 : position + 6] in _LONG
        length = _LENGTH[encoding.order](data, position + 8)[0] if long else _EXPLICIT_HEAD[encoding.order](data, position)[3]
        position += 4 if long else 0
    return position + 8, None if length == _UNDEFINED else length
