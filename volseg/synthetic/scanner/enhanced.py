"""What enhanced multi-frame CT and MR objects hold beside their frames: image modules and functional groups (PS3.3 A.36.2, A.38.1, C.7.6.16, C.8.13, C.8.15)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from volseg.synthetic.scanner.modules import DATE, TIME, code, decimal
from volseg.synthetic.scanner.pixels import Stored
from volseg.synthetic.scanner.planes import Planes

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}
"""SOP classes Enhanced CT and Enhanced MR Image Storage (PS3.4 B.5)."""

FRAME_TYPES = {"CT": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "MR": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]}
"""ImageType and FrameType: four values in enhanced objects (PS3.3 C.8.16.1)."""

ANATOMY = {"CT": ("30021000", "SCT", "Lower leg"), "MR": ("12738006", "SCT", "Brain")}


@dataclass(frozen=True)
class FrameFacts:
    """Which frame this is: stack and echo from 1, place along the table from 0, echo time in ms."""

    stack: int
    place: int
    echo: int
    echo_time: float


def add_enhanced_image(dataset: Any, modality: str, frames: Sequence[FrameFacts], uid: Callable[[str], Any]) -> None:
    """Enhanced Equipment, Multi-frame Functional Groups, Multi-frame Dimension, Acquisition Context and the Enhanced CT or MR Image module."""
    del dataset.AcquisitionDate, dataset.AcquisitionTime
    # Frame Anatomy says the side of each frame.
    if "Laterality" in dataset:
        del dataset.Laterality
    dataset.AcquisitionDateTime = DATE + TIME
    dataset.AcquisitionNumber, dataset.AcquisitionDuration = 1, 1000.0
    dataset.DeviceSerialNumber, dataset.InstanceNumber, dataset.NumberOfFrames = "0", 1, len(frames)
    dataset.ImageType = FRAME_TYPES[modality]
    _add_volume_facts(dataset)
    dataset.PresentationLUTShape, dataset.LossyImageCompression = "IDENTITY", "00"
    dataset.AcquisitionContextSequence = []
    organisation = uid("dimensions")
    dataset.DimensionOrganizationSequence = [_group(DimensionOrganizationUID=organisation)]
    pointers = [(0x00209056, 0x00209111), (0x00209057, 0x00209111), *([(0x00189082, 0x00189114)] if modality == "MR" else [])]
    dataset.DimensionIndexSequence = [
        _group(DimensionOrganizationUID=organisation, DimensionIndexPointer=pointer, FunctionalGroupPointer=group, DimensionDescriptionLabel=name)
        for (pointer, group), name in zip(pointers, ("Stack ID", "In-Stack Position", "Echo time"), strict=False)
    ]
    if modality == "MR":
        _add_mr_pulse_sequence(dataset)


def shared_groups(modality: str, planes: Planes, stored: Stored) -> Any:
    """SharedFunctionalGroupsSequence's item: what holds for every frame."""
    shared = _group()
    shared.PixelMeasuresSequence = [_group(PixelSpacing=decimal(planes.spacing), SliceThickness=decimal([planes.thickness])[0])]
    anatomy = _group(FrameLaterality="U", AnatomicRegionSequence=[code(*ANATOMY[modality])])
    shared.FrameAnatomySequence = [anatomy]
    rescale = dict(zip(("RescaleIntercept", "RescaleSlope"), decimal([stored.intercept, stored.slope]), strict=True))
    shared.PixelValueTransformationSequence = [_group(**rescale, RescaleType="HU" if modality == "CT" else "US")]
    shared.FrameVOILUTSequence = [_group(WindowCenter="40", WindowWidth="400")]
    frame_type = _group(FrameType=FRAME_TYPES[modality])
    _add_volume_facts(frame_type)
    if modality == "CT":
        shared.CTImageFrameTypeSequence = [frame_type]
        _add_ct_groups(shared, planes)
    else:
        frame_type.ComplexImageComponent, frame_type.AcquisitionContrast = "MAGNITUDE", "T1"
        shared.MRImageFrameTypeSequence = [frame_type]
        _add_mr_groups(shared, planes)
    return shared


def frame_groups(modality: str, facts: FrameFacts, planes: Planes) -> Any:
    """One item of PerFrameFunctionalGroupsSequence: stack, plane and echo of one frame."""
    frame = _group()
    content = _group(FrameAcquisitionDateTime=DATE + TIME, FrameReferenceDateTime=DATE + TIME, FrameAcquisitionDuration=1000.0, FrameAcquisitionNumber=1)
    content.StackID, content.InStackPositionNumber = str(facts.stack), facts.place + 1
    content.DimensionIndexValues = [facts.stack, facts.place + 1, *([facts.echo] if modality == "MR" else [])]
    frame.FrameContentSequence = [content]
    frame.PlanePositionSequence = [_group(ImagePositionPatient=decimal(planes.positions[facts.place]))]
    frame.PlaneOrientationSequence = [_group(ImageOrientationPatient=decimal([*planes.along_row, *planes.along_column]))]
    if modality == "MR":
        frame.MREchoSequence = [_group(EffectiveEchoTime=facts.echo_time)]
    else:
        frame.CTPositionSequence = [
            _group(TablePosition=float(planes.positions[facts.place][2]), ReconstructionTargetCenterPatient=[0.0] * 3, DataCollectionCenterPatient=[0.0] * 3)
        ]
    return frame


def _add_volume_facts(item: Any) -> None:
    """Common CT/MR and Photoacoustic Image Description (PS3.3 C.8.16.2)."""
    item.PixelPresentation, item.VolumetricProperties, item.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    if "ImageType" in item:
        item.ContentQualification = "RESEARCH"


