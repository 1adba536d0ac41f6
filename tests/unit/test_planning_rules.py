"""The rules of planning, held against numbers derived by hand, a counter of operations, and nnU-Net's own planner."""

from __future__ import annotations

from dataclasses import replace
from math import pi, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plan_factory import fingerprint
from volseg.planning.fingerprint import Intensities
from volseg.planning.planner import Plan, make_plan
from volseg.planning.reasons import explain
from volseg.planning.rules.augmentation import plan_variation, sided_axes
from volseg.planning.rules.budget import GB, PRESET_NAMES, Budget, cost_of, cpu_gflops
from volseg.planning.rules.intensity import inside_nonzero, plan_channels
from volseg.planning.rules.spacing import coarsen, median_shape, sees_enough, target_spacing
from volseg.planning.rules.topology import Topology, feature_map_elements, filters_of, fit_topology, forward_flops, make_topology, parameter_count, shrink

TWO_CPUS = cpu_gflops(2)


def planned(shape, spacing, device="cpu", preset="default", memory=8 * GB, **facts) -> Plan:
    return make_plan(fingerprint(shape, spacing, **facts), Budget(device, memory, preset, TWO_CPUS))


def test_pooling_of_an_isotropic_patch_by_hand():
    # 40, 56, 40 -> 20, 28, 20 -> 10, 14, 10 -> 5, 7, 5: 10 can be halved once more (2 x 4 <= 10), 5 cannot.
    found = make_topology((1, 1, 1), (36, 50, 35))
    assert found.patch == (40, 56, 40)
    assert found.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert found.kernels == ((3, 3, 3),) * 4
    assert found.stage_voxels() == (40 * 56 * 40, 20 * 28 * 20, 10 * 14 * 10, 5 * 7 * 5)


def test_a_thick_axis_is_pooled_and_convolved_along_later():
    # 6 mm is within a factor of two of 1 mm after the plane was halved twice (4 mm): kernels 1 at 1 and 2 mm, 3 from 4 mm on; z joins the pooling there.
    found = make_topology((1, 1, 6), (64, 64, 16))
    assert [kernel[2] for kernel in found.kernels] == [1, 1, 3, 3, 3]
    assert found.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert found.divisor == (16, 16, 4)


def test_a_single_axis_is_halved_only_above_twelve_voxels():
    # x has 12 (3 x 4), y and z less than 8: one halving to 6, which is below 8.
    assert make_topology((1, 1, 1), (12, 7, 7)).strides[1] == (2, 1, 1)
    assert make_topology((1, 1, 1), (11, 7, 7)).strides[1] == (1, 1, 1)


def test_tiny_patches_have_the_three_stages_dynunet_needs():
    found = make_topology((1, 1, 1), (6, 6, 6))
    assert found.stages == 3
    assert found.patch == (6, 6, 6)


A, B = (2, 2, 2), (2, 2, 1)

NNUNET_PLANS = [
    ((1, 1, 1), (36, 50, 35), 260, 8, (40, 56, 40), [A, A, A], 9),
    ((0.79, 0.79, 5), (512, 512, 90), 41, 8, (224, 224, 32), [B, B, A, A, A], 2),
    ((0.77, 0.77, 1), (512, 512, 432), 131, 8, (128, 128, 128), [A, A, A, A, A], 2),
    ((1, 1, 1), (240, 240, 155), 484, 24, (224, 224, 128), [A, A, A, A, A], 2),
    ((0.62, 0.62, 3.6), (320, 310, 20), 32, 8, (320, 256, 20), [B, B, A, A, B, B], 2),
    ((1.5, 1.5, 10), (250, 220, 13), 200, 12, (256, 224, 14), [B, B, A, B, B], 7),
    ((2, 2, 2), (90, 60, 150), 20, 8, (96, 64, 160), [A, A, A, A], 2),
]
"""Spacing, median scan, cases and GB of memory, and what nnunetv2 2.8.1 plans for them (3d_fullres): patch, strides, batch; tests/conformance/test_plan_nnunet.py asks it anew."""


@pytest.mark.parametrize(("spacing", "shape", "cases", "gigabytes", "patch", "strides", "batch"), NNUNET_PLANS)
def test_gpu_plans_are_those_of_nnunet(spacing, shape, cases, gigabytes, patch, strides, batch):
    found = planned(shape, spacing, "cuda", cases=cases, memory=gigabytes * GB)
    assert found.spacing == spacing
    assert found.patch == patch
    assert list(found.topology.strides) == [(1, 1, 1), *strides]
    assert found.batch_size == batch


