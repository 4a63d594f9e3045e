"""Talk: events as lines and progress bars on stderr. Without a terminal, a plain line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sartor.events import (
    Advanced,
    Answered,
    Entered,
    Evaluated,
    Event,
    Failed,
    Finished,
    Saved,
    Skipped,
    Started,
    Stepped,
    Stopped,
    Warned,
)
from sartor.report.words import visible
from sartor.sinks.tables import minutes

QUIET_SECONDS = 15.0  # without a terminal: at most one line of progress in this time


class ConsoleSink:
    """A context manager that is called with each event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said = 0.0

    def __enter__(self) -> ConsoleSink:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Entered():
                about = f", about {minutes(event.seconds)}" if event.seconds else ""
                head = visible(f"[{event.number}/{event.of}] {event.stage}")
                self._console.print(Text.assemble((head, "bold"), about))
            case Started():
                verb = "training starts" if event.step == 0 else f"training goes on after step {event.step}"
                self._say(f"{verb}, {event.steps} steps in all")
                self._advance("train", event.step, event.steps, "")
            case Stepped():
                rate = event.num_tokens / max(event.seconds, 1e-9)  # a coarse clock may measure nothing
                self._advance("train", event.step, None, f"loss {event.loss:.3f}, {rate:,.0f} tokens/s")
            case Evaluated():
                self._say(f"step {event.step}: dev loss {event.loss:.4f}")
            case Answered():
                self._advance(event.arm, event.done, event.total, "answers")
            case Advanced():
                self._advance(event.step, event.done, event.total or None, "")
            case Saved():
                self._advance("train", event.step, None, "checkpoint saved")
            case Skipped():
                self._say(f"{event.stage}: {event.reason}, skipped")
            case Warned():
                self._say(event.message + (f" ({event.hint})" if event.hint else ""), "warning ", "yellow")
            case Stopped():
                self._say(f"stopped after step {event.step}; the same command goes on from here")
            case Finished():
                self._say(f"training is done: {event.step} steps")
            case Failed():
                self._say(f"{event.message} ({event.hint})", f"{event.error} ", "red")

    def _advance(self, name: str, done: int, total: int | None, note: str) -> None:
        if name not in self._tasks or (total is not None and done < self._done(name)):
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, note=note)
        if total is not None:
            self._progress.update(self._tasks[name], total=total)
        if self._live or (time.monotonic() - self._said < QUIET_SECONDS and not self._is_complete(name)):
            return
        self._said = time.monotonic()
        task = self._progress.tasks[self._progress.task_ids.index(self._tasks[name])]
        left = task.time_remaining
        about = f", about {left:,.0f} s left" if left else ""
        of = "" if task.total is None else f"/{task.total:.0f}"
        self._console.print(Text(visible(f"  {name}: {done}{of} {note}{about}")))

    def _done(self, name: str) -> float:
        return self._progress.tasks[self._progress.task_ids.index(self._tasks[name])].completed

    def _is_complete(self, name: str) -> bool:
        return self._progress.tasks[self._progress.task_ids.index(self._tasks[name])].finished

    def _say(self, text: str, head: str = "", colour: str = "") -> None:
        """One line. What users and models wrote is shown as it is: no markup, no emoji codes, no control characters."""
        self._console.print(Text.assemble("  ", (head, colour), visible(text)))
