"""A bundle as its files describe it, read without importing torch or MONAI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.bundle.find import METADATA_FILE, find_bundle
from volseg.errors import BundleError

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
"""In the order they are preferred; MONAI Label reads ``.json`` and ``.yaml`` only."""

WEIGHTS_FILES = ("models/model.pt", "models/model.ts")
"""In the order they are preferred (MONAI bundle specification)."""


HU, SUV = "HU", "SUVbw"
"""Units of ``channel_units`` that volseg knows: Hounsfield units; body-weight SUV in g/ml."""


@dataclass(frozen=True)
class Bundle:
    """Facts about one MONAI bundle.

    Parameters
    ----------
    path : Path
        Absolute folder.
    name : str
        Name of the folder, which is the bundle's name (MONAI bundle specification).
    version : str
        ``version`` of the metadata.
    metadata : mapping
        ``configs/metadata.json`` as read.
    inference_config : Path
        ``configs/inference.json`` (or ``.yaml``, ``.yml``).
    train_config : Path or None
        ``configs/train.json`` (or ``.yaml``, ``.yml``), if there is one.
    weights : Path or None
        ``models/model.pt``, else ``models/model.ts``, if there is one.
    labels : mapping of int to str
        Output channel (the value in a label map) to name, background included.
    input_channels : int
        Channels the network takes.
    channel_names : tuple of str
        One name per input channel.
    modality : str or None
        As the metadata gives it, e.g. ``"CT"``.
    mirror_axes : tuple of int
        Axes of the network's input (0, 1, 2 for x, y, z) that mirrored scans were trained along, by the metadata's ``mirror_axes``; all of them where it says nothing.
        Flips at test time along others would ask the network for what it never saw.
    channel_units : tuple of str
        Unit of each input channel by the metadata's ``channel_units``, e.g. ``("HU", "SUVbw")``; ``""`` where any will do. Empty where the metadata says nothing.
    """

    path: Path
    name: str
    version: str
    metadata: Mapping[str, Any]
    inference_config: Path
    train_config: Path | None
    weights: Path | None
    labels: Mapping[int, str]
    input_channels: int
    channel_names: tuple[str, ...]
    modality: str | None
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    channel_units: tuple[str, ...] = ()

    @property
    def wants_suv(self) -> bool:
        """Whether PET is to be given in body-weight SUV (g/ml); a PET in DICOM is then turned into it."""
        return SUV in self.channel_units


def read_bundle(path: str | Path) -> Bundle:
    """Read and check what a bundle says about itself.

    Parameters
    ----------
    path : str or Path
        A bundle's folder or name (see :func:`volseg.bundle.find_bundle`).

    Returns
    -------
    Bundle
        Its facts; that the weights fit is checked by :func:`volseg.bundle.load_weights` only.

    Raises
    ------
    BundleError
        If the metadata or the inference config is missing, is not valid JSON/YAML, or lacks what is needed to run the network.
    """
    folder = find_bundle(path)
    where = folder / METADATA_FILE
    metadata = read_config(where)
    version = metadata.get("version")
    if not isinstance(version, str) or not version:
        msg = f"{where}: `version` is missing or not a string; give a semantic version such as 1.0.0"
        raise BundleError(msg)
    image = _tensor(metadata, where, "inputs", "image")
    pred = _tensor(metadata, where, "outputs", "pred")
    channels = _channel_count(image, where)
    inference = find_config(folder, "inference")
    if inference is None:
        msg = f"{folder}: no configs/inference.json (or .yaml, .yml); a bundle without one cannot segment"
        raise BundleError(msg)
    read_config(inference)
    modality = image.get("modality")
    return Bundle(
        path=folder,
        name=folder.name,
        version=version,
        metadata=metadata,
        inference_config=inference,
        train_config=find_config(folder, "train"),
        weights=next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None),
        labels=_labels(pred, where),
        input_channels=channels,
        channel_names=_channel_names(image, channels, where),
        modality=str(modality) if modality else None,
        mirror_axes=_mirror_axes(metadata, where),
        channel_units=_channel_units(metadata, channels, where),
    )


def _mirror_axes(metadata: Mapping[str, Any], where: Path) -> tuple[int, ...]:
    axes = metadata.get("mirror_axes", [0, 1, 2])
    if not isinstance(axes, list) or any(type(axis) is not int or axis not in (0, 1, 2) for axis in axes) or len(set(axes)) != len(axes):
        msg = f"{where}: `mirror_axes` must list different ones of 0, 1 and 2 (x, y, z), got {axes!r}"
        raise BundleError(msg)
    return tuple(axes)


def _channel_units(metadata: Mapping[str, Any], channels: int, where: Path) -> tuple[str, ...]:
    units = metadata.get("channel_units", [])
    if not isinstance(units, list) or not all(isinstance(unit, str) for unit in units) or len(units) not in (0, channels):
        msg = f'{where}: `channel_units` must list one unit for each of the {channels} input channels (HU, {SUV}, or "" for any), got {units!r}'
        raise BundleError(msg)
    return tuple(units)


def find_config(bundle: Path, stem: str) -> Path | None:
    """Path of ``configs/<stem>`` with the first suffix of :data:`CONFIG_SUFFIXES` that exists, or None."""
    candidates = (bundle / "configs" / f"{stem}{suffix}" for suffix in CONFIG_SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_config(path: Path) -> dict[str, Any]:
    """Read one JSON or YAML file whose top level is a mapping.

    Raises
    ------
    BundleError
        If it cannot be read, does not parse (with line and column), or its top level is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else _parse_yaml(text, path)
    except json.JSONDecodeError as error:
        msg = f"{path}: not valid JSON at line {error.lineno} column {error.colno}: {error.msg}; mend the file"
        raise BundleError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 text (byte {error.start}); write the file again as UTF-8"
        raise BundleError(msg) from error
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); check the file and its permissions"
        raise BundleError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: the top level must be a mapping of names, not {type(content).__name__}"
        raise BundleError(msg)
    return content


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        msg = f"{path}: not valid YAML{place}: {getattr(error, 'problem', None) or error}; mend the file"
        raise BundleError(msg) from error