def test_low_resolution_is_that_of_nnunet():
    found = planned((512, 512, 90), (0.79, 0.79, 5), "cuda", "lowres", cases=41, piece_ml=1e6)
    assert found.spacing == pytest.approx((1.3449, 1.3449, 5.0), abs=1e-4)
    assert found.patch == (192, 192, 56)
    assert list(found.topology.strides) == [(1, 1, 1), B, A, A, A, B]


@pytest.mark.parametrize("patch", [(16, 24, 16), (32, 32, 8)])
def test_operations_weights_and_feature_maps_are_those_of_the_network(patch):
    torch = pytest.importorskip("torch")
    from monai.networks.nets import DynUNet
    from torch.utils.flop_counter import FlopCounterMode

    topology = make_topology((1, 1, 3), patch)
    filters = filters_of(topology.stages, 4, 12)
    network = DynUNet(3, 2, 3, [list(k) for k in topology.kernels], [list(s) for s in topology.strides], [list(s) for s in topology.strides[1:]], filters=list(filters))
    elements = []
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)):
            module.register_forward_hook(lambda _, __, out: elements.append(out.numel()))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, 2, *topology.patch))
    weights = sum(p.numel() for p in network.parameters() if p.ndim == 5)
    assert forward_flops(topology, filters, 2, 3) == counter.get_total_flops()
    assert parameter_count(topology, filters, 2, 3) == weights
    assert feature_map_elements(topology, filters, 3) == sum(elements)


def test_patches_shrink_where_they_are_largest_in_proportion_to_the_scan():
    whole = make_topology((1, 1, 1), (64, 64, 32))
    found = fit_topology((1, 1, 1), (64, 128, 32), lambda topology: topology.voxels <= whole.voxels)
    # y starts at 128, as large in proportion as the others; ties go to the later axis, so z goes first, and no axis ends far from the scan's proportions.
    ratios = [edge / size for edge, size in zip(found.patch, (64, 128, 32), strict=True)]
    assert found.voxels <= whole.voxels
    assert max(ratios) / min(ratios) < 2.01


