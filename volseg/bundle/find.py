"""Where bundles are: a path the user gave, or a name looked up in a fixed order of folders."""

from __future__ import annotations

import os
from pathlib import Path

from volseg.errors import BundleError

BUNDLES_VARIABLE = "VOLSEG_BUNDLES"
"""Environment variable with folders of bundles, separated like ``PATH``."""

METADATA_FILE = Path("configs", "metadata.json")
"""What makes a folder a bundle (MONAI bundle specification, "Directory structure")."""


def bundle_folders() -> list[Path]:
    """Folders that hold bundles, in the order they are searched.

    Returns
    -------
    list of Path
        Those of ``$VOLSEG_BUNDLES``, ``./bundles``, then the bundles shipped with the package; folders that do not exist are kept, so that messages can name them.
    """
    named = [Path(part).expanduser() for part in os.environ.get(BUNDLES_VARIABLE, "").split(os.pathsep) if part]
    package = Path(__file__).resolve().parent.parent
    installed = package / "_bundles"
    shipped = installed if installed.is_dir() else package.parent / "bundles"
    return [*named, Path.cwd() / "bundles", shipped]


def list_bundles() -> list[Path]:
    """Every bundle that can be named.

    Returns
    -------
    list of Path
        Absolute folders sorted by name; of two bundles with one name, the one found first.
    """
    found: dict[str, Path] = {}
    for folder in bundle_folders():
        if folder.is_dir():
            for candidate in sorted(folder.iterdir()):
                if (candidate / METADATA_FILE).is_file():
                    found.setdefault(candidate.name, candidate.resolve())
    return [found[name] for name in sorted(found)]


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """Find a bundle by path or by name.

    Parameters
    ----------
    name_or_path : str or path
        A bundle's folder, or the name of one in :func:`bundle_folders`. A folder of that path that is a bundle wins over a name.

    Returns
    -------
    Path
        Absolute folder of the bundle.

    Raises
    ------
    BundleError
        If the folder is not a bundle, or no bundle has that name.
    """
    given = Path(name_or_path).expanduser()
    if (given / METADATA_FILE).is_file():
        return given.resolve()
    is_name = len(given.parts) == 1 and given.name not in ("", "..")
    known = list_bundles()
    if is_name:
        for path in known:
            if path.name == given.name:
                return path
    if given.is_dir():
        msg = f"{given}: not a MONAI bundle, {METADATA_FILE.as_posix()} is missing; give the folder that holds configs/ and models/"
        raise BundleError(msg)
    if given.is_file():
        msg = f"{given}: a bundle is a folder, this is a file; give the folder that holds configs/ and models/"
        raise BundleError(msg)
    if not is_name:
        msg = f"{given}: no such folder; give the folder of a MONAI bundle, or one of the names {_names(known)}"
        raise BundleError(msg)
    looked = ", ".join(dict.fromkeys(str(folder) for folder in bundle_folders()))
    msg = f"no bundle is called {given.name!r}; found: {_names(known)}; looked in {looked}; set ${BUNDLES_VARIABLE} or give a path"
    raise BundleError(msg)


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths) or "none"
