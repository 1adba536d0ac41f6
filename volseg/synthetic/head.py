"""A T1-weighted MRI of a head with hippocampi and a white-matter lesion: :func:`make_mr`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.geometry import Grid
from volseg.synthetic.fields import Canvas, Field, Points, Waves, blurred, correlated_noise, ellipsoid, points_of
from volseg.synthetic.mass import Mass, with_volume
from volseg.synthetic.scan import SyntheticScan, scanner_axes, scanner_grid

MR_SHAPE = (160, 192, 80)
MR_SPACING = (1.1, 1.1, 2.0)

LABELS = {1: "anterior hippocampus", 2: "posterior hippocampus", 3: "lesion"}
"""The first two as in the Medical Segmentation Decathlon's Task04 (Antonelli et al. 2022)."""

TISSUES = {
    0: "air",
    1: "soft tissue",
    2: "fat",
    3: "bone",
    4: "cerebrospinal fluid",
    5: "grey matter",
    6: "white matter",
    7: "deep grey matter",
    8: "anterior hippocampus",
    9: "posterior hippocampus",
    10: "lesion",
}
AIR, SOFT, FAT, BONE, CSF, GREY, WHITE, DEEP, ANTERIOR, POSTERIOR, LESION = TISSUES

TISSUE_T1 = {AIR: 0.0, SOFT: 400.0, FAT: 900.0, BONE: 50.0, CSF: 160.0, GREY: 480.0, WHITE: 700.0, DEEP: 570.0, ANTERIOR: 490.0, POSTERIOR: 490.0, LESION: 350.0}
"""Arbitrary units in the order T1 weighting gives them: fat > white > deep grey > grey > lesion > fluid > cortical bone."""

LESION_ML = (2.0, 20.0)
TOP_VALUE = 4095
"""Largest stored value, 12 bits as most MR scanners keep."""

DEEP_GREY = (((11, -8, 4), (8, 13, 8)), ((14, 14, 12), (5, 13, 7)), ((25, 5, 0), (5, 15, 9)))
"""Thalamus, caudate and putamen of one side: middle and semi-axes (mm) from the middle of the brain."""

VENTRICLES = (((10, -2, 15), (5.5, 27, 7)), ((17, -34, 4), (5, 11, 6)), ((0, -3, 1), (2.4, 12, 10)))
"""Body and trigone of the lateral ventricle of one side, and the third ventricle (mm)."""

HIPPOCAMPUS_LENGTH_MM = 36.0
HIPPOCAMPUS_RADII_MM = (5.2, 3.3)
HIPPOCAMPUS_WIDTH = 1.25
"""Length, radii of head and tail, and width over height: 3.1 ml a side with its rounded ends, within the 2.5-4 ml of adults."""

ANTERIOR_SHARE = 0.45


