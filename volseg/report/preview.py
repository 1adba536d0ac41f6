"""The preview: one PNG with an axial, a coronal and a sagittal slice through a segmentation, for a look before anybody trusts it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volseg.errors import GeometryError
from volseg.evaluation.overlap import count_labels
from volseg.geometry import Grid, reorient
from volseg.io import Volume
from volseg.io.text import write_bytes
from volseg.report.palette import label_colour
from volseg.report.planes import PLANES, AnyArray, Plane, choose_slices
from volseg.report.window import Window, window_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILL_OPACITY = 0.3
"""So much of the label's colour covers the image; the tissue stays readable beneath it."""

BACKGROUND, TEXT = "#000000", "#E6E6E6"

LEGEND_ENTRIES = 14
"""More labels than this are counted in the legend rather than named."""
TITLE_ENTRIES = 5
"""So many volumes fit under the title."""

DPI = 100
MAX_SIZE_INCHES = (13.0, 7.0)
"""Room for the three slices; they share one scale, the largest that fits."""

MARGIN_INCHES = {"left": 0.15, "right": 0.15, "top": 0.85, "bottom": 0.55, "between": 0.15}
MIN_PANEL_INCHES = 1.6
"""Narrower or lower slices (a stack of a few slices) are centred in a panel of this size, so that its letters and title fit."""

Labels = npt.NDArray[np.generic]


@dataclass(frozen=True)
class _Scene:
    """What is drawn, along RAS+ axes."""

    image: AnyArray
    label: Labels
    reference: Labels | None
    grid: Grid
    window: Window
    volumes_ml: dict[int, float]


