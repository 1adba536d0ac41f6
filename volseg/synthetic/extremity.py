"""A CT of a thigh with a soft-tissue mass: :func:`make_ct`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.synthetic.fields import Canvas, Field, Points, Waves, blurred, correlated_noise, points_of
from volseg.synthetic.limb import AIR, FAT, TABLE, TISSUE_HU, TISSUES, TUMOR, Limb
from volseg.synthetic.mass import Mass, with_volume
from volseg.synthetic.scan import SyntheticScan, scanner_axes, scanner_grid

CT_SHAPE = (208, 192, 60)
CT_SPACING = (0.9765625, 0.9765625, 3.27)
"""Voxel size (mm) of the STS CTs: a 500 mm field of view in 512 columns, 3.27 mm slices."""

LESION_ML = (30.0, 900.0)
"""Range of volumes (ml), drawn log-uniformly; the middle 80 % of the STS tumours."""

HU_RANGE = (-1000, 3071)
"""Lowest value the STS CTs keep, and the highest a 12-bit scanner stores with an intercept of -1024."""

SMALLEST_ML = 10.0
"""A mass is not shrunk below this (ml) to fit a small field of view."""

NECROSIS_HU = 15.0
PAD_MM = 9.0
"""Foam between the limb and the shell of the table."""

TABLE_RADIUS_MM = 320.0
MARGIN_MM = 8.0
"""Least distance kept between the mass and the edge of the field of view, where it fits."""


def make_ct(
    seed: int = 0,
    *,
    shape: Sequence[int] = CT_SHAPE,
    spacing: Sequence[float] = CT_SPACING,
    orientation: str = "LPS",
    oblique: float = 0.0,
    lesion_ml: float | None = None,
    noise_hu: float | None = None,
    legs: int | None = None,
    contrast: bool | None = None,
) -> SyntheticScan:
    """Make a CT of a thigh with a sarcoma-like mass.

    Parameters
    ----------
    seed : int
        Draws the anatomy; the same seed is the same limb on any grid, unless the field of view is too small for the mass.
    shape, spacing : sequence of length 3
        Voxels and voxel size (mm) along i, j, k.
    orientation : str
        Patient direction each array axis points towards; ``"LPS"`` is an axial series as scanners store it.
    oblique : float
        Degrees by which the stack is turned out of the patient's planes.
    lesion_ml : float, optional
        Volume of the mass; drawn from ``LESION_ML`` when omitted, and then made smaller until it fits the field of view.
    noise_hu : float, optional
        Standard deviation of the noise (HU); drawn from 17-30 when omitted.
    legs : int, optional
        1 or 2; drawn when omitted.
    contrast : bool, optional
        Whether the vessels are enhanced; drawn when omitted.

    Returns
    -------
    SyntheticScan
        HU with label 1 ``"tumor"``.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check(lesion_ml, noise_hu, legs)
    axes = scanner_axes(orientation, oblique)
    extent = np.array(scanner_grid(shape, spacing, (0, 0, 0), axes).shape) * np.asarray(spacing, dtype=float)
    rng = np.random.default_rng([seed, 0xC7])
    legs = legs or int(rng.choice([1, 2], p=[0.6, 0.4]))
    drawn_contrast = bool(rng.random() < 0.25)
    limb = Limb.draw(rng, legs, drawn_contrast if contrast is None else contrast)
    drawn_ml = float(np.exp(rng.uniform(*np.log(LESION_ML))))
    mass, volume = _place_mass(rng, limb, float(lesion_ml or drawn_ml), None if lesion_ml else lambda mass: bool((_half_extent(mass, axes) + MARGIN_MM <= extent / 2).all()))
    drawn_noise = float(rng.uniform(17, 30))
    noise = drawn_noise if noise_hu is None else float(noise_hu)
    # Somewhere in the patient: a limb off the isocentre, as in a scan of the whole leg.
    home = np.array([85.0 * limb.side, rng.uniform(-30, 10), rng.uniform(-950, -650)])
    grid = scanner_grid(shape, spacing, home + _middle(mass, axes, extent), axes)

    canvas, label = _paint(rng, grid, home, limb, mass)
    values = blurred(canvas.values, grid) + correlated_noise(rng, grid, noise, streaks=0.3)
    image = np.clip(np.rint(values), *HU_RANGE).astype(np.int16)
    facts = {"noise_hu": noise, "lesion_ml_asked": volume, "legs": legs, "contrast": limb.blood_hu[0] > 100, "oblique_deg": float(oblique), "side": "R" if limb.side > 0 else "L"}
    return SyntheticScan(image, label, grid, "CT", {1: "tumor"}, seed, canvas.tissues, TISSUES, facts)


