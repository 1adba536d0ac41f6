"""The safe path: a bundle's own transforms and inferer, run by stock MONAI on an image in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from volseg.bundle import Bundle
from volseg.errors import BundleError, DeviceError, root_cause
from volseg.geometry import Grid
from volseg.inference.device import autocast, describe_device
from volseg.inference.executors.averaging import Averaging
from volseg.inference.executors.torch_memory import is_out_of_memory
from volseg.inference.outcome import Outcome, WindowProgress
from volseg.inference.pipeline import IMAGE, PREDICTION, Pipeline
from volseg.inference.probability_store import ProbabilityStore
from volseg.inference.quiet import quiet_libraries
from volseg.inference.windows import count_windows
from volseg.io import Volume
from volseg.io.alignment import voxels_on
from volseg.processors import usable_threads

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from monai.data import MetaTensor

GRID_TOLERANCE_MM = 1e-2
"""MONAI keeps affines in float32 or float64 and inverts resampling numerically; a restored grid is the scan's own within a hundredth of a millimetre."""

DECISIONS = ("AsDiscrete", "AsDiscreted")
"""Transforms that turn scores into a label map."""

PROBABILITY_SLACK = 1e-3
"""Interpolating probabilities in float32 may leave them this far outside 0..1."""


class StockRunner:
    """Runs scans through MONAI.

    Parameters
    ----------
    bundle : Bundle
        Whose config the pipeline is of.
    pipeline : Pipeline
        From :func:`~volseg.inference.pipeline.build_pipeline`.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    averaging : Averaging
        What the pipeline's network averages, for the report.

    Attributes
    ----------
    reason : str
        Why it is MONAI that runs, told in the report.
    """

    def __init__(self, bundle: Bundle, pipeline: Pipeline, precision: str, averaging: Averaging | None = None) -> None:
        self.bundle, self._pipeline, self._precision, self.reason = bundle, pipeline, precision, ""
        self._averaging = averaging or Averaging()
        self._device = pipeline.device

    def plan(self, volume: Volume) -> dict[str, Any]:
        """Shape of the network's input and the facts of the engine; runs the pre-processing but not the network."""
        with quiet_libraries():
            image = self._preprocess(volume)
        return {"network_input": [int(n) for n in image[IMAGE].shape], **self._engine(image[IMAGE])}

    def segment(self, volume: Volume, progress: WindowProgress | None, probabilities: ProbabilityStore | None) -> Outcome:
        """Segment one scan; see :meth:`volseg.inference.Segmenter.segment`."""
        timer = _Timer()
        with quiet_libraries():
            data = dict(self._preprocess(volume))
            timer.mark("preprocess")
            engine = self._engine(data[IMAGE])
            data[PREDICTION] = self._predict(data[IMAGE], engine["windows"], progress)
            timer.mark("network")
            if probabilities is not None:
                self._decide_later(data, volume, probabilities)
            label, moved = self._restore(data, volume, decided_from=0 if probabilities is None else self._decision)
        timer.mark("restore")
        return Outcome(label, engine, timer.seconds, (moved,) if moved else (), probabilities)

    def _preprocess(self, volume: Volume) -> Any:
        import torch
        from monai.data import MetaTensor

        array = np.empty((len(volume.channels), *volume.grid.shape), dtype=np.float32)
        for target, channel in zip(array, volume.channels, strict=True):
            target[...] = voxels_on(channel, volume.grid, usable_threads())
        tensor = torch.as_tensor(array)
        affine = torch.as_tensor(volume.grid.affine.copy())
        meta = {
            "affine": affine,
            "original_affine": affine.clone(),
            "spatial_shape": np.asarray(volume.grid.shape),
            "original_channel_dim": 0,
            "filename_or_obj": volume.source.name,
            "space": "RAS",
        }
        try:
            return self._pipeline.preprocess({IMAGE: MetaTensor(tensor, meta=meta)})
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise self._broken(error, stage="preprocessing") from error

    def _predict(self, image: MetaTensor, windows: int, progress: WindowProgress | None) -> torch.Tensor:
        import torch

        network: Any = self._pipeline.network
        if progress is not None:
            network = _counting(network, windows, progress)
        batch = image.as_tensor()[None].to(self._device) if hasattr(image, "as_tensor") else image[None].to(self._device)
        if batch.shape[1] != self.bundle.input_channels:
            msg = f"{self.bundle.inference_config}: the pre-processing gives {batch.shape[1]} channels, but the network takes {self.bundle.input_channels}; correct the config"
            raise BundleError(msg)
        with torch.no_grad(), autocast(self._precision, self._device):
            try:
                scores = self._pipeline.inferer(batch, network)
            except (RuntimeError, ValueError, TypeError) as error:
                if isinstance(error, RuntimeError) and is_out_of_memory(error):
                    msg = f"{self._device} ran out of memory; close what else uses it, or use --device cpu"
                    raise DeviceError(msg) from error
                raise self._broken(error, stage="inferer") from error
        if not isinstance(scores, torch.Tensor):
            msg = f"{self.bundle.inference_config}: the network gives a {type(scores).__name__}, not one tensor of scores; volseg runs segmentation bundles"
            raise BundleError(msg)
        return scores[0].float().cpu()

    @property
    def _decision(self) -> int:
        """Where in the post-processing scores become a label map."""
        names = [type(transform).__name__ for transform in getattr(self._pipeline.postprocess, "transforms", ())]
        found = [number for number, name in enumerate(names) if name in DECISIONS]
        if not found:
            msg = f"{self.bundle.inference_config}: its post-processing has no AsDiscreted, so there are no probabilities to be had; leave them out"
            raise BundleError(msg)
        return found[0]

    def _decide_later(self, data: dict[str, Any], volume: Volume, store: ProbabilityStore) -> None:
        """Run the post-processing up to the decision and keep the probabilities."""
        self._check_scores(data)
        try:
            data.update(self._pipeline.postprocess(data, end=self._decision))  # type: ignore[call-arg]
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise self._broken(error, stage="postprocessing") from error
        shares = data[PREDICTION]
        # A threshold is set on one channel, which is label 1.
        channels = {1: 0} if len(shares) == 1 and max(store) == 1 else {value: value for value in store}
        if (
            tuple(shares.shape[1:]) != volume.grid.shape
            or max(channels.values()) >= len(shares)
            or float(shares.min()) < -PROBABILITY_SLACK
            or float(shares.max()) > 1 + PROBABILITY_SLACK
        ):
            msg = (
                f"{self.bundle.inference_config}: what it decides from are no probabilities of {len(self.bundle.labels)} classes on the scan's grid; "
                "softmax and Invertd must come before AsDiscreted"
            )
            raise BundleError(msg)
        for value, channel in channels.items():
            store.fill(value, shares[channel].numpy())

    def _check_scores(self, data: dict[str, Any]) -> None:
        from monai.data import MetaTensor

        image, scores = data[IMAGE], data[PREDICTION]
        if not bool(scores.isfinite().all()):
            msg = f"{self._pipeline.weights}: the network's scores are not finite (NaN or infinite); the weights are damaged, or try --precision fp32"
            raise BundleError(msg)
        data[PREDICTION] = MetaTensor(scores, meta=dict(image.meta)) if isinstance(image, MetaTensor) else scores

    def _restore(self, data: dict[str, Any], volume: Volume, decided_from: int = 0) -> tuple[npt.NDArray[np.unsignedinteger[Any]], str]:
        from monai.data import MetaTensor

        if not decided_from:
            self._check_scores(data)
        try:
            pred = (self._pipeline.postprocess(data, start=decided_from) if decided_from else self._pipeline.postprocess(data))[PREDICTION]  # type: ignore[call-arg]
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise self._broken(error, stage="postprocessing") from error
        if pred.ndim != 4 or pred.shape[0] != 1:
            msg = f"{self.bundle.inference_config}: the post-processing gives an array of shape {tuple(pred.shape)}, not one label map; it should end in AsDiscreted(argmax=True)"
            raise BundleError(msg)
        pred, moved = _on_grid(pred, volume.grid)
        array = pred.as_tensor().numpy()[0] if isinstance(pred, MetaTensor) else pred.numpy()[0]
        largest = int(array.max(initial=0))
        return np.rint(array).astype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16), moved

    def _engine(self, image: torch.Tensor) -> dict[str, Any]:
        roi, overlap = _window_of(self._pipeline.inferer, image.shape[1:])
        affine = getattr(image, "affine", None)
        spacing = [round(float(s), 4) for s in np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)] if affine is not None else None
        return {
            "engine": "monai",
            "reason": self.reason,
            "device": str(self._device),
            "device_name": describe_device(self._device),
            "precision": self._precision,
            "network_shape": [int(n) for n in image.shape[1:]],
            "network_spacing_mm": spacing,
            "patch": roi,
            "overlap": overlap,
            "windows": count_windows(image.shape[1:], roi, overlap),
            **self._averaging.facts(),
        }

    def _broken(self, error: Exception, *, stage: str) -> BundleError:
        return BundleError(f"{self.bundle.inference_config}: `{stage}` failed on this scan: {root_cause(error)[:300]}")