def test_a_patch_is_made_smaller_while_it_sees_enough_and_the_network_is_kept():
    whole = make_topology((1, 1, 1), (64, 64, 32))
    found = shrink(whole, (64, 64, 32), lambda smaller: smaller.voxels >= whole.voxels / 4)
    assert (found.strides, found.kernels) == (whole.strides, whole.kernels)
    assert found.voxels >= whole.voxels / 4
    # One step less along any axis is too little.
    assert all(found.voxels - found.voxels // edge * step < whole.voxels / 4 for edge, step in zip(found.patch, found.divisor, strict=True))
    # The axis that is longest in proportion to the scan is the first: z, half a scan too long.
    padded = make_topology((1, 1, 1), (32, 32, 48))
    assert shrink(padded, (32, 32, 32), lambda smaller: smaller.voxels >= 32**3).patch == (32, 32, 32)
    # Two voxels of the coarsest map are left, and sixteen of the patch.
    assert shrink(whole, (64, 64, 32), lambda smaller: True).patch == tuple(max(16, 2 * step) for step in whole.divisor)
    # What sees too little already stays as it is.
    assert shrink(whole, (64, 64, 32), lambda smaller: False) == whole


def test_small_patches_on_a_cpu_and_the_largest_on_a_gpu():
    # A ball of 2 ml is 15.6 mm across: patches of at least 23.4 mm, and of a quarter of 63000 voxels.
    found = planned((36, 50, 35), (1, 1, 1), piece_ml=2.0)
    assert min(found.patch) == 24
    assert 63000 / 4 <= found.topology.voxels < 63000 / 2
    assert found.topology.strides == planned((36, 50, 35), (1, 1, 1), "cuda").topology.strides
    assert planned((36, 50, 35), (1, 1, 1), "cuda").patch == (40, 56, 40)
    # Of a ball of 9.2 ml, 26 mm across, a patch must show 39 mm; the scan has no more than 35 and 36 mm along two axes, so they stay as they are.
    large = planned((36, 50, 35), (1, 1, 1), piece_ml=9.2)
    assert large.patch == (40, 40, 40)
    # The preset that promises half of a scan keeps its promise.
    assert planned((36, 50, 35), (1, 1, 1), preset="fast", piece_ml=2.0).coverage >= 0.5


def test_plans_say_why_a_patch_is_small():
    def why(plan):
        return next(choice.why for choice in explain(plan) if choice.what == "patch (voxels)")

    assert "40 x 56 x 40 would be, but 25% of that scan and 23 mm along each axis (1.5 times the largest structure)" in why(planned((36, 50, 35), (1, 1, 1), piece_ml=2.0))
    # Nothing was taken off; time set the size; a GPU.
    for plan in (
        planned((36, 50, 35), (1, 1, 1), piece_ml=30.0),
        planned((512, 512, 300), (0.75, 0.75, 1.0), preset="fullres"),
        planned((36, 50, 35), (1, 1, 1), "cuda"),
    ):
        assert "would be" not in why(plan)


def test_a_thin_scan_is_cut_along_its_long_axes_until_a_step_keeps_its_time():
    # Three slices cannot be fewer; they are not a reason to give up on the plane.
    assert planned((512, 512, 3), (0.5, 0.5, 5), preset="fullres").step_seconds <= 0.75


def test_what_a_smaller_patch_saves_goes_into_a_wider_network():
    small, large = planned((36, 50, 35), (1, 1, 1), piece_ml=2.0), planned((36, 50, 35), (1, 1, 1), piece_ml=30.0)
    assert small.filters[0] > large.filters[0]
    assert max(small.step_seconds, large.step_seconds) <= 0.75


def test_target_spacing_is_the_median_unless_one_axis_is_thick():
    shapes = [(256, 256, 10)] * 5
    thick = [(1, 1, 10), (1, 1, 10), (1, 1, 10), (1, 1, 6), (1, 1, 5)]
    found = target_spacing(thick, shapes)
    assert found.thick_axis == 2
    assert found.median == (1, 1, 10)
    # The 10th percentile of 5, 6, 10, 10, 10 lies 0.4 of the way from the first to the second.
    assert found.spacing == pytest.approx((1, 1, 5.4))
    # As many voxels along z as elsewhere: not thick by the second condition.
    assert target_spacing(thick, [(256, 256, 200)] * 5).spacing == (1, 1, 10)


def test_a_thick_axis_never_becomes_the_finest():
    found = target_spacing([(2, 2, 7), (2, 2, 7), (2, 2, 7), (2, 2, 1), (2, 2, 1)], [(256, 256, 10)] * 5)
    assert found.spacing[2] == pytest.approx(2, abs=1e-4)
    assert found.spacing[2] > 2


def test_median_shape_follows_the_spacing():
    assert median_shape([(1, 1, 2), (2, 2, 2), (1, 1, 1)], [(100, 100, 50), (60, 60, 60), (90, 90, 90)], (2, 2, 2)) == (50, 50, 50)


def test_coarsening_stops_when_the_patch_sees_enough():
    cube = Topology((32, 32, 32), ((1, 1, 1),), ((3, 3, 3),))
    found = coarsen((1.0, 1.0, 1.0), (128.0, 128.0, 128.0), lambda spacing, shape: sees_enough(cube, spacing, shape, 0.25, 0), 1e9)
    sees = 32**3 / (128 / found[0]) ** 3
    assert sees >= 0.25
    # One step of 3 % less would not do.
    assert sees / 1.03**3 < 0.25
    assert len(set(found)) == 1


def test_the_finest_axes_are_coarsened_first():
    cube = Topology((32, 32, 32), ((1, 1, 1),), ((3, 3, 3),))
    found = coarsen((1.0, 1.0, 5.0), (128.0, 128.0, 30.0), lambda spacing, shape: sees_enough(cube, spacing, shape, 0.25, 0), 1e9)
    # 32^3 of 128 x 128 x 30 are a quarter at 1.94 mm in plane: within a factor of two of 5 mm is not reached, so z stays.
    assert found[2] == 5.0
    assert found[0] == found[1] == pytest.approx((0.25 * 128 * 128 * 30 / 32**3) ** 0.5, rel=0.03)


def test_coarsening_keeps_the_smallest_structures():
    cube = Topology((8, 8, 8), ((1, 1, 1),), ((3, 3, 3),))
    found = coarsen((1.0, 1.0, 1.0), (128.0, 128.0, 128.0), lambda spacing, shape: sees_enough(cube, spacing, shape, 0.25, 0), 8.0)
    assert prod(found) <= 8.0 < prod(found) * 1.03**3


def test_a_patch_is_as_long_as_asked_or_as_the_scan():
    cube = Topology((32, 32, 32), ((1, 1, 1),), ((3, 3, 3),))
    assert sees_enough(cube, (2, 2, 2), (40, 40, 40), 0.25, 64)
    assert not sees_enough(cube, (2, 2, 2), (40, 40, 40), 0.25, 65)
    # 30 voxels of 2 mm are all there is along z.
    assert sees_enough(cube, (3, 3, 2), (30, 30, 30), 0.25, 90)


def test_a_large_structure_makes_the_voxels_larger_on_a_cpu_only():
    # A ball of 1767 ml is 150 mm across, so a patch must be 225 mm long (or as long as the scan is, 240 mm along z).
    scan, voxel = (400, 400, 80), (1, 1, 3)
    whole, part = planned(scan, voxel, piece_ml=1767.1), planned(scan, voxel, piece_ml=1.0)
    assert min(edge * own for edge, own in zip(whole.patch, whole.spacing, strict=True)) >= 225
    assert min(edge * own for edge, own in zip(part.patch, part.spacing, strict=True)) < 225
    assert planned(scan, voxel, "cuda", "lowres", piece_ml=1767.1).spacing == planned(scan, voxel, "cuda", "lowres", piece_ml=100.0).spacing


def test_presets_and_devices():
    chest, voxel = (512, 512, 300), (0.75, 0.75, 1.0)
    fine, coarse, fast, gpu = (
        planned(chest, voxel, preset="fullres"),
        planned(chest, voxel),
        planned(chest, voxel, preset="fast"),
        planned(chest, voxel, "cuda"),
    )
    assert fine.spacing == gpu.spacing == voxel
    assert prod(fast.spacing) > prod(coarse.spacing) > prod(voxel)
    assert coarse.coverage >= 0.25
    assert fast.coverage >= 0.5
    assert fast.filters[0] < coarse.filters[0] < gpu.filters[0] == 32
    assert coarse.step_seconds <= 0.75
    assert fast.step_seconds <= 0.3
    assert gpu.needs_low_resolution
    assert any("--preset lowres" in warning for warning in gpu.warnings)
    assert planned(chest, voxel, "cuda", "lowres").coverage >= 0.25
    assert not planned(chest, voxel, "cuda", "lowres").needs_low_resolution


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("shape", "spacing"), [((36, 50, 35), (1, 1, 1)), ((512, 512, 90), (0.98, 0.98, 3.27)), ((240, 240, 155), (1, 1, 1)), ((8, 9, 10), (2, 2, 2))])
def test_every_plan_fits_its_budget_and_the_network(preset, device, shape, spacing):
    found = planned(shape, spacing, device, preset)
    topology = found.topology
    assert all(edge % divisor == 0 for edge, divisor in zip(topology.patch, topology.divisor, strict=True))
    assert all(crop >= edge for crop, edge in zip(found.variation.crop, topology.patch, strict=True))
    assert found.memory_bytes <= found.budget.memory_bytes
    assert found.batch_size >= 2
    assert 1 <= found.heads < topology.stages - 1
    assert topology.stages >= 3
    assert found.val_interval <= found.max_epochs


