"""Every error a person can meet. An error names the thing, its value, and the way out: the hint is required.

The class decides the exit code of the command line: 1 the check or the proof says no, 2 the user's mistake,
3 ours or the machine's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Where:
    """A place in the user's files. Lines and columns are 1-based; 0 means "not known"."""

    file: str
    line: int = 0
    field: str = ""
    column: int = 0

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line else "") + (f":{self.column}" if self.column else "")
        return f"{place}, field `{self.field}`" if self.field else place


class SartorError(Exception):
    """Base of all errors of ours: `message` says what happened, `hint` what to do, `where` points at it."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str, where: Where | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


#: What code that is not ours raises where it is called in another way than it knows: it finds many words for that.
FOREIGN = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def first_line(error: Exception) -> str:
    """What an error of somebody else's says, in a line of ours; its class where it says nothing."""
    words = str(error).strip()
    return words.splitlines()[0][:200] if words else type(error).__name__


class UserError(SartorError):
    """Something the user can mend: a recipe, a file, a name, an argument."""

    exit_code = 2


class RecipeError(UserError):
    """The recipe asks for something that does not exist or does not fit together."""


class DataError(UserError):
    """The data cannot be read, rendered or trained on."""


class FieldError(DataError):
    """One row is wrong: `field` (a JSON path), what was `seen`, what was `expected`."""

    def __init__(self, field: str, *, seen: str, expected: str) -> None:
        super().__init__(f"saw {seen}, expected {expected}", hint="correct the row, or drop it")
        self.field = field
        self.seen = seen
        self.expected = expected


class ModelError(UserError):
    """The model, its tokenizer or its template cannot be used as asked."""


class Refused(SartorError):
    """The check or the proof says no: nothing is broken, but going on would waste time or mislead."""

    exit_code = 1


class NumericsError(SartorError):
    """A loss or a gradient is not finite. Raised before the update, so the weights are still good."""


class MachineError(SartorError):
    """The machine failed us: a full disk, a damaged checkpoint, too little memory."""


class Unsupported(SartorError):
    """A fast path does not implement what the model asks for. The caller takes the slower right path, and says so."""
