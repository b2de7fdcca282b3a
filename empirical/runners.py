"""Who runs the blocks: this process, a pool of processes with one thread each, or one process for each GPU.

The numbers are the same. Two processes of one thread beat one process of two threads here: no step waits at a barrier,
and a busy neighbour takes its share of a core instead of stalling both (with one busy neighbour the threaded program
lost three quarters of its speed, the processes a fifth).

A block that does not fit in memory is trained in halves, whether the allocator refused it or the kernel killed the
process that tried. Then nobody knows which block it was: those at hand are tried again one at a time, and the one that
brings its process down alone is halved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess

import torch

from empirical.ensemble import EnsembleResult, torch_device
from empirical.shard import Block, train_block
from theory.errors import InputError, positive_integer

POOL_FROM_CELL_STEPS = 200_000
"""Work, in all rounds so far, below which starting processes (seconds each) costs more than they save."""

OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How PyTorch's own messages speak of it; not all of them have a type."""

ALL_GPUS = "cuda:all"


def available_cores() -> int:
    """Cores that this process may use.

    Returns:
        At least 1.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_list(given: str) -> tuple[str, tuple[str, ...]]:
    """Read ``--device``: one device, several with commas between them, or ``cuda:all``.

    Args:
        given: such as ``"cpu"``, ``"cuda"``, ``"cuda:0,cuda:1"``, ``"cuda:all"``.

    Returns:
        The kind, which is part of a run's configuration, and the devices, which are not: ``("cuda", ("cuda:0",
        "cuda:1"))``.

    Raises:
        InputError: a device that is not on this machine, or devices of two kinds.
    """
    names = tuple(name.strip() for name in given.split(","))
    if given == ALL_GPUS:
        names = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or names
    kinds = {torch_device(name).type for name in names}
    if len(kinds) > 1:
        raise InputError("device", given, "devices of one kind")
    return kinds.pop(), names


def default_workers(devices: tuple[str, ...]) -> int:
    """Processes that train where nobody says how many.

    Args:
        devices: as ``device_list`` gives them.

    Returns:
        As many as cores on the CPU, otherwise one for each device.
    """
    return available_cores() if devices == ("cpu",) else len(devices)


def runner_on(given: str, workers: int | None = None) -> Runner:
    """Who trains on the devices that ``--device`` names.

    Args:
        given: as ``device_list`` reads it.
        workers: processes; as ``default_workers`` has it when ``None``.

    Returns:
        The runner.
    """
    _, devices = device_list(given)
    return Runner(default_workers(devices) if workers is None else workers, devices)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a block that was too large from a bug.

    Args:
        error: what ended the training of a block.

    Returns:
        Whether memory ran out, of this process or of its device.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


_device: str | None = None
"""The device of this worker process."""


def obey_parent() -> None:
    """Make this worker leave Ctrl-C to its parent, and end when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _start_worker(devices: multiprocessing.SimpleQueue[str | None]) -> None:
    """Take a device; on Ctrl-C the parent lets the blocks at hand finish and keeps them."""
    global _device
    obey_parent()
    _device = devices.get()