def write_preview(volume: Volume, label: Labels, path: Path, *, label_names: Mapping[int, str], reference: Labels | None = None) -> Path:
    """Draw three orthogonal slices with the segmentation over them and write a PNG.

    Each plane is cut where the labelled area is largest (the reference's where nothing was segmented, the middle where that is empty too). The display is radiological: the
    patient's left is on the right of the axial and coronal pictures; letters at the edges say so. Millimetres are drawn alike in all three. The planes follow the scan's own axes:
    an oblique scan is not resampled, and its letters name the nearest patient directions.

    Parameters
    ----------
    volume : Volume
        The scan; :func:`~volseg.report.window.choose_window` says how its values are shown.
    label : ndarray of bool or integers, axes (i, j, k) of ``volume.grid``
        The segmentation; 0 is background.
    path : Path
        The PNG to write; written beside and renamed.
    label_names : mapping of int to str
        Names by label value; a label without one is shown by its value.
    reference : ndarray of bool or integers, optional
        A reference on the same grid, drawn as a dashed contour.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    GeometryError
        If ``label`` or ``reference`` does not have the scan's shape.
    InputError
        If they hold anything but labels.
    OutputError, WriteError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    scene = _make_scene(volume, label, reference)
    figure, axes = _lay_out(scene)
    FigureCanvasAgg(figure)
    cut = scene.label if scene.label.any() or scene.reference is None else scene.reference
    slices = choose_slices(cut)
    for plane, ax in zip(PLANES, axes, strict=True):
        _draw_plane(ax, plane, scene, slices[plane.axis])
    _write_title(figure, volume, scene, label_names)
    _draw_legend(figure, scene, label_names)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, facecolor=BACKGROUND, metadata={"Software": "volseg"})
    return write_bytes(path, picture.getvalue())


def _make_scene(volume: Volume, label: Labels, reference: Labels | None) -> _Scene:
    for name, array in (("label", label), ("reference", reference)):
        if array is not None and array.shape != volume.grid.shape:
            msg = f"{volume.source.path}: the {name} of shape {array.shape} does not fit the scan of {volume.grid.shape} voxels; give one on the scan's grid"
            raise GeometryError(msg)
    image, grid = reorient(volume.array, volume.grid, "RAS")
    counts = count_labels(label)
    volumes = {int(value): float(counts[value]) * grid.voxel_volume_ml for value in np.flatnonzero(counts) if value != 0}
    turned = None if reference is None else reorient(reference, volume.grid, "RAS")[0]
    return _Scene(image, reorient(label, volume.grid, "RAS")[0], turned, grid, window_of(volume, label), volumes)


def _lay_out(scene: _Scene) -> tuple[Figure, list[Axes]]:
    """Three axes in a row with one scale (inches for each mm), centred vertically, in a figure that fits them."""
    from matplotlib.figure import Figure

    sizes = [plane.size_mm(scene.grid) for plane in PLANES]
    scale = min(MAX_SIZE_INCHES[0] / sum(width for width, _ in sizes), MAX_SIZE_INCHES[1] / max(height for _, height in sizes))
    panels = [(max(width * scale, MIN_PANEL_INCHES), max(height * scale, MIN_PANEL_INCHES)) for width, height in sizes]
    margin = MARGIN_INCHES
    total_width = margin["left"] + sum(width for width, _ in panels) + margin["between"] * (len(panels) - 1) + margin["right"]
    inner_height = max(height for _, height in panels)
    total_height = margin["bottom"] + inner_height + margin["top"]
    figure = Figure(figsize=(total_width, total_height), facecolor=BACKGROUND)
    axes, left = [], margin["left"]
    for (panel_width, _), (width, height) in zip(panels, sizes, strict=True):
        x = left + (panel_width - width * scale) / 2
        y = margin["bottom"] + (inner_height - height * scale) / 2
        axes.append(figure.add_axes((x / total_width, y / total_height, width * scale / total_width, height * scale / total_height)))
        left += panel_width + margin["between"]
    return figure, axes


def _draw_plane(ax: Axes, plane: Plane, scene: _Scene, index: int) -> None:
    from matplotlib.colors import to_rgba

    width, height = plane.size_mm(scene.grid)
    extent = (0.0, width, height, 0.0)
    window = scene.window
    grey = "gray_r" if window.inverted else "gray"
    ax.imshow(plane.picture(scene.image, index).astype(np.float32), cmap=grey, vmin=window.low, vmax=window.high, extent=extent, interpolation="bilinear", aspect="auto")
    labels = plane.picture(scene.label, index)
    fill = np.zeros((*labels.shape, 4), dtype=np.float32)
    for label in np.unique(labels[labels != 0]).tolist():
        mask = labels == label
        fill[mask] = to_rgba(label_colour(label), FILL_OPACITY)
        _draw_contour(ax, mask, (width, height), colors=[label_colour(label)], linewidths=1.4)
    ax.imshow(fill, extent=extent, interpolation="nearest", aspect="auto")
    if scene.reference is not None:
        reference = plane.picture(scene.reference, index)
        for label in np.unique(reference[reference != 0]):
            _draw_contour(ax, reference == label, (width, height), colors=["black" if window.inverted else "white"], linewidths=1.2, linestyles="dashed")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.set_title(f"{plane.name} {index + 1}/{scene.grid.shape[plane.axis]}", color=TEXT, fontsize=9, pad=4)
    for spine in ax.spines.values():
        spine.set_color("#404040")
    _write_letters(ax, plane)


def _draw_contour(ax: Axes, mask: npt.NDArray[np.bool_], size_mm: tuple[float, float], **style: Any) -> None:
    # The rim of background closes the contour of a label that reaches the edge of the scan.
    rows, columns = mask.shape
    x = (np.arange(-1, columns + 1) + 0.5) * size_mm[0] / columns
    y = (np.arange(-1, rows + 1) + 0.5) * size_mm[1] / rows
    ax.contour(x, y, np.pad(mask, 1).astype(np.float32), levels=[0.5], **style)


def _write_letters(ax: Axes, plane: Plane) -> None:
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2, foreground="black")]
    style: dict[str, Any] = {"transform": ax.transAxes, "color": "white", "fontsize": 11, "fontweight": "bold", "path_effects": outline}
    ax.text(0.02, 0.5, plane.left, ha="left", va="center", **style)
    ax.text(0.98, 0.5, plane.right, ha="right", va="center", **style)
    ax.text(0.5, 0.98, plane.top, ha="center", va="top", **style)
    ax.text(0.5, 0.02, plane.bottom, ha="center", va="bottom", **style)


def _write_title(figure: Figure, volume: Volume, scene: _Scene, names: Mapping[int, str]) -> None:
    synthetic = " (synthetic)" if volume.source.details.get("synthetic") else ""
    volumes = [f"{names.get(label, str(label))} {volume_ml:.1f} ml" for label, volume_ml in list(scene.volumes_ml.items())[:TITLE_ENTRIES]]
    volumes += ["..."] if len(scene.volumes_ml) > TITLE_ENTRIES else []
    height = figure.get_size_inches()[1]
    # Names come from users: a dollar sign in them must not start a formula.
    figure.text(0.5, 1 - 0.14 / height, f"{volume.source.name}{synthetic}", color=TEXT, fontsize=13, ha="center", va="top", parse_math=False)
    figure.text(0.5, 1 - 0.4 / height, ", ".join(volumes) or "nothing segmented", color=TEXT, fontsize=10, ha="center", va="top", parse_math=False)


def _draw_legend(figure: Figure, scene: _Scene, names: Mapping[int, str]) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for label in list(scene.volumes_ml)[:LEGEND_ENTRIES]:
        colour = label_colour(label)
        handles.append(Patch(facecolor=to_rgba(colour, FILL_OPACITY), edgecolor=colour, label=names.get(label, str(label))))
    if len(scene.volumes_ml) > LEGEND_ENTRIES:
        handles.append(Patch(alpha=0, label=f"and {len(scene.volumes_ml) - LEGEND_ENTRIES} more"))
    if scene.reference is not None:
        handles.append(Line2D([], [], color="white", linestyle="dashed", label="reference"))
    if handles:
        legend = figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 8), frameon=False, fontsize=9, labelcolor=TEXT)
        for text in legend.get_texts():
            text.set_parse_math(False)
