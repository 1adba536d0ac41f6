"""Real DICOM programs for tests: a validator, and stores that are started for one test, listen on the loopback only and are always stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

PATIENCE = 20.0
"""Seconds after which a program that does not answer fails the test."""

DEBIAN = {"dciodvfy": "dicom3tools", "Orthanc": "orthanc", "unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}
"""Packages of the programs that are not in ``dcmtk``."""


def program(name: str) -> str:
    """Path of a program; the calling test is skipped where it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian package {DEBIAN.get(name, 'dcmtk')})")
    return found


def run(*command: str | Path) -> str:
    """Run a program that must succeed and be quiet about errors; its output."""
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
    text = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {text[-1000:]}"
    return text


def validator_errors(path: Path) -> list[str]:
    """What dciodvfy calls an error in a file; the calling test is skipped where it is not installed."""
    done = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, timeout=PATIENCE, check=False)
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    # It names the object's class first, and says so when it knows none.
    assert lines, f"dciodvfy said nothing of {path}"
    return [line for line in lines if line.startswith("Error")]


def differences(ours: Dataset, theirs: Dataset) -> list[str]:
    """Elements of the data sets (group 2, which a store writes anew, aside) that are not the same in both, in tag, VR or value."""
    tags = sorted({*ours.keys(), *theirs.keys()})
    return [str(pydicom.datadict.keyword_for_tag(tag) or tag) for tag in tags if tag not in ours or tag not in theirs or ours[tag] != theirs[tag]]


def by_uid(folder: Path) -> dict[str, Dataset]:
    """Every object of a folder by its SOPInstanceUID."""
    return {str(ds.SOPInstanceUID): ds for ds in (pydicom.dcmread(file) for file in sorted(folder.rglob("*")) if file.is_file())}


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(answers: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    """Ask until a server answers; fails when it ends or stays silent."""
    deadline = time.monotonic() + PATIENCE
    while not answers():
        assert process.poll() is None, f"{what} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{what} did not answer within {PATIENCE} s"
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, by force if it does not listen."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """dcmtk's storescp, which writes what it is sent into ``folder``; yields its port.

    It cannot be told which address to listen on, so a socket of the loopback is opened here and one storescp started for each connection, as inetd would.
    """
    command = [program("storescp"), "--inetd", "--promiscuous", "--accept-all", "--output-directory", str(folder)]
    children: list[subprocess.Popen[bytes]] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        # Closing the server ends accept() with an OSError.
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    children.append(subprocess.Popen(command, stdin=connection, stdout=subprocess.DEVNULL))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(PATIENCE)
        for child in children:
            stop(child)


@dataclass
class Archive:
    """A running dcmqrscp: ``enter`` in front of a command runs it where the server can be reached."""

    port: int
    client_port: int
    enter: list[str] = field(default_factory=list)
    title: str = "ARCHIVE"
    client: str = "CLIENT"


@contextmanager
def dcmqrscp(folder: Path) -> Iterator[Archive]:
    """dcmtk's query/retrieve archive over ``folder``, alone in a network of its own, since it would listen on every address; skipped where the system allows none."""
    server, shell, ip, inside = program("dcmqrscp"), shutil.which("sh"), program("ip"), program("nsenter")
    allowed = subprocess.run([program("unshare"), "-rn", ip, "link", "set", "lo", "up"], capture_output=True, timeout=PATIENCE, check=False)
    if allowed.returncode:
        pytest.skip(f"dcmqrscp listens on every address, and this system gives a test no network of its own ({allowed.stderr.decode().strip()})")
    storage = folder / "storage"
    storage.mkdir(parents=True)
    archive = Archive(11112, 11113)
    tables = {
        "HostTable": f"client = ({archive.client}, localhost, {archive.client_port})",
        "VendorTable": "",
        "AETable": f"{archive.title} {storage} RW (200, 1024mb) client",
    }
    text = "".join(f"{name} BEGIN\n{content}\n{name} END\n" for name, content in tables.items())
    config = folder / "dcmqrscp.cfg"
    config.write_text(f"NetworkTCPPort = {archive.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n{text}")
    start = f"{ip} link set lo up && exec {server} --config {config}"
    process = subprocess.Popen([program("unshare"), "-rn", str(shell), "-c", start], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    archive.enter = [inside, "--target", str(process.pid), "--user", "--net", "--preserve-credentials"]
    echo = [*archive.enter, program("echoscu"), "-aet", archive.client, "-aec", archive.title, "localhost", str(archive.port)]
    try:
        wait_for(lambda: subprocess.run(echo, capture_output=True, timeout=PATIENCE, check=False).returncode == 0, process, "dcmqrscp")
        yield archive
    finally:
        stop(process)
        # It forks for each association; a child outlives it where the client still hangs on.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc: its REST API."""

    port: int

    def send(self, path: str, body: bytes | None = None) -> bytes:
        """GET, or POST where there is a body; anything but success raises urllib.error.HTTPError."""
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body), timeout=PATIENCE) as answer:
            return bytes(answer.read())


@contextmanager
def orthanc(folder: Path, modalities: dict[str, int] | None = None) -> Iterator[Orthanc]:
    """Orthanc with its storage in ``folder``, HTTP for this machine only and no DICOM port; ``modalities`` are ports of the loopback it may send to, by AE title."""
    executable = program("Orthanc")
    folder.mkdir(parents=True)
    server = Orthanc(free_port())
    config = folder / "orthanc.json"
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [],
        "HttpPort": server.port,
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "DicomModalities": {title: [title, "127.0.0.1", port] for title, port in (modalities or {}).items()},
    }
    config.write_text(json.dumps(settings))
    log = folder / "orthanc.log"

    def answers() -> bool:
        try:
            return bool(server.send("/system"))
        except OSError:
            return False

    with log.open("wb") as output:
        process = subprocess.Popen([executable, str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            wait_for(answers, process, "Orthanc")
            yield server
        finally:
            stop(process)
