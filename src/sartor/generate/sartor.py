"""Our own engine: one running batch over a paged cache, whatever its rows' prompts, adapters and ages.

A step is one flat forward of the model's own code, for rows that answer and rows that still read; what begins alike is
computed once and kept (`batch/pages.py`). Attention comes in through transformers' interface (`ops/decode.py`), and the
linear layers hold all adapters (`batch/layers.py`).

Shapes: T tokens · B rows that get a token · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from sartor.errors import ModelError, Unsupported, UserError
from sartor.generate import protocol
from sartor.generate.batch.adapters import read_adapter
from sartor.generate.batch.choose import Ask, choose
from sartor.generate.batch.layers import BASE, prepare
from sartor.generate.batch.pages import PagePool, pages_for
from sartor.generate.batch.rows import MAX_ROWS, Rows
from sartor.generate.protocol import Adapters, Sampling, Token, require_adapter
from sartor.hardware import look
from sartor.hub import Shape, shape
from sartor.ops import decode
from sartor.ops.decode import PAGE, Flat, Paged, Span

CACHE_BYTES = 1 << 30  # of keys and values; memory is touched only as it is needed
MINIMUM_PAGES = 4
WEIGHED = 512  # positions whose logits are held at once: 512 × 49,152 in fp32 are 96 MiB
PROBE = [place * 7 + 5 for place in range(PAGE + 5)]  # more than a page, so that the check crosses its edge
#: Share by which logits may differ through our cache. Measured with `PROBE` on seven families and SmolLM2: at most 5e-7
#: in fp32 and 0.015 in bf16, whose roundings add up over the layers; neighbours swapped in a page are off by more
#: than half (the planted fault of the test).
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
OTHERS = "choose a model of the Llama, Qwen, Gemma, SmolLM or Mistral families, or sample with another engine"


class SartorEngine:
    """See `protocol.Engine`."""

    def __init__(
        self,
        base: Path,
        adapters: Mapping[str, Path],
        *,
        dtype: str,
        num_threads: int | None,
        cache_bytes: int,
        max_rows: int,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._dtype: torch.dtype = vars(torch)[dtype]
        self._shape = shape(base)
        self._numbers: dict[str | None, int] = {name: number for number, name in enumerate(adapters)}
        self._numbers[None] = BASE
        self._handles = count()
        self._max_rows = max_rows
        self._model = _load(base, self._dtype)
        with torch.inference_mode():
            plain_TV = self._model(input_ids=torch.tensor([PROBE]) % self._shape.vocab, use_cache=False).logits[0]
        self._choice = prepare(self._model, [read_adapter(folder) for folder in adapters.values()])
        self._model.set_attn_implementation(decode.NAME)
        self._num_pages = max(MINIMUM_PAGES, cache_bytes // _page_bytes(self._shape, self._dtype))
        self._empty()
        self._check_parity(plain_TV.float())

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(name for name in self._numbers if name is not None)

    @property
    def context(self) -> int:
        return self._shape.context

    @property
    def requests(self) -> Collection[int]:
        return self._rows.handles

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """See `protocol.Engine.submit`."""
        return self._rows.submit(list(prompt), sampling, self._number(adapter))

    def cancel(self, handle: int) -> None:
        """See `protocol.Engine.cancel`."""
        self._rows.leave(handle)

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        """See `protocol.Engine.stream`."""
        return protocol.stream(self, prompts, sampling, adapter)

    def advance(self) -> list[Token]:
        """One forward. If it fails, all requests are gone with the cache: it may hold half of what it should."""
        turns = self._rows.next_step()
        if not turns:
            return []
        asking = [turn.row for turn in turns if turn.samples]
        done = False
        try:
            flat = Flat.of([turn.span for turn in turns])
            last_B = [end - 1 for end, turn in zip(flat.starts[1:], turns, strict=True) if turn.samples]
            adapters = [turn.row.adapter for turn in turns for _ in range(turn.span.length)]
            logits_BV = self._forward([token for turn in turns for token in turn.tokens], flat, adapters, last_B)
            chosen = choose(logits_BV, [Ask(row.sampling, row.num_answered) for row in asking]) if asking else []
            done = True
        finally:
            if not done:
                self._empty()
        for turn in turns:
            self._rows.computed(turn)
        tokens = [Token(row.handle, token, row.add(token)) for row, token in zip(asking, chosen, strict=True)]
        for token in tokens:
            if token.finish is not None:
                self._rows.leave(token.row)
        return tokens

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """Several sequences a forward, long ones in several; fp32 log-softmax."""
        number = self._number(adapter)
        sums = [0.0 for _ in sequences]
        tables: dict[int, list[int]] = {}
        try:
            for pieces in _pieces([len(ids) for ids in sequences]):
                for piece in pieces:
                    if piece.start == 0:
                        tables[piece.row] = self._take_for(sequences[piece.row])
                spans = [Span(piece.end - piece.start, piece.start, tables[piece.row]) for piece in pieces]
                parts = [list(sequences[piece.row][piece.start : piece.end + 1]) for piece in pieces]
                for piece, value in zip(pieces, self._weigh(Flat.of(spans), parts, number), strict=True):
                    sums[piece.row] += value
                    if piece.end == len(sequences[piece.row]):
                        self._pool.give_back(tables.pop(piece.row))
        finally:
            for table in tables.values():
                self._pool.give_back(table)
        return sums

    def close(self) -> None:
        """See `protocol.Engine.close`: memory goes with the engine itself."""

    def _weigh(self, flat: Flat, parts: Sequence[list[int]], adapter: int) -> list[float]:
        """The log-probabilities of each part's tokens after its first, summed; a part may reach one past its span."""
        tokens = [token for part, span in zip(parts, flat.spans, strict=True) for token in part[: span.length]]
        places = [
            start + place for start, part in zip(flat.starts, parts, strict=False) for place in range(len(part) - 1)
        ]
        targets = torch.tensor([token for part in parts for token in part[1:]])
        if not places:
            return [0.0 for _ in parts]
        logits_TV = self._forward(tokens, flat, [adapter] * len(tokens), places)
        logprobs_T = torch.log_softmax(logits_TV.float(), dim=-1).gather(1, targets[:, None])[:, 0]
        return [float(part.double().sum()) for part in torch.split(logprobs_T, [len(part) - 1 for part in parts])]

    def _forward(self, tokens: list[int], flat: Flat, adapters: Sequence[int], wanted: list[int]) -> torch.Tensor:
        """The logits at the wanted places of a flat forward, (len(wanted), V)."""
        with torch.inference_mode():
            self._choice.set(adapters, self._dtype)
            logits_1BV: torch.Tensor = self._model(
                input_ids=torch.tensor([tokens]),
                position_ids=flat.positions_T[None],
                use_cache=False,
                logits_to_keep=torch.tensor(wanted),
                paged=Paged(self._pages, flat),
            ).logits
        return logits_1BV[0]

    def _number(self, adapter: str | None) -> int:
        require_adapter(adapter, self.adapters)
        return self._numbers[adapter]

    def _take_for(self, ids: Sequence[int]) -> list[int]:
        wanted = pages_for(len(ids))
        if not 1 <= len(ids) <= self.context or wanted > self._pool.num_available:
            raise UserError(
                f"a sequence of {len(ids)} tokens cannot be weighed: the context is {self.context} tokens, and the "
                f"cache has room for {self._pool.num_available * PAGE}",
                hint="shorten it, or give the engine a larger cache (cache_bytes)",
            )
        return self._pool.take(wanted)

    def _empty(self) -> None:
        """A batch without rows and a cache without pages."""
        self._pool = PagePool(self._num_pages)
        self._pages = decode.open_pages(self._num_pages, self._dtype, self._shape.head_dim)
        self._rows = Rows(self._pool, self.context, self._handles, max_rows=self._max_rows)

    def _check_parity(self, wanted_TV: torch.Tensor) -> None:
        """The model's own code must give through our cache, in two steps, what it gives alone: the numbers decide.

        Raises:
            ModelError: it does not.
        """
        try:
            pages = self._pool.take(2)
            ids, before = [token % self._shape.vocab for token in PROBE], len(PROBE) - 1
            first = Flat.of([Span(before, 0, pages)])
            first_TV = self._forward(ids[:before], first, [BASE] * before, list(range(before)))
            last_TV = self._forward(ids[before:], Flat.of([Span(1, before, pages)]), [BASE], [0])
            found_TV = torch.cat((first_TV, last_TV)).float()
            apart = float((found_TV - wanted_TV).norm() / wanted_TV.norm())
        except Unsupported as error:
            raise ModelError(f"this model cannot be sampled here: {error.message}", hint=OTHERS) from error
        if not apart < TOLERANCE[self._dtype]:
            raise ModelError(f"through our cache this model's logits are {apart:.1%} off", hint=OTHERS)
        self._empty()