@given(
    shape=st.tuples(*[st.integers(3, 700)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 12)] * 3),
    device=st.sampled_from(["cpu", "cuda"]),
    preset=st.sampled_from(PRESET_NAMES),
    piece_ml=st.floats(1e-4, 1e4),
    gflops=st.floats(5, 2000),
)
@settings(max_examples=60)
def test_any_dataset_gets_a_plan_that_holds_together(shape, spacing, device, preset, piece_ml, gflops):
    found = make_plan(fingerprint(shape, spacing, cases=3, piece_ml=piece_ml), Budget(device, 8 * GB, preset, gflops))
    topology = found.topology
    assert all(edge % divisor == 0 for edge, divisor in zip(topology.patch, topology.divisor, strict=True))
    assert all(fresh >= own for fresh, own in zip(found.spacing, found.target.spacing, strict=True))
    assert prod(found.spacing) <= max(prod(found.target.spacing), piece_ml * 1000 / 64)
    assert topology.stages == len(topology.kernels) == len(found.filters) >= 3
    assert found.memory_bytes <= found.budget.memory_bytes or any("even the smallest patch" in warning for warning in found.warnings)
    assert found.coverage >= (found.budget.rules.share or 0) or any("a patch covers" in warning for warning in found.warnings)


def test_less_memory_gives_smaller_patches_and_batches():
    large, small = planned((240, 240, 155), (1, 1, 1), "cuda", memory=24 * GB), planned((240, 240, 155), (1, 1, 1), "cuda", memory=4 * GB)
    assert large.topology.voxels * large.batch_size > small.topology.voxels * small.batch_size
    assert small.memory_bytes <= 4 * GB


