"""One training step, recorded once and replayed: on a GPU small networks wait for launches, not for arithmetic.

A step of an ensemble is some fifty kernels of a few microseconds each, and starting them one by one takes longer than
running them. A CUDA graph starts them all at once. The step may not depend on its number (a schedule would). A graph
knows addresses, not tensors: whatever a step finds and does not make itself (weights, buffers, moments) it has to
change in place, and its owner has to hold on to until the graph is gone. Batches are copied into buffers of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes work that is not to be done now, gives what does it, with the same tensors, as often as it is called."""

Step = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""A step on inputs and targets, one a seed; gives what is to be known of it."""


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Record work as a CUDA graph.

    Args:
        work: launches kernels and never waits for the device; has run before, so that libraries are set up.

    Returns:
        Replays it on the current stream.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    # not torch.cuda.graph(...): it collects garbage first, which takes longer than the thousand steps to come
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay


RECORDERS: dict[str, Record] = {"cuda": cuda_graph}
"""How to record, by the type of a device; steps are not recorded on others."""


class Replay:
    """A recorded step; records, and does nothing else, when it is made.

    Args:
        step: what to record; a function of tensors alone.
        inputs: batches like those to come.
        targets: their targets.
        record: how.
    """

    def __init__(self, step: Step, inputs: Sequence[Tensor], targets: Sequence[Tensor], record: Record) -> None:
        self.inputs, self.targets = [x.clone() for x in inputs], [y.clone() for y in targets]
        self._told: Tensor | None = None

        def work() -> None:
            self._told = step(self.inputs, self.targets)

        self._replay = record(work)

    def __call__(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Do the step.

        Args:
            inputs: of the shapes that it was recorded with.
            targets: theirs.

        Returns:
            What the step gives, a copy.
        """
        for kept, given in zip((*self.inputs, *self.targets), (*inputs, *targets), strict=True):
            kept.copy_(given)
        self._replay()
        assert self._told is not None
        return self._told.clone()