def _check(lesion_ml: float | None, noise_hu: float | None, legs: int | None) -> None:
    if lesion_ml is not None and not 1 <= lesion_ml <= 1500:
        msg = f"the volume of the mass must lie within 1..1500 ml, got {lesion_ml:g}"
        raise InputError(msg)
    if noise_hu is not None and not 0 < noise_hu <= 200:
        msg = f"the noise must lie within 0..200 HU, got {noise_hu:g}"
        raise InputError(msg)
    if legs not in (None, 1, 2):
        msg = f"a CT phantom has 1 or 2 legs, got {legs}"
        raise InputError(msg)


def _place_mass(rng: np.random.Generator, limb: Limb, volume_ml: float, fits: Callable[[Mass], bool] | None) -> tuple[Mass, float]:
    """Draw a mass inside the muscles, away from the femur, and scale it to its volume (ml), or to a smaller one that fits the field of view."""
    reach = limb.radius - limb.fat
    wanted = np.cbrt(volume_ml * 1000 / (4 / 3 * np.pi))
    centres = [np.array([np.cos(a), np.sin(a)]) * reach * rng.uniform(0.42, 0.6) for a in rng.uniform(0, 2 * np.pi, size=24)]
    clear = [float(np.linalg.norm(c - limb.bone)) for c in centres]
    middle = next((c for c, d in zip(centres, clear, strict=True) if d > limb.bone_radius + 0.7 * wanted), centres[int(np.argmax(clear))])
    height = rng.uniform(-15, 15)
    centre = np.array([limb.side * (middle[0] + limb.lean[0] * height), middle[1] + limb.lean[1] * height, height])
    shape, slenderness = Mass.draw(rng, centre), rng.uniform(1.1, 1.5)
    while True:
        # Large masses can only grow along the limb.
        wanted = np.cbrt(volume_ml * 1000 / (4 / 3 * np.pi))
        shape = replace(shape, axes=shape.axes * (1, 1, slenderness * max(1.0, wanted / (0.6 * reach)) / shape.axes[2]))
        # Without what bone and skin cut off it is only smaller, and far quicker to know.
        if fits is None or volume_ml <= SMALLEST_ML or fits(shape.scaled(float(wanted / np.cbrt(shape.axes.prod())))):
            mass = with_volume(shape, volume_ml, lambda mass, points: _mass_distance(limb, mass, points, mass.radius(points)) <= 0)
            if fits is None or volume_ml <= SMALLEST_ML or fits(mass):
                return mass, volume_ml
        volume_ml = max(SMALLEST_ML, 0.8 * volume_ml)


def _mass_distance(limb: Limb, mass: Mass, points: Points, radius: Field) -> Field:
    """Signed distance (mm, about) to the surface of the mass where bone and skin leave room for it."""
    free = (radius - 1) * np.float32(mass.axes.min())
    bone = np.float32(1.0) - limb.femur(limb.section(points))
    skin = limb.skin(limb.section(mass.before(points, radius))) + np.float32(3.5)
    distance: Field = np.maximum(free, np.maximum(bone, skin))
    return distance


