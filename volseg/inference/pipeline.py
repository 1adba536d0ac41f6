"""A bundle's inference config as a pipeline of stock MONAI parts, without its file reading and writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.bundle import Bundle, load_state, load_weights, read_config, read_state_dict
from volseg.errors import BundleError, root_cause
from volseg.inference.executors.averaging import flips_of
from volseg.inference.plan import POSTPROCESSING, PREPROCESSING, refuse_overlapping_regions

if TYPE_CHECKING:
    import torch
    from monai.bundle import ConfigParser

FILE_TRANSFORMS = frozenset({"LoadImage", "LoadImaged", "EnsureChannelFirst", "EnsureChannelFirstd", "SaveImage", "SaveImaged", "CopyItemsd"})
"""Transforms volseg takes out: it reads and writes the files itself, and hands over nothing but the image, channel first."""

CHANGED_MEANWHILE = "changed size during iteration"
"""What Python says when a dictionary grows under a loop over it."""

MODULE_WALKS = 50
"""A walk takes less than a millisecond, the imports beside it some hundred of them."""

IMAGE, PREDICTION = "image", "pred"
"""Names of the network's input and output in every bundle (MONAI Label's contract)."""


@dataclass(frozen=True)
class Pipeline:
    """What turns an image into a label.

    Attributes
    ----------
    preprocess : callable
        Takes ``{"image": MetaTensor (C, i, j, k)}``, gives ``{"image": MetaTensor (C, i, j, k)}`` ready for the network.
    network : callable
        A batch of windows in, scores out: a torch network in evaluation mode on ``device``, or several of them, and flips, averaged.
    inferer : callable
        MONAI inferer, called with a batch ``(1, C, i, j, k)`` and the network.
    postprocess : callable
        Takes the same mapping with ``"pred"`` added (C, i, j, k), gives the label or scores on the image's own grid.
    device : torch.device
        Where the network runs.
    weights : str
        Files the weights came from.
    """

    preprocess: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    network: Callable[..., Any]
    inferer: Any
    postprocess: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    device: torch.device
    weights: str


def build_pipeline(bundle: Bundle, device: torch.device, weights: Sequence[Path] = (), overlap: float | None = None, *, flips: Sequence[int] = ()) -> Pipeline:
    """Instantiate a bundle's inference config.

    Parameters
    ----------
    bundle : Bundle
        Where the config and the weights are.
    device : torch.device
        Where the network will run.
    weights : sequence of Path
        Other weights for the same network (a ``model.pt`` or ``final.pt`` of ``volseg train``); the scores of several are averaged.
    overlap : float, optional
        Overrides the overlap of a sliding-window inferer.
    flips : sequence of int
        Axes (0, 1, 2 for x, y, z) along which each window is also run flipped, in every combination; none by default.

    Raises
    ------
    BundleError
        When the config lacks a part, a part cannot be built, its result is no label map, or the weights do not fit the network.
    """
    from monai.inferers import SlidingWindowInferer

    refuse_overlapping_regions(bundle, read_config(bundle.inference_config))
    parser = _open(bundle, device)
    networks = [_network(_open(bundle, device), bundle, path).to(device).eval() for path in weights or (None,)]
    inferer = _part(parser, bundle, ("inferer",))
    if overlap is not None:
        if not isinstance(inferer, SlidingWindowInferer):
            msg = f"{bundle.inference_config}: --overlap is for a sliding-window inferer, this bundle has a {type(inferer).__name__}; leave --overlap out"
            raise BundleError(msg)
        inferer.overlap = overlap
    preprocess = _without_files(_part(parser, bundle, PREPROCESSING))
    postprocess = _without_files(_part(parser, bundle, POSTPROCESSING))
    files = ", ".join(map(str, weights)) or str(bundle.weights or bundle.path)
    return Pipeline(preprocess, _averaged(networks, flips=flips), inferer, postprocess, device, files)


def _averaged(networks: Sequence[torch.nn.Module], *, flips: Sequence[int]) -> Callable[..., Any]:
    """One network as it is; else the mean of the scores of all of them in all flips, as :mod:`~volseg.inference.executors.averaging` has it."""
    import torch

    if len(networks) == 1 and not flips:
        return networks[0]
    turns = flips_of(flips)

    def forward(windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        total: torch.Tensor | None = None
        for network in networks:
            for turn in turns:
                scores = network(torch.flip(windows, turn), *args, **kwargs)
                if not isinstance(scores, torch.Tensor):
                    msg = f"the network gives a {type(scores).__name__}; flips and ensembles need one tensor of scores"
                    raise TypeError(msg)
                scores = torch.flip(scores, turn).float()
                total = scores if total is None else total.add_(scores)
        assert total is not None
        return total.div_(len(networks) * len(turns))

    return forward


def load_network(bundle: Bundle, weights: Path | None = None) -> torch.nn.Module:
    """The network of a bundle alone, with its weights, on the CPU, in evaluation mode.

    Parameters
    ----------
    bundle : Bundle
        Where the config and the weights are.
    weights : Path, optional
        Other weights for the same network.

    Raises
    ------
    BundleError
        When the network cannot be built, or the weights do not fit it or are not finite.
    """
    import torch

    return _network(_open(bundle, torch.device("cpu")), bundle, weights).eval()


def _open(bundle: Bundle, device: torch.device) -> ConfigParser:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle.inference_config))
    parser["bundle_root"] = str(bundle.path)
    parser["device"] = f"$torch.device('{device}')"
    imports = list(parser.get("imports") or [])
    parser["imports"] = imports if "$import torch" in imports else [*imports, "$import torch"]
    return parser


def _network(parser: ConfigParser, bundle: Bundle, weights: Path | None) -> torch.nn.Module:
    import torch

    network = _part(parser, bundle, ("network_def",))
    if not isinstance(network, torch.nn.Module):
        msg = f"{bundle.inference_config}: `network_def` is a {type(network).__name__}, not a torch network"
        raise BundleError(msg)
    if weights is None:
        load_weights(bundle, network)
    else:
        load_state(read_state_dict(weights), network, weights)
    # With the running statistics of a batch normalisation, which are no parameters.
    damaged = next((name for name, tensor in network.state_dict().items() if not bool(tensor.isfinite().all())), None)
    if damaged is not None:
        msg = f"{weights or bundle.weights}: the weights are not finite (`{damaged}` holds NaN or infinite values): train or fetch them again"
        raise BundleError(msg)
    return network


def _part(parser: ConfigParser, bundle: Bundle, ids: tuple[str, ...]) -> Any:
    """Instantiate the first of several ids that the config has; whatever fails inside is said in one line."""
    name = next((name for name in ids if parser.get(name) is not None), None)
    if name is None:
        msg = f"{bundle.inference_config}: there is no `{ids[0]}` in it; a bundle needs one to segment"
        raise BundleError(msg)
    try:
        return _instantiated(parser, name)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        msg = f"{bundle.inference_config}: `{name}` cannot be built: {root_cause(error)}"
        raise BundleError(msg) from error


def _instantiated(parser: ConfigParser, name: str) -> Any:
    """MONAI walks ``sys.modules`` for its classes, which fails where another thread imports something (the writers' libraries come in beside the network): then it walks again."""
    for _ in range(MODULE_WALKS - 1):
        try:
            return parser.get_parsed_content(name)
        except RuntimeError as error:
            if CHANGED_MEANWHILE not in root_cause(error):
                raise
    return parser.get_parsed_content(name)


def _without_files(chain: Any) -> Any:
    """Take the reading and writing of files out of a Compose, in place: ``Invertd`` holds the same object and must see the same chain."""
    transforms = getattr(chain, "transforms", None)
    if transforms is not None:
        chain.transforms = [_without_files(t) for t in transforms if not _is_of_files(t)]
    return chain


def _is_of_files(transform: Any) -> bool:
    name = type(transform).__name__
    # Items that are not there are deleted without a word, but not those within others.
    return name in FILE_TRANSFORMS or (name == "DeleteItemsd" and any(transform.sep in str(key) for key in transform.keys))
