"""vLLM, driven over HTTP: a server that this engine starts and stops, or one that already runs somewhere.

vLLM is never imported: it brings a torch of its own, so it lives in another environment, on another machine, or in a
container. `SARTOR_VLLM_URL` (and `SARTOR_VLLM_KEY`) name a running server; without them `vllm serve` is started on
loopback behind a random key. Each row is one stream of `/v1/completions`, all of them on one thread of their own;
vLLM batches them.

Token ids go in and come out (`return_token_ids`, from vLLM 0.10.2), and everything that vLLM would choose by itself is
said in the request: only our stop ids end an answer, and no default of the model's generation configuration applies.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import queue
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from sartor.errors import MachineError, SartorError, UserError
from sartor.generate import protocol
from sartor.generate.folders import require_lora
from sartor.generate.protocol import (
    Adapters,
    Failed,
    Sampling,
    Token,
    require_adapter,
    require_weighable,
    room_for_answer,
)
from sartor.plan import Quantized
from sartor.types import Json

try:
    from sartor.generate.vllm.server import SERVED_BASE, Address, Server, start_server
    from sartor.generate.vllm.wire import LORA, NOT_VLLM, Wire, message, only_choice, token_ids
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise UserError("the engine vllm needs the package httpx2", hint="pip install 'sartor[vllm]'") from error

POLL_SECONDS = 0.02  # of waiting for tokens: in a server, joining and leaving wait behind it
PATIENCE = 300.0  # seconds without a byte: a long prompt behind a full batch can take minutes
URL, KEY = "SARTOR_VLLM_URL", "SARTOR_VLLM_KEY"
SHORTEN = "shorten it, or start vLLM with a larger --max-model-len"

#: Said in every request, because vLLM would otherwise take them from the model's generation configuration.
_PLAIN: Json = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,  # the stop ids decide
    "add_special_tokens": False,
    "skip_special_tokens": False,
    "return_token_ids": True,
}


@dataclass(slots=True)
class _Row:
    """A request under way: what has arrived and was not given out yet."""

    sampling: Sampling
    left: int
    task: Future[None]
    ready: deque[int] = field(default_factory=deque)
    ended: bool = False
    error: BaseException | None = None


class VllmEngine:
    """See `protocol.Engine`. `close` ends the server, if it is ours."""

    warnings: tuple[str, ...] = ()

    def __init__(
        self, address: Address, base: Path, adapters: Mapping[str, Path], *, patience: float, server: Server | None
    ) -> None:
        self._server = server
        self._wire = Wire(address, patience)
        self._inbox: queue.SimpleQueue[tuple[int, list[int] | BaseException | None]] = queue.SimpleQueue()
        self._rows: dict[int, _Row] = {}
        self._loaded: list[str] = []  # by us, into a server that is not ours
        self._next_handle = 0
        self.adapters = tuple(adapters)
        try:
            self._base, self.context = self._find_models(base, adapters)
        except BaseException:
            self.close()
            raise

    @property
    def requests(self) -> Collection[int]:
        return self._rows.keys()

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """See `protocol.Engine`. The request leaves at once, so that vLLM can batch what is submitted together."""
        model = self._model(adapter)
        left = room_for_answer(prompt, sampling, self.context, way_out=SHORTEN)
        asked = {
            **_PLAIN,
            "model": model,
            "prompt": list(prompt),
            "max_tokens": left,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop_token_ids": sorted(sampling.stop_ids),
            "stream": True,
        }
        handle = self._next_handle
        self._next_handle += 1
        task = self._wire.begin(self._receive(handle, asked))
        self._rows[handle] = _Row(sampling, left, task)
        task.add_done_callback(lambda done: None if done.cancelled() else self._inbox.put((handle, done.exception())))
        return handle

    def advance(self) -> list[Token]:
        """The next token of every row that has one; if none has, vLLM is waited for, but not for long.

        Raises:
            Failed: of a MachineError, if the server broke off, stalled or answered otherwise than vLLM does; of a
                UserError, if it refused the request.
        """
        if self._rows and not any(row.ready or row.ended for row in self._rows.values()):
            with contextlib.suppress(queue.Empty):
                self._take(*self._inbox.get(timeout=POLL_SECONDS))
        while not self._inbox.empty():
            self._take(*self._inbox.get())
        for handle, row in self._rows.items():
            if row.ended and not row.ready:
                self.cancel(handle)
                raise Failed(handle, row.error or _ended_early(row.left))
        return [self._next(handle) for handle in list(self._rows) if self._rows[handle].ready]

    def cancel(self, handle: int) -> None:
        """The stream is closed, and vLLM frees the row as soon as it notices."""
        row = self._rows.pop(handle, None)
        if row is not None:
            row.task.cancel()

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        return protocol.stream(self, prompts, sampling, adapter)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """All sequences at once. vLLM samples one token more of each, so they must be shorter than the context."""
        model = self._model(adapter)
        require_weighable(sequences, self.context - 1, way_out=SHORTEN)
        return self._wire.wait(self._weigh_all([list(ids) for ids in sequences], model))

    def close(self) -> None:
        """End all streams, and the server that was started for this engine. Closing twice is no error."""
        for handle in list(self._rows):
            self.cancel(handle)
        while self._loaded:  # trained anew it may have the same name and folder, and vLLM would keep the old weights
            with contextlib.suppress(SartorError):
                self._wire.wait(self._wire.send("POST", "/v1/unload_lora_adapter", {"lora_name": self._loaded.pop()}))
        self._wire.close()
        if self._server is not None:
            self._server.stop()

    def _model(self, adapter: str | None) -> str:
        require_adapter(adapter, self.adapters)
        return self._base if adapter is None else adapter

    def _find_models(self, base: Path, adapters: Mapping[str, Path]) -> tuple[str, int]:
        """The base's name there and its context; adapters that the server does not know yet are loaded."""
        served = _models(self._wire.wait(self._wire.ask("GET", "/v1/models")))
        bases = [model for model in served.values() if not model.get("parent")]
        if not bases:
            raise MachineError("the server names no base model", hint=NOT_VLLM)
        context = _context(bases[0])
        _same_files(bases[0], base)
        for name, path in adapters.items():
            if name not in served:
                self._wire.wait(self._load(name, path))
                self._loaded.append(name)
            elif served[name].get("parent"):
                _same_files(served[name], path)
            else:
                raise UserError(
                    f"{name!r} is the base model of the vLLM server", hint="start it with another --served-model-name"
                )
        return str(bases[0]["id"]), context

    async def _load(self, name: str, path: Path) -> None:
        asked = {"lora_name": name, "lora_path": str(path.resolve())}
        answer = await self._wire.send("POST", "/v1/load_lora_adapter", asked)
        if answer.status_code != 200:
            raise UserError(
                f"the vLLM server has no adapter {name!r}, and would not load it "
                f"({answer.status_code}: {message(answer)})",
                hint=LORA,
            )

    async def _receive(self, handle: int, asked: Json) -> None:
        """One stream, from the request to `[DONE]`: its ids go to the inbox as they come."""
        async for event in self._wire.events("/v1/completions", asked):
            choice = only_choice(event)
            if choice.get("prompt_token_ids") not in (None, asked["prompt"]):
                raise MachineError("the server put other tokens in the place of the prompt", hint=NOT_VLLM)
            self._inbox.put((handle, token_ids(choice)))

    def _take(self, handle: int, arrived: list[int] | BaseException | None) -> None:
        """Something from the inbox: ids, an error, or `None` at the end of a stream."""
        row = self._rows.get(handle)
        if row is None:
            return  # cancelled, or ended by a stop token, while this was on its way
        if isinstance(arrived, list):
            row.ready.extend(arrived)
        else:
            row.ended, row.error = True, arrived

    def _next(self, handle: int) -> Token:
        row = self._rows[handle]
        token = row.ready.popleft()
        row.left -= 1
        if token in row.sampling.stop_ids:
            self.cancel(handle)
            return Token(handle, token, "stop")
        if row.left == 0:
            self.cancel(handle)
            return Token(handle, token, "length")
        return Token(handle, token)

    async def _weigh_all(self, sequences: list[list[int]], model: str) -> list[float]:
        return list(await asyncio.gather(*(self._weigh(ids, model) for ids in sequences)))

    async def _weigh(self, ids: list[int], model: str) -> float:
        asked = {**_PLAIN, "model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        choice = only_choice(await self._wire.ask("POST", "/v1/completions", asked))
        try:
            places = choice["prompt_logprobs"][1:]
            return math.fsum(place[str(token)]["logprob"] for place, token in zip(places, ids[1:], strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise MachineError("the server gave no log-probabilities of the prompt", hint=NOT_VLLM) from error


def open_engine(
    base: Path,
    adapters: Mapping[str, Path],
    *,
    dtype: str = "bfloat16",
    num_threads: int | None = None,
    url: str = "",
    key: str = "",
    patience: float = PATIENCE,
    quantize: Quantized = "none",
) -> VllmEngine:
    """A vLLM server with a base model folder and PEFT adapter folders by name.

    `url` and `key` (or the variables `SARTOR_VLLM_URL` and `SARTOR_VLLM_KEY`) name a running server, whose dtype and
    threads are its own. Otherwise one is started, which takes a minute or more. `patience`: seconds without an answer.

    Raises:
        ModelError: the adapters are of a base that was held otherwise.
        UserError: there is no `vllm` to start, or the running server does not have the model, or the adapter.
        MachineError: it does not start, or does not answer.
    """
    protocol.require_plain(quantize, "vLLM")
    url = url or os.environ.get(URL, "")
    if url:
        address = Address.read(url, key or os.environ.get(KEY, ""))
        return VllmEngine(address, base, adapters, patience=patience, server=None)
    server = start_server(base, adapters, dtype=dtype, num_threads=num_threads)
    return VllmEngine(server.address, base, adapters, patience=patience, server=server)


def require_files(base: Path, adapters: Mapping[str, Path]) -> None:
    """Refuse adapters that vLLM cannot answer with. What a running server lacks, only the server can say.

    Raises:
        ModelError: naming the adapter, its method, and what to do.
    """
    require_lora("vLLM", adapters, unread=("rank_pattern", "alpha_pattern"))


def _ended_early(left: int) -> MachineError:
    return MachineError(
        f"the vLLM server ended an answer by itself, {left} tokens before its end and at no stop token of ours",
        hint="start it with `--generation-config vllm`, so that it adds no stop tokens of its own; see its log",
    )


def _models(answer: Json) -> dict[str, Json]:
    try:
        return {model["id"]: model for model in answer["data"]}
    except (KeyError, TypeError) as error:
        raise MachineError("the server does not list its models", hint=NOT_VLLM) from error


def _context(model: Json) -> int:
    length = model.get("max_model_len")
    if not isinstance(length, int):
        raise MachineError("the server does not say how long its context is", hint=NOT_VLLM)
    return length


def _same_files(served: Json, path: Path) -> None:
    """Refuse a model of that name from another folder, where this machine can see both."""
    root = Path(str(served.get("root") or ""))
    if served["id"] != SERVED_BASE and root.is_absolute() and root.is_dir() and root.resolve() != path.resolve():
        raise UserError(
            f"the vLLM server's {served['id']!r} is {root}, not {path}",
            hint="start it with this folder, or give one of them another name",
        )
