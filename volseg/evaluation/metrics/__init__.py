"""The metrics: how one label of a prediction agrees with that of a reference, in voxels, in surfaces and in lesions."""

from __future__ import annotations
