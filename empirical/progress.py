"""Where a long run says how far it is; work is counted in cell-steps."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress(Protocol):
    """Is told how far a run is."""

    def plan(self, total: int) -> None:
        """The cell-steps of all phases together."""

    def phase(self, description: str, expected: int) -> None:
        """A phase begins that is expected to take this many cell-steps."""

    def advance(self, cell_steps: int, held: bool) -> None:
        """Work was done, or read back from an earlier run."""


class Silent:
    """Tells nobody."""

    def plan(self, total: int) -> None:
        """Work is planned."""

    def phase(self, description: str, expected: int) -> None:
        """A phase begins."""

    def advance(self, cell_steps: int, held: bool) -> None:
        """Work was done."""


class ProgressBar:
    """A bar with the time left, on a terminal; a line for each phase otherwise."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        times = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"))
        self.bar = Bar(*columns, *times, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("starting", total=None)
        self._planned, self._expected, self._done, self._in_phase = 0, 0, 0, 0

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def plan(self, total: int) -> None:
        """The cell-steps of all phases together.

        Args:
            total: their number.
        """
        self._planned = total
        self.bar.update(self.task, total=total)

    def phase(self, description: str, expected: int) -> None:
        """A phase begins: what the last one took replaces what it was expected to take.

        Args:
            description: a few words.
            expected: its cell-steps.
        """
        self._planned += self._in_phase - self._expected
        self._expected, self._in_phase = expected, 0
        self._planned = max(self._planned, self._done + expected)
        self.bar.update(self.task, description=description, total=self._planned)
        if not self.console.is_terminal:
            self.console.print(f"{description} …")

    def advance(self, cell_steps: int, held: bool) -> None:
        """Work was done; what was read back from an earlier run says nothing about speed and leaves the total.

        Args:
            cell_steps: how much.
            held: whether it was read back.
        """
        self._in_phase += cell_steps
        if self._in_phase > self._expected:
            self._planned += self._in_phase - self._expected
            self._expected = self._in_phase
        if held:
            self._planned -= cell_steps
            self._expected -= cell_steps
            self._in_phase -= cell_steps
        else:
            self._done += cell_steps
        self.bar.update(self.task, completed=self._done, total=max(self._planned, self._done))
