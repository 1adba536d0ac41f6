"""A soft-tissue mass: a lobulated ellipsoid of a given volume that pushes its surroundings aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from volseg.synthetic.fields import Field, Points

PUSH = np.float32(0.75)
"""Share of the mass's volume that was pushed outwards rather than replaced; 1 would be a mass that replaces nothing."""


LOBE_SHARPNESS = 6.0
"""How fast a lobe falls off with the angle from its top: to half at about 28 degrees."""


@dataclass(frozen=True)
class Mass:
    """A lobulated ellipsoid in local millimetres.

    Attributes
    ----------
    centre : ndarray, (3,)
        Its middle (mm).
    axes : ndarray, (3,)
        Semi-axes (mm) before lobulation.
    turn : ndarray, (3, 3)
        Rows are the unit vectors of the semi-axes.
    bumps : ndarray, (n, 3)
        Unit vectors, in the frame of the semi-axes, of lobes and dents.
    heights : ndarray, (n,)
        Height of each bump as a share of the radius; negative for a dent.
    """

    centre: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    turn: npt.NDArray[np.float64]
    bumps: npt.NDArray[np.float64]
    heights: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, centre: npt.NDArray[np.float64]) -> Mass:
        """Draw a mass of semi-axes near 1 mm, the third near z, to be scaled by :func:`with_volume`."""
        angle, tilt = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3)
        about_z = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
        about_x = np.array([[1.0, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
        bumps = rng.normal(size=(9, 3))
        bumps /= np.linalg.norm(bumps, axis=1, keepdims=True)
        axes = np.array([1.0, rng.uniform(0.72, 0.95), 1.0])
        return cls(centre, axes, about_x @ about_z, bumps, rng.uniform(-0.28, 0.3, size=9))

    def radius(self, points: Points) -> Field:
        """Distance from the centre as a share of the distance to the surface: below 1 inside."""
        x, y, z = (p - np.float32(c) for p, c in zip(points, self.centre, strict=True))
        u, v, w = ((x * np.float32(r[0]) + y * np.float32(r[1]) + z * np.float32(r[2])) / np.float32(a) for r, a in zip(self.turn, self.axes, strict=True))
        length = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
        surface = np.ones_like(length)
        for bump, height in zip(self.bumps, self.heights, strict=True):
            cosine = (u * np.float32(bump[0]) + v * np.float32(bump[1]) + w * np.float32(bump[2])) / length
            surface += np.float32(height) * np.exp(np.float32(LOBE_SHARPNESS) * (cosine - 1))
        radius: Field = length / surface
        return radius

    def before(self, points: Points, radius: Field) -> Points:
        """Where tissue now at ``points`` lay before the mass grew: an incompressible radial push, so shells keep their volume and it fades with distance."""
        old = np.cbrt(np.where(radius > 1, radius**3 - PUSH, (1 - PUSH) * radius**3))
        shrink = old / np.maximum(radius, np.float32(1e-6))
        x, y, z = (np.asarray(np.float32(c) + (p - np.float32(c)) * shrink, dtype=np.float32) for p, c in zip(points, self.centre, strict=True))
        return x, y, z

    def scaled(self, factor: float) -> Mass:
        """The same shape, ``factor`` times larger."""
        return replace(self, axes=self.axes * factor)

    @property
    def reach(self) -> float:
        """Radius (mm) of a sphere around the centre that holds the whole mass."""
        lobes = np.exp(LOBE_SHARPNESS * (self.bumps @ self.bumps.T - 1)) @ np.clip(self.heights, 0, None)
        return float(self.axes.max() * (1.05 + lobes.max()))


def with_volume(mass: Mass, volume_ml: float, inside: Callable[[Mass, Points], npt.NDArray[np.bool_]], step_mm: float = 1.5) -> Mass:
    """Scale a mass until what ``inside`` leaves of it has a volume.

    Parameters
    ----------
    mass : Mass
        Shape and place.
    volume_ml : float
        Wanted volume (ml).
    inside : callable
        Says which points belong to a mass once bone and skin have cut it.
    step_mm : float
        Lattice on which the volume is counted.

    Returns
    -------
    Mass
        Fixed-point iteration on the cube root of the volume, at most 8 rounds, to 0.5 %.
    """
    mass = mass.scaled(float(np.cbrt(volume_ml * 1000 / (4 / 3 * np.pi * mass.axes.prod()))))
    step = max(step_mm, mass.axes.min() / 10)
    for _ in range(8):
        half = np.arange(-mass.reach, mass.reach + step, step, dtype=np.float32)
        x, y, z = np.meshgrid(*(half + np.float32(c) for c in mass.centre), indexing="ij")
        counted = np.count_nonzero(inside(mass, (x, y, z))) * step**3 / 1000
        if abs(counted / volume_ml - 1) < 0.005:
            break
        mass = mass.scaled(float(np.clip(np.cbrt(volume_ml / max(counted, 1e-3)), 0.7, 1.4)))
    return mass
