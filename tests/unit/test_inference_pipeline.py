"""What becomes of a bundle's config when it is built."""

from __future__ import annotations

import pytest
import torch
from monai.bundle.config_item import ComponentLocator

from tests.bundle_factory import edit_config, tiny_bundle
from volseg.bundle import read_bundle
from volseg.errors import BundleError
from volseg.inference.pipeline import build_pipeline, load_network


def test_imports_in_another_thread_do_not_spoil_the_building(tmp_path, monkeypatch):
    """MONAI looks for its classes in ``sys.modules``, which another thread may be changing."""
    bundle = read_bundle(tiny_bundle(tmp_path, weights=True))
    find, failures = ComponentLocator._find_module_names, iter(range(3))

    def interrupted(self):
        if next(failures, None) is not None:
            raise RuntimeError("dictionary changed size during iteration")
        return find(self)

    monkeypatch.setattr(ComponentLocator, "_find_module_names", interrupted)
    assert isinstance(load_network(bundle), torch.nn.Module)
    assert next(failures, None) is None


def test_any_other_failure_is_told_at_once(tmp_path, monkeypatch):
    bundle = read_bundle(tiny_bundle(tmp_path, weights=True))
    calls = []

    def broken(self):
        calls.append(1)
        raise RuntimeError("something else")

    monkeypatch.setattr(ComponentLocator, "_find_module_names", broken)
    with pytest.raises(BundleError, match="`network_def` cannot be built: RuntimeError: something else"):
        load_network(bundle)
    assert len(calls) == 1


def test_items_of_files_are_left_out_and_split_channels_deleted(tmp_path):
    """volseg hands over the image alone, channel first: nothing is loaded, and what is not there is not copied."""
    folder = tiny_bundle(tmp_path, weights=True)
    steps = [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "DeleteItemsd", "keys": ["image_meta_dict.affine"]},
        {"_target_": "CopyItemsd", "keys": "image_path", "names": "path"},
        {"_target_": "SplitDimd", "keys": "image"},
        {"_target_": "ConcatItemsd", "keys": ["image_0", "image_1"], "name": "image"},
        {"_target_": "DeleteItemsd", "keys": ["image_0", "image_1"]},
    ]
    edit_config(folder, "inference", preprocessing={"_target_": "Compose", "transforms": steps})
    pipeline = build_pipeline(read_bundle(folder), torch.device("cpu"))
    data = pipeline.preprocess({"image": torch.arange(16.0).reshape(2, 2, 2, 2)})
    assert set(data) == {"image"}
    assert torch.equal(torch.as_tensor(data["image"]), torch.arange(16.0).reshape(2, 2, 2, 2))
