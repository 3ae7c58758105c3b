"""What a person sees while work goes on: plain lines, and a progress bar when there is a terminal to draw it on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from densekit.units import duration

_SECONDS_BETWEEN_LINES = 30
_NO_TERMINAL_WIDTH = 1000  # characters


def print_table(table: Table) -> None:
    """Print a table of results on standard output, where that is no terminal without folding any line of it."""
    width = None if sys.stdout.isatty() else _NO_TERMINAL_WIDTH
    Console(width=width, soft_wrap=True, highlight=False, emoji=False).print(table)


@dataclass(frozen=True)
class Screen:
    """Where progress and messages go.

    Args:
        quiet: no bars and no messages; warnings are still shown.
        console: the rich console written to; standard error by default, so that results on standard output stay clean.
    """

    quiet: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True, soft_wrap=True, highlight=False, emoji=False))

    @property
    def draws_bars(self) -> bool:
        """Whether a progress bar will be seen."""
        return not self.quiet and self.console.is_terminal

    def say(self, line: str) -> None:
        """Show one line of progress or of a result, unless quiet."""
        if not self.quiet:
            self.console.print(line, markup=False)

    def warn(self, line: str) -> None:
        """Show one line that a person must not miss, quiet or not."""
        self.console.print(f"warning: {line}", markup=False, style="yellow")

    def show(self, *cells: Any) -> None:
        """Show rich renderables (tables, panels) unless quiet."""
        if not self.quiet:
            self.console.print(*cells)

    @contextmanager
    def bar(self, title: str, total: int | None, unit: str = "", *, lines: bool = True) -> Iterator["Bar"]:
        """Draw a progress bar for one piece of work; where there is no terminal, tell how it goes every half minute.

        Args:
            title: what goes on.
            total: how many steps it takes, if that is known.
            unit: what is counted.
            lines: whether to tell it without a terminal; not if the work tells by itself.
        """
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Note(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.draws_bars,
        )
        with progress:
            task = progress.add_task(title, total=total, unit=unit, note=None)
            yield Bar(progress, task, self.say if lines and not self.draws_bars else None)


def _note(task: Task) -> str:
    """What stands behind the count: what was noted last, or what is counted and how fast."""
    unit, note, speed = task.fields["unit"], task.fields["note"], task.speed
    if note is not None:
        return note
    return f"{unit} {speed:,.{1 if speed < 10 else 0}f}/s".lstrip() if speed else unit


class _Note(ProgressColumn):
    """Looked for when the bar is drawn, and not at every step: there can be thousands in a second."""

    def render(self, task: Task) -> Text:
        return Text(_note(task))


@dataclass
class Bar:
    """A running progress bar, or in its place a line now and then."""

    progress: Progress
    task: TaskID
    say: Callable[[str], None] | None

    def __post_init__(self) -> None:
        self.told = self.progress.get_time()

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Move on by ``steps``; ``note`` from now on replaces the text behind the count, which tells the rate."""
        noted: dict[str, Any] = {} if note is None else {"note": note}
        self.progress.update(self.task, advance=steps, **noted)
        if self.say and self.progress.get_time() - self.told >= _SECONDS_BETWEEN_LINES:
            self.told = self.progress.get_time()
            (task,) = self.progress.tasks
            of = f" of {task.total:,.0f}" if task.total else ""
            left = f", {duration(task.time_remaining)} left" if task.time_remaining else ""
            self.say(f"{task.description}: {task.completed:,.0f}{of} {_note(task)}".rstrip() + left)
