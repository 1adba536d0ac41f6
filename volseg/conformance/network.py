"""The network: its weights fit, it maps the shapes that the metadata says, and it can be exported."""

from __future__ import annotations

from pathlib import Path

from volseg.bundle import load_weights, mismatch, read_state_dict, weights_path, weights_sha256
from volseg.conformance.registry import Outcome, Status, check, failed, judged, passed, skipped, warned
from volseg.conformance.subject import CPU, Subject

EXPORT_TOLERANCE = 1e-4
"""Largest difference between eager and exported network, relative to the largest output: float32 sums in another order differ by about 1e-6 a layer."""


@check("weights", "weights load strictly and safely (weights_only)")
def check_weights(subject: Subject) -> Outcome:
    """Every tensor of the network is in the file with its shape, and no other; nothing in the file is code."""
    if subject.bundle.weights is None and any(subject.path.glob("large_files.*")):
        return warned("no weights here; large_files lists what to download (python -m monai.bundle download_large_files)")
    path = weights_path(subject.bundle)
    with subject.running():
        network = subject.parser().get_parsed_content("network_def")
    load_weights(subject.bundle, network)
    if path.suffix == ".pt" and (extra := mismatch(read_state_dict(path), network)):
        return warned(f"{path.name} holds more than the network of the inference config ({extra}): plain MONAI's strict loading refuses it; save it without the training heads")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return passed(f"{path.name}: {parameters:,} parameters, {path.stat().st_size / 2**20:.1f} MiB, SHA-256 {weights_sha256(subject.bundle)[:16]}...")


@check("net-in-out", "network maps the shapes of the metadata (MONAI verify_net_in_out)", slow=True)
def check_net_in_out(subject: Subject) -> Outcome:
    """As ``python -m monai.bundle verify_net_in_out``, on the CPU."""
    from monai.bundle import verify_net_in_out

    with subject.running():
        verify_net_in_out(net_id="network_def", meta_file=str(subject.path / "configs" / "metadata.json"), config_file=str(subject.bundle.inference_config), device="cpu")
    image = subject.bundle.metadata["network_data_format"]["inputs"]["image"]
    return passed(f"{image['num_channels']} channel(s) of {image['spatial_shape']} {image['dtype']}")


@check("export", "exported TorchScript equals the network (MONAI ckpt_export)", slow=True, after=("readable", "weights"))
def check_export(subject: Subject) -> Outcome:
    """Export, reload, compare with the eager network on noise; where scripting fails, by tracing (``--use_trace True``), as the Model Zoo's own CI allows bundle by bundle."""
    path = subject.bundle.weights
    if path is None or path.suffix != ".pt":
        return skipped("there is no model.pt to export")
    try:
        return _compare_export(subject, path, use_trace=False)
    except Exception as error:  # TorchScript's compiler raises many types, all meaning that this network cannot be scripted
        reason = " ".join(str(error).split())[:120]
    traced = _compare_export(subject, path, use_trace=True)
    return warned(f"cannot be scripted ({reason}...), only traced: export with --use_trace True; {traced.detail}") if traced.status is Status.PASS else traced


def _compare_export(subject: Subject, path: Path, *, use_trace: bool) -> Outcome:
    import torch
    from monai.bundle import ckpt_export
    from monai.bundle.scripts import _get_fake_input_shape

    target = subject.work / "verify_model.ts"
    metadata = str(subject.path / "configs" / "metadata.json")
    with subject.running():
        parser = subject.parser()
        network = parser.get_parsed_content("network_def")
        load_weights(subject.bundle, network)
        ckpt_export(
            net_id="network_def",
            filepath=str(target),
            ckpt_file=str(path),
            meta_file=metadata,
            config_file=str(subject.bundle.inference_config),
            use_trace=use_trace,
            device=CPU,
        )
        noise = torch.rand(_get_fake_input_shape(parser), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            eager = network.eval()(noise)
            exported = torch.jit.load(str(target), map_location="cpu").eval()(noise)  # type: ignore[no-untyped-call]
    difference = float((eager - exported).abs().max())
    largest = float(eager.abs().max())
    detail = f"largest difference {difference:.2g}, largest output {largest:.3g}"
    return passed(detail) if difference <= EXPORT_TOLERANCE * max(largest, 1.0) else failed(f"{detail}; the exported network computes something else")


@check("torchscript", "shipped models/model.ts loads", slow=True, after=())
def check_torchscript(subject: Subject) -> Outcome:
    """Where a bundle ships one, MONAI Deploy and others use it."""
    import torch

    path = subject.path / "models" / "model.ts"
    if not path.is_file():
        return skipped("there is no models/model.ts")
    torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return judged([], "models/model.ts loads")
