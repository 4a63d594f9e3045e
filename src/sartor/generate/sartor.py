"""Our own engine: one running batch over a paged cache, whatever its rows' prompts, adapters and ages.

A step is one flat forward of the model's own code, for rows that answer and rows that still read; what begins alike is
computed once and kept (`batch/pages.py`), virtual tokens of adapters among it (`batch/beginnings.py`). Attention comes
in through transformers' interface (`ops/decode.py`), and the layers hold all adapters (`batch/layers.py`).

Adapters that cannot be part of a batch, and models that do not work through our cache, are answered with by PEFT and
transformers as they are (`peft.py`).

Shapes: T tokens · B rows that get a token · V vocabulary · D hidden size · P virtual tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from sartor.adapters.changes import Changes, Prefix, Prompt
from sartor.backends.estimate import CPU, key_bytes
from sartor.base import plain_attention
from sartor.errors import FOREIGN, Unsupported, UserError
from sartor.generate import protocol
from sartor.generate.batch.attention import hasten
from sartor.generate.batch.beginnings import Beginnings
from sartor.generate.batch.choose import Ask, choose
from sartor.generate.batch.layers import prepare
from sartor.generate.batch.pages import PagePool, pages_for
from sartor.generate.batch.rows import MAX_ROWS, Rows
from sartor.generate.batch.runs import BASE
from sartor.generate.folders import read_changes
from sartor.generate.folders import require_files as require_files
from sartor.generate.loading import device_for, dtype_for, load_base
from sartor.generate.peft import MAX_ROWS as PEFT_ROWS
from sartor.generate.peft import PeftEngine, twin_of
from sartor.generate.protocol import WEIGHED, Adapters, Engine, Sampling, Token, require_adapter, require_weighable
from sartor.generate.several import Several
from sartor.hardware import memory_bytes
from sartor.hub import Shape, shape
from sartor.ops import decode, gpu
from sartor.ops.decode import PAGE, Flat, Paged, Pages, Span
from sartor.plan import Quantized

MINIMUM_PAGES = 4
#: Tokens of a step: enough for full speed of the products, and on a CPU few enough to stay in its cache.
STEP_TOKENS = {"cpu": 1024, "cuda": 8192}
PROBE = [place * 7 + 5 for place in range(PAGE + 5)]  # more than a page, so that the check crosses its edge
BESIDE = [place * 11 + 3 for place in range(7)]  # in the same forward, and nothing to do with it
#: Share by which the logits of a token may differ through our cache: of each by itself, as one alone may be wrong.
#: Measured on seven families and SmolLM2, all tokens together: 5e-7 in fp32 and 0.015 in bf16, whose roundings add up
#: over the layers; neighbours swapped in a page are off by more than half (the planted fault of the test).
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


class SartorEngine:
    """See `protocol.Engine`.

    Args:
        model: a loaded base, which is the engine's own from here on: its layers are replaced.
        sizes: the model's.
        adapters: what each makes of the model, by name.

    Raises:
        ModelError: an adapter does not belong to this model.
        Unsupported: the model does not work through our cache.
    """

    def __init__(
        self, model: Any, sizes: Shape, adapters: Mapping[str, Changes], *, cache_bytes: int, max_rows: int
    ) -> None:
        self._model, self._dtype, self._device, self._shape = model, model.dtype, model.device, sizes
        self._numbers: dict[str | None, int] = {name: number for number, name in enumerate(adapters)}
        self._numbers[None] = BASE
        self._handles = count()
        self._max_rows = max_rows
        beginnings = {number: each.beginning for number, each in enumerate(adapters.values()) if each.beginning}
        self._lengths = {number: _length(each) for number, each in beginnings.items()}
        with torch.inference_mode():
            probes = (model(input_ids=self._ids(ids) % sizes.vocab, use_cache=False) for ids in (PROBE, BESIDE))
            plain_TV = torch.cat([probe.logits[0] for probe in probes])
        head = next((name for name, part in model.named_modules() if part is model.get_output_embeddings()), "")
        self._choice = prepare(model, list(adapters.values()), head=head)
        model.set_attn_implementation(decode.NAME)
        # Virtual tokens come on top of the cache: they stay in it for good.
        num_pages = max(MINIMUM_PAGES, cache_bytes // _page_bytes(sizes, self._dtype))
        self._num_pages = num_pages + sum(map(pages_for, self._lengths.values()))
        self._pages = decode.open_pages(self._num_pages, self._dtype, sizes.head_dim, self._device.type)
        self._empty()
        self._check_parity(plain_TV.float())
        for number, beginning in beginnings.items():
            self._begin(number, beginning)

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(name for name in self._numbers if name is not None)

    @property
    def context(self) -> int:
        return self._rows.context(BASE)

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
            flat = Flat.of([turn.span for turn in turns], self._device)
            last_B = [end - 1 for end, turn in zip(flat.starts[1:], turns, strict=True) if turn.samples]
            adapters = [turn.row.adapter for turn in turns for _ in range(turn.span.length)]
            ids = self._ids([token for turn in turns for token in turn.tokens])
            logits_BV = self._forward(flat, adapters, last_B, input_ids=ids)
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
        require_weighable(sequences, self._rows.context(number))
        sums: list[float] = []
        while len(sums) < len(sequences):
            sums += self._weigh_together(self._fitting(sequences[len(sums) :], number), number)
        return sums

    def close(self) -> None:
        """See `protocol.Engine.close`: memory goes with the engine itself."""

    def _fitting(self, sequences: Sequence[Sequence[int]], adapter: int) -> Sequence[Sequence[int]]:
        """As many of the first sequences as the cache has pages for.

        Raises:
            UserError: not even one, as those that are answered meanwhile leave too few.
        """
        virtual, pages = self._lengths.get(adapter, 0), self._pool.num_available
        for number, ids in enumerate(sequences):
            pages -= self._beginnings.num_pages_for(adapter, virtual + len(ids))
            if pages < 0 and number:
                return sequences[:number]
            if pages < 0:
                raise UserError(
                    f"a sequence of {len(ids)} tokens cannot be weighed: the cache has room for "
                    f"{self._pool.num_available * PAGE} more",
                    hint="wait until those that are answered meanwhile have ended, or shorten it",
                )
        return sequences

    def _weigh_together(self, sequences: Sequence[Sequence[int]], number: int) -> list[float]:
        """`logprobs` of sequences that have room in the cache beside each other."""
        virtual = self._lengths.get(number, 0)
        sums = [0.0 for _ in sequences]
        tables: dict[int, list[int]] = {}
        try:
            for pieces in _pieces([len(ids) for ids in sequences]):
                for piece in pieces:
                    if piece.start == 0:
                        ids = sequences[piece.row]
                        tables[piece.row] = self._beginnings.begin(ids, number, virtual + len(ids))
                spans = [Span(piece.end - piece.start, virtual + piece.start, tables[piece.row]) for piece in pieces]
                parts = [list(sequences[piece.row][piece.start : piece.end + 1]) for piece in pieces]
                flat = Flat.of(spans, self._device)
                for piece, value in zip(pieces, self._weigh(flat, parts, number), strict=True):
                    sums[piece.row] += value
                    if piece.end == len(sequences[piece.row]):
                        self._pool.give_back(tables.pop(piece.row))
        finally:
            for table in tables.values():
                self._pool.give_back(table)
        return sums

    def _weigh(self, flat: Flat, parts: Sequence[list[int]], adapter: int) -> list[float]:
        """The log-probabilities of each part's tokens after its first, summed; a part may reach one past its span.

        That one is the first token of the next forward: it is only foretold here.
        """
        ids = [token for part, span in zip(parts, flat.spans, strict=True) for token in part[: span.length]]
        places = [
            start + place for start, part in zip(flat.starts, parts, strict=False) for place in range(len(part) - 1)
        ]
        targets = self._ids([token for part in parts for token in part[1:]])[0]
        if not places:
            return [0.0 for _ in parts]
        logits_TV = self._forward(flat, [adapter] * len(ids), places, input_ids=self._ids(ids))
        logprobs_T = torch.log_softmax(logits_TV.float(), dim=-1).gather(1, targets[:, None])[:, 0]
        return [float(part.double().sum()) for part in torch.split(logprobs_T, [len(part) - 1 for part in parts])]

    def _forward(
        self,
        flat: Flat,
        adapters: Sequence[int],
        wanted: list[int],
        pages: Pages | None = None,
        **read: torch.Tensor,
    ) -> torch.Tensor:
        """The logits at the wanted places of a flat forward, (len(wanted), V). `read`: ids, or embeddings.

        `pages`: a cache in the place of ours.
        """
        with torch.inference_mode():
            self._choice.set(adapters, wanted)
            logits_1BV: torch.Tensor = self._model(
                **read,
                position_ids=flat.positions_T[None],
                use_cache=False,
                logits_to_keep=self._ids(wanted)[0],
                paged=Paged(pages or self._pages, flat),
            ).logits
        return logits_1BV[0]

    def _ids(self, ids: Sequence[int]) -> torch.Tensor:
        """(1, T), where the model is."""
        return torch.tensor([ids], dtype=torch.int64, device=self._device)

    def _number(self, adapter: str | None) -> int:
        require_adapter(adapter, self.adapters)
        return self._numbers[adapter]

    def _empty(self) -> None:
        """A batch without rows. Virtual tokens keep their pages, the first ones, and what is written there."""
        self._pool = PagePool(self._num_pages)
        self._beginnings = Beginnings(self._pool, self._pages.copy)
        for adapter, length in self._lengths.items():
            self._beginnings.add(adapter, length)
        self._rows = Rows(
            self._pool,
            self._shape.context,
            self._handles,
            self._beginnings,
            max_rows=self._max_rows,
            step_tokens=STEP_TOKENS[self._device.type],
        )

    @torch.inference_mode()
    def _begin(self, adapter: int, beginning: Prompt | Prefix) -> None:
        """Write the keys and values of an adapter's virtual tokens into its pages."""
        length = self._lengths[adapter]
        flat = Flat.of([Span(length, 0, self._beginnings.of(adapter).pages)], self._device)
        if isinstance(beginning, Prompt):
            embeddings_1PD = beginning.embeddings_PD.detach()[None].to(self._dtype)
            self._forward(flat, [adapter] * length, [length - 1], inputs_embeds=embeddings_1PD)
            return
        for layer, parts in enumerate(zip(beginning.keys_PG, beginning.values_PG, strict=True)):
            size = length, self._shape.num_kv_heads, self._shape.head_dim
            key, value = (part.detach().to(self._dtype).reshape(size) for part in parts)
            self._pages.write(layer, key, value, flat)

    def _check_parity(self, wanted_TV: torch.Tensor) -> None:
        """The model's own code must give through our cache what it gives alone: the numbers decide. `PROBE` is read in
        two steps, with `BESIDE` in the first of them.

        Raises:
            Unsupported: it does not.
        """
        pages, beside = (self._pool.take(pages_for(len(ids))) for ids in (PROBE, BESIDE))
        before = len(PROBE) - 1
        first, last = (self._ids(ids) % self._shape.vocab for ids in (PROBE[:-1] + BESIDE, PROBE[-1:]))
        flat = Flat.of([Span(before, 0, pages), Span(len(BESIDE), 0, beside)], self._device)
        step = Flat.of([Span(1, before, pages)], self._device)
        try:
            first_TV = hasten(
                self._model,
                self._pages,
                lambda pages: self._forward(
                    flat, [BASE] * first.shape[1], list(range(first.shape[1])), pages, input_ids=first
                ),
            )
            last_TV = self._forward(step, [BASE], [0], input_ids=last)
        except gpu.failures(*FOREIGN) as error:  # not our layers' calling convention, or not our layers' parts
            raise Unsupported(f"its code does not run on our layers ({error})", hint="use the engine `peft`") from error
        self._pool.give_back(pages)
        self._pool.give_back(beside)
        found_TV = torch.cat((first_TV[:before], last_TV, first_TV[before:])).float()
        apart = float(((found_TV - wanted_TV).norm(dim=-1) / wanted_TV.norm(dim=-1)).max())
        if not apart < TOLERANCE[self._dtype]:
            raise Unsupported(f"through our cache its logits are {apart:.1%} off", hint="use the engine `peft`")