def _add_mr_pulse_sequence(dataset: Any) -> None:
    """Enhanced MR Image and MR Pulse Sequence (PS3.3 C.8.13.1, C.8.13.4)."""
    dataset.ComplexImageComponent, dataset.AcquisitionContrast = "MAGNITUDE", "T1"
    dataset.ResonantNucleus, dataset.KSpaceFiltering, dataset.MagneticFieldStrength, dataset.ApplicableSafetyStandardAgency = "1H", "NONE", 3.0, "IEC"
    dataset.PulseSequenceName, dataset.MRAcquisitionType, dataset.EchoPulseSequence = "synthetic", "3D", "GRADIENT"
    dataset.MultiPlanarExcitation, dataset.PhaseContrast, dataset.TimeOfFlightContrast = "NO", "NO", "NO"
    dataset.SteadyStatePulseSequence, dataset.EchoPlanarPulseSequence, dataset.SaturationRecovery, dataset.SpectrallySelectedSuppression = "NONE", "NO", "NO", "NONE"
    dataset.OversamplingPhase, dataset.GeometryOfKSpaceTraversal, dataset.RectilinearPhaseEncodeReordering, dataset.SegmentedKSpaceTraversal = (
        "NONE",
        "RECTILINEAR",
        "LINEAR",
        "SINGLE",
    )
    dataset.CoverageOfKSpace, dataset.NumberOfKSpaceTrajectories = "FULL", 1


def _add_ct_groups(shared: Any, planes: Planes) -> None:
    """CT functional groups that an original image must carry (PS3.3 C.8.15.3)."""
    width = planes.columns * planes.spacing[1]
    shared.IrradiationEventIdentificationSequence = [_group(IrradiationEventUID="2.25.1")]
    shared.CTAcquisitionTypeSequence = [_group(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")]
    shared.CTAcquisitionDetailsSequence = [
        _group(
            RotationDirection="CW",
            RevolutionTime=1.0,
            SingleCollimationWidth=planes.thickness,
            TotalCollimationWidth=planes.thickness,
            TableHeight=0.0,
            GantryDetectorTilt=planes.tilt_degrees,
            DataCollectionDiameter=width,
        )
    ]
    shared.CTTableDynamicsSequence = [_group(TableSpeed=planes.thickness, TableFeedPerRotation=planes.thickness, SpiralPitchFactor=1.0)]
    shared.CTGeometrySequence = [_group(DistanceSourceToDetector=950.0, DistanceSourceToDataCollectionCenter=540.0)]
    shared.CTReconstructionSequence = [
        _group(
            ReconstructionAlgorithm="FILTER_BACK_PROJ",
            ConvolutionKernel="SYNTHETIC",
            ConvolutionKernelGroup="SOFT_TISSUE",
            ReconstructionDiameter=width,
            ReconstructionPixelSpacing=[float(s) for s in planes.spacing],
            ReconstructionAngle=360.0,
            ImageFilter="NONE",
        )
    ]
    shared.CTExposureSequence = [_group(ExposureTimeInms=1000.0, XRayTubeCurrentInmA=200.0, ExposureInmAs=200.0, ExposureModulationType="NONE")]
    shared.CTXRayDetailsSequence = [_group(KVP="120", FocalSpots=[1.0], FilterType="FLAT", FilterMaterial="ALUMINUM", CalciumScoringMassFactorPatient=1.0)]


def _add_mr_groups(shared: Any, planes: Planes) -> None:
    """MR functional groups that an original image must carry (PS3.3 C.8.13.5)."""
    shared.MRTimingAndRelatedParametersSequence = [
        _group(
            RepetitionTime="2300",
            FlipAngle="9",
            EchoTrainLength=1,
            RFEchoTrainLength=0,
            GradientEchoTrainLength=1,
            SpecificAbsorptionRateSequence=[_group(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.1)],
            GradientOutputType="DB_DT",
            GradientOutput=0.0,
            OperatingModeSequence=[_group(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL")],
        )
    ]
    shared.MRFOVGeometrySequence = [
        _group(
            InPlanePhaseEncodingDirection="ROW",
            MRAcquisitionFrequencyEncodingSteps=planes.columns,
            MRAcquisitionPhaseEncodingStepsInPlane=planes.rows,
            MRAcquisitionPhaseEncodingStepsOutOfPlane=len(planes.positions),
            PercentSampling="100",
            PercentPhaseFieldOfView="100",
        )
    ]
    shared.MRModifierSequence = [
        _group(
            InversionRecovery="NO",
            FlowCompensation="NONE",
            Spoiling="RF",
            T2Preparation="NO",
            SpectrallySelectedExcitation="NONE",
            SpatialPresaturation="NONE",
            PartialFourier="NO",
            ParallelAcquisition="NO",
        )
    ]
    shared.MRImagingModifierSequence = [_group(MagnetizationTransfer="NONE", BloodSignalNulling="NO", Tagging="NONE", TransmitterFrequency=127.7, PixelBandwidth="200")]
    shared.MRReceiveCoilSequence = [_group(ReceiveCoilName="SYNTHETIC", ReceiveCoilManufacturerName="", ReceiveCoilType="VOLUME", QuadratureReceiveCoil="YES")]
    shared.MRTransmitCoilSequence = [_group(TransmitCoilName="SYNTHETIC", TransmitCoilManufacturerName="", TransmitCoilType="BODY")]
    shared.MRAveragesSequence = [_group(NumberOfAverages="1")]


def _group(**elements: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
