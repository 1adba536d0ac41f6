"""Smooth random functions of space, soft edges and scanner noise: what both phantoms are painted with.

Anatomy is a function of world position (mm), not of voxels, so one seed gives the same body on every grid, oblique or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.geometry import Grid

Field = npt.NDArray[np.float32]
Points = tuple[Field, Field, Field]
"""World-like coordinates x, y, z (mm) of every voxel, each (i, j, k) float32."""


def points_of(grid: Grid, origin: npt.NDArray[np.float64]) -> Points:
    """Positions of all voxel centres relative to a world point (RAS+ mm), float32."""
    affine = grid.affine
    i, j, k = (np.arange(n, dtype=np.float64) for n in grid.shape)
    axes = [affine[row, 0] * i[:, None, None] + affine[row, 1] * j[None, :, None] + affine[row, 2] * k[None, None, :] + (affine[row, 3] - origin[row]) for row in range(3)]
    return axes[0].astype(np.float32), axes[1].astype(np.float32), axes[2].astype(np.float32)


@dataclass(frozen=True)
class Waves:
    """A smooth random field of zero mean and unit variance: a sum of plane waves (random Fourier series).

    Attributes
    ----------
    vectors : ndarray, (n, 3)
        Wave vectors (radians per mm).
    phases : ndarray, (n,)
        Phases (radians).
    """

    vectors: npt.NDArray[np.float64]
    phases: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength: tuple[float, float], count: int = 10, stretch_z: float = 1.0) -> Waves:
        """Draw waves of random direction with wavelengths (mm) uniform in a range, ``stretch_z`` times longer along z."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = rng.uniform(*wavelength, size=(count, 1))
        vectors = 2 * np.pi * directions / lengths
        vectors[:, 2] /= stretch_z
        return cls(vectors, rng.uniform(0, 2 * np.pi, size=count))

    def at(self, points: Points) -> Field:
        """Values at points (mm)."""
        x, y, z = points
        total = np.zeros(np.broadcast(x, y, z).shape, dtype=np.float32)
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            a, b, c = (np.float32(v) for v in vector)
            total += np.sin(a * x + b * y + c * z + np.float32(phase))
        total *= np.float32(np.sqrt(2 / len(self.phases)))
        return total


def cover(distance: Field, width: float) -> Field:
    """Share of a voxel inside a surface, from the signed distance to it (mm, negative inside): a ramp one voxel (``width`` mm) wide, the partial volume of a flat edge."""
    share: Field = np.clip(np.float32(0.5) - distance / np.float32(width), 0, 1)
    return share


def ellipsoid(points: Points, centre: Sequence[float], axes: Sequence[float] | npt.NDArray[np.float64]) -> Field:
    """Approximate signed distance (mm, negative inside) to an axis-aligned ellipsoid, exact on its surface."""
    scaled = [(p - np.float32(c)) / np.float32(a) for p, c, a in zip(points, centre, axes, strict=True)]
    radius = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    distance: Field = (radius - 1) * np.float32(min(axes))
    return distance


class Canvas:
    """Layers painted one over another: intensity by share of the voxel, tissue by majority."""

    def __init__(self, shape: tuple[int, int, int], value: float, edge_mm: float) -> None:
        self.values: Field = np.full(shape, value, dtype=np.float32)
        self.tissues: npt.NDArray[np.uint8] = np.zeros(shape, dtype=np.uint8)
        self.edge_mm = edge_mm

    def lay(self, distance: Field, value: float | Field, tissue: int) -> None:
        """Paint the inside of a surface given by its signed distance (mm, negative inside)."""
        share = cover(distance, self.edge_mm)
        self.values += share * (np.asarray(value, dtype=np.float32) - self.values)
        self.tissues[share >= 0.5] = tissue


def blurred(values: Field, grid: Grid, in_plane_mm: float = 0.6) -> Field:
    """The scanner's point spread: a Gaussian of the given sigma (mm) in plane and of 0.3 slice along ``k`` (a slice profile)."""
    from scipy.ndimage import gaussian_filter

    sigma = [in_plane_mm / grid.spacing[0], in_plane_mm / grid.spacing[1], 0.3]
    result: Field = gaussian_filter(values, sigma, mode="nearest", truncate=3.0)
    return result


def correlated_noise(rng: np.random.Generator, grid: Grid, sd: float, streaks: float = 0.0) -> Field:
    """Gaussian noise with the texture of a reconstruction, of zero mean and exactly the asked standard deviation.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    grid : Grid
        Where the noise lies.
    sd : float
        Standard deviation in the image's units, over all voxels.
    streaks : float
        Share (0..1) of the variance in streaks along the ``i`` axis, as photon starvation leaves them through the widest part of a limb.

    Returns
    -------
    ndarray, float32, (i, j, k)
    """
    from scipy.ndimage import gaussian_filter

    total = np.zeros(grid.shape, dtype=np.float32)
    for share, sigma_mm in ((1 - streaks, (0.75, 0.75)), (streaks, (9.0, 0.7))):
        if share > 0:
            white = rng.standard_normal(grid.shape, dtype=np.float32)
            part = gaussian_filter(white, [sigma_mm[0] / grid.spacing[0], sigma_mm[1] / grid.spacing[1], 0.2], mode="wrap", truncate=3.0)
            total += np.float32(np.sqrt(share)) * part / part.std()
    total -= total.mean()
    return total * np.float32(sd / total.std())
