"""How engines are asked, one that answers from a script, the real renderer it is asked through, and data for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from sartor.chat import Renderer, open_renderer
from sartor.data.prepare import Tokenised, tokenise
from sartor.generate.protocol import Adapters, Engine, Sampling, Token, adapter_of_each
from sartor.types import Chat, Text

#: What is answered to a prompt, given as text, by the base (None) or by an adapter.
Script = Callable[[str, str | None], str]


@lru_cache
def renderer_of(folder: Path) -> Renderer:
    """The renderer of a model folder, opened once for all tests."""
    return open_renderer(folder)


def answers(
    engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters = None
) -> list[list[int]]:
    """What an engine answers to prompts that come together."""
    rows: list[list[int]] = [[] for _ in prompts]
    for token in engine.stream(prompts, sampling, adapter):
        rows[token.row].append(token.id)
    return rows


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
        self.closed = False
        self._handles = count()
        self._rows: dict[int, Iterator[Token]] = {}

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(name for name in self._rates if name is not None)

    @property
    def context(self) -> int:
        return self._context

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @property
    def requests(self) -> Collection[int]:
        return self._rows.keys()

    @property
    def asked(self) -> list[str]:
        """Every prompt so far, as text."""
        return [prompt for prompts, _ in self.batches for prompt in prompts]

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """Every prompt is a batch of its own, unless it came by `stream`."""
        self.batches.append(([self._renderer.text(prompt)], adapter))
        return self._join(prompt, sampling, adapter)

    def advance(self) -> list[Token]:
        """A token of each row, as a real batch gives them."""
        tokens = [next(row) for row in self._rows.values()]
        self._rows = {token.row: self._rows[token.row] for token in tokens if token.finish is None}
        return tokens

    def cancel(self, handle: int) -> None:
        self._rows.pop(handle, None)

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        """The scripted answers, a token of each row in turn."""
        each = adapter_of_each(adapter, len(prompts))
        for name in dict.fromkeys(each):
            mine = [prompt for prompt, its in zip(prompts, each, strict=True) if its == name]
            self.batches.append(([self._renderer.text(prompt) for prompt in mine], name))
        rows = {
            self._join(prompt, sampling, name): row
            for row, (prompt, name) in enumerate(zip(prompts, each, strict=True))
        }
        while self._rows:
            for token in self.advance():
                yield Token(rows[token.row], token.id, token.finish)

    def _join(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        handle = next(self._handles)
        self._rows[handle] = self._answer(handle, prompt, sampling, adapter)
        return handle

    def _answer(self, handle: int, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> Iterator[Token]:
        stop = min(sampling.stop_ids)
        said = self._script(self._renderer.text(prompt), adapter)
        ids = [*self._tokenizer(said, add_special_tokens=False).input_ids, stop]
        for place, id in enumerate(ids[: sampling.max_new_tokens], start=1):
            last = place == sampling.max_new_tokens
            yield Token(handle, id, "stop" if id == stop else "length" if last else None)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """Every token after the first has the same log-probability."""
        self.weighed += [(tuple(ids), adapter) for ids in sequences]
        assert all(sequences), "an empty sequence has no probability"
        return [self._rates[adapter] * (len(ids) - 1) for ids in sequences]

    def close(self) -> None:
        self.closed = True


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
