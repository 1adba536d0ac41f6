"""Files and folders: what the bundle specification, the Model Zoo and MONAI Label expect to find where."""

from __future__ import annotations

from volseg.bundle import find_config, read_config
from volseg.bundle.describe import LICENCE_FILE
from volseg.conformance.registry import Outcome, check, judged, skipped
from volseg.conformance.subject import Subject

LARGEST_COMMITTED_BYTES = 25 * 1024 * 1024
"""The Model Zoo's limit for a committed file (ci/verify_bundle.py); larger ones are listed in large_files.yml."""

LARGE_FILES = tuple(f"large_files{suffix}" for suffix in (".yml", ".yaml", ".json"))
WEIGHTS_NAME = "model.pt"


@check("layout", "files and folders of the bundle specification", after=())
def check_layout(subject: Subject) -> Outcome:
    """configs/metadata.json, configs/inference.*, and LICENSE with exactly that name; a model card is expected."""
    names = {path.name for path in subject.path.iterdir()}
    problems = []
    if not (subject.path / "configs" / "metadata.json").is_file():
        problems.append("configs/metadata.json is missing")
    if find_config(subject.path, "inference") is None:
        problems.append("configs/inference.json is missing")
    if LICENCE_FILE not in names:
        near = sorted(name for name in names if name.lower().startswith(("license", "licence")))
        problems.append(f"{LICENCE_FILE} is missing" + (f" (rename {near[0]})" if near else ""))
    warnings = [] if (subject.path / "docs" / "README.md").is_file() else ["docs/README.md (the model card) is missing"]
    return judged(problems, "configs/metadata.json, configs/inference, LICENSE and docs/README.md are there", warnings)


@check("file-sizes", "no file over 25 MB outside large_files", after=())
def check_file_sizes(subject: Subject) -> Outcome:
    """The Model Zoo refuses larger committed files; locally they do no harm."""
    listed = _large_files(subject)
    files = {path.relative_to(subject.path).as_posix(): path.stat().st_size for path in subject.path.rglob("*") if path.is_file()}
    large = [f"{name} has {size / 2**20:.1f} MiB" for name, size in files.items() if size > LARGEST_COMMITTED_BYTES and name not in listed]
    biggest = max(files, key=lambda name: files[name], default=None)
    good = f"{len(files)} files, the largest is {biggest} with {files[biggest] / 2**20:.1f} MiB" if biggest else "no files"
    return judged([], good, [f"{', '.join(large)}: list it in large_files.yml before giving the bundle to the Model Zoo"] if large else None)


@check("weights-name", "MONAI Label takes models/model.pt by default", after=())
def check_weights_name(subject: Subject) -> Outcome:
    """MONAI Label sorts models/*.pt by the length of the name and takes the first."""
    names = sorted(path.name for path in (subject.path / "models").glob("*.pt"))
    if not names:
        return skipped("there are no models/*.pt")
    shorter = [name for name in names if name != WEIGHTS_NAME and len(name) <= len(WEIGHTS_NAME)]
    problems = [f"models/{name}: its name is not longer than {WEIGHTS_NAME}, so MONAI Label may load it instead; rename or remove it" for name in shorter]
    return judged(problems, f"models/*.pt: {', '.join(names)}")


def _large_files(subject: Subject) -> set[str]:
    for name in LARGE_FILES:
        path = subject.path / name
        if path.is_file():
            entries = read_config(path).get("large_files", [])
            return {str(entry.get("path")) for entry in entries if isinstance(entry, dict)}
    return set()
