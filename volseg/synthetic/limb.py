"""An adult thigh as functions of space: skin, fat, muscle compartments, femur, vessels and nerve.

Local coordinates are millimetres with the limb's axis near ``x = y = 0``: ``+x`` lateral, ``+y`` anterior, ``+z`` superior. A left limb is a mirrored right one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.synthetic.fields import Canvas, Field, Points, Waves

TISSUES = {0: "air", 1: "table", 2: "skin", 3: "fat", 4: "muscle", 5: "cortical bone", 6: "marrow", 7: "vessel", 8: "nerve", 9: "tumor"}
AIR, TABLE, SKIN, FAT, MUSCLE, CORTEX, MARROW, VESSEL, NERVE, TUMOR = TISSUES

TISSUE_HU = {AIR: -1000.0, TABLE: -150.0, SKIN: 35.0, FAT: -100.0, MUSCLE: 55.0, CORTEX: 1200.0, MARROW: -30.0, VESSEL: 42.0, NERVE: 30.0, TUMOR: 28.0}
"""Mean HU at 120-140 kV. Muscle, fat and tumour are the modes of the histograms of the STS CTs (TCIA Soft-tissue-Sarcoma); blood without contrast is 40-45 HU."""

COMPARTMENTS = (
    (0.10, 0.72, 0.05),  # rectus femoris
    (0.68, 0.34, 0.00),  # vastus lateralis
    (0.35, 0.10, 0.00),  # vastus intermedius
    (-0.42, 0.52, 0.00),  # vastus medialis
    (-0.72, 0.30, -0.08),  # sartorius
    (-0.45, 0.02, 0.00),  # adductor longus
    (-0.28, -0.34, 0.02),  # adductor magnus
    (-0.84, -0.14, -0.06),  # gracilis
    (-0.42, -0.76, 0.00),  # semimembranosus
    (0.02, -0.82, -0.02),  # semitendinosus
    (0.46, -0.62, 0.03),  # biceps femoris
)
"""Middle (lateral, anterior) and extra reach of each muscle in a cross-section of the middle thigh, as shares of the radius inside the fat."""


@dataclass(frozen=True)
class Limb:
    """Everything that differs between two thighs (mm, radians, HU).

    Attributes
    ----------
    side : int
        +1 for a right limb, -1 for a left one (``+x`` in RAS+ is the patient's right).
    radius, taper : float
        Radius of the skin at z = 0, and its relative growth per mm upwards.
    lean : ndarray, (2,)
        Shift of the axis in x and y per mm along z.
    outline, outline_phase : ndarray, (3,)
        Amplitudes (share of the radius) and phases of the 2nd to 4th harmonic of the skin's outline.
    fat, fat_turn : float
        Mean thickness of the subcutaneous fat and the direction in which it is thickest.
    bone, bone_radius, cortex : ndarray (2,), float, float
        Middle of the femur at z = 0, its outer radius and the thickness of its cortex.
    muscles, muscle_hu : ndarray, (11, 3) and (11,)
        Jittered ``COMPARTMENTS`` and each muscle's offset from the mean HU of muscle.
    twist : float
        Turn of the compartments per mm along z.
    septum : float
        Mean half-thickness of the fat between muscles.
    septa, marbling : Waves
        Where septa are thick, and where muscle holds fat.
    marbled : float
        How far ``marbling`` must rise for fat to show; above 3 there is none.
    blood_hu : tuple of float
        Artery and vein.
    other : float or None
        x of the plane that mirrors this limb into the second one, or None when there is one limb.
    """

    side: int
    radius: float
    taper: float
    lean: npt.NDArray[np.float64]
    outline: npt.NDArray[np.float64]
    outline_phase: npt.NDArray[np.float64]
    fat: float
    fat_turn: float
    bone: npt.NDArray[np.float64]
    bone_radius: float
    cortex: float
    muscles: npt.NDArray[np.float64]
    muscle_hu: npt.NDArray[np.float64]
    twist: float
    septum: float
    septa: Waves
    marbling: Waves
    marbled: float
    blood_hu: tuple[float, float]
    other: float | None

    @classmethod
    def draw(cls, rng: np.random.Generator, legs: int, contrast: bool) -> Limb:
        """Draw an adult thigh; sizes span the 5th to 95th centile of mid-thigh circumference (about 42-60 cm)."""
        radius = rng.uniform(67, 92)
        muscles = np.array(COMPARTMENTS) + rng.normal(scale=(0.05, 0.05, 0.015), size=(len(COMPARTMENTS), 3))
        return cls(
            side=int(rng.choice([-1, 1])),
            radius=radius,
            taper=rng.uniform(0.0008, 0.0018),
            lean=rng.uniform(-0.12, 0.12, size=2) * (1.0, 0.4),
            outline=rng.uniform(0.005, 0.035, size=3),
            outline_phase=rng.uniform(0, 2 * np.pi, size=3),
            fat=rng.uniform(8, 24),
            fat_turn=rng.uniform(np.pi / 2, 3 * np.pi / 2),
            bone=radius * (np.array([0.16, 0.12]) + rng.uniform(-0.06, 0.06, size=2)),
            bone_radius=rng.uniform(12.5, 15.5),
            cortex=rng.uniform(4.5, 7),
            muscles=muscles,
            muscle_hu=rng.uniform(-4, 4, size=len(COMPARTMENTS)),
            twist=rng.uniform(-0.003, 0.003),
            septum=rng.uniform(0.3, 1.0),
            septa=Waves.draw(rng, (25, 60), stretch_z=2.0),
            marbling=Waves.draw(rng, (5, 14), count=16, stretch_z=6.0),
            marbled=rng.choice([4.0, rng.uniform(1.9, 2.4)]),
            blood_hu=(rng.uniform(140, 190), rng.uniform(95, 130)) if contrast else (TISSUE_HU[VESSEL], TISSUE_HU[VESSEL]),
            other=-radius * 1.12 - rng.uniform(1, 10) if legs == 2 else None,
        )

    def section(self, points: Points) -> Points:
        """Coordinates in the limb's own cross-sections: mirrored to lateral ``+x``, the second limb folded onto the first, the axis made upright."""
        x, y, z = points
        x = x * np.float32(self.side)
        if self.other is not None:
            x = np.where(x < self.other, np.float32(2 * self.other) - x, x)
        return x - np.float32(self.lean[0]) * z, y - np.float32(self.lean[1]) * z, z

    def skin(self, section: Points) -> Field:
        """Signed distance (mm, negative inside) to the skin, of points in ``section`` coordinates."""
        x, y, z = section
        angle = np.arctan2(y, x)
        wave = sum(np.float32(a) * np.cos(np.float32(n) * angle + np.float32(p)) for n, a, p in zip((2, 3, 4), self.outline, self.outline_phase, strict=True))
        distance: Field = np.hypot(x, y) - np.float32(self.radius) * (1 + np.float32(self.taper) * z) * (1 + wave)
        return distance

    def fat_depth(self, section: Points) -> Field:
        """Thickness (mm) of skin and subcutaneous fat in the direction of each point."""
        x, y, _ = section
        depth: Field = np.float32(self.fat) * (1 + np.float32(0.55) * np.cos(np.arctan2(y, x) - np.float32(self.fat_turn)))
        return depth

    def femur(self, section: Points) -> Field:
        """Signed distance (mm) to the outside of the femur, with the ridge (linea aspera) it has behind and the flare it has below."""
        x, y, z = section
        x, y = x - np.float32(self.bone[0]), y - np.float32(self.bone[1])
        length = np.hypot(x, y) + np.float32(1e-6)
        ridge = np.exp(6 * (-y / length - 1))
        flare = 1 + np.float32(0.35) / (1 + np.exp((z + 110) / 18))
        distance: Field = length - np.float32(self.bone_radius) * flare * (1 + np.float32(0.22) * ridge)
        return distance

    def paint(self, canvas: Canvas, section: Points, stiff: Points, skin: Field) -> None:
        """Paint the limb, without a mass, from the skin inwards.

        Parameters
        ----------
        canvas : Canvas
            HU and tissues; painted in place.
        section : tuple of ndarray
            ``section`` coordinates of where soft tissue lay before a mass pushed it.
        stiff : tuple of ndarray
            ``section`` coordinates of the voxels themselves, for bone, which is not pushed.
        skin : ndarray
            Signed distance to the skin (mm).
        """
        canvas.lay(skin, TISSUE_HU[SKIN], SKIN)
        canvas.lay(skin + np.float32(1.8), TISSUE_HU[FAT], FAT)
        loose = self.septa.at(section)
        self._paint_muscles(canvas, section, skin + self.fat_depth(section), loose)
        self._paint_bundles(canvas, section, loose)
        femur = self.femur(stiff)
        canvas.lay(femur, TISSUE_HU[CORTEX], CORTEX)
        canvas.lay(femur + np.float32(self.cortex), TISSUE_HU[MARROW], MARROW)

    def _paint_muscles(self, canvas: Canvas, section: Points, fascia: Field, loose: Field) -> None:
        x, y, z = section
        reach = self.radius - self.fat
        turn = np.float32(self.twist) * z
        cosine, sine = np.cos(turn), np.sin(turn)
        x, y = x * cosine - y * sine, x * sine + y * cosine
        nearest, second = np.full_like(x, np.inf), np.full_like(x, np.inf)
        density = np.zeros_like(x)
        for (lateral, anterior, extra), offset in zip(self.muscles, self.muscle_hu, strict=True):
            away = np.hypot(x - np.float32(lateral * reach), y - np.float32(anterior * reach)) - np.float32(extra * reach)
            second = np.minimum(second, np.maximum(nearest, away))
            density = np.where(away < nearest, np.float32(offset), density)
            nearest = np.minimum(nearest, away)
        # Fat gathers where three muscles meet and thins out in between, so the gap's width follows a smooth field and not a constant.
        gap = np.float32(self.septum) * (1 + np.float32(1.3) * np.maximum(loose, -0.7))
        canvas.lay(np.maximum(fascia, gap - (second - nearest) / 2), TISSUE_HU[MUSCLE] + density, MUSCLE)
        if self.marbled < 3:
            flecks = (np.float32(self.marbled) - self.marbling.at(section)) * np.float32(2.0)
            canvas.lay(np.maximum(fascia + 3, flecks), TISSUE_HU[FAT] + 40, FAT)

    def _paint_bundles(self, canvas: Canvas, section: Points, loose: Field) -> None:
        x, y, z = section
        reach = self.radius - self.fat
        artery, vein = self.blood_hu
        medial = self.bone - np.array([0.42, 0.0]) * reach
        behind = self.bone - np.array([0.02, 0.55]) * reach
        vessels = ((medial, 3.6, artery, VESSEL), (medial + np.array([-2.5, -8.5]), 4.6, vein, VESSEL), (behind, 4.4, TISSUE_HU[NERVE], NERVE))
        saphenous = np.array([-0.78, 0.5]) * (self.radius - self.fat * 0.5)
        for centre, radius, _, _ in vessels:
            canvas.lay(_tube(x, y, z, centre, radius + 2.0) - np.float32(1.5) * loose, TISSUE_HU[FAT], FAT)
        for centre, radius, value, tissue in (*vessels, (saphenous, 1.8, vein, VESSEL)):
            canvas.lay(_tube(x, y, z, centre, radius), value, tissue)


def _tube(x: Field, y: Field, z: Field, centre: npt.NDArray[np.float64], radius: float) -> Field:
    """Signed distance (mm) to a tube that follows the limb and converges slightly towards its axis below."""
    narrowing = 1 + np.float32(0.0008) * z
    return np.hypot(x - np.float32(centre[0]) * narrowing, y - np.float32(centre[1]) * narrowing) - np.float32(radius)
