"""Finding bundles, reading them, and loading their weights."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from volseg.bundle import Bundle, find_bundle, list_bundles, load_weights, read_bundle, weights_sha256
from volseg.errors import BundleError

METADATA: dict[str, Any] = {
    "version": "1.2.3",
    "network_data_format": {
        "inputs": {"image": {"modality": "CT", "num_channels": 2, "channel_def": {"0": "CT", "1": "PET"}}},
        "outputs": {"pred": {"channel_def": {"10": "ten", "0": "background", "2": "two"}}},
    },
}


def make_bundle(folder: Path, metadata: dict[str, Any] | None = None) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA if metadata is None else metadata))
    (folder / "configs" / "inference.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("VOLSEG_BUNDLES", raising=False)


def test_shipped_bundle_is_found_from_anywhere() -> None:
    assert "bundles" in str(find_bundle("ct_tumor"))


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, here = (make_bundle(tmp_path / where / "ct_tumor") for where in ("a", "b", "elsewhere/bundles"))
    assert find_bundle("ct_tumor") == here.resolve()
    monkeypatch.setenv("VOLSEG_BUNDLES", f"{tmp_path / 'none'}{os.pathsep}{tmp_path / 'b'}{os.pathsep}{tmp_path / 'a'}")
    assert find_bundle("ct_tumor") == second.resolve()
    assert find_bundle(first) == first.resolve()
    assert [path for path in list_bundles() if path.name == "ct_tumor"] == [second.resolve()]


def test_a_folder_that_merely_shares_the_name_does_not_hide_the_bundle(tmp_path: Path) -> None:
    Path("ct_tumor").mkdir()
    assert find_bundle("ct_tumor") != Path("ct_tumor").resolve()


def test_unknown_name_says_what_there_is_and_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "a" / "liver")
    monkeypatch.setenv("VOLSEG_BUNDLES", str(tmp_path / "a"))
    with pytest.raises(BundleError, match=r"no bundle is called 'lung'.*liver") as error:
        find_bundle("lung")
    assert str(tmp_path / "a") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_not_a_bundle(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "x")
    with pytest.raises(BundleError, match="x: "):
        find_bundle(tmp_path / "x")
    with pytest.raises(BundleError, match="no such folder"):
        find_bundle(tmp_path / "y" / "z")


def test_read(tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "pet"))
    assert (bundle.name, bundle.version, bundle.modality, bundle.input_channels) == ("pet", "1.2.3", "CT", 2)
    assert list(bundle.labels.items()) == [(0, "background"), (2, "two"), (10, "ten")]
    assert bundle.channel_names == ("CT", "PET")
    assert bundle.weights is None
    assert bundle.train_config is None


def test_preferred_files(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "configs" / "train.yaml").write_text("a: 1\n")
    (folder / "models").mkdir()
    (folder / "models" / "model.ts").touch()
    bundle = read_bundle(folder)
    assert bundle.train_config is not None
    assert bundle.train_config.name == "train.yaml"
    assert bundle.weights == folder / "models" / "model.ts"
    (folder / "models" / "model.pt").touch()
    assert read_bundle(folder).weights == folder / "models" / "model.pt"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("version", None, "`version`"),
        ("network_data_format", None, "`network_data_format` is missing"),
        ("network_data_format/inputs/image", None, r"inputs.image` is missing"),
        ("network_data_format/outputs/pred", None, r"outputs.pred` is missing"),
        ("network_data_format/inputs/image/num_channels", "2", "'2'"),
        ("network_data_format/inputs/image/num_channels", 3, r"num_channels 3.*\[0, 1\]"),
        ("network_data_format/outputs/pred/channel_def", {"a": "b"}, "channel_def"),
        ("network_data_format/outputs/pred/channel_def", None, "channel_def` is missing"),
    ],
)
def test_malformed_metadata(tmp_path: Path, path: str, value: Any, says: str) -> None:
    metadata = copy.deepcopy(METADATA)
    *parents, last = path.split("/")
    node = metadata
    for key in parents:
        node = node[key]
    node.pop(last)
    if value is not None:
        node[last] = value
    with pytest.raises(BundleError, match=says) as error:
        read_bundle(make_bundle(tmp_path / "b", metadata))
    assert "metadata.json" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("metadata.json", b'{\n  "version": 1,,\n}', "line 2 column 16"),
        ("metadata.json", b"[]", "top level must be a mapping"),
        ("inference.json", b'{"a": ', r"inference.json: not valid JSON"),
        ("inference.json", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "configs" / name).write_bytes(content)
    with pytest.raises(BundleError, match=says):
        read_bundle(folder)


def test_no_inference_config(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "configs" / "inference.json").unlink()
    with pytest.raises(BundleError, match=r"no configs/inference.json"):
        read_bundle(folder)


def test_yaml_error_has_a_place(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text("a: 1\nb: [1, 2\n")
    with pytest.raises(BundleError, match=r"inference.yaml: not valid YAML at line 3"):
        read_bundle(folder)


def test_reading_imports_no_torch() -> None:
    code = "import sys, volseg.bundle, volseg.cli.bundle; volseg.bundle.read_bundle('ct_tumor'); sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def bundle_with(tmp_path: Path, content: Any) -> Bundle:
    import torch

    folder = make_bundle(tmp_path / "b")
    (folder / "models").mkdir()
    if isinstance(content, bytes):
        (folder / "models" / "model.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, folder / "models" / "model.pt")
    return read_bundle(folder)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
def test_load_weights_half_precision_and_nested(tmp_path: Path, wrap: Any) -> None:
    import torch

    source = torch.nn.Conv3d(1, 2, 3)
    bundle = bundle_with(tmp_path, wrap({key: value.half() for key, value in source.state_dict().items()}))
    network = torch.nn.Conv3d(1, 2, 3)
    load_weights(bundle, network)
    assert network.weight.dtype == torch.float32
    assert torch.equal(network.weight, source.weight.half().float())


def test_load_scripted_weights(tmp_path: Path) -> None:
    import torch

    source = torch.nn.Conv3d(1, 2, 3)
    folder = make_bundle(tmp_path / "b")
    (folder / "models").mkdir()
    torch.jit.script(source).save(str(folder / "models" / "model.ts"))
    network = torch.nn.Conv3d(1, 2, 3)
    load_weights(read_bundle(folder), network)
    assert torch.equal(network.weight, source.weight)


def test_mismatch_names_counts_and_keys(tmp_path: Path) -> None:
    import torch

    bundle = bundle_with(tmp_path, {"weight": torch.zeros(2, 1, 5, 5, 5), **{f"extra{i}": torch.zeros(1) for i in range(5)}})
    with pytest.raises(BundleError) as error:
        load_weights(bundle, torch.nn.Conv3d(1, 2, 3))
    assert "1 missing (bias)" in str(error.value)
    assert "5 unexpected (extra0, extra1, extra2, ...)" in str(error.value)
    assert "1 of another shape (weight is 2x1x5x5x5, the network has 2x1x3x3x3)" in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has no weights"),
        (b"this is not a checkpoint", "not weights that torch can load safely"),
        (b"", "not weights that torch can load safely"),
        ({"epoch": 3}, "holds no state dict"),
        ({}, "holds no state dict"),
    ],
)
def test_unusable_weights(tmp_path: Path, content: Any, says: str) -> None:
    import torch

    with pytest.raises(BundleError, match=says) as error:
        load_weights(bundle_with(tmp_path, content), torch.nn.Conv3d(1, 2, 3))
    assert "model.pt" in str(error.value)
    assert "\n" not in str(error.value)


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


def test_weights_cannot_run_code(tmp_path: Path) -> None:
    import torch

    with pytest.raises(BundleError, match="weights_only=True"):
        load_weights(bundle_with(tmp_path, {"weight": Attack()}), torch.nn.Conv3d(1, 2, 3))
    assert not Path("pwned").exists()


def test_truncated_weights(tmp_path: Path) -> None:
    import torch

    bundle = bundle_with(tmp_path, torch.nn.Conv3d(1, 2, 3).state_dict())
    assert bundle.weights is not None
    whole = bundle.weights.read_bytes()
    bundle.weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="not weights that torch can load safely"):
        load_weights(bundle, torch.nn.Conv3d(1, 2, 3))


def test_sha256(tmp_path: Path) -> None:
    assert weights_sha256(bundle_with(tmp_path, b"abc")) == hashlib.sha256(b"abc").hexdigest()