@dataclass(frozen=True)
class Head:
    """What differs between two heads (shares, mm, radians)."""

    size: npt.NDArray[np.float64]
    pose: npt.NDArray[np.float64]
    scalp: float
    ventricles: float
    warp: tuple[Waves, Waves]
    folds: Waves
    folia: Waves

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Head:
        """Draw an adult head: size within 6 %, pose within 6 degrees about each axis."""
        angles = rng.uniform(-0.1, 0.1, size=3)
        pose = np.eye(3)
        for axis, angle in enumerate(angles):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[a, a] = turn[b, b] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            pose = pose @ turn
        return cls(
            size=rng.uniform(0.94, 1.06, size=3),
            pose=pose,
            scalp=rng.uniform(3.5, 7),
            ventricles=rng.uniform(0.8, 1.35),
            warp=(Waves.draw(rng, (70, 140), count=4), Waves.draw(rng, (70, 140), count=4)),
            folds=Waves.draw(rng, (14, 24), count=14),
            folia=Waves.draw(rng, (9, 14), count=6),
        )

    def inner(self, points: Points) -> Points:
        """Coordinates of the average head (mm; +x right, +y anterior, +z superior): turned, scaled and warped, so that no head is quite symmetric."""
        turned = [sum(p * np.float32(c) for p, c in zip(points, row, strict=True)) for row in (self.pose.T / self.size[:, None])]
        x, y, z = (np.asarray(axis, dtype=np.float32) for axis in turned)
        return x + np.float32(1.5) * self.warp[0].at(points), y + np.float32(1.5) * self.warp[1].at(points), z

    def paint(self, canvas: Canvas, inner: Points) -> None:
        """Paint everything but the lesion, from the skin inwards."""
        x, y, z = inner
        folded = (np.abs(x), y, z)
        cerebrum = ellipsoid(inner, (0, 0, 0), (66, 84, 62))
        cerebellum = ellipsoid(inner, (0, -48, -40), (50, 31, 25))
        stem = ellipsoid(inner, (0, -20, -48), (12, 12, 40))
        case = np.minimum(np.minimum(np.maximum(cerebrum, -z - 38), cerebellum), stem)
        self._paint_shell(canvas, inner, case)
        self._paint_cerebrum(canvas, inner, np.maximum(cerebrum, np.maximum(-z - 34, -np.minimum(cerebellum, stem) + 1.5)))
        leaves = np.abs(self.folia.at(inner)) * 2
        canvas.lay(np.maximum(cerebellum + 2, 0.6 - leaves), TISSUE_T1[GREY], GREY)
        canvas.lay(np.maximum(cerebellum + 7, 2.2 - leaves), TISSUE_T1[WHITE], WHITE)
        canvas.lay(stem + 1, TISSUE_T1[WHITE] - 40, WHITE)
        for centre, axes in DEEP_GREY:
            canvas.lay(ellipsoid(folded, centre, axes), TISSUE_T1[DEEP], DEEP)
        canvas.lay(self.ventricle(inner), TISSUE_T1[CSF], CSF)
        along, hippocampus = _hippocampus(folded)
        horn = _hippocampus((folded[0] - 3, y + 1, z - 1.5))[1] + 0.5
        canvas.lay(horn, TISSUE_T1[CSF], CSF)
        canvas.lay(hippocampus, TISSUE_T1[POSTERIOR], POSTERIOR)
        canvas.tissues[(canvas.tissues == POSTERIOR) & (along < ANTERIOR_SHARE)] = ANTERIOR

    def ventricle(self, inner: Points) -> Field:
        """Signed distance (mm, about) to the ventricles."""
        folded = (np.abs(inner[0]), inner[1], inner[2])
        parts = [ellipsoid(folded, centre, np.array(axes) * (self.ventricles, 1, self.ventricles)) for centre, axes in VENTRICLES]
        distance: Field = np.minimum(np.minimum(parts[0], parts[1]), parts[2])
        return distance

    def _paint_shell(self, canvas: Canvas, inner: Points, case: Field) -> None:
        """Head and neck, fat, skull with its marrow, and the fluid around the brain."""
        x, y, z = inner
        neck = np.maximum(np.hypot(x / 56, (y + 8) / 66) * 56 - 56, z + 50)
        face = ellipsoid(inner, (0, 35, -50), (58, 58, 75))
        around = case - (self.scalp + 12)
        head = np.minimum(np.minimum(around, face), neck)
        canvas.lay(head, TISSUE_T1[SOFT], SOFT)
        canvas.lay(np.maximum(head + 2, -head - 2 - self.scalp), TISSUE_T1[FAT], FAT)
        canvas.lay(np.maximum(head + 2, case - 10), TISSUE_T1[BONE], BONE)
        canvas.lay(np.abs(case - np.float32(6)) - np.float32(1.2), TISSUE_T1[BONE] + 330, BONE)
        canvas.lay(case - 3, TISSUE_T1[CSF], CSF)

    def _paint_cerebrum(self, canvas: Canvas, inner: Points, surface: Field) -> None:
        """Cortex folded along the zero surfaces of a random field, 2.8 mm thick, over white matter."""
        x, _, z = inner
        # The field changes by about 0.35 per mm, so this is near the distance (mm) to the middle of the nearest sulcus.
        sulcus = np.abs(self.folds.at(inner)) / np.float32(0.35)
        carved = np.minimum(np.float32(0.9) - sulcus, surface + 15)
        fissure = np.minimum(np.float32(1.3) - np.abs(x), z - 14)
        pial = np.maximum(surface, np.maximum(carved, fissure))
        canvas.lay(pial, TISSUE_T1[GREY], GREY)
        canvas.lay(pial + np.float32(2.8), TISSUE_T1[WHITE], WHITE)


