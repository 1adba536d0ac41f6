"""One slice as inline SVG: the image as a grey JPEG inside, contours, letters and measurement lines as vectors over it, sharp at any zoom and in print."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

JPEG_QUALITY = 88
"""Below about 85 the noise of CT turns into visible blocks; above 90 the files double."""

FILL_OPACITY = 0.22


@dataclass(frozen=True)
class Outline:
    """A region drawn over a slice: its mask (rows from the top, columns from the left), colour ``#RRGGBB`` and name (shown on hovering).

    With ``reference`` it is a dashed line without a fill, to be told from a segmentation.
    """

    mask: Mask
    colour: str
    name: str
    reference: bool = False


@dataclass(frozen=True)
class Picture:
    """A slice as shown.

    Parameters
    ----------
    grey : ndarray of uint8
        Rows from the top, columns from the left; 0 black.
    size_mm : tuple of float
        Width and height, to the outer edges of the pixels.
    outlines : sequence of Outline
        Drawn with a light fill but for references; masks of the same shape as ``grey``.
    description : str
        What a screen reader says.
    letters : sequence of str
        Patient directions at the left, right, top and bottom edge; empty for none.
    line_mm : tuple of 4 float, optional
        A measured line: x and y of its ends, from the top left corner (mm).
    largest_side : int
        The image is scaled down to at most so many pixels a side.
    """

    grey: npt.NDArray[np.uint8]
    size_mm: tuple[float, float]
    outlines: Sequence[Outline]
    description: str
    letters: Sequence[str] = ()
    line_mm: tuple[float, float, float, float] | None = None
    largest_side: int = 640

    def to_svg(self) -> str:
        """The ``<svg>`` element; text in it is escaped. One unit is one mm, so that pixels that are not square are shown in proportion."""
        width, height = self.size_mm
        rows, columns = self.grey.shape
        parts = [
            f'<svg viewBox="0 0 {width:.2f} {height:.2f}" role="img" aria-label="{escape(self.description)}">',
            f'<image width="{width:.2f}" height="{height:.2f}" preserveAspectRatio="none" href="data:image/jpeg;base64,{self._jpeg()}"/>',
            f'<g transform="scale({width / columns:.6g} {height / rows:.6g})">',
            *(_draw_outline(outline) for outline in self.outlines),
            "</g>",
        ]
        if self.line_mm is not None:
            x1, y1, x2, y2 = (f"{v:.2f}" for v in self.line_mm)
            # The dark line beneath keeps the white one visible on bright tissue.
            parts += [f'<line class="{name}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>' for name in ("halo", "caliper")]
        parts += _draw_letters(self.letters, width, height)
        return "".join([*parts, "</svg>"])

    def _jpeg(self) -> str:
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(self.grey))
        scale = self.largest_side / max(image.size)
        if scale < 1:
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=JPEG_QUALITY, optimize=True)
        return base64.b64encode(stream.getvalue()).decode("ascii")


def _draw_outline(outline: Outline) -> str:
    path = "".join(_trace(outline.mask))
    if not path:
        return ""
    fill = 'fill="none" stroke-dasharray="5 4"' if outline.reference else f'fill="{outline.colour}" fill-opacity="{FILL_OPACITY}" fill-rule="evenodd"'
    return f'<path d="{path}" {fill} stroke="{outline.colour}"><title>{escape(outline.name)}</title></path>'


def _trace(mask: Mask) -> list[str]:
    """Closed contours half-way between the centres of pixels inside and outside, as SVG path data in pixels from the top left corner."""
    from contourpy import contour_generator

    if not mask.any():
        return []
    top, left = (int(np.flatnonzero(mask.any(axis=axis))[0]) for axis in (1, 0))
    bottom, right = (int(np.flatnonzero(mask.any(axis=axis))[-1]) + 1 for axis in (1, 0))
    # The rim of background closes the contour of a region that reaches the edge.
    inside = np.pad(mask[top:bottom, left:right], 1).astype(np.float32)
    paths = []
    for line in contour_generator(z=inside).lines(0.5):
        points = np.asarray(line)[:-1] + np.array([left - 0.5, top - 0.5])
        steps = np.roll(points, -1, axis=0) - points
        # A point between two equal steps says nothing.
        corners = points[(steps != np.roll(steps, 1, axis=0)).any(axis=1)]
        paths.append("M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z")
    return paths


def _draw_letters(letters: Sequence[str], width: float, height: float) -> list[str]:
    if not letters:
        return []
    size = 0.05 * max(width, height)
    edge = 0.62 * size
    places = ((edge, height / 2), (width - edge, height / 2), (width / 2, edge), (width / 2, height - edge))
    return [f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:.2f}">{escape(letter)}</text>' for letter, (x, y) in zip(letters, places, strict=True)]
