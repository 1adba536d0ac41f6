"""Facts that make a result traceable: file digests, software versions, memory."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

REPORTED_PACKAGES = ("volseg", "monai", "torch", "pytorch-ignite", "numpy", "nibabel", "SimpleITK", "pydicom")

CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def software_versions(packages: Sequence[str] = REPORTED_PACKAGES) -> dict[str, str]:
    """Installed version of each package, those that are not installed left out."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def peak_memory_bytes() -> int | None:
    """Highest resident memory of this process so far, or None where the system does not tell (Windows)."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux hands a child the ru_maxrss of the parent that started it (getrusage(2)); the high-water mark is of this program alone.
        marks = (line.split() for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        mark = next(marks, None)
        if mark is not None:
            return int(mark[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
