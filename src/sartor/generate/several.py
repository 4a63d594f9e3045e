"""Several engines as one: each request goes to the engine that has its adapter, and the base's to the first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sartor.generate import protocol
from sartor.generate.protocol import Adapters, Engine, Sampling, Token, require_adapter


class Several:
    """See `protocol.Engine`. `adapters` are those of all engines, in the order in which they are to be named."""

    def __init__(self, engines: Sequence[Engine], adapters: Sequence[str]) -> None:
        self._engines = tuple(engines)
        self._adapters = tuple(adapters)
        self._engine_of = {name: engine for engine in reversed(engines) for name in (None, *engine.adapters)}
        self._rows: dict[int, tuple[Engine, int]] = {}
        self._next_handle = 0

    @property
    def adapters(self) -> tuple[str, ...]:
        return self._adapters

    @property
    def context(self) -> int:
        return min(engine.context for engine in self._engines)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(message for engine in self._engines for message in engine.warnings)

    @property
    def requests(self) -> Collection[int]:
        return self._rows.keys()

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """See `protocol.Engine.submit`."""
        require_adapter(adapter, self._adapters)
        engine = self._engine_of[adapter]
        theirs = engine.submit(prompt, sampling, adapter)
        handle = self._next_handle
        self._next_handle += 1
        self._rows[handle] = engine, theirs
        return handle

    def advance(self) -> list[Token]:
        """One step of each engine that has work. If one breaks, the requests of all are gone."""
        done = False
        try:
            told = [(engine, token) for engine in self._engines if engine.requests for token in engine.advance()]
            done = True
        finally:
            if not done:
                for handle in list(self._rows):
                    self.cancel(handle)
        ours = {(id(engine), theirs): handle for handle, (engine, theirs) in self._rows.items()}
        tokens = [Token(ours[id(engine), token.row], token.id, token.finish) for engine, token in told]
        for token in tokens:
            if token.finish is not None:
                del self._rows[token.row]
        return tokens

    def cancel(self, handle: int) -> None:
        """See `protocol.Engine.cancel`."""
        row = self._rows.pop(handle, None)
        if row is not None:
            engine, theirs = row
            engine.cancel(theirs)

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        """See `protocol.Engine.stream`."""
        return protocol.stream(self, prompts, sampling, adapter)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """See `protocol.Engine.logprobs`."""
        require_adapter(adapter, self._adapters)
        return self._engine_of[adapter].logprobs(sequences, adapter)

    def close(self) -> None:
        """See `protocol.Engine.close`."""
        for engine in self._engines:
            engine.close()