def open_engine(
    base: Path,
    adapters: Mapping[str, Path],
    *,
    dtype: str | None = None,
    num_threads: int | None = None,
    cache_bytes: int | None = None,
    max_rows: int = MAX_ROWS,
    quantize: Quantized = "none",
) -> Engine:
    """A base model folder with PEFT adapter folders by name, on a GPU where there is one.

    `cache_bytes` for keys and values: without it 1 GiB, or one whole context if that is more and no more than a quarter
    of the memory; on a GPU a third of what the model leaves free.

    `quantize` is how the base was held when they were trained: the same numbers answer.

    Without a `dtype` the processor decides, for the proof and for serving alike: what is proven is what is served. At
    most `max_rows` requests are computed together, the others wait. What cannot be part of one batch is answered by the
    engine `peft` (of no more than `peft.MAX_ROWS`), beside ours, or in its place where nothing is left for ours.

    Raises:
        ModelError: an adapter is of no kind that is known, or of another model.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    decode.register()
    chosen, sizes = dtype_for(base, dtype), shape(base)
    try:
        return _open_mixed(
            load_base(base, chosen, quantize, attention="eager"),  # without a name here: gone before the next is loaded
            sizes,
            adapters,
            cache_bytes=cache_bytes,
            max_rows=max_rows,
        )
    except Unsupported as error:
        note = f"this model answers by way of PEFT and transformers, which is slower: {error.message}"
    again = load_base(base, chosen, quantize).to(device_for())
    return _open_peft(again, adapters, sizes, max_rows=max_rows, warnings=(note,))


def _open_mixed(
    model: Any, sizes: Shape, adapters: Mapping[str, Path], *, cache_bytes: int | None, max_rows: int
) -> Engine:
    """Our engine on a loaded base, and `peft` for the adapters that cannot be part of its batch.

    Raises:
        Unsupported: the model does not work through our cache.
    """
    device = device_for()
    changes = {name: read_changes(model, folder).to(device) for name, folder in adapters.items()}
    model.to(device)
    alone = {name: folder for name, folder in adapters.items() if changes[name].alone}
    beside: list[Engine] = []
    if alone:
        notes = tuple(f"{name} answers by way of PEFT, which is slower: {changes[name].alone}" for name in alone)
        own = twin_of(model)
        own.set_attn_implementation(plain_attention(own))
        beside = [_open_peft(own, alone, sizes, max_rows=max_rows, warnings=notes)]
    if alone.keys() == adapters.keys() and alone:
        return beside[0]
    mixed = {name: each for name, each in changes.items() if name not in alone}
    room = cache_bytes or _cache_bytes(device, sizes, model.dtype)
    ours = SartorEngine(model, sizes, mixed, cache_bytes=room, max_rows=max_rows)
    return Several([ours, *beside], tuple(adapters)) if beside else ours


def _open_peft(
    model: Any, adapters: Mapping[str, Path], sizes: Shape, *, max_rows: int, warnings: tuple[str, ...]
) -> Engine:
    rows = min(max_rows, PEFT_ROWS)
    return PeftEngine(model, adapters, context=sizes.context, max_rows=rows, warnings=warnings)


def _cache_bytes(device: torch.device, sizes: Shape, dtype: torch.dtype) -> int:
    """Bytes for keys and values; those of a CPU are touched only as they are needed."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 3
    context = pages_for(sizes.context) * _page_bytes(sizes, dtype)
    return max(CPU.cache_bytes, min(context, memory_bytes() // 4))


def _length(beginning: Prompt | Prefix) -> int:
    """How many virtual tokens there are."""
    return len(beginning.embeddings_PD if isinstance(beginning, Prompt) else beginning.keys_PG[0])


def _page_bytes(shape: Shape, dtype: torch.dtype) -> int:
    return PAGE * key_bytes(shape, dtype.itemsize)


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
