"""One case through the deterministic transforms of a training, into the cache; run in this process or in one of its own (``python -m volseg.training.case_maker``)."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from volseg.dataset import Case, convert_cases
from volseg.dataset.cache import CachedCase, write_entry
from volseg.errors import BundleError, DatasetError, VolsegError, root_cause
from volseg.training.chain import DETERMINISTIC, Chain

if TYPE_CHECKING:
    from monai.transforms import Compose

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Job:
    """One case to make.

    Attributes
    ----------
    case : Case
        Its files.
    entry : Path
        Folder it is to appear in.
    source : dict
        Identity of its files, kept with it.
    channels : tuple of str
        Names of its images.
    """

    case: Case
    entry: Path
    source: dict[str, Any]
    channels: tuple[str, ...]


class CaseMaker:
    """Runs the transforms of a chain, as stock MONAI builds them from the config.

    Parameters
    ----------
    chain : Chain
        What to run.

    Raises
    ------
    BundleError
        When the transforms cannot be built.
    """

    def __init__(self, chain: Chain) -> None:
        from monai.bundle import ConfigParser
        from monai.transforms import Compose

        parser = ConfigParser(dict(chain.config))
        try:
            self._compose: Compose = Compose(parser.get_parsed_content(DETERMINISTIC))
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            msg = f"`{DETERMINISTIC}` could not be set up: {root_cause(error)}"
            raise BundleError(msg) from error
        self._shared = chain.shared

    def make(self, job: Job) -> CachedCase:
        """Preprocess a case and write its entry.

        Raises
        ------
        DatasetError
            When a transform fails or gives something that training cannot use; the message names the case.
        OutputError, WriteError
            When the entry cannot be written.
        """
        with tempfile.TemporaryDirectory(prefix="volseg-case-") as temporary:
            case = convert_cases([job.case], Path(temporary), channels=job.channels)[0]
            try:
                halfway = self._compose(case.as_item(), end=self._shared)
                before = {key: _array(halfway[key]) for key in ("image", "label")} if self._shared else None
                data = self._compose(halfway, start=self._shared)
                image, label = (_array(data[key]) for key in ("image", "label"))
                affine = np.asarray(getattr(halfway["image"], "affine", np.eye(4)), float)
            except Exception as error:
                msg = f"case {job.case.name}: the transforms of `{DETERMINISTIC}` fail on {job.case.images[0]}: {root_cause(error)}"
                raise DatasetError(msg) from error
        interior = interior_of(before, {"image": image, "label": label}) if before else None
        seed = int(job.entry.name.rpartition("-")[2], 16)
        return write_entry(job.entry, image, label, name=job.case.name, affine=affine, interior=interior, source=job.source, seed=seed)


def interior_of(before: dict[str, npt.NDArray[Any]], after: dict[str, npt.NDArray[Any]]) -> Box | None:
    """Where the arrays ``before`` lie within those ``after`` padding, or None where more was done to them than symmetric padding.

    The place is that of MONAI's ``SpatialPad``: where an odd number of voxels was added, the smaller half comes first. The voxels are compared, so nothing else passes for padding.
    """
    old, new = before["image"].shape, after["image"].shape
    if len(old) != 4 or len(new) != 4 or any(m < n for n, m in zip(old[1:], new[1:], strict=True)):
        return None
    box = tuple(((m - n) // 2, (m - n) // 2 + n) for n, m in zip(old[1:], new[1:], strict=True))
    window = (slice(None), *(slice(start, stop) for start, stop in box))
    return box if all(np.array_equal(before[key], after[key][window], equal_nan=key == "image") for key in before) else None


def _array(value: Any) -> npt.NDArray[Any]:
    return np.asarray(value.cpu().numpy() if hasattr(value, "cpu") else value)


def serve(chain: Chain, jobs: BinaryIO, answers: BinaryIO) -> None:
    """Make cases as they are asked for on a pipe; each is answered by None or by an error. Ends when the other side closes."""
    maker: CaseMaker | VolsegError
    try:
        maker = CaseMaker(chain)
    except VolsegError as error:
        maker = error
    while True:
        try:
            job: Job = pickle.load(jobs)
        except EOFError:
            return
        answer: VolsegError | None = None
        try:
            if isinstance(maker, VolsegError):
                raise maker
            maker.make(job)
        except VolsegError as error:
            answer = error.with_traceback(None)
            answer.__cause__ = None
        pickle.dump(answer, answers)
        answers.flush()


def main() -> None:
    """Serve the process that started this one: the chain and then the jobs come on standard input."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import torch

    from volseg.inference.quiet import quiet_libraries

    threads, chain = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    with quiet_libraries():
        serve(chain, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
