"""Keep the chatter of libraries off the user's terminal."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

CHATTY_LOGGERS = ("monai", "ignite", "DictLoader", "torch.onnx", "matplotlib")
"""MONAI and the exporter to ONNX announce optional packages they do not find, ignite every epoch, matplotlib a home folder that cannot be written to (a container's user has none);
volseg reports what matters itself."""


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence library warnings and loggers for the length of a block; what fails is raised, and told once by volseg."""
    levels = {name: logging.getLogger(name).level for name in CHATTY_LOGGERS}
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
