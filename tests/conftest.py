"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
