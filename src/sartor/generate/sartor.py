"""Our own engine: batched sampling with a KV cache, a common prefix computed once, rows leaving as they end.

Attention is the model's stock one. Adapters are PEFT's own layers, as anybody else would serve them.

Shapes: B rows still going · T tokens · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from sartor.generate.protocol import Sampling, Token
from sartor.hub import shape

SHORTEST_SHARED_PREFIX = 16  # tokens; below this a forward of its own costs more than it saves


class SartorEngine:
    """See `protocol.Engine`."""

    def __init__(self, base: Path, adapters: Mapping[str, Path], *, dtype: str, num_threads: int | None) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(
            base, dtype=vars(torch)[dtype], attn_implementation="sdpa", local_files_only=True, trust_remote_code=False
        )
        self._slots = {name: f"adapter_{index}" for index, name in enumerate(adapters)}  # PEFT names take no dots
        self._context = shape(base).context
        if adapters:
            self._model = _with_adapters(self._model, {self._slots[name]: path for name, path in adapters.items()})
        self._model.eval()

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self._slots)

    @property
    def context(self) -> int:
        return self._context

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: str | None) -> Iterator[Token]:
        """Sample all prompts together; each decode step yields one token per unfinished row."""
        with torch.inference_mode(), self._using(adapter):
            yield from self._sample(prompts, sampling)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """One forward a sequence; fp32 log-softmax."""
        sums = []
        with torch.inference_mode(), self._using(adapter):
            for ids in sequences:
                logits_TV = self._model(input_ids=torch.tensor([list(ids)])).logits[0, :-1].float()
                targets_T1 = torch.tensor(ids[1:])[:, None]
                sums.append(float(torch.log_softmax(logits_TV, dim=-1).gather(1, targets_T1).sum()))
        return sums

    def _using(self, adapter: str | None) -> AbstractContextManager[Any]:
        if adapter is not None:
            self._model.set_adapter(self._slots[adapter])
            return nullcontext()
        return self._model.disable_adapter() if self._slots else nullcontext()

    def _sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Token]:
        generator = torch.Generator().manual_seed(sampling.seed)
        cache, mask_BT, logits_BV = self._prefill(prompts)
        rows = list(range(len(prompts)))
        for index in range(sampling.max_new_tokens):
            next_B = _choose(logits_BV, sampling, generator)
            going: list[int] = []
            last = index + 1 == sampling.max_new_tokens
            for place, token in enumerate(next_B.tolist()):
                if token in sampling.stop_ids:
                    yield Token(row=rows[place], id=token, finish="stop")
                else:
                    yield Token(row=rows[place], id=token, finish="length" if last else None)
                    going.append(place)
            if last or not going:
                return
            if len(going) < len(rows):
                kept = torch.tensor(going)
                cache.batch_select_indices(kept)
                mask_BT, next_B, rows = mask_BT[kept], next_B[kept], [rows[place] for place in going]
            mask_BT = torch.cat((mask_BT, mask_BT.new_ones(len(rows), 1)), dim=1)
            logits_BV = self._model(
                input_ids=next_B[:, None],
                attention_mask=mask_BT,
                position_ids=mask_BT.sum(dim=1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """Cache, attention mask (B, T) and the logits that choose each row's first token."""
        shared = _common_prefix(prompts)
        cache = DynamicCache(config=self._model.config)
        if shared:
            ids_1T = torch.tensor([list(prompts[0][:shared])])
            self._model(input_ids=ids_1T, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
        rests = [list(prompt[shared:]) for prompt in prompts]
        longest = max(len(rest) for rest in rests)
        ids_BT = torch.tensor([[0] * (longest - len(rest)) + rest for rest in rests])
        mask_BT = torch.tensor([[1] * shared + [0] * (longest - len(rest)) + [1] * len(rest) for rest in rests])
        positions_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
        logits_BV = self._model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return cache, mask_BT, logits_BV


def open_engine(
    base: Path, adapters: Mapping[str, Path], *, dtype: str = "bfloat16", num_threads: int | None = None
) -> SartorEngine:
    """A base model folder with PEFT adapter folders by name."""
    return SartorEngine(base, adapters, dtype=dtype, num_threads=num_threads)


def _with_adapters(model: Any, adapters: Mapping[str, Path]) -> Any:
    from peft import PeftModel

    (first, first_path), *others = adapters.items()
    tuned = PeftModel.from_pretrained(model, first_path, adapter_name=first)
    for name, path in others:
        tuned.load_adapter(path, adapter_name=name)
    return tuned


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, leaving at least one to each; 0 when not worth it."""
    if len(prompts) < 2:
        return 0
    lowest, highest = min(map(tuple, prompts)), max(map(tuple, prompts))
    length = next((i for i, (a, b) in enumerate(zip(lowest, highest, strict=False)) if a != b), len(lowest))
    length = min(length, min(len(prompt) for prompt in prompts) - 1)
    return length if length >= SHORTEST_SHARED_PREFIX else 0


def _choose(logits_BV: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """Greedy at temperature 0; otherwise from the smallest set of tokens that holds `top_p` of the probability."""
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    probabilities_BV = torch.softmax(logits_BV.float() / sampling.temperature, dim=-1)
    sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True)
    before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
    sorted_BV = sorted_BV.masked_fill(before_BV >= sampling.top_p, 0.0)
    place_B1 = torch.multinomial(sorted_BV, 1, generator=generator)
    return order_BV.gather(1, place_B1)[:, 0]