def _end_with_parent() -> None:
    """End this worker when its parent is gone: a killed one closes no pool, and workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _attempt(block: Block, device: str | None = None) -> EnsembleResult | None:
    """Train a block; ``None`` when it does not fit in memory."""
    try:
        return train_block(block, device or _device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # once the error, and with it the frames that hold the tensors, is gone
    return None


class Runner:
    """Runs blocks; the pool starts with the first run that is worth it and ends with ``close``.

    Scripts that use more than one worker need the usual ``if __name__ == "__main__":``, since workers are spawned.

    Args:
        workers: processes; 1 trains in this one.
        devices: worker i trains on device i, starting over where there are fewer; each block's own when empty.
        notice: called with one line when a block is halved.

    Raises:
        InputError: fewer than one worker.
    """

    def __init__(
        self, workers: int = 1, devices: tuple[str, ...] = (), notice: Callable[[str], None] | None = None
    ) -> None:
        self.workers = positive_integer("workers", workers)
        self.devices: tuple[str | None, ...] = devices or (None,)
        self.notice = notice or (lambda line: print(line, file=sys.stderr))
        self._pool: ProcessPoolExecutor | None = None
        self._work = 0
        self._processes: set[BaseProcess] = set()

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
            Each block with its result, in the order in which they finish, or in its place its halves, where it did
            not fit in memory; after an interrupt, those that were at hand.

        Raises:
            KeyboardInterrupt: after the blocks at hand have been yielded.
        """
        blocks = list(blocks)
        self._work += sum(len(block.gamma) * block.config.steps for block in blocks)
        if self._pool is None and (self.workers == 1 or len(blocks) < 2 or self._work < POOL_FROM_CELL_STEPS):
            yield from self._run_here(blocks)
        else:
            yield from self._run_pooled(blocks)

    def _run_here(self, blocks: list[Block]) -> Iterator[tuple[Block, EnsembleResult]]:
        """Train blocks in this process."""
        waiting = blocks[::-1]
        while waiting:
            block = waiting.pop()
            result = _attempt(block, self.devices[0])
            if result is None:
                waiting += self._halves(block)[::-1]
            else:
                yield block, result

    def _run_pooled(self, blocks: list[Block]) -> Iterator[tuple[Block, EnsembleResult]]:
        """Train blocks in the pool: all together, or one by one those that may have brought it down."""
        together, suspects = blocks, list[Block]()
        while together or suspects:
            batch = suspects[:1] or together
            together, suspects = (together, suspects[1:]) if suspects else ([], [])
            left = dict.fromkeys(batch)
            try:
                for block, result in self._run_batch(batch):
                    del left[block]
                    if result is None:
                        together += self._halves(block)
                    else:
                        yield block, result
            except BrokenProcessPool:
                self._bury()
                unfinished = list(left)
                if len(batch) == 1:
                    suspects = self._halves(batch[0]) + suspects
                else:  # workers take blocks in order, each one while another waits
                    at_hand = self.workers + 1
                    together, suspects = together + unfinished[at_hand:], suspects + unfinished[:at_hand]

    def _run_batch(self, batch: list[Block]) -> Iterator[tuple[Block, EnsembleResult | None]]:
        """Train blocks in the pool, each once; ``None`` for those that do not fit in memory."""
        pending: dict[Future[EnsembleResult | None], Block] = {}
        try:
            for block in batch:
                pending[self._started().submit(_attempt, block)] = block
            self._processes |= set(multiprocessing.active_children())
            for future in as_completed(list(pending)):
                result = future.result()
                yield pending.pop(future), result
        except (KeyboardInterrupt, BrokenProcessPool):
            self.close()
            for future, block in pending.items():
                if future.done() and not future.cancelled() and future.exception() is None:
                    yield block, future.result()
            raise

    def _started(self) -> ProcessPoolExecutor:
        """The pool, which is started where there is none."""
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            devices = spawn.SimpleQueue()
            for worker in range(self.workers):
                devices.put(self.devices[worker % len(self.devices)])
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=spawn, initializer=_start_worker, initargs=(devices,)
            )
        return self._pool

    def _bury(self) -> None:
        """After a worker died: go on if it was killed, as the kernel does when memory runs out.

        Raises:
            InputError: it ended by itself, and would again.
        """
        codes = {process.exitcode for process in self._processes}
        self._processes.clear()
        if -signal.SIGKILL not in codes:
            # SIGTERM is how the pool ends the others
            ended = sorted(str(code) for code in codes - {None, 0, -signal.SIGTERM})
            how = f" (exit code {', '.join(ended)})" if ended else ""
            raise InputError("workers", self.workers, f"1, to see why: a worker process ended by itself{how}")

    def _halves(self, block: Block) -> list[Block]:
        """Halve a block that does not fit in memory.

        Returns:
            The halves.

        Raises:
            InputError: it is a single network.
        """
        halves = list(block.halves())
        if not halves:
            where = self.devices[0] or block.config.device
            raise InputError(
                "width", block.config.width, f"smaller: one network alone does not fit in memory ({where})"
            )
        self.notice(f"notice: {len(block.gamma)} networks together do not fit in memory; going on with two halves")
        return halves
