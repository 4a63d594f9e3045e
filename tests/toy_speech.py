"""A renderer of bytes, for tests that need tokens and no model: an answer's bytes are trained, and the end after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sartor.chat import Rendered
from sartor.errors import DataError
from sartor.types import Chat, Json, Message, Text

END = 256


class ToySpeech:
    """Each byte is a token. It refuses rows that hold `unsayable`."""

    stop_ids = frozenset({END})
    fingerprint = "toy"

    def render(self, example: Chat | Text) -> tuple[Rendered, ...]:
        parts = (
            [(example.text, True)]
            if isinstance(example, Text)
            else [(f"{message.role}: {message.content}\n", message.role == "assistant") for message in example.messages]
        )
        if any("unsayable" in text for text, _ in parts):
            raise DataError("it cannot be said", hint="say something else")
        pairs = [
            (byte, float(trained)) for text, trained in parts for byte in text.encode("utf-8", "surrogatepass")
        ] + [(END, 1.0)]
        return (Rendered(tuple(id for id, _ in pairs), tuple(weight for _, weight in pairs), True, True),)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Json] = ()) -> tuple[int, ...]:
        return tuple(byte for message in messages for byte in message.content.encode())

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(id for id in ids if id != END).decode("utf-8", "replace")

    def text(self, ids: Sequence[int]) -> str:
        """Each run of bytes decoded, the end as it is spelt."""
        return self.decode(ids) + "<end>" * list(ids).count(END)