def make_mr(
    seed: int = 0,
    *,
    shape: Sequence[int] = MR_SHAPE,
    spacing: Sequence[float] = MR_SPACING,
    orientation: str = "LPS",
    oblique: float = 0.0,
    lesion_ml: float | None = None,
    noise: float | None = None,
) -> SyntheticScan:
    """Make a T1-weighted MRI of a head.

    Parameters
    ----------
    seed : int
        Draws the anatomy; the same seed is the same head on any grid.
    shape, spacing : sequence of length 3
        Voxels and voxel size (mm) along i, j, k.
    orientation : str
        Patient direction each array axis points towards, e.g. ``"LPS"`` (axial) or ``"PSR"`` (sagittal).
    oblique : float
        Degrees by which the stack is turned out of the patient's planes.
    lesion_ml : float, optional
        Volume of the lesion (ml); drawn from ``LESION_ML`` when omitted.
    noise : float, optional
        Standard deviation of the noise in each of the real and imaginary channel (the image is their magnitude, hence Rician); drawn from 14-26 when omitted.

    Returns
    -------
    SyntheticScan
        Arbitrary units >= 0, with labels 1 anterior hippocampus, 2 posterior hippocampus, 3 lesion.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    if lesion_ml is not None and not 0.1 <= lesion_ml <= 40:
        msg = f"the volume of the lesion must lie within 0.1..40 ml, got {lesion_ml:g}"
        raise InputError(msg)
    if noise is not None and not 0 < noise <= 500:
        msg = f"the noise must lie within 0..500, got {noise:g}"
        raise InputError(msg)
    rng = np.random.default_rng([seed, 0x3A])
    head = Head.draw(rng)
    drawn_ml, drawn_noise = float(np.exp(rng.uniform(*np.log(LESION_ML)))), float(rng.uniform(14, 26))
    volume, sd = lesion_ml or drawn_ml, noise or drawn_noise
    home = rng.uniform((-4, -12, -20), (4, 12, 20))
    grid = scanner_grid(shape, spacing, home + np.array([0.0, 2.0, -8.0]), scanner_axes(orientation, oblique))
    lesion = _place_lesion(rng, head, volume)
    bias = Waves.draw(rng, (220, 400), count=6)
    canvas, gain = _paint(grid, home, head, lesion, bias)

    signal = blurred(canvas.values, grid) * gain
    real, imaginary = (correlated_noise(rng, grid, sd) for _ in range(2))
    image = np.clip(np.rint(np.hypot(signal + real, imaginary)), 0, TOP_VALUE).astype(np.int16)
    label = np.choose(np.clip(canvas.tissues.astype(np.int16) - (ANTERIOR - 1), 0, 3), [0, 1, 2, 3]).astype(np.uint8)
    facts = {"noise": sd, "lesion_ml_asked": volume, "oblique_deg": float(oblique)}
    return SyntheticScan(image, label, grid, "MR", LABELS, seed, canvas.tissues, TISSUES, facts)


def _paint(grid: Grid, home: npt.NDArray[np.float64], head: Head, lesion: Mass, bias: Waves) -> tuple[Canvas, Field]:
    """Paint the head and its lesion without noise; also the receive field, within about 25 % of 1."""
    canvas = Canvas(grid.shape, TISSUE_T1[AIR], edge_mm=sorted(grid.spacing)[1])
    points = points_of(grid, home)
    inner = head.inner(points)
    head.paint(canvas, inner)
    radius = lesion.radius(points)
    free = np.maximum((radius - 1) * np.float32(lesion.axes.min()), 1 - head.ventricle(inner))
    canvas.lay(free, TISSUE_T1[LESION] - 90 * np.clip(1.2 - 2 * radius, 0, 1), LESION)
    gain: Field = np.exp(np.float32(0.1) * bias.at(points))
    return canvas, gain


def _place_lesion(rng: np.random.Generator, head: Head, volume_ml: float) -> Mass:
    """Draw a lobulated lesion in the white matter beside a lateral ventricle."""
    centre = rng.uniform((25, -35, 16), (36, 25, 30)) * (rng.choice([-1, 1]), 1, 1)

    def inside(mass: Mass, points: Points) -> npt.NDArray[np.bool_]:
        return np.asarray((mass.radius(points) <= 1) & (head.ventricle(head.inner(points)) >= 1))

    return with_volume(Mass.draw(rng, head.pose @ (centre * head.size)), volume_ml, inside, step_mm=1.0)


def _hippocampus(folded: Points) -> tuple[Field, Field]:
    """Share of the way from head to tail, and signed distance (mm), of a tapering tube that bends inwards and upwards."""
    x, y, z = folded
    along = np.clip((-4 - y) / np.float32(HIPPOCAMPUS_LENGTH_MM), 0, 1)
    beyond = np.abs(y + 4 + along * np.float32(HIPPOCAMPUS_LENGTH_MM))
    middle_x, middle_z = 27 - 6 * along**2, -20 + 13 * along**1.5
    distance: Field = np.sqrt(((x - middle_x) / np.float32(HIPPOCAMPUS_WIDTH)) ** 2 + beyond**2 + (z - middle_z) ** 2) - (
        np.float32(HIPPOCAMPUS_RADII_MM[0]) + np.float32(HIPPOCAMPUS_RADII_MM[1] - HIPPOCAMPUS_RADII_MM[0]) * along
    )
    return along, distance
