"""``volseg bundle`` as a person types it: every example of its help, its JSON, its exit codes."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from volseg.bundle import find_bundle
from volseg.cli import main
from volseg.cli.bundle import CHECK_EXAMPLES, INFO_EXAMPLES, LIST_EXAMPLES
from volseg.conformance import CHECKS

SMALL_NETWORK: dict[str, Any] = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8], "deep_supr_num": 1}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose bundles/ct_tumor is ct_tumor with a tiny network, so that the examples run quickly and find it by name."""
    import torch
    from monai.bundle import ConfigParser

    folder = tmp_path_factory.mktemp("cwd")
    bundle = folder / "bundles" / "ct_tumor"
    shutil.copytree(find_bundle("ct_tumor"), bundle, ignore=shutil.ignore_patterns("*.pt", "*.ts", "eval"))
    for stem in ("inference", "train"):
        path = bundle / "configs" / f"{stem}.json"
        config = json.loads(path.read_text())
        config["network_def"].update(SMALL_NETWORK)
        config["patch_size"] = [32, 32, 32]
        if "crop_size" in config:
            config["crop_size"] = [32, 32, 32]
        path.write_text(json.dumps(config))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        metadata["network_data_format"][side][name]["spatial_shape"] = [32, 32, 32]
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(parser.get_parsed_content("network_def").state_dict(), bundle / "models" / "model.pt")
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("VOLSEG_BUNDLES", raising=False)


def volseg(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def examples() -> list[str]:
    return re.findall(r"^  (volseg .+)$", LIST_EXAMPLES + INFO_EXAMPLES + CHECK_EXAMPLES, flags=re.MULTILINE)


@pytest.mark.parametrize("line", examples())
def test_examples_of_the_help_run(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = volseg(capsys, *shlex.split(line)[1:])
    assert code == 0
    assert "error" not in err
    assert "ct_tumor" in out


@pytest.mark.parametrize(("command", "text"), [("list", LIST_EXAMPLES), ("info", INFO_EXAMPLES), ("check", CHECK_EXAMPLES)])
def test_help_shows_the_examples(command: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = volseg(capsys, "bundle", command, "--help")
    assert code == 0
    assert all(line in out for line in re.findall(r"volseg bundle .+", text))


def test_list_json(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    _, out, _ = volseg(capsys, "bundle", "list", "--json")
    found = {entry["name"]: entry for entry in json.loads(out)["bundles"]}
    assert found["ct_tumor"]["path"] == str((folder / "bundles" / "ct_tumor").resolve())
    assert found["ct_tumor"]["version"]


def test_list_survives_a_broken_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken" / "configs").mkdir(parents=True)
    (tmp_path / "broken" / "configs" / "metadata.json").write_text("{")
    monkeypatch.setenv("VOLSEG_BUNDLES", str(tmp_path))
    code, out, err = volseg(capsys, "bundle", "list", "--json")
    assert code == 0
    assert "line 1 column 2" in next(entry["error"] for entry in json.loads(out)["bundles"] if entry["name"] == "broken")
    assert err.count("volseg: warning:") == 1


def test_info_json(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    _, out, _ = volseg(capsys, "bundle", "info", "ct_tumor", "--json")
    facts = json.loads(out)
    config = json.loads((folder / "bundles/ct_tumor/configs/inference.json").read_text())
    assert facts["labels"] == {"0": "background", "1": "tumor"}
    assert (facts["roi_size"], facts["spacing"], facts["orientation"]) == ([32, 32, 32], config["spacing"], "RAS")
    assert facts["weights"]["sha256"] == hashlib.sha256((folder / "bundles/ct_tumor/models/model.pt").read_bytes()).hexdigest()
    assert facts["licence"].endswith("LICENSE")


def test_check_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = volseg(capsys, "bundle", "check", "ct_tumor", "--fast", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["ok"] is True
    assert [entry["id"] for entry in report["checks"]] == [check.identifier for check in CHECKS if not check.slow]
    assert sum(report["counts"].values()) == len(report["checks"])


def test_a_failing_check_exits_2_and_is_named(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(folder / "bundles" / "ct_tumor", bundle)
    (bundle / "models" / "model.pt").write_bytes(b"no weights")
    (bundle / "LICENSE").unlink()
    code, out, err = volseg(capsys, "bundle", "check", str(bundle), "--fast", "--json", "-q")
    failed = {entry["id"]: entry["detail"] for entry in json.loads(out)["checks"] if entry["status"] == "fail"}
    assert code == 2
    assert set(failed) == {"layout", "weights"}
    assert "model.pt" in failed["weights"]
    assert "2 of" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["info", "check"])
def test_unknown_bundle(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = volseg(capsys, "bundle", command, "nothing_of_the_kind")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "nothing_of_the_kind" in err
    assert "ct_tumor" in err
