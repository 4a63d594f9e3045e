"""transformers and PEFT as they are: slower, for the adapters and models that our own engine cannot take into a batch.

Each adapter has a model of its own, all on the same weights. Requests that come together with the same adapter and
equally long prompts are computed together; others take turns. So no row is padded, and any PEFT method answers as it
was trained.

Shapes: B rows of a batch · V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.adapters.guards import loaded
from sartor.errors import ModelError
from sartor.generate import protocol
from sartor.generate.batch.choose import Ask, choose
from sartor.generate.folders import family_in
from sartor.generate.folders import require_files as require_files
from sartor.generate.loading import device_for, dtype_for, load_base
from sartor.generate.protocol import WEIGHED, Adapters, Sampling, Token, require_adapter, room_for_answer
from sartor.hub import shape
from sartor.plan import Quantized

MAX_ROWS = 32  # under way at once; each keeps keys and values of its own


@dataclass(slots=True)
class _Row:
    """A request: prompt and answer so far."""

    handle: int
    adapter: str | None
    sampling: Sampling
    tokens: list[int]
    left: int
    num_answered: int = 0

    def add(self, token: int) -> Token:
        self.tokens.append(token)
        self.num_answered += 1
        self.left -= 1
        if token in self.sampling.stop_ids:
            return Token(self.handle, token, "stop")
        return Token(self.handle, token, "length" if self.left == 0 else None)


@dataclass(slots=True)
class _Batch:
    """Rows of one adapter that are equally long, and what is computed of them: all but their last token, once begun."""

    rows: list[_Row]
    device: torch.device
    cache: Any = None

    def keep(self, rows: list[_Row]) -> None:
        """Let the others go."""
        if self.cache is not None and rows and len(rows) < len(self.rows):
            kept = [place for place, row in enumerate(self.rows) if row in rows]
            self.cache.reorder_cache(torch.tensor(kept, device=self.device))  # what every kind of cache can do
        self.rows = rows


@dataclass(frozen=True, slots=True)
class _Model:
    """A model that answers: whole sequences by `begin`, one token more of each by `go_on`."""

    begin: Any
    go_on: Any
    num_virtual: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


class PeftEngine:
    """See `protocol.Engine`.

    Args:
        model: a loaded base. It is not changed.
        adapters: PEFT folders by name.
        context: the longest sequence, in tokens.
        warnings: what to say of why this engine answers.
    """

    def __init__(
        self,
        model: Any,
        adapters: Mapping[str, Path],
        *,
        context: int,
        max_rows: int = MAX_ROWS,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self._device = model.device
        last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        self._models: dict[str | None, _Model] = {None: _Model(model, model, options=last)}
        self._models |= {name: _with_adapter(model, folder, last) for name, folder in adapters.items()}
        self._context = context
        self._max_rows = max_rows
        self._warnings = warnings
        self._rows: dict[int, _Row] = {}
        self._batches: list[_Batch] = []
        self._next_handle = 0

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(name for name in self._models if name is not None)

    @property
    def context(self) -> int:
        return self._context

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._warnings

    @property
    def requests(self) -> Collection[int]:
        return self._rows.keys()

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """See `protocol.Engine.submit`."""
        require_adapter(adapter, self.adapters)
        left = room_for_answer(prompt, sampling, self._context - self._models[adapter].num_virtual)
        handle = self._next_handle
        self._next_handle += 1
        self._rows[handle] = _Row(handle, adapter, sampling, list(prompt), left)
        return handle

    def advance(self) -> list[Token]:
        """A token of each row under way. If a forward fails, all requests are gone with what was computed of them."""
        self._begin()
        done = False
        try:
            tokens = [token for batch in self._batches for token in self._step(batch)]
            done = True
        finally:
            if not done:
                self._rows, self._batches = {}, []
        for token in tokens:
            if token.finish is not None:
                self.cancel(token.row)
        return tokens

    def cancel(self, handle: int) -> None:
        """See `protocol.Engine.cancel`."""
        self._rows.pop(handle, None)
        for batch in self._batches:
            batch.keep([row for row in batch.rows if row.handle in self._rows])
        self._batches = [batch for batch in self._batches if batch.rows]

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        """See `protocol.Engine.stream`."""
        return protocol.stream(self, prompts, sampling, adapter)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """One sequence a forward; fp32 log-softmax."""
        require_adapter(adapter, self.adapters)
        model = self._models[adapter]
        protocol.require_weighable(sequences, self._context - model.num_virtual)
        return [self._weigh(model, list(ids)) for ids in sequences]

    def close(self) -> None:
        """See `protocol.Engine.close`: memory goes with the engine itself."""

    def _begin(self) -> None:
        """Rows that wait become batches, as far as there is room."""
        under_way = {row.handle for batch in self._batches for row in batch.rows}
        waiting = (row for row in self._rows.values() if row.handle not in under_way)
        fresh = sorted(islice(waiting, max(0, self._max_rows - len(under_way))), key=_kind)
        self._batches += [_Batch(list(rows), self._device) for _, rows in groupby(fresh, key=_kind)]

    def _step(self, batch: _Batch) -> list[Token]:
        model = self._models[batch.rows[0].adapter]
        with torch.inference_mode():
            if batch.cache is None:
                ids = torch.tensor([row.tokens for row in batch.rows], device=self._device)
                gave = model.begin(input_ids=ids, use_cache=True, **model.options)
            else:
                ids = torch.tensor([row.tokens[-1:] for row in batch.rows], device=self._device)
                gave = model.go_on(input_ids=ids, past_key_values=batch.cache, use_cache=True, **model.options)
            batch.cache = gave.past_key_values
            logits_BV = gave.logits[:, -1].contiguous()
        chosen = choose(logits_BV, [Ask(row.sampling, row.num_answered) for row in batch.rows])
        return [row.add(token) for row, token in zip(batch.rows, chosen, strict=True)]

    def _weigh(self, model: _Model, ids: list[int]) -> float:
        with torch.inference_mode():
            ids_1T = torch.tensor([ids], device=self._device)
            logits_TV = model.begin(input_ids=ids_1T, use_cache=False).logits[0, -len(ids) : -1]
            parts = zip(torch.split(logits_TV, WEIGHED), torch.split(ids_1T[0, 1:, None], WEIGHED), strict=True)
            sums = [torch.log_softmax(part.float(), dim=-1).gather(1, ids).double().sum() for part, ids in parts]
        return float(sum(sums))


def open_engine(
    base: Path,
    adapters: Mapping[str, Path],
    *,
    dtype: str | None = None,
    num_threads: int | None = None,
    max_rows: int = MAX_ROWS,
    quantize: Quantized = "none",
) -> PeftEngine:
    """A base model folder with PEFT adapter folders by name; `quantize` is how it was held when they were trained.

    Raises:
        ModelError: an adapter is of no kind that PEFT or Sartor knows, or of another model.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    model = load_base(base, dtype_for(base, dtype), quantize).to(device_for())
    return PeftEngine(model, adapters, context=shape(base).context, max_rows=max_rows)


def twin_of(model: Any) -> Any:
    """A model of its own on the same weights: what PEFT puts into it, the first one does not have."""
    same = [*model.named_parameters(remove_duplicate=True)]
    memo: dict[int, Any] = {id(each): nn.Parameter(each.data, requires_grad=False) for _, each in same}
    memo |= {id(each): each for _, each in model.named_buffers()}
    return copy.deepcopy(model, memo)


def _with_adapter(model: Any, folder: Path, options: Mapping[str, Any]) -> _Model:
    family_in(folder).register()
    try:
        tuned = loaded(twin_of(model), folder).to(model.device).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"PEFT cannot load the adapter in {folder}: {error}", hint="use it with the base that it was trained on"
        ) from error
    config = tuned.active_peft_config
    if config.is_prompt_learning:  # PEFT would put the virtual tokens before each further token as well
        return _Model(tuned, tuned.base_model, config.num_virtual_tokens, options)
    return _Model(tuned, tuned, options=options)


def _kind(row: _Row) -> tuple[str, int]:
    """What the rows of a batch have in common."""
    return row.adapter or "", len(row.tokens)
