"""What files are called: image suffixes, the stem of a scan, and stems of several outputs that must not collide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from volseg.errors import InputError
from volseg.io.formats import IMAGE_SUFFIXES, format_of

STEM_SUFFIXES = (*IMAGE_SUFFIXES, ".zip", ".dcm", ".dicom", ".ima")
"""Endings that are not part of a scan's name; the longest that fits is removed."""


def suffix_of(path: Path) -> str:
    """Return the known suffix of a path, lower case (``".nii.gz"``, ``".nrrd"``, ...), or ``""``."""
    name = path.name.lower()
    return next((suffix for suffix in STEM_SUFFIXES if name.endswith(suffix) and len(name) > len(suffix)), "")


def scan_stem(path: Path) -> str:
    """Return the name of a scan for its outputs.

    Parameters
    ----------
    path : Path
        ``scan.nii.gz`` gives ``"scan"``; a folder its own name; a DICOM file the name of its folder, because the series is what is read.
    """
    path = path.expanduser().absolute()
    if path.is_dir():
        return path.resolve().name or "scan"
    if path.exists() and path.suffix.lower() != ".zip" and format_of(path) == "dicom":
        return path.resolve().parent.name or "scan"
    suffix = suffix_of(path)
    return path.name[: len(path.name) - len(suffix)]


def output_stems(paths: Sequence[Path]) -> list[str]:
    """Return one stem per scan, all different, for the outputs of one call.

    Where two would share a name, the names of their parent folders are put in front (joined by ``_``) until they differ; scans that lie side by side and differ only in their
    suffix (``a/`` and ``a.nii.gz``) get the suffix behind (``a`` and ``a_nii``). Names that differ only in case count as the same, since some file systems do not tell them apart.

    Parameters
    ----------
    paths : sequence of Path
        Scans as :func:`volseg.io.discover` lists them.

    Raises
    ------
    InputError
        If one scan is given twice.
    """
    found = [Path(path).expanduser().resolve() for path in paths]
    twice = next((path for path, count in Counter(found).items() if count > 1), None)
    if twice:
        msg = f"{twice}: the same scan is given twice in one call; give each scan once"
        raise InputError(msg)
    stems = [scan_stem(path) for path in found]
    parents = [_folders_above(path) for path in found]
    names, depth = list(stems), [0] * len(found)
    while clash := _clashing(names):
        growing = [n for n in clash if depth[n] < len(parents[n])]
        if not growing:
            break
        for n in growing:
            depth[n] += 1
            names[n] = "_".join([*parents[n][len(parents[n]) - depth[n] :], stems[n]])
    for n in _clashing(names):
        # All parents are in front by now and still the same: the scans lie side by side.
        names[n] = stems[n] + suffix_of(found[n]).replace(".", "_").removesuffix("_gz")
    clash = _clashing(names)
    if clash:
        msg = f"{found[clash[0]]}: would share the output name {names[clash[0]]!r} with {found[clash[1]]}; rename one, or run them in two calls"
        raise InputError(msg)
    return names


def _folders_above(path: Path) -> list[str]:
    """Names of the folders a stem does not hold yet, outermost first."""
    above = path.parent.parent if not path.is_dir() and scan_stem(path) == path.parent.name and format_of(path) == "dicom" else path.parent
    return [part for part in above.parts if part != above.anchor]


def _clashing(names: list[str]) -> list[int]:
    count = Counter(name.casefold() for name in names)
    return [n for n, name in enumerate(names) if count[name.casefold()] > 1]
