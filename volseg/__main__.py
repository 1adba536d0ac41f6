"""``python -m volseg``."""

from __future__ import annotations

from volseg.cli import main

main()
