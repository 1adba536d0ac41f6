"""A bundle's random transforms, run on a whole batch at once on the device that trains.

Stock MONAI transforms one patch at a time, on the processor, and spends much of that on bookkeeping. Here each transform still draws its own parameters, by its own code and
random state, so that their distribution is the bundle's; only what is done with them is done for the batch. Lists with a transform that is not known are left to stock MONAI.
"""

from __future__ import annotations

from volseg.training.augmentation.batch import AugmentedBatch, recognise

__all__ = ["AugmentedBatch", "recognise"]
