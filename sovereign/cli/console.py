"""What people see: progress and tables on stderr, data on stdout. Rich with a terminal, plain lines without one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sovereign.display import visible as visible
from sovereign.display import visible_lines as visible_lines
from sovereign.runner import StageEvent

PLAIN_INTERVAL_S = 5.0
"""Without a terminal, progress of one task is written at most this often."""

_NAME_WIDTH, _NAME_CHARS = 60, 300
"""Of the names in `lines`: how far values are set off from them, and what is shown of a longer one."""


class _Console(Console):
    """Writes to standard error as long as somebody reads it."""

    def on_broken_pipe(self) -> None:
        """Go on without a word: the exit that is rich's way would end one thread and leave the others waiting."""
        self.quiet = True


console = _Console(stderr=True, highlight=False)


def say(message: str, style: str | None = None) -> None:
    """A line for people, or some."""
    console.print(visible_lines(message), style=style, markup=False, soft_wrap=True)


def describe(event: StageEvent) -> str:
    """The numbers of a progress line that people watch."""
    labels = (
        ("loss", "loss {:.3f}"),
        ("bits_per_byte", "{:.3f} bits/byte"),
        ("tokens_per_s", "{:,.0f} tokens/s"),
        ("seconds_left", "{:.0f} s left"),
    )
    numbers = {name: value for name, value in event.metrics.items() if isinstance(value, int | float)}
    parts = [text.format(numbers[name]) for name, text in labels if name in numbers]
    return " ".join([event.message, *parts]).strip()


class Board:
    """Progress of many tasks, each a line: a bar with a terminal, plain lines without one. A context manager."""

    def __init__(self) -> None:
        self._rich = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> Self:
        if self._rich:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich:
            self._progress.stop()

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Show `name` as running and its time when it is done."""
        start = time.monotonic()
        self.update(name, "…")
        yield
        seconds = time.monotonic() - start
        if self._rich:
            self._progress.update(self._tasks[name], completed=100, text=f"done in {seconds:.1f} s")
            self._progress.stop_task(self._tasks[name])
        else:
            say(f"{name}: done in {seconds:.1f} s")

    def update(self, name: str, text: str, fraction: float | None = None) -> None:
        """Show what `name` does now; `fraction` is done, 0 to 1."""
        text = visible(text)
        if self._rich:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=100, text=text)
            completed = None if fraction is None else 100 * fraction
            self._progress.update(self._tasks[name], completed=completed, text=text[: max(20, console.width - 60)])
            return
        moment, last = self._last.get(name, (0.0, ""))
        due = time.monotonic() - moment >= PLAIN_INTERVAL_S
        if text != last and text != "…" and (due or fraction is None):
            self._last[name] = (time.monotonic(), text)
            percent = "" if fraction is None else f"{100 * fraction:3.0f}% "
            say(f"{name}: {percent}{text}")

    def deployment(self, stack: str, message: str, done: int, total: int) -> None:
        """Show a deployment's progress: `done` of `total` objects."""
        self.update(stack, f"{done}/{total} {message}", done / total if total else None)

    def stage(self, event: StageEvent) -> None:
        """Show a stage's progress line."""
        fraction = event.done / event.total if event.total and event.done is not None else None
        count = f"{event.done:,.0f}/{event.total:,.0f} {event.unit} " if fraction is not None and event.unit else ""
        self.update(event.stage, count + describe(event), fraction)


def lines(title: str, rows: list[tuple[str, str]]) -> None:
    """Named values on stdout, one a line and never wrapped, so that a command in one can be copied.

    Further lines of a value stand below its first.
    """
    names = [visible(name) for name, _ in rows]
    names = [name if len(name) <= _NAME_CHARS else name[: _NAME_CHARS - 1] + "…" for name in names]
    width = min(_NAME_WIDTH, max(map(len, names), default=0))
    values = [visible_lines(value).replace("\n", "\n" + " " * (width + 4)) for _, value in rows]
    text = "".join(f"  {name:<{width}}  {value}\n" for name, value in zip(names, values, strict=True))
    sys.stdout.write(f"{visible(title)}\n{text}")
    sys.stdout.flush()


def write_json(value: object) -> None:
    """Data for programs, on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