def test_a_slow_machine_gets_a_smaller_network():
    slow = make_plan(fingerprint((36, 50, 35), (1, 1, 1)), Budget("cpu", 8 * GB, "default", 30.0))
    fast = make_plan(fingerprint((36, 50, 35), (1, 1, 1)), Budget("cpu", 8 * GB, "default", 1000.0))
    assert slow.topology.voxels < fast.topology.voxels
    assert slow.step_seconds <= 0.75
    assert fast.filters[0] == 32


def test_a_batch_holds_at_most_a_twentieth_of_the_set():
    # 10 cases of 40^3 at a patch of 40^3: 5 % of the set is half a patch, so the batch is the least, 2.
    assert planned((40, 40, 40), (1, 1, 1), "cuda", cases=10).batch_size == 2
    assert planned((40, 40, 40), (1, 1, 1), "cuda", cases=100).batch_size == 5


def test_cost_of_a_step():
    topology = make_topology((1, 1, 1), (16, 16, 16))
    cost = cost_of(topology, filters_of(topology.stages, 8, 80), 1, 2)
    assert cost.step_seconds(2, 10.0) == pytest.approx(6 * cost.flops / 1e10)
    assert cost.memory_bytes(4, "cpu") > cost.memory_bytes(2, "cpu")
    assert cost.memory_bytes(4, "cuda") == pytest.approx(2 * cost.memory_bytes(2, "cuda"), abs=1)


