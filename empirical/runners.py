"""Who runs the blocks: this process, or a pool of processes with one thread each. The numbers are the same.

Two processes of one thread beat one process of two threads here: no step waits at a barrier, and a busy neighbour
takes its share of a core instead of stalling both (with one busy neighbour the threaded program lost three quarters of
its speed, the processes a fifth).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from empirical.ensemble import EnsembleResult
from empirical.shard import Block, train_block
from theory.errors import InputError, positive_integer

POOL_FROM_CELL_STEPS = 200_000
"""Work below which starting processes (seconds each) costs more than they save."""


def available_cores() -> int:
    """Cores that this process may use.

    Returns:
        At least 1.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which lets the blocks at hand finish and keeps them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Runner:
    """Runs blocks; the pool starts with the first run that is worth it and ends with ``close``.

    Scripts that use more than one worker need the usual ``if __name__ == "__main__":``, since workers are spawned.

    Args:
        workers: processes; 1 trains in this one.

    Raises:
        InputError: fewer than one worker.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = positive_integer("workers", workers)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the pool; blocks that have not started are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, EnsembleResult]]:
        """Train blocks.

        Args:
            blocks: what to train.

        Yields:
            Each block with its result, in the order in which they finish; after an interrupt, those that were at hand.

        Raises:
            InputError: a worker process died.
            KeyboardInterrupt: after the blocks at hand have been yielded.
        """
        blocks = list(blocks)
        work = sum(len(block.gamma) * block.config.steps for block in blocks)
        if self._pool is None and (self.workers == 1 or len(blocks) < 2 or work < POOL_FROM_CELL_STEPS):
            for block in blocks:
                yield block, train_block(block)
            return
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=spawn, initializer=_ignore_interrupts)
        pending: dict[Future[EnsembleResult], Block] = {}
        try:
            pending = {self._pool.submit(train_block, block): block for block in blocks}
            for future in as_completed(list(pending)):
                yield pending.pop(future), future.result()
        except KeyboardInterrupt:
            self.close()
            for future, block in pending.items():
                if future.done() and not future.cancelled() and future.exception() is None:
                    yield block, future.result()
            raise
        except BrokenProcessPool:
            self._pool = None
            raise InputError("workers", self.workers, "smaller: a worker process died, out of memory perhaps") from None
