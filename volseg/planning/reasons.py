"""Why each number of a plan is what it is, in words: for ``docs/plan.md``, the terminal and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import degrees

from volseg.planning.planner import Plan, enough_view, largest_structure_mm, make_plan, smallest_piece_mm3
from volseg.planning.rules.augmentation import CROP_MARGIN, FEW_CASES
from volseg.planning.rules.budget import CONTEXT, DEFAULT_MEMORY_BYTES, GB, VALIDATION_SHARE, Budget
from volseg.planning.rules.intensity import Channel
from volseg.planning.rules.schedule import CPU_STEPS, EPOCH_SECONDS
from volseg.planning.rules.spacing import SMALLEST_PIECE_VOXELS, sees_enough
from volseg.planning.rules.topology import first_topology

TIMES = " x "
SAME = "the same"
AXIS_NAMES = ("x (left-right)", "y (back-front)", "z (feet-head)")


@dataclass(frozen=True)
class Choice:
    """One chosen number: what it is, its value, why, and what nnU-Net would take (by its own rules, on a GPU with 8 GB)."""

    what: str
    value: str
    why: str
    nnunet: str


def nnunet_plan(plan: Plan) -> Plan:
    """What the rules of nnU-Net's 3d_fullres give for the same data on a GPU with 8 GB."""
    return make_plan(plan.fingerprint, Budget("cuda", DEFAULT_MEMORY_BYTES, "default", plan.budget.gflops))


def explain(plan: Plan) -> tuple[Choice, ...]:
    """Every choice of a plan with its reason, in the order they were made."""
    peer = nnunet_plan(plan)
    return (*_spatial(plan, peer), *_intensities(plan), *_network(plan, peer), *_sampling(plan, peer), *_training(plan, peer))


def _spatial(plan: Plan, peer: Plan) -> tuple[Choice, ...]:
    target = plan.target
    thick = ""
    if target.thick_axis is not None:
        thick = f"; {AXIS_NAMES[target.thick_axis]} is more than 3 times thicker and has less than a third of the voxels: its 10th percentile instead"
    if plan.spacing == target.spacing:
        why = f"median of {len(plan.fingerprint.cases)} cases along each axis{thick}"
    else:
        length = (plan.budget.rules.context or 0.0) * largest_structure_mm(plan.fingerprint)
        long = f" and is {length:.0f} mm long ({CONTEXT} times the largest structure)" if length else ""
        why = (
            f"median {_sizes(target.spacing)}{thick}, made coarser in steps of 3 %, finest axes first, until a patch covers {plan.budget.rules.share:.0%} of the median scan"
            f"{long}; it covers {plan.coverage:.0%}. A typical piece of the smallest label must keep {SMALLEST_PIECE_VOXELS} voxels: "
            f"at most {smallest_piece_mm3(plan.fingerprint):.3g} mm3 each"
        )
    crop = "most of the scans is zero (less than 3/4 of the box is not)" if plan.nonzero else "zero is a value like any other, or there is little of it"
    return (
        Choice("orientation", "RAS", "every scan is turned to one orientation, so that left is always left", "none: axes as stored"),
        Choice("spacing (mm)", _sizes(plan.spacing), why, _same(_sizes(peer.spacing), _sizes(plan.spacing))),
        Choice("median scan (voxels)", _sizes(plan.median_shape), "at that spacing", _same(_sizes(peer.median_shape), _sizes(plan.median_shape))),
        Choice("crop to what is not zero", "yes" if plan.nonzero else "no", crop, "always"),
        Choice(
            "resampling of images",
            "linear",
            "linear, axis by axis: volseg's engine and stock MONAI give the same voxels, a third order spline costs several times as much",
            "cubic; nearest across slices where spacing differs by more than 3",
        ),
        Choice("resampling of labels", "nearest", "stock MONAI's; keeps values whole", "linear for each label, then the largest"),
    )


def _intensities(plan: Plan) -> tuple[Choice, ...]:
    return tuple(Choice(f"intensity of {channel.name}", *_intensity(plan, number, channel)) for number, channel in enumerate(plan.channels))


