"""Every command of the README and of --help is run, in a folder as a new user would have it."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.bundle_factory import copy_bundle, two_channel_bundle
from volseg.cli import main
from volseg.cli.main import COMMANDS, volseg

REPOSITORY = Path(__file__).resolve().parents[2]

STAND_INS = {"DATASET": "dataset", "scans/": "dataset/imagesTr", "DICOM_FOLDER": "sample/sample_ct_dicom", "bundles/NEW": "bundles/ct_new"}
"""Names that stand for the reader's own files."""

pytestmark = pytest.mark.timeout(1200)


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), flags=re.S)
    lines = [part.strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]
    return [line.removeprefix(".venv/bin/") for line in lines if line.startswith(("volseg ", ".venv/bin/volseg "))]


def help_examples(name: str) -> list[str]:
    command = volseg.get_command(None, name)  # type: ignore[arg-type]
    text = f"{command.help}\n{command.epilog or ''}"
    found = re.findall(r"^ *(volseg \S.*?)(?: {3,}.*)?$", text, flags=re.M)
    return [line.strip() for line in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run: the bundles, a sample, and a small dataset of the reader's own."""
    from volseg.synthetic import write_dataset

    place = tmp_path_factory.mktemp("reader")
    shutil.copytree(REPOSITORY / "bundles", place / "bundles", ignore=shutil.ignore_patterns("eval"))
    write_dataset(place / "dataset", 5, seed=3, shape=(48, 40, 20), spacing=(3, 3, 7))
    return place


def run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, real in STAND_INS.items():
        command = command.replace(name, real)
    # Hours are no time for a test.
    command = re.sub(r"--time-limit \S+", "--time-limit 5s", command)
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    assert ended.value.code in (0, None), command


def test_readme(folder, monkeypatch):
    commands = readme_commands()
    assert len(commands) > 10
    assert commands[0].startswith("volseg sample")
    for command in commands:
        if command.startswith("volseg infer scan.nii.gz"):
            shutil.copy(folder / "sample" / "sample_ct.nii.gz", folder / "scan.nii.gz")
        run(command, folder, monkeypatch)
    endings = ("_rtstruct.dcm", "_seg.csv", "_seg.dcm", "_seg.html", "_seg.json", "_seg.nii.gz", "_seg.png", "_sr.dcm")
    assert sorted(path.name for path in (folder / "out").glob("sample_ct_dicom*")) == [f"sample_ct_dicom{ending}" for ending in endings]


@pytest.mark.parametrize("name", ["infer", "train"])
def test_help_examples(name, folder, monkeypatch, tmp_path):
    """The other commands' examples are run by their own tests."""
    own = tmp_path / "reader"
    shutil.copytree(folder, own)
    monkeypatch.chdir(own)
    shutil.copy(own / "dataset" / "imagesTr" / sorted(path.name for path in (own / "dataset" / "imagesTr").iterdir())[0], "scan.nii.gz")
    for channel in ("ct.nii.gz", "pet.nii.gz"):
        shutil.copy("scan.nii.gz", channel)
    if not Path("bundles/petct_tumor/models/model.pt").exists():
        shutil.rmtree("bundles/petct_tumor", ignore_errors=True)
        two_channel_bundle(own / "bundles", weights=True, name="petct_tumor")
    copy_bundle(own / "bundles", "ct_new")
    for weights in ("fold0.pt", "fold1.pt"):
        shutil.copy(own / "bundles" / "ct_tumor" / "models" / "model.pt", weights)
    if not Path("sample").exists():
        run("volseg sample ct sample", own, monkeypatch)
    examples = help_examples(name)
    assert len(examples) >= 4
    for example in examples:
        if "--resume" not in example:
            shutil.rmtree("runs", ignore_errors=True)
        if "runs/ct_tumor/fold0/final.pt" in example:
            run("volseg train bundles/ct_tumor --data DATASET --epochs 1 --time-limit 5s", own, monkeypatch)
        run(example, own, monkeypatch)


def test_every_command_has_help_with_examples(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code in (0, None)
        assert f"volseg {name}" in capsys.readouterr().out


def test_python_example(folder, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert code is not None
    monkeypatch.chdir(folder)
    if not Path("sample").exists():
        run("volseg sample ct sample", folder, monkeypatch)
    exec(compile(code.group(1), "README.md", "exec"), {})
    assert (folder / "label.nii.gz").is_file()