class _Timer:
    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now


def _counting(network: Any, windows: int, progress: WindowProgress) -> Callable[..., Any]:
    done = 0

    def forward(batch: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        scores = network(batch, *args, **kwargs)
        done = min(windows, done + batch.shape[0])
        progress(done, windows)
        return scores

    progress(0, windows)
    return forward


def _window_of(inferer: Any, size: Any) -> tuple[list[int], list[float]]:
    """Window size and overlap per axis; an inferer without windows takes the whole volume at once."""
    axes = len(size)
    roi = getattr(inferer, "roi_size", None)
    if roi is None:
        return [int(n) for n in size], [0.0] * axes
    sizes = [int(roi)] * axes if isinstance(roi, int) else [int(n) for n in roi]
    overlap = getattr(inferer, "overlap", 0.0)
    shares = [float(overlap)] * axes if isinstance(overlap, (int, float)) else [float(n) for n in overlap]
    return [wanted if wanted > 0 else int(length) for wanted, length in zip(sizes, size, strict=True)], shares


def _on_grid(pred: Any, grid: Grid) -> tuple[Any, str]:
    """Check that a prediction lies on the scan's grid; one that the bundle left on another grid is brought there, nearest neighbour, and that is said."""
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    if not isinstance(pred, MetaTensor):
        if tuple(pred.shape[1:]) != grid.shape:
            msg = f"the bundle's post-processing gives {tuple(pred.shape[1:])} voxels without a position, but the scan has {grid.shape}; add Invertd to it"
            raise BundleError(msg)
        return pred, ""
    found = Grid(tuple(pred.shape[1:]), np.asarray(pred.affine, dtype=np.float64))  # type: ignore[arg-type]
    if found.isclose(grid, GRID_TOLERANCE_MM):
        return pred, ""
    resampled = SpatialResample(mode="nearest", padding_mode="zeros")(pred, dst_affine=grid.affine.copy(), spatial_size=grid.shape)
    return resampled, f"the bundle left its label on another grid ({found}); it was brought to the scan's grid by nearest neighbour"
