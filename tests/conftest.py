"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a property, and a pull must not fail by the luck of the draw; by hand every run draws anew.
settings.register_profile("volseg", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("volseg")

# Workers side by side share the processors; the threads of both would spend their time waiting for each other. Read by torch and by the commands that tests start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's converted networks are neither used nor touched; what is converted during the tests is kept until their end only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOLSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("VOLSEG_NO_CACHE", raising=False)
        yield


@pytest.fixture(autouse=True)
def no_handler_of_ended_children() -> Iterator[None]:
    """A DataLoader with worker processes leaves a handler of SIGCHLD for good. It runs on faulthandler's signal stack, and from then on a child's end may kill this process:
    seen as SIGSEGV (SI_KERNEL) on return from ``poll``, once in some hundred children, on Linux 6.18 in a virtual machine; never without the handler."""
    yield
    loaded = sys.modules.get("torch.utils.data._utils.signal_handling")
    if loaded is not None and getattr(loaded, "_SIGCHLD_handler_set", False):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        loaded._SIGCHLD_handler_set = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For networks too small to share among threads: on a busy machine the threads would wait for each other for minutes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def real_data() -> Path:
    """Folder of the real, openly licensed scans; the calling test is skipped where they are absent."""
    folder = Path(os.environ.get("VOLSEG_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "sts" / "dataset.json").is_file():
        pytest.skip(f"the real scans are not here ({folder}); set VOLSEG_TEST_DATA to their folder")
    return folder


@pytest.fixture(name="real_data")
def real_data_fixture() -> Path:
    """See :func:`real_data`."""
    return real_data()