def open_engine(
    base: Path,
    adapters: Mapping[str, Path],
    *,
    dtype: str | None = None,
    num_threads: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    max_rows: int = MAX_ROWS,
) -> SartorEngine:
    """A base model folder with PEFT adapter folders by name; `cache_bytes` for keys and values.

    Without a `dtype` the processor decides, for the proof and for serving alike: what is proven is what is served. At
    most `max_rows` requests are computed together, the others wait.

    Raises:
        ModelError: an adapter is not plain LoRA of this model, or the model does not work through our cache.
    """
    chosen = dtype or ("bfloat16" if look(base).has_bf16 else "float32")  # without such products bf16 is slower
    return SartorEngine(
        base, adapters, dtype=chosen, num_threads=num_threads, cache_bytes=cache_bytes, max_rows=max_rows
    )


def require_files(base: Path, adapters: Mapping[str, Path]) -> None:
    """Whatever Sartor makes, it opens: there is nothing to refuse before it is read."""


def _load(base: Path, dtype: torch.dtype) -> Any:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    decode.register()
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, attn_implementation="eager", local_files_only=True, trust_remote_code=False
    )
    return model.eval()


def _page_bytes(shape: Shape, dtype: torch.dtype) -> int:
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * PAGE * dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens `start` to `end` of a sequence, by its number."""

    row: int
    start: int
    end: int


def _pieces(lengths: Sequence[int]) -> Iterator[list[_Piece]]:
    """Forwards of at most `WEIGHED` tokens that cover all sequences in their order."""
    pieces: list[_Piece] = []
    room = WEIGHED
    for row, length in enumerate(lengths):
        start = 0
        while start < length:
            end = min(length, start + room)
            pieces.append(_Piece(row, start, end))
            room -= end - start
            start = end
            if not room:
                yield pieces
                pieces, room = [], WEIGHED
    if pieces:
        yield pieces
