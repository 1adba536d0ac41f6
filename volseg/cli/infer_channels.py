"""``volseg infer --input NAME=PATH``: the channels of one image, each from its own scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volseg.errors import InputError


def channel_inputs(inputs: Sequence[str], scans: Sequence[Path], series: str | None, bundle: Path) -> dict[str, Path]:
    """Read the ``--input`` options of one case.

    Parameters
    ----------
    inputs : sequence of str
        ``NAME=PATH``, in any order; names in any case.
    scans : sequence of Path
        The SCAN arguments.
    series : str or None
        From ``--series``.
    bundle : Path
        Folder of the bundle, whose metadata names the channels.

    Returns
    -------
    dict of str to Path
        By the bundle's names, in its order; empty where there are only SCANs.

    Raises
    ------
    InputError
        When both or neither are given, an option is not ``NAME=PATH``, or the names are not the bundle's channels.
    BundleError
        When the bundle cannot be read.
    """
    if not inputs:
        if not scans:
            msg = "no scan is given; name one (volseg infer SCAN), or the channels of one image (--input CT=PATH --input PET=PATH); see `volseg infer --help`"
            raise InputError(msg)
        return {}
    if scans:
        msg = f"{scans[0]}: a SCAN and --input do not go together; --input names all channels of one image, and one call segments one such image"
        raise InputError(msg)
    if series is not None:
        msg = f"--series {series}: names one series, and --input gives several; give each channel its own folder or file, e.g. --input PET=FOLDER"
        raise InputError(msg)
    from volseg.bundle import read_bundle
    from volseg.io.channels import in_order

    return in_order(map(_parsed, inputs), read_bundle(bundle).channel_names)


def _parsed(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name.strip() and equals and path):
        msg = f"--input {text}: write it as NAME=PATH, e.g. --input CT=ct.nii.gz"
        raise InputError(msg)
    return name.strip(), Path(path)
