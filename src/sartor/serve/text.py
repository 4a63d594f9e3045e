"""From token ids to text, piece by piece: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What a decoder writes for bytes that are not (yet) a character.
INCOMPLETE = "\ufffd"


class IncrementalText:
    """Decodes ids as they come. All pieces together are what `decode` gives for all ids together.

    Only a window of ids is decoded each time, so a long answer costs no more per token than a short one. The window
    begins at an earlier whole piece, because decoders treat the first token of a text in a special way (the space that
    SentencePiece drops). While the text ends in bytes that are not a character, it is held back. What comes `after`
    other ids is decoded as a part of their text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], after: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(after)
        self._num_sent = len(after)  # ids at the window's start whose text has been given out

    def push(self, token: int) -> str:
        """The text that this id completes; may be empty."""
        self._window.append(token)
        return "" if self._decode(self._window).endswith(INCOMPLETE) else self.flush()

    def flush(self) -> str:
        """Whatever is held back, complete or not."""
        before = self._decode(self._window[: self._num_sent])
        text = self._decode(self._window)[len(before) :]
        if text:
            del self._window[: self._num_sent]
            self._num_sent = len(self._window)
        return text


class StopStrings:
    """Lets text through up to the first stop string, whatever the pieces it comes in.

    First is the one that is complete first; of two that end together, the longer. Text that may be the beginning of a
    stop string is held back until it is known not to be.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that may go out; after it `found` tells whether a stop string came."""
        if self.found:
            return ""
        self._held += text
        matches = [(self._held.find(stop) + len(stop), -len(stop)) for stop in self._stops if stop in self._held]
        if matches:
            end, length = min(matches)
            self.found = True
            return self._take(end + length)
        return self._take(len(self._held) - self._num_beginning())

    def flush(self) -> str:
        """What is held back at the end of an answer."""
        return "" if self.found else self._take(len(self._held))

    def _take(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _num_beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
