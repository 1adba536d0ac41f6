"""What keeping probabilities adds to a forecast."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod

from volseg.inference.forecast import Forecast
from volseg.inference.probability_store import ProbabilityStore
from volseg.inference.streaming.memory import FLOAT
from volseg.inference.streaming.sliding import slab_axis
from volseg.inference.workload import Workload
from volseg.processors import usable_threads

SECONDS_PER_VOXEL = 1.2e-8
"""To interpolate and keep the probability of one label at one voxel: an estimate for two cores, about a third of what a machine five times overbooked took."""

PLANES = 2
"""Planes of the network that a plane of the scan lies between."""

COPIES = 6
"""Arrays of a plane's size that one thread holds while it interpolates and rounds."""


def probability_memory(work: Workload, store: ProbabilityStore) -> int:
    """Most bytes that probabilities take while they are interpolated (and, where they are kept in memory, all of them).

    Parameters
    ----------
    work : Workload
        The run.
    store : ProbabilityStore
        Where they go.
    """
    axis = slab_axis(work.network_shape, work.window.roi)
    network_plane, scan_plane = (prod(n for other, n in enumerate(shape) if other != axis) for shape in (work.network_shape, work.scan_shape))
    # Scores of a plane are copied and activated before they replace the last ones.
    kept = PLANES * (2 * work.classes * network_plane + len(store) * scan_plane) * FLOAT
    working = usable_threads() * COPIES * scan_plane * FLOAT
    # What is mapped of a file: planes between two of the network's.
    between = ceil(work.scan_shape[axis] / work.network_shape[axis]) + 1
    return kept + working + len(store) * (between * scan_plane if store.in_file else work.voxels * FLOAT)


def with_probabilities(told: Forecast, work: Workload, store: ProbabilityStore) -> Forecast:
    """A forecast with what probabilities add: memory, and the time to interpolate them."""
    memory = {**told.memory_bytes, "probabilities": probability_memory(work, store)}
    stages = None if told.stages_s is None else {**told.stages_s, "probabilities": SECONDS_PER_VOXEL * work.voxels * len(store)}
    return replace(told, stages_s=stages, memory_bytes=memory)