def _middle(mass: Mass, axes: npt.NDArray[np.float64], extent: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Middle of the field of view (local mm): near the limb's axis, moved as far as it takes to hold the mass."""
    centre = axes.T @ mass.centre
    start = axes.T @ (np.array([0.0, -8.0, 0.0]) + 0.25 * mass.centre)
    slack = np.maximum(extent / 2 - _half_extent(mass, axes) - MARGIN_MM, 0)
    middle: npt.NDArray[np.float64] = axes @ np.clip(start, centre - slack, centre + slack)
    return middle


def _half_extent(mass: Mass, axes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Half the size (mm) along i, j, k of a box around the mass, with 20 % for its lobes."""
    half: npt.NDArray[np.float64] = np.sqrt(((axes.T @ mass.turn.T) ** 2) @ (mass.axes * 1.2) ** 2)
    return half


def _paint(rng: np.random.Generator, grid: Grid, home: npt.NDArray[np.float64], limb: Limb, mass: Mass) -> tuple[Canvas, npt.NDArray[np.uint8]]:
    """Paint table, limb and mass without noise; the label is where the mass fills most of a voxel."""
    canvas = Canvas(grid.shape, TISSUE_HU[AIR], edge_mm=sorted(grid.spacing)[1])
    points = points_of(grid, home)
    radius = mass.radius(points)
    section = limb.section(mass.before(points, radius))
    table = _table(points, limb)
    # The limb's weight flattens it against the pad; the root rounds the edge between the two surfaces over 8 mm.
    free, pressed = limb.skin(section), np.float32(PAD_MM) - table
    skin = (free + pressed + np.sqrt((free - pressed) ** 2 + 64)) / 2
    _paint_table(canvas, table)
    limb.paint(canvas, section, limb.section(points), skin)
    distance = _mass_distance(limb, mass, points, radius)
    canvas.lay(distance, _mass_hu(rng, points, radius), TUMOR)
    return canvas, (canvas.tissues == TUMOR).astype(np.uint8)


def _table(points: Points, limb: Limb) -> Field:
    """Height (mm) above the shell of the table, a shallow trough under both limbs."""
    x, y, _ = points
    middle = 0.0 if limb.other is None else limb.other * limb.side
    across = x - np.float32(middle)
    lowest = np.float32(0.98 * limb.radius + PAD_MM)
    height: Field = y + lowest - (across**2 - np.float32(middle**2)) / np.float32(2 * TABLE_RADIUS_MM)
    return height


def _paint_table(canvas: Canvas, height: Field) -> None:
    """Foam pad, carbon shell and foam core, from the limb downwards."""
    canvas.lay(np.maximum(-height, height - np.float32(PAD_MM)), -960.0, AIR)
    canvas.lay(np.abs(height + np.float32(12)) - np.float32(12), -930.0, TABLE)
    canvas.lay(np.abs(height) - np.float32(1.4), TISSUE_HU[TABLE], TABLE)


def _mass_hu(rng: np.random.Generator, points: Points, radius: Field) -> Field:
    """HU inside the mass: solid tissue 20-32 HU under muscle, a necrotic core in two of three, fat in one of six."""
    solid = TISSUE_HU[TUMOR] + rng.uniform(-5, 7)
    values = np.float32(solid) + np.float32(rng.uniform(3, 7)) * Waves.draw(rng, (14, 45)).at(points)
    core = radius + np.float32(0.12) * Waves.draw(rng, (20, 50)).at(points)
    size = rng.uniform(0.3, 0.62) if rng.random() < 2 / 3 else 0.0
    if size:
        values += np.clip((np.float32(size) - core) / np.float32(0.12) + np.float32(0.5), 0, 1) * np.float32(NECROSIS_HU - solid)
    threshold, mixed = rng.uniform(0.9, 1.4), bool(rng.random() < 1 / 6)
    if mixed:
        fat = np.clip((Waves.draw(rng, (18, 40)).at(points) - np.float32(threshold)) / np.float32(0.3), 0, 1)
        values += fat * (np.float32(TISSUE_HU[FAT] + 25) - values)
    return values