def _tensor(metadata: Mapping[str, Any], where: Path, side: str, name: str) -> Mapping[str, Any]:
    data_format = metadata.get("network_data_format")
    if not isinstance(data_format, dict):
        msg = f"{where}: `network_data_format` is missing; describe the network's inputs and outputs there"
        raise BundleError(msg)
    tensors = data_format.get(side)
    tensor = tensors.get(name) if isinstance(tensors, dict) else None
    if not isinstance(tensor, dict):
        present = ", ".join(tensors) if isinstance(tensors, dict) and tensors else "nothing"
        msg = f"{where}: `network_data_format.{side}.{name}` is missing (there: {present}); volseg and MONAI Label use the names image and pred"
        raise BundleError(msg)
    return tensor


def _channel_count(image: Mapping[str, Any], where: Path) -> int:
    count = image.get("num_channels")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        msg = f"{where}: `network_data_format.inputs.image.num_channels` must be a positive whole number, got {count!r}"
        raise BundleError(msg)
    return count


def _channel_def(tensor: Mapping[str, Any], where: Path, field: str) -> dict[int, str]:
    channels = tensor.get("channel_def", {})
    if not isinstance(channels, dict) or not all(str(key).isdigit() for key in channels):
        msg = f'{where}: `network_data_format.{field}.channel_def` must map channel numbers to names, as {{"0": "background"}}; got {channels!r}'
        raise BundleError(msg)
    return {int(key): str(name) for key, name in sorted(channels.items(), key=lambda item: int(item[0]))}


def _channel_names(image: Mapping[str, Any], count: int, where: Path) -> tuple[str, ...]:
    named = _channel_def(image, where, "inputs.image")
    if named and set(named) != set(range(count)):
        msg = f"{where}: `network_data_format.inputs.image` has num_channels {count} but channel_def names channels {sorted(named)}; make them agree"
        raise BundleError(msg)
    return tuple(named.values()) or tuple(f"channel {index}" for index in range(count))


def _labels(pred: Mapping[str, Any], where: Path) -> dict[int, str]:
    labels = _channel_def(pred, where, "outputs.pred")
    if not labels:
        msg = f'{where}: `network_data_format.outputs.pred.channel_def` is missing; name the labels, as {{"0": "background", "1": "tumor"}}'
        raise BundleError(msg)
    return labels
