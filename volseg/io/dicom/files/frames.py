"""The frames of an enhanced multi-frame object: functional groups, shared and per frame (PS3.3 C.7.6.16), as facts of single slices."""

from __future__ import annotations

from typing import Any

from volseg.errors import GeometryError
from volseg.io.dicom.files.dataset import TagError
from volseg.io.dicom.files.elements import Elements
from volseg.io.dicom.files.facts import checked_plane, padding_of, scale_facts
from volseg.io.dicom.files.traits import tidy, traits_of

FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
"""Macros that hold FrameType (0008,9007) of MR, CT and PET (PS3.3 C.8.13.5.1, C.8.15.3.1, C.8.22.5.1); Legacy Converted Enhanced objects use them too."""

CONVERTED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")
"""Where a Legacy Converted Enhanced object keeps classic attributes that have no macro (PS3.3 C.7.6.16.2.24 and C.7.6.16.2.25)."""

_TRAITS = (
    ("FrameContentSequence", "StackID", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIndex"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameContentSequence", "FrameAcquisitionDateTime", "AcquisitionTime"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRModifierSequence", "InversionTimes", "InversionTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase", "NominalPercentageOfCardiacPhase"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    ("CTReconstructionSequence", "ConvolutionKernel", "ConvolutionKernel"),
)
"""Macro, attribute in it, and the trait it is."""


class _Groups:
    """The functional groups of one frame: its own, else the shared ones, each opened once."""

    def __init__(self, own: Elements | None, shared: _Groups | None) -> None:
        self._own, self._shared = own, shared
        self._opened: dict[str, Elements | None] = {}

    def get(self, macro: str) -> Elements | None:
        """The item of a macro; None where neither has it."""
        if macro not in self._opened:
            item = self._own.item(macro) if self._own is not None else None
            self._opened[macro] = item if item is not None or self._shared is None else self._shared.get(macro)
        return self._opened[macro]


def frame_facts(elements: Elements, frames: int) -> list[dict[str, Any]]:
    """What each frame's functional groups say.

    Parameters
    ----------
    elements : Elements
        Of the whole object.
    frames : int
        NumberOfFrames (0028,0008).

    Returns
    -------
    list of dict
        Per frame: ``position``, ``orientation``, ``spacing``, ``slope``, ``intercept``, ``rescaled``, ``padding``, ``traits``, and
        ``image_type`` where the frame has one of its own.

    Raises
    ------
    TagError
        If the groups are damaged, missing, or not one for each frame; the message names the first frame concerned.
    GeometryError
        If a frame's plane makes no sense.
    """
    own: list[Elements | None] = list(elements.items("PerFrameFunctionalGroupsSequence"))
    shared = _Groups(elements.item("SharedFunctionalGroupsSequence"), None)
    if len(own) != frames:
        msg = f"has {frames} frames (NumberOfFrames (0028,0008)) but places for {len(own)} (Per-Frame Functional Groups Sequence (5200,9230)); copy it again from its source"
        raise TagError(msg)
    # Where an object has no pixel value transformation, some writers leave the classic rescale beside the groups.
    outer = {**scale_facts(elements), "padding": padding_of(elements)}
    outer_traits = traits_of(elements)
    facts = []
    for n, item in enumerate(own):
        groups = _Groups(item, shared)
        try:
            facts.append({**outer, **_plane(groups), **_scale(groups), **_kind(groups, outer_traits)})
        except TagError as error:
            msg = f"frame {n + 1} of {frames} {error}" if str(error).startswith("has no") else f"{error} (frame {n + 1} of {frames})"
            raise TagError(msg) from error
        except GeometryError as error:
            msg = f"{error} (frame {n + 1} of {frames})"
            raise GeometryError(msg) from error
    return facts


def _plane(groups: _Groups) -> dict[str, Any]:
    position = _required(groups, "PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = _required(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    return checked_plane(position, orientation, _required(groups, "PixelMeasuresSequence", "PixelSpacing", 2))


def _required(groups: _Groups, macro: str, keyword: str, count: int) -> tuple[float, ...]:
    item = groups.get(macro)
    if item is None:
        msg = f"has no {macro}, which holds its {keyword}; without it it cannot be part of a volume"
        raise TagError(msg)
    return item.numbers(keyword, count)


def _scale(groups: _Groups) -> dict[str, Any]:
    item = groups.get("PixelValueTransformationSequence")
    return {} if item is None else scale_facts(item)


def _kind(groups: _Groups, outer: dict[str, str]) -> dict[str, Any]:
    traits = dict(outer)
    for macro in CONVERTED:
        if (item := groups.get(macro)) is not None:
            traits.update(traits_of(item))
    for macro, keyword, trait in _TRAITS:
        if (item := groups.get(macro)) is not None and (value := item.text(keyword)):
            traits[trait] = tidy(trait, value)
    diffusion = groups.get("MRDiffusionSequence")
    if diffusion is not None and (direction := diffusion.item("DiffusionGradientDirectionSequence")) is not None:
        traits["DiffusionGradientOrientation"] = direction.text("DiffusionGradientOrientation")
    frame_type = next((text for macro in FRAME_TYPES if (item := groups.get(macro)) is not None and (text := item.text("FrameType"))), "")
    if not frame_type:
        return {"traits": traits}
    return {"traits": {**traits, "ImageType": frame_type}, "image_type": tuple(frame_type.upper().split("\\"))}
