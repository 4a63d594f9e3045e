"""The engine of bases beside decoders: labels, embeddings, and the answers of encoder-decoders, in padded batches.

No name for recipes: the base itself decides. A whole batch is answered at once, then told token by token as engines do.
Each adapter has a copy of its base, as such bases are small, and PEFT then answers with any method.

Shape suffixes: N texts · D hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig

import sartor.peft  # noqa: F401 - PEFT then knows the methods of ours
from sartor.adapters.guards import loaded
from sartor.backends import forms
from sartor.errors import UserError
from sartor.generate import protocol
from sartor.generate.protocol import Adapters, Sampling, Token, require_adapter, room_for_answer
from sartor.hardware import look
from sartor.hub import read_config, shape
from sartor.store import LINEAGE, read_json
from sartor.types import FIRST_LABEL, Form

MAX_ROWS = 32
EMBEDDED_TOKENS = 8192  # in a forward
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class _Request:
    """One that waits: its prompt, how to sample, and by which adapter."""

    prompt: tuple[int, ...]
    sampling: Sampling
    adapter: str | None


class PaddedEngine:
    """See `protocol.Engine`. `models` are those of the base, `None`, and of each adapter."""

    def __init__(self, models: Mapping[str | None, Any], form: Form, *, context: int, max_rows: int) -> None:
        self._models, self._form, self._context, self._max_rows = models, form, context, max_rows
        self._num_vocab = len(models[None].get_input_embeddings().weight)
        self._handles = count()
        self._waiting: dict[int, _Request] = {}
        self._answers: dict[int, list[Token]] = {}

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(name for name in self._models if name is not None)

    @property
    def context(self) -> int:
        """Of the text, and of an answer to it, whose positions are counted anew."""
        return self._context

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @property
    def requests(self) -> Collection[int]:
        return self._waiting.keys() | self._answers.keys()

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """See `protocol.Engine.submit`."""
        require_adapter(adapter, self.adapters)
        room_for_answer(prompt, sampling, self._context)
        if not self._speaks(adapter):
            raise UserError("this model gives embeddings, no answers", hint="ask for them: POST /v1/embeddings")
        handle = next(self._handles)
        self._waiting[handle] = _Request(tuple(prompt), sampling, adapter)
        return handle

    def advance(self) -> list[Token]:
        """The next token of each answer that is there; where none is, a batch of them is computed first."""
        if not self._answers and self._waiting:
            self._compute()
        tokens = [answer.pop(0) for answer in self._answers.values()]
        self._answers = {handle: answer for handle, answer in self._answers.items() if answer}
        return tokens

    def cancel(self, handle: int) -> None:
        """See `protocol.Engine.cancel`."""
        self._waiting.pop(handle, None)
        self._answers.pop(handle, None)

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        """See `protocol.Engine.stream`."""
        return protocol.stream(self, prompts, sampling, adapter)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """There are none: such a base does not foretell running text.

        Raises:
            UserError: always.
        """
        raise UserError("this base has no likelihood of a text", hint="choose a decoder, or another metric")

    def embed(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> np.ndarray:
        """A vector of length 1 for each text, (N, D).

        Raises:
            UserError: the base is no encoder, or a text does not fit its context, or has a token that it does not know.
        """
        require_adapter(adapter, self.adapters)
        if self._form == "seq2seq":
            raise UserError("this model gives answers, no embeddings", hint="choose an encoder")
        for ids in sequences:
            self._check(ids)
        with torch.inference_mode():
            encoder = _encoder(self._models[adapter])
            vectors: np.ndarray = forms.embeddings(encoder, sequences, CPU, EMBEDDED_TOKENS).numpy()
        return vectors

    def close(self) -> None:
        """See `protocol.Engine.close`: memory goes with the engine itself."""

    def _check(self, ids: Sequence[int]) -> None:
        """Refuse a text that the base cannot embed."""
        if not 1 <= len(ids) <= self._context:
            raise UserError(f"a text of {len(ids)} tokens: it may have 1 to {self._context}", hint="send another text")
        unknown = next((token for token in ids if not 0 <= token < self._num_vocab), None)
        if unknown is not None:
            raise UserError(
                f"token {unknown} is not among the {self._num_vocab} of this model",
                hint="send the ids of its own tokenizer, or the text itself",
            )

    def _speaks(self, adapter: str | None) -> bool:
        """Whether there are answers: the bare base of a classifier has no head yet."""
        return self._form == "seq2seq" or (self._form == "classifier" and _is_classifier(self._models[adapter]))

    def _compute(self) -> None:
        """Answer the oldest request, with those that are asked in the same way. If it fails, all requests are gone."""
        first = next(iter(self._waiting.values()))
        alike = [handle for handle, request in self._waiting.items() if self._alike(request, first)][: self._max_rows]
        done = False
        try:
            with torch.inference_mode():
                answers = self._answer([self._waiting[handle] for handle in alike], first)
            done = True
        finally:
            if not done:
                self._waiting.clear()
        for handle, ids in zip(alike, answers, strict=True):
            del self._waiting[handle]
            self._answers[handle] = _told(handle, ids, first.sampling)

    def _alike(self, request: _Request, first: _Request) -> bool:
        """Whether a request can be answered in one batch with the first. Sampled ones are alone: each has its own seed.

        A label is the likeliest one, whatever is asked.
        """
        if request is first:
            return True
        ours, theirs = request.sampling, first.sampling
        if (request.adapter, ours.stop_ids) != (first.adapter, theirs.stop_ids):
            return False
        greedy = not ours.temperature and not theirs.temperature
        return self._form == "classifier" or (greedy and ours.max_new_tokens == theirs.max_new_tokens)

    def _answer(self, requests: Sequence[_Request], first: _Request) -> list[list[int]]:
        model = self._models[first.adapter]
        if self._form == "classifier":
            rows = [request.prompt for request in requests]
            best = forms.label_logprobs(model, rows, CPU).argmax(dim=-1).tolist()
            return [[FIRST_LABEL + label, *first.sampling.stop_ids] for label in best]
        tokens_BL, mask_BL = forms.tensors([request.prompt[:-1] for request in requests], CPU)
        with _seeded(first.sampling):
            answers_BL = model.generate(
                input_ids=tokens_BL,
                attention_mask=mask_BL,
                decoder_input_ids=torch.tensor([request.prompt[-1:] for request in requests]),
                max_new_tokens=min(first.sampling.max_new_tokens, self._context),
                eos_token_id=list(first.sampling.stop_ids),
                pad_token_id=0,
                num_beams=1,
                **_choosing(first.sampling),
            )
        return [answer[1:] for answer in answers_BL.tolist()]


def open_engine(
    base: Path, adapters: Mapping[str, Path], *, form: Form, dtype: str | None = None, max_rows: int = MAX_ROWS
) -> PaddedEngine:
    """The base in a folder, or a whole tuned model, and adapters on it by name.

    `dtype` is that of the processor where none is named.
    """
    chosen = vars(torch)[dtype or ("bfloat16" if look(base).has_bf16 else "float32")]
    models: dict[str | None, Any] = {None: _open(base, form, chosen)}
    for name, folder in adapters.items():
        labels = tuple(read_json(folder / LINEAGE)["labels"])
        models[name] = loaded(forms.open_model(base, form, labels, chosen), folder).eval()
    for model in models.values() if form == "seq2seq" else ():
        # Of a base it may ask for a least length, for no repeats, for a last token: a request alone says what it wants.
        inner = _inner(model)
        start = inner.generation_config.decoder_start_token_id
        inner.generation_config = GenerationConfig(decoder_start_token_id=start)
    return PaddedEngine(models, form, context=shape(base).context, max_rows=max_rows)


def _open(folder: Path, form: Form, dtype: torch.dtype) -> Any:
    """A model as it stands. A classifier's base that has no head of ours gives embeddings alone."""
    written = folder / LINEAGE
    labels = tuple(read_json(written)["labels"]) if written.is_file() else ()
    bare = form == "classifier" and len(labels) != len(read_config(folder).get("id2label") or ())
    return forms.open_model(folder, "embedder" if bare else form, labels, dtype).eval()


def _inner(model: Any) -> Any:
    """A model of transformers, without PEFT's around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _is_classifier(model: Any) -> bool:
    return type(_inner(model)).__name__.endswith("ForSequenceClassification")


def _encoder(model: Any) -> Any:
    """The part of a model that gives hidden states, with its adapter in place."""
    if not isinstance(model, PeftModel):
        return model.base_model
    return model.get_base_model().base_model if _is_classifier(model) else model


def _told(handle: int, ids: Sequence[int], sampling: Sampling) -> list[Token]:
    """An answer as the tokens that an engine tells: up to the stop token, or to the length."""
    tokens: list[Token] = []
    for number, id in enumerate(ids, start=1):
        if id in sampling.stop_ids:
            return [*tokens, Token(handle, id, "stop")]
        tokens.append(Token(handle, id, "length" if number == len(ids) else None))
    return tokens


def _choosing(sampling: Sampling) -> dict[str, Any]:
    """transformers' words for how the next token is chosen."""
    if not sampling.temperature:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}


@contextmanager
def _seeded(sampling: Sampling) -> Iterator[None]:
    """torch's random numbers by the request's seed, and afterwards as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sampling.seed)
        yield
