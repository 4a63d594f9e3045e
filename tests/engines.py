"""A fake engine that answers from a script, the real renderer it is asked through, and data to put to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sartor.chat import Renderer, open_renderer
from sartor.data.prepare import Tokenised, tokenise
from sartor.generate.protocol import Sampling, Token
from sartor.types import Chat, Text

#: What is answered to a prompt, given as text, by the base (None) or by an adapter.
Script = Callable[[str, str | None], str]


@lru_cache
def renderer_of(folder: Path) -> Renderer:
    """The renderer of a model folder, opened once for all tests."""
    return open_renderer(folder)


class FakeEngine:
    """See `generate.protocol.Engine`. `rates` are the log-probabilities of a token, by adapter.

    It remembers what it was asked: `batches` of (prompts as text, adapter), and `weighed` sequences of token ids.
    """

    def __init__(
        self,
        renderer: Renderer,
        tokenizer: Any,
        script: Script = lambda prompt, adapter: "",
        *,
        rates: dict[str | None, float] | None = None,
        context: int = 2048,
    ) -> None:
        self._renderer = renderer
        self._tokenizer = tokenizer
        self._script = script
        self._rates = {None: -1.0} if rates is None else rates
        self._context = context
        self.batches: list[tuple[list[str], str | None]] = []
        self.weighed: list[tuple[tuple[int, ...], str | None]] = []

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(name for name in self._rates if name is not None)

    @property
    def context(self) -> int:
        return self._context

    @property
    def asked(self) -> list[str]:
        """Every prompt so far, as text."""
        return [prompt for prompts, _ in self.batches for prompt in prompts]

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: str | None) -> Iterator[Token]:
        """The scripted answers, a token of each row in turn, as a real batch gives them."""
        texts = [self._renderer.text(prompt) for prompt in prompts]
        self.batches.append((texts, adapter))
        stop = min(sampling.stop_ids)
        answers = [
            [*self._tokenizer(self._script(text, adapter), add_special_tokens=False).input_ids, stop] for text in texts
        ]
        for place in range(sampling.max_new_tokens):
            for row, ids in enumerate(answers):
                if place < len(ids):
                    last = place + 1 == sampling.max_new_tokens
                    yield Token(row, ids[place], "stop" if ids[place] == stop else "length" if last else None)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """Every token after the first has the same log-probability."""
        self.weighed += [(tuple(ids), adapter) for ids in sequences]
        return [self._rates[adapter] * (len(ids) - 1) for ids in sequences]


def play(events: Any) -> tuple[list[Any], Any]:
    """The events of a verb and what it returns."""
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


def tokenised(renderer: Renderer, examples: Sequence[Chat | Text]) -> list[Tokenised]:
    return [tokenise(example, renderer) for example in examples]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """A JSONL file; a string is written as it stands."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(prompt: str, answer: str, **changes: Any) -> dict[str, Any]:
    """One conversation in OpenAI's shape."""
    last = {"role": "assistant", "content": answer, **changes}
    return {"messages": [{"role": "user", "content": prompt}, last]}