def _intensity(plan: Plan, number: int, channel: Channel) -> tuple[str, str, str]:
    found = plan.fingerprint.intensities[number]
    if channel.kind == "zscore":
        inside = " of what is not zero" if plan.nonzero else ""
        return f"mean 0 and SD 1 of each case{inside}", "its values have no unit that is the same in every scan; padding is 0, the mean", SAME
    value = f"clipped to {channel.low:.4g} .. {channel.high:.4g}, then ({channel.name} - {channel.low:.4g}) / {channel.sd:.4g}"
    if channel.kind == "ct":
        why = (
            f"0.5th and 99.5th percentile and SD ({found.sd:.4g}) of the foreground of the whole set; the lower limit becomes 0, so that air and every kind of padding are 0 alike"
        )
        return value, why, f"the same clip and SD, mean {found.mean:.4g} subtracted instead"
    why = "SUV is quantitative as HU is: 0 to the 99.5th percentile of the foreground, one scale for all cases; a z-score would depend on how much of the body is in view"
    return value, why, "z-score of each case"


def _network(plan: Plan, peer: Plan) -> tuple[Choice, ...]:
    topology, other = plan.topology, peer.topology
    rules, cpu = plan.budget.rules, plan.budget.device == "cpu"
    if cpu:
        limit = f"a step of {plan.batch_size} takes about {plan.step_seconds:.2f} s (model: {plan.budget.gflops:.0f} GFLOP/s), the limit of this preset is {rules.step_seconds} s"
    else:
        limit = f"training takes about {plan.memory_bytes / GB:.1f} of {plan.budget.memory_bytes / GB:.1f} GB (nnU-Net's estimate)"
    width = (
        f"the widest of {', '.join(map(str, rules.widths))} whose step keeps the limit, doubled from stage to stage up to 10 times; "
        "many cheap steps learn more in a short time than few dear ones"
        if cpu
        else "doubled from stage to stage up to 10 times (320 for 32)"
    )
    batch = "the least with which a batch has one patch on foreground and one anywhere" if cpu else "what memory allows, at most 5 % of the set's voxels, at least 2"
    return (
        Choice(
            "patch (voxels)",
            _sizes(plan.patch),
            f"as wide in mm along every axis, not larger than the median scan, a multiple of {_sizes(topology.divisor)}{_taken_less(plan)}; {limit}; "
            f"it covers {plan.coverage:.0%} of the median scan",
            _same(_sizes(other.patch), _sizes(plan.patch)),
        ),
        Choice(
            "strides",
            _stages(topology.strides),
            "an axis is halved while it has 8 voxels and its spacing is within 2 times the finest",
            _same(_stages(other.strides), _stages(topology.strides)),
        ),
        Choice(
            "kernels", _stages(topology.kernels), "3 along an axis once its spacing is within 2 times the finest, else 1", _same(_stages(other.kernels), _stages(topology.kernels))
        ),
        Choice("channels of the stages", ", ".join(map(str, plan.filters)), width, _same(", ".join(map(str, peer.filters)), ", ".join(map(str, plan.filters)))),
        Choice("batch", str(plan.batch_size), batch, _same(str(peer.batch_size), str(plan.batch_size))),
        Choice(
            "deep supervision",
            f"{plan.heads} head{'' if plan.heads == 1 else 's'}",
            "all decoder stages but the two coarsest, weights 1, 1/2, 1/4, ... that add up to 1",
            _same(str(peer.heads), str(plan.heads)),
        ),
        Choice(
            "network",
            f"DynUNet, {plan.cost.parameters / 1e6:.1f} M weights",
            "MONAI's form of nnU-Net's U-Net: two 3D convolutions, instance norm and leaky ReLU a stage",
            "PlainConvUNet",
        ),
    )


def _taken_less(plan: Plan) -> str:
    """Why a patch on a CPU is smaller than it could be; empty where it is not, or where time set its size."""
    view = enough_view(plan.fingerprint, plan.budget)
    largest = first_topology(plan.spacing, plan.median_shape).patch
    if view is None or plan.patch == largest or not sees_enough(plan.topology, plan.spacing, plan.median_shape, *view):
        return ""
    share, length = view
    return (
        f"; {_sizes(largest)} would be, but {share:.0%} of that scan and {length:.0f} mm along each axis ({CONTEXT} times the largest structure), or its whole length, are enough, "
        "and a CPU gets further with more and smaller patches"
    )


