"""Start the real MONAI Label server on a bundle, ask it for a label, optionally train one epoch, stop it, and print what happened as JSON.

Run it with the Python of the environment of ``requirements.txt`` (``run.sh`` does); it needs no volseg. The server listens on 127.0.0.1 only and fetches nothing from the network.
The bundle is copied: MONAI Label writes into the folder it serves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy
import requests

APP = "monaibundle"
POLL_SECONDS = 1.0
LINES_SHOWN = 3
VERSIONS_OF = ("monailabel", "monai", "torch", "torchvision", "numpy", "pydicom")


class ServerError(RuntimeError):
    """The server did not do what it was asked."""


def main() -> int:
    """Parse the arguments, run, print one JSON document; 0 when everything asked for worked, 1 otherwise."""
    arguments = parse()
    # A terminated script must still stop its server: SIGTERM becomes an exception, so that every finally runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    work = Path(tempfile.mkdtemp(prefix="monailabel-"))
    summary: dict[str, Any] = {"bundle": arguments.bundle.resolve().name, "versions": {name: version(name) for name in VERSIONS_OF}}
    try:
        prepare(arguments, work)
        with running_server(arguments, work) as url:
            exercise(arguments, url, summary)
        summary["ok"] = True
    except (ServerError, OSError) as error:
        summary["ok"] = False
        summary["error"] = str(error)
    finally:
        log = work / "server.log"
        if log.is_file():
            if not summary.get("ok"):
                summary["server_said"] = [line for line in log.read_text(errors="replace").splitlines() if "Error" in line or "Ignore" in line][-LINES_SHOWN:]
            arguments.output.mkdir(parents=True, exist_ok=True)
            shutil.copy(log, arguments.output / "server.log")
            summary["log"] = str(arguments.output / "server.log")
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(summary, indent=2))
    return 0 if summary["ok"] else 1


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--scan", type=Path, required=True, help="NIfTI scan to ask a label for")
    parser.add_argument("--train", action="append", default=[], metavar="IMAGE=LABEL", help="a labelled scan to train one epoch on; give two or more")
    parser.add_argument("--weights", type=Path, help="use these weights instead of the bundle's models/model.pt")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:0, ...")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds to wait for each of start, inference and training")
    parser.add_argument("-o", "--output", type=Path, default=Path("monailabel_out"), help="folder for the label and the server's log")
    arguments = parser.parse_args()
    arguments.train = [tuple(Path(part) for part in pair.split("=", 1)) for pair in arguments.train]
    if any(len(pair) != 2 for pair in arguments.train) or len(arguments.train) == 1:
        parser.error("--train takes IMAGE=LABEL, two times or more")
    for path in (arguments.bundle, arguments.scan, *(path for pair in arguments.train for path in pair)):
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    return arguments


def prepare(arguments: argparse.Namespace, work: Path) -> None:
    """Lay out what the server reads: the sample app, the bundle inside it, scans and labels as its local datastore."""
    command = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", APP, "--output", str(work / "apps")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"monailabel could not copy its {APP} app: {done.stderr.strip()[-500:]}"
        raise ServerError(msg)
    model = work / "apps" / APP / "model" / arguments.bundle.resolve().name
    shutil.copytree(arguments.bundle, model)
    if arguments.weights:
        (model / "models").mkdir(exist_ok=True)
        shutil.copy(arguments.weights, model / "models" / "model.pt")
    labels = work / "studies" / "labels" / "final"
    labels.mkdir(parents=True)
    shutil.copy(arguments.scan, work / "studies" / arguments.scan.name)
    for image, label in arguments.train:
        shutil.copy(image, work / "studies" / image.name)
        shutil.copy(label, labels / image.name)


@contextlib.contextmanager
def running_server(arguments: argparse.Namespace, work: Path) -> Iterator[str]:
    """Start the server, wait until it answers, give its address; stop it and everything it started whatever happens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = arguments.bundle.resolve().name
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(work / "apps" / APP), "--studies", str(work / "studies")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--conf", "models", name, "--conf", "zoo_source", "local", "--conf", "sam2", "false"]
    # MONAI Label reads PYTHONPATH without a default when it starts a training.
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    with (work / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=work, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url, server, arguments.timeout)
            yield url
        finally:
            stop(server)


