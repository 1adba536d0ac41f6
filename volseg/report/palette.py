"""The colour of each label."""

from __future__ import annotations

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Colours of labels 1, 2, ... (then again from the start): the set of Okabe and Ito (2008) without black, which red-green and blue-yellow colour-blind people can tell apart."""


def label_colour(label: int) -> str:
    """Colour of a label as ``#RRGGBB``; the same label has the same colour in every picture."""
    return PALETTE[(label - 1) % len(PALETTE)]