def test_epochs_on_a_cpu_take_a_minute_or_two_and_validation_a_tenth():
    found = planned((200, 200, 100), (1.5, 1.5, 3))
    epoch = found.iterations_per_epoch * found.step_seconds
    assert 60 <= epoch <= 120
    # 20 cases of ceil(2 n / e) - 1 windows along each axis; a window is a third of a sixth of a step of two patches.
    windows = prod(max(1, -int(-2 * size // edge) - 1) for size, edge in zip(found.median_shape, found.patch, strict=True))
    validation = 20 * windows * found.step_seconds / 6
    assert validation <= 0.1 * epoch * found.val_interval
    assert found.val_interval == 1 or validation > 0.1 * epoch * (found.val_interval - 1)
    assert planned((200, 200, 100), (1.5, 1.5, 3), "cuda").iterations_per_epoch == 250


def test_cases_are_cached_in_half_of_the_memory():
    found = planned((240, 240, 155), (1, 1, 1), preset="fullres", cases=400)
    # 400 cases of 240 x 240 x 155 voxels, image and label in float32: 28.6 GB, of which 4 may be kept.
    assert found.cache_rate == pytest.approx(4e9 / (400 * 240 * 240 * 155 * 8), abs=0.01)
    assert planned((36, 50, 35), (1, 1, 1)).cache_rate == 1.0


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (["kidney_left", "kidney_right"], (0,)),
        (["Anterior", "Posterior"], (1,)),
        (["lung_upper_lobe_left", "lung_lower_lobe_left", "lung_lower_lobe_right"], (0, 2)),
        (["left_atrium"], ()),
        (["tumor", "liver"], ()),
        (["RightVentricle", "LeftVentricle"], (0,)),
    ],
)
def test_labels_that_name_a_side_forbid_the_mirror(names, sided):
    assert sided_axes(names) == sided


def variation(patch, spacing, shape, **changes):
    arguments = {"batch": 2, "cases": 100, "device": "cpu", "labels": ["tumor"], "divisor": (8, 8, 8)} | changes
    return plan_variation(patch, spacing, shape, **arguments)


def test_flat_patches_turn_in_their_plane():
    found = variation((64, 64, 16), (1, 1, 5), (200, 200, 40))
    assert found.plane_axis == 2
    assert found.rotation == pi
    assert found.crop == (80, 80, 16)
    assert variation((64, 64, 16), (1, 1, 5), (200, 200, 40), labels=["left", "right"]).rotation == pytest.approx(pi / 6)
    assert variation((64, 64, 64), (1, 1, 1), (200, 200, 200)).plane_axis is None


def test_crops_are_larger_only_where_there_is_more_to_see():
    assert variation((40, 56, 40), (1, 1, 1), (36, 50, 35), device="cuda").crop == (40, 56, 40)
    assert variation((40, 40, 40), (1, 1, 1), (200, 44, 36), device="cuda").crop == (56, 48, 40)


def test_crops_on_a_cpu_can_still_be_shifted():
    assert variation((40, 56, 40), (1, 1, 1), (36, 50, 35)).crop == (40, 56, 40)
    # Half way between patch and scan: 42 and 52 voxels, of which 40 and 48 are multiples of 8.
    assert variation((40, 40, 40), (1, 1, 1), (200, 44, 36)).crop == (56, 40, 40)
    assert variation((40, 40, 40), (1, 1, 1), (64, 64, 64)).crop == (48, 48, 48)


def test_mirrors_and_share_of_foreground():
    assert variation((40, 40, 40), (1, 1, 1), (40, 40, 40)).mirror == (0,)
    assert variation((40, 40, 40), (1, 1, 1), (40, 40, 40), cases=30).mirror == (0, 1, 2)
    assert variation((40, 40, 40), (1, 1, 1), (40, 40, 40), device="cuda", labels=["left", "right"]).mirror == (1, 2)
    # nnU-Net: of a batch of 2 the second patch is forced, of a batch of 9 the last three.
    assert variation((40, 40, 40), (1, 1, 1), (40, 40, 40)).foreground == 0.5
    assert variation((40, 40, 40), (1, 1, 1), (40, 40, 40), batch=9).foreground == pytest.approx(3 / 9)


def kinds(*names, intensities=None):
    return [channel.kind for channel in plan_channels(fingerprint((40, 40, 40), (1, 1, 1), channels=names, intensities=intensities))]


def test_each_modality_has_its_rule():
    suv, becquerel = Intensities(6.0, 4.0, 5.0, 0.5, 20.0), Intensities(20000.0, 9000.0, 19000.0, 500.0, 60000.0)
    assert kinds("CT") == ["ct"]
    assert kinds("MRI") == kinds("T1w") == kinds("FLAIR") == ["zscore"]
    assert kinds("CT", "FDG-PET", intensities=suv) == ["ct", "suv"]
    assert kinds("PET", intensities=becquerel) == ["zscore"]


def test_a_ct_channel_is_clipped_and_scaled_by_the_foreground_of_the_set():
    (channel,) = plan_channels(fingerprint((40, 40, 40), (1, 1, 1), intensities=Intensities(50.0, 30.0, 50.0, -40.0, 140.0)))
    assert (channel.low, channel.high, channel.sd) == (-40.0, 140.0, 30.0)
    assert channel.top == pytest.approx(6.0)
    assert channel.modality == "CT"


def test_a_set_without_modality_is_told_of():
    found = planned((40, 40, 40), (1, 1, 1), channels=("",))
    assert [channel.kind for channel in found.channels] == ["zscore"]
    assert any("modality" in warning for warning in found.warnings)


def test_warnings_that_say_the_same_of_several_cases_are_one():
    several = replace(fingerprint((40, 40, 40), (1, 1, 1)), warnings=("a.nii.gz: covers 98.4 % of it", "b2.nii.gz: covers 9 % of it", "c.nii.gz: is empty"))
    assert make_plan(several, Budget("cpu", 8 * GB, "default", TWO_CPUS)).warnings == (
        "a.nii.gz: covers 98.4 % of it (and 1 more like it, in fingerprint.json)",
        "c.nii.gz: is empty",
    )


def test_scans_that_are_mostly_zero_are_cropped_and_normalised_inside():
    brain = fingerprint((200, 200, 200), (1, 1, 1), channels=("T1",), nonzero=(140, 170, 150))
    assert inside_nonzero(brain, plan_channels(brain))
    assert not inside_nonzero(fingerprint((200, 200, 200), (1, 1, 1), channels=("T1",), nonzero=(190, 190, 190)), plan_channels(brain))
    ct = fingerprint((200, 200, 200), (1, 1, 1), nonzero=(140, 170, 150))
    assert not inside_nonzero(ct, plan_channels(ct))
    assert make_plan(brain, Budget("cuda", 8 * GB, "default", 1.0)).median_shape == (140, 170, 150)
