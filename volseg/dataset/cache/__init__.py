"""Preprocessed cases, kept on disk from one training to the next."""

from __future__ import annotations

from volseg.dataset.cache.entry import FOREGROUND, CachedCase, open_cache, read_entry
from volseg.dataset.cache.identity import digest_of, entry_name, source_of
from volseg.dataset.cache.writing import remove_leftovers, write_entry

__all__ = ["FOREGROUND", "CachedCase", "digest_of", "entry_name", "open_cache", "read_entry", "remove_leftovers", "source_of", "write_entry"]