def _sampling(plan: Plan, peer: Plan) -> tuple[Choice, ...]:
    variation, names = plan.variation, AXIS_NAMES
    cases = plan.fingerprint.training
    rotation = f"up to {degrees(variation.rotation):.0f} degrees" + (f" about {names[variation.plane_axis]} only" if variation.plane_axis is not None else " about each axis")
    flat = "; the patch is more than 3 times as long as thick, so it turns in its plane" if variation.plane_axis is not None else ""
    few = f"{'fewer than' if cases < FEW_CASES else 'at least'} {FEW_CASES} training cases"
    mirrored = ", ".join(names[axis] for axis in variation.mirror) or "none"
    sided = f"; not along {', '.join(names[axis] for axis in variation.sided)}, whose ends the labels tell apart" if variation.sided else ""
    mirror = (
        "all axes"
        if len(variation.mirror) + len(variation.sided) == 3
        else "bodies are symmetric from left to right only, and scans are turned to RAS; other mirrors make a short training harder"
    )
    classes = "a label, each equally often" if plan.classes > 2 else "the label"
    more = "so much more to show that the crop can still be shifted" if plan.budget.device == "cpu" else "more to show"
    return (
        Choice(
            "crop (voxels)",
            _sizes(variation.crop),
            f"the patch, larger by about {CROP_MARGIN} where the scan has {more}, so that image turns in at the corners",
            "larger still, by the diagonal",
        ),
        Choice(
            "patches on foreground",
            f"{variation.foreground:.0%}",
            f"a third of a batch, one of two, centred on a voxel of {classes}; the others on background",
            "the others anywhere in the scan",
        ),
        Choice("rotation and scaling", f"{variation.probability:.0%} of patches, {rotation}, 0.7 to 1.4 times", f"{few}{flat}", "20 % rotated and 20 % scaled, independently"),
        Choice("mirrored axes", mirrored, mirror + sided, "x, y and z"),
        Choice(
            "noise, blur, brightness, contrast, low resolution, gamma",
            "10, 10, 15, 15, 12.5, 10 + 30 %",
            "nnU-Net's list; what it draws for each channel with probability 1/2 is halved",
            SAME,
        ),
        Choice(
            "growth of rotation, scaling and changes of intensity",
            f"from none to these probabilities over {variation.ramp} passes over the cases",
            "a network that has seen a case a few times does not know it by heart, and learns faster from the case as it is; plain MONAI and MONAI Label begin with all of it",
            "all from the first step",
        ),
        Choice(
            "loss", f"Dice{' over the batch' if plan.batch_dice else ''} + cross-entropy", _dice_reason(plan), f"Dice of each {'batch' if peer.needs_low_resolution else 'patch'}"
        ),
    )


def _dice_reason(plan: Plan) -> str:
    if plan.batch_dice:
        return "a patch may hold little or nothing of a label; over the batch the score is steadier"
    return "a patch holds a whole scan, and each scan counts alike"


def _training(plan: Plan, peer: Plan) -> tuple[Choice, ...]:
    cpu = plan.budget.device == "cpu"
    steps = plan.iterations_per_epoch * plan.max_epochs
    epoch = f"about {EPOCH_SECONDS:.0f} s an epoch" if cpu else "nnU-Net's"
    total = f"about {CPU_STEPS} steps; give --time-limit for less, the learning rate then falls in time" if cpu else "nnU-Net's"
    return (
        Choice(
            "optimiser",
            "AdamW 1e-3, weight decay 0.01" if cpu else "SGD 0.01, momentum 0.99 (Nesterov), weight decay 3e-5",
            "few steps: an adaptive step makes progress from the first, momentum 0.99 averages over a hundred" if cpu else "nnU-Net's, for long trainings",
            "SGD 0.01, momentum 0.99" if cpu else SAME,
        ),
        Choice("learning rate", "polynomial, power 0.9", "falls to 0 at the end of the training, whenever that is", SAME),
        Choice("steps an epoch", str(plan.iterations_per_epoch), epoch, _same(str(peer.iterations_per_epoch), str(plan.iterations_per_epoch))),
        Choice("epochs", f"{plan.max_epochs} ({steps} steps)", total, _same(str(peer.max_epochs), str(plan.max_epochs))),
        Choice(
            "validation",
            f"every {plan.val_interval} epoch{'' if plan.val_interval == 1 else 's'}",
            f"whole scans, at most {VALIDATION_SHARE:.0%} of the time",
            "50 random patches each epoch",
        ),
        Choice(
            "cases in memory",
            f"{plan.cache_rate:.0%}",
            "what half of the memory budget holds, in plain MONAI (`volseg train` reads patches from disk)" if cpu else "in plain MONAI (`volseg train` reads patches from disk)",
            "none, patches are read from disk",
        ),
    )


def _same(theirs: str, ours: str) -> str:
    return SAME if theirs == ours else theirs


def _sizes(values: Sequence[float]) -> str:
    return TIMES.join(f"{value:.4g}" for value in values)


def _stages(stages: Sequence[Sequence[int]]) -> str:
    return ", ".join("".join(map(str, stage)) for stage in stages)