def wait_for(url: str, server: subprocess.Popen[bytes], timeout: float) -> None:
    """Return once ``/info/`` answers."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if server.poll() is not None:
            msg = f"the server stopped while starting (exit code {server.returncode}); see server.log"
            raise ServerError(msg)
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{url}/info/", timeout=60)
            return
        time.sleep(POLL_SECONDS)
    msg = f"the server did not answer within {timeout:.0f} s; see server.log"
    raise ServerError(msg)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its children (they share its session)."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)


def exercise(arguments: argparse.Namespace, url: str, summary: dict[str, Any]) -> None:
    """Ask the server for its models, a label and, if wanted, a training; fill the summary as answers come."""
    name = summary["bundle"]
    info = answer(requests.get(f"{url}/info/", timeout=60), "/info/").json()
    if name not in info["models"]:
        msg = f"/info/ does not list {name} (it lists {sorted(info['models'])}); server.log says why the bundle was ignored"
        raise ServerError(msg)
    summary["info"] = {"labels": info["models"][name]["labels"], "version": info["models"][name]["version"], "trainers": sorted(info["trainers"])}
    summary["infer"] = infer(arguments, url, name)
    if arguments.train:
        summary["train"] = train(arguments, url, name)


def infer(arguments: argparse.Namespace, url: str, name: str) -> dict[str, Any]:
    """Ask for a label of the scan and hold its grid against the scan's."""
    start = time.monotonic()
    params = {"params": json.dumps({"device": arguments.device})}
    image = arguments.scan.name.removesuffix(".gz").removesuffix(".nii")
    reply = requests.post(f"{url}/infer/{name}", params={"image": image, "output": "image"}, data=params, timeout=arguments.timeout)
    answer(reply, f"/infer/{name}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{image}_{name}.nii.gz"
    path.write_bytes(reply.content)
    label, scan = nibabel.load(path), nibabel.load(arguments.scan)
    values, counts = numpy.unique(numpy.asanyarray(label.dataobj), return_counts=True)
    return {
        "status": reply.status_code,
        "label": str(path),
        "same_grid": label.shape == scan.shape[:3] and bool(numpy.allclose(label.affine, scan.affine, atol=1e-3)),
        "shape": list(label.shape),
        "voxels": {str(value): int(count) for value, count in zip(values, counts, strict=True)},
        "seconds": round(time.monotonic() - start, 1),
    }


def train(arguments: argparse.Namespace, url: str, name: str) -> dict[str, Any]:
    """Train one epoch, half of the scans for training, and wait for the end."""
    start = time.monotonic()
    body = {"model": name, "device": arguments.device, "max_epochs": 1, "val_split": 0.5, "multi_gpu": False, "tracking": "None"}
    answer(requests.post(f"{url}/train/{name}", json=body, timeout=60), f"/train/{name}")
    while time.monotonic() - start < arguments.timeout:
        task = answer(requests.get(f"{url}/train/", timeout=60), "/train/").json()
        if task["status"] not in ("SUBMITTED", "RUNNING"):
            break
        time.sleep(POLL_SECONDS)
    else:
        msg = f"training did not end within {arguments.timeout:.0f} s; see server.log"
        raise ServerError(msg)
    if task["status"] != "DONE":
        msg = f"training ended with {task['status']}: {' | '.join(list(task.get('details', []))[-3:])}; see server.log"
        raise ServerError(msg)
    return {"status": task["status"], "scans": len(arguments.train), "epochs": 1, "seconds": round(time.monotonic() - start, 1)}


def answer(reply: requests.Response, what: str) -> requests.Response:
    """Give back the reply if its status is 200."""
    if reply.status_code != 200:
        msg = f"{what} answered {reply.status_code}: {' '.join(reply.text.split())[:300]}; see server.log"
        raise ServerError(msg)
    return reply


if __name__ == "__main__":
    sys.exit(main())
