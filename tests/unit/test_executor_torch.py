"""What the PyTorch executor does when a device cannot go on, and how it records launches; a raising network and the meta device stand in for a card."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from volseg.inference.executors.torch_executor import MOST_WINDOWS, SHARE_OF_FREE, TorchExecutor, UnsupportedNetworkError, batch_for
from volseg.inference.executors.torch_graph import RECORD_AFTER, Replayed
from volseg.inference.executors.torch_memory import HostBuffers, is_out_of_memory, next_step

CPU = torch.device("cpu")
ROI = (8, 10, 12)


class Doubling(torch.nn.Module):
    """Twice its input; says that memory ended where ``fits`` says no."""

    def __init__(self, fits=lambda x: True):
        super().__init__()
        self.fits, self.seen = fits, []

    def forward(self, x):
        if not self.fits(x):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.seen.append(len(x))
        return 2 * x


def windows(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 1, *ROI)).astype(np.float32)


# Memory


def test_out_of_memory_halves_the_batch():
    network = Doubling(lambda x: len(x) <= 2)
    executor = TorchExecutor(network, CPU, "fp32", batch=8)
    given = windows(8)
    assert np.array_equal(executor(given), 2 * given)
    assert executor.batch == 2
    assert network.seen == [2, 2, 2, 2]
    assert executor.notes == []


def test_out_of_memory_with_one_window_goes_on_on_the_cpu():
    """The meta device stands in for a card: what runs there says that memory ended."""
    network = Doubling(lambda x: not x.is_meta)
    executor = TorchExecutor(network, torch.device("meta"), "fp32", batch=4)
    given = windows(4)
    assert np.array_equal(executor(given), 2 * given)
    assert executor.device == CPU
    assert len(executor.notes) == 1
    assert "meta ran out of memory" in executor.notes[0]


def test_on_the_way_to_the_cpu_the_card_is_released(monkeypatch):
    released = []
    monkeypatch.setattr("volseg.inference.executors.torch_executor.release_memory", released.append)
    TorchExecutor(Doubling(lambda x: not x.is_meta), torch.device("meta"), "fp32", batch=2)(windows(2))
    assert [device.type for device in released] == ["meta", "meta"]


def test_layout_of_weights_follows_the_precision():
    """What stepped down from half precision leaves channels-last behind, which fp32 on a CPU measures slower with."""
    network = torch.nn.Conv3d(4, 4, 3, padding=1)
    executor = TorchExecutor(network, CPU, "bf16")
    assert network.weight.is_contiguous(memory_format=torch.channels_last_3d)
    executor._step_down(True, "failed")
    assert network.weight.is_contiguous()
    assert executor.precision == "fp32"


def test_memory_that_ends_on_the_cpu_is_an_error():
    with pytest.raises(torch.cuda.OutOfMemoryError):
        TorchExecutor(Doubling(lambda x: False), CPU, "fp32", batch=2)(windows(2))


def test_other_errors_are_not_taken_for_memory():
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("sizes must match")

    executor = TorchExecutor(Broken(), CPU, "fp32", batch=4)
    with pytest.raises(RuntimeError, match="sizes"):
        executor(windows(4))
    assert executor.batch == 4


OOM, MISSING, OTHER = RuntimeError("MPS backend out of memory"), NotImplementedError("The operator 'aten::x' is not implemented for the MPS device"), RuntimeError("sizes")


@pytest.mark.parametrize(
    ("kind", "precision", "count", "error", "step"),
    [
        ("cuda", "fp16", 8, OOM, "halve"),
        ("cuda", "fp16", 1, OOM, "cpu"),
        ("cpu", "fp32", 2, OOM, "halve"),
        ("cpu", "fp32", 1, OOM, "raise"),
        ("cuda", "fp16", 4, OTHER, "raise"),
        ("mps", "fp16", 1, OOM, "cpu"),
        ("mps", "fp16", 1, OTHER, "fp32"),
        ("mps", "bf16", 1, MISSING, "fp32"),
        ("mps", "fp32", 1, MISSING, "cpu"),
        ("mps", "fp32", 1, OTHER, "raise"),
    ],
)
def test_next_step(kind, precision, count, error, step):
    assert next_step(kind, precision, count, error) == step


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "DefaultCPUAllocator: can't allocate memory: you tried",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_texts_of_memory(text):
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(("free", "taken", "batch"), [(80e9, 1e9, MOST_WINDOWS), (8e9, 1e9, int(8 * SHARE_OF_FREE)), (1e9, 1e9, 1), (1e9, 0, MOST_WINDOWS)])
def test_batch_for(free, taken, batch):
    assert batch_for(int(free), int(taken)) == batch


def test_overflow_in_fp16_is_computed_in_fp32():
    """A score of 1e5 is beyond fp16, whose largest number is 65504."""

    class Large(torch.nn.Module):
        def forward(self, x):
            half = torch.is_autocast_enabled("cpu")
            return (x.half() if half else x) * 1e5

    executor = TorchExecutor(Large(), CPU, "fp16", batch=2)
    given = 1 + np.abs(windows(3))
    assert np.allclose(executor(given), given * 1e5)
    assert executor.precision == "fp32"
    assert len(executor.notes) == 1
    assert "overflows in fp16" in executor.notes[0]


@pytest.mark.parametrize("output", [lambda x: [x, x], lambda x: x[..., ::2], lambda x: x.mean()], ids=["list", "smaller", "number"])
def test_networks_of_other_outputs_are_refused(output):
    class Other(torch.nn.Module):
        def forward(self, x):
            return output(x)

    with pytest.raises(UnsupportedNetworkError):
        TorchExecutor(Other(), CPU, "fp32")(windows(1))


# Transfers


def test_parts_of_a_batch_do_not_overwrite_each_other():
    executor = TorchExecutor(Doubling(), CPU, "fp32", batch=2)
    executor._buffers = SharedBuffer(pinned=False)
    given = windows(5)
    assert np.array_equal(executor(given), 2 * given)


class SharedBuffer(HostBuffers):
    """Fetches into one place, as page-locked memory does."""

    def fetch(self, scores):
        if not hasattr(self, "place"):
            self.place = np.empty((8, *scores.shape[1:]), np.float32)
        self.place[: len(scores)] = scores.numpy()
        return self.place[: len(scores)]


def test_memory_that_cannot_be_locked_is_copied_plainly(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("cudaHostAlloc: out of memory")

    buffers, given = HostBuffers(pinned=True), windows(2)
    monkeypatch.setattr(torch, "empty", refuse)
    sent = buffers.send(given, CPU, torch.channels_last_3d)
    assert np.array_equal(sent.numpy(), given)
    assert np.array_equal(buffers.fetch(sent.bfloat16().float()), sent.bfloat16().float().numpy())


def test_locked_memory_holds_what_is_sent_and_fetched(monkeypatch):
    """Ordinary memory stands in for locked memory, which needs a driver."""
    plain = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, pin_memory=False, **kwargs: plain(*args, **kwargs))
    buffers = HostBuffers(pinned=True)
    for n in (2, 3, 2):
        given = windows(n) + n
        sent = buffers.send(given, CPU, torch.contiguous_format)
        assert np.array_equal(buffers.fetch(2 * sent), 2 * given)


# Recording


class Recording:
    """Stands in for a CUDA graph: replays give what the network gives, spoilt if so wished, into one place."""

    def __init__(self, spoil: float = 0.0) -> None:
        self.spoil, self.made, self.replayed = spoil, 0, 0

    def __call__(self, run, example):
        self.made += 1
        place = torch.empty_like(run(example))

        def replay(given):
            assert given.shape == example.shape
            self.replayed += 1
            place.copy_(run(given) + self.spoil)
            return place

        return replay


def test_full_batches_are_replayed_and_others_run():
    record = Recording()
    executor = TorchExecutor(Doubling(), CPU, "fp32", batch=2, record=record)
    for turn in range(6):
        for n in (2, 1):
            given = windows(n) + turn
            assert np.array_equal(executor(given), 2 * given)
    assert record.made == 1
    # The batch that is recorded is replayed once to compare, and full batches after it are.
    assert record.replayed == 1 + 6 - (RECORD_AFTER + 1)


@pytest.mark.parametrize("record", [Recording(spoil=0.5), pytest.param(None, id="fails")])
def test_recordings_that_fail_or_differ_are_not_used(record):
    tried = []

    def failing(run, example):
        tried.append(len(example))
        raise RuntimeError("operation not permitted when stream is capturing")

    runner = Replayed(lambda x: 2 * x, record or failing)
    for _ in range(RECORD_AFTER + 4):
        assert torch.equal(runner(torch.ones(2, 1, 2, 2, 2)), torch.full((2, 1, 2, 2, 2), 2.0))
    assert not runner.recorded
    assert (record.made if record else len(tried)) == 1


def test_out_of_memory_drops_the_recording():
    network, record = Doubling(), Recording()
    executor = TorchExecutor(network, CPU, "fp32", batch=2, record=record)
    for _ in range(RECORD_AFTER + 2):
        executor(windows(2))
    assert executor._forward.recorded
    network.fits = lambda x: len(x) == 1
    given = windows(2)
    assert np.array_equal(executor(given), 2 * given)
    assert not executor._forward.recorded
    assert executor.batch == 1
