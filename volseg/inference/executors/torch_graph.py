"""A network's launches recorded once and replayed: CUDA graphs, for windows of one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Run = Callable[["torch.Tensor"], "torch.Tensor"]
"""Windows on the device in, float32 scores on the device out."""

Recorder = Callable[[Run, "torch.Tensor"], Run]
"""Takes a run and windows, gives its replay; raises RuntimeError where it cannot be recorded."""

RECORD_AFTER = 3
"""Batches of one shape that are run plainly first: cuDNN has then chosen its algorithms, and a scan of few windows is done without a recording, which costs some five batches."""

WARM_UPS = 2
"""Runs on the recording's own stream before it: what libraries set up at their first call there must not be recorded."""

TOLERANCE = 1e-2
"""Largest difference between a replay and a plain run of the same windows, as a share of the largest score: what fp16 leaves between two algorithms; a wrong replay is far off."""


class Replayed:
    """Runs a network as it is, and by a recording of it once a shape was met more than :data:`RECORD_AFTER` times.

    What does not give the same answer as the plain run, or cannot be recorded (a network that asks the host on its way), is left plain.

    Parameters
    ----------
    run : callable
        The network.
    record : callable or None
        How a run is recorded; None never does.
    """

    def __init__(self, run: Run, record: Recorder | None) -> None:
        self._run, self._record = run, record
        self._replay: Run | None = None
        self._shape: tuple[int, ...] = ()
        self._seen: Counter[tuple[int, ...]] = Counter()

    @property
    def recorded(self) -> bool:
        """Whether a recording is in use."""
        return self._replay is not None

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Scores of windows; of a recording, overwritten by the next."""
        shape = tuple(windows.shape)
        if self._replay is not None and shape == self._shape:
            return self._replay(windows)
        scores = self._run(windows)
        if self._record is not None and self._replay is None:
            self._seen[shape] += 1
            if self._seen[shape] > RECORD_AFTER:
                self._shape = shape
                self._try_recording(windows, scores)
        return scores

    def close(self) -> None:
        """Drop the recording, whose memory the device then has again."""
        self._replay = self._record = None

    def _try_recording(self, windows: torch.Tensor, expected: torch.Tensor) -> None:
        assert self._record is not None
        record, self._record = self._record, None
        try:
            replay = record(self._run, windows)
            found = replay(windows)
        except RuntimeError:
            return
        scale = max(1.0, float(expected.abs().max()))
        if float((found - expected).abs().max()) <= TOLERANCE * scale:
            self._replay = replay


def record_cuda_graph(run: Run, windows: torch.Tensor) -> Run:
    """Record one run as a CUDA graph.

    Parameters
    ----------
    run : callable
        Uses the device alone: no copy to the host, no shape that depends on values.
    windows : Tensor
        Of the shape that will be replayed, on a CUDA device.

    Raises
    ------
    RuntimeError
        When CUDA cannot record it, for want of memory too.
    """
    import torch

    with torch.cuda.device(windows.device):
        # What the plain runs left in torch's pool is of no use to the recording, which has a pool of its own.
        torch.cuda.empty_cache()
        given = windows.clone()
        side = torch.cuda.Stream(windows.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                run(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads read the next scan meanwhile, and may pin memory.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            scores = run(given)

    def replay(windows: torch.Tensor) -> torch.Tensor:
        given.copy_(windows, non_blocking=True)
        graph.replay()
        return scores

    return replay
