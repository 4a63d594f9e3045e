"""GGUF models on the CPU: llama.cpp, through the package `xllamacpp`, in this process.

Its server listens on loopback behind a random key, and is asked for one token of every row at a time. It keeps what it
has computed, so a request costs one forward: the cache is its own, the batch is ours. One token a request, because its
streams leave out the ids of tokens that end inside a character (seen in 2026.10), and because it ends answers at the
model's own stop tokens, where ours decide. Token ids go in as they are: no template and no BOS is added.

The weights keep the types of the file, so answers are those of the quantised model.
"""

from __future__ import annotations

import math
import secrets
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from sartor.adapters.saving import CONFIG
from sartor.errors import MachineError, ModelError, UserError
from sartor.generate import protocol
from sartor.generate.folders import require_lora
from sartor.generate.protocol import Adapters, Sampling, Token, require_adapter, room_for_answer
from sartor.plan import Quantized
from sartor.types import Json

NUM_SLOTS = 4  # rows in one forward; on a few cores more of them give little, and each has a cache of its own
LONGEST_CONTEXT = 4096  # tokens a slot: the caches are allocated at the start, four of them for 8B parameters are 2 GiB
FORCED = 1e9  # a bias that leaves the sampler no choice; log-probabilities are taken before it
NO_SEED = 2**32 - 1  # llama.cpp reads this one as "take any"

_CONVERT = "llama.cpp's convert_lora_to_gguf.py makes one from a PEFT folder: `--base FOLDER --outfile a.gguf ADAPTER`"
_OURS = "or leave `--engine` out: the engine `sartor` serves what is there"
_BASE = "name a .gguf file, or a folder that holds one; the engine `sartor` runs folders in Hugging Face layout"


@dataclass(slots=True)
class _Row:
    """A request: all its ids so far, and how many more may come."""

    ids: list[int]
    sampling: Sampling
    adapter: str | None
    left: int
    num_sampled: int = 0


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the rows of one request to llama.cpp share."""

    adapter: str | None
    temperature: float
    top_p: float
    seed: int


class LlamaCppEngine:
    """See `protocol.Engine`."""

    warnings: tuple[str, ...] = ()

    def __init__(self, base: Path, adapters: Mapping[str, Path], *, dtype: str, num_threads: int | None) -> None:
        model = find_gguf(base, way_out=_BASE)
        loras = [find_gguf(path, way_out=_CONVERT) for path in adapters.values()]
        key = secrets.token_urlsafe()
        self._server: Any = _open_server(model, loras, key, dtype=dtype, num_threads=num_threads)
        self._client = _open_client(self._server.listening_address, key)
        self._pool = ThreadPoolExecutor(max_workers=NUM_SLOTS, thread_name_prefix="sartor-llamacpp")
        self.adapters = tuple(adapters)
        facts = self._read("GET", "/v1/models")["data"][0]["meta"]
        self.context, self._num_vocab = int(facts["n_ctx"]), int(facts["n_vocab"])
        self._rows: dict[int, _Row] = {}
        self._next_handle = 0

    @property
    def requests(self) -> Collection[int]:
        return self._rows.keys()

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        """See `protocol.Engine`. Rows beyond the slots wait for one, in the order in which they came."""
        left = room_for_answer(prompt, sampling, self.context)
        self._check(prompt, adapter)
        handle = self._next_handle
        self._next_handle += 1
        self._rows[handle] = _Row(list(prompt), sampling, adapter, left)
        return handle

    def advance(self) -> list[Token]:
        """One token of each row that has a slot. Rows of one adapter and one way to choose go through together."""
        kinds: dict[_Kind, list[int]] = {}
        for handle, row in islice(self._rows.items(), NUM_SLOTS):
            kinds.setdefault(_kind(row), []).append(handle)
        stepped = list(self._pool.map(self._step, kinds, kinds.values()))
        ids = {handle: token for step in stepped for handle, token in step.items()}
        return [self._append(handle, ids[handle]) for handle in sorted(ids)]

    def cancel(self, handle: int) -> None:
        self._rows.pop(handle, None)

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        return protocol.stream(self, prompts, sampling, adapter)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        """As slow as sampling them: llama.cpp gives log-probabilities of what it samples, so each token is forced."""
        for sequence in sequences:
            self._check(sequence, adapter)
        return list(self._pool.map(lambda ids: self._sum(list(ids), adapter), sequences))

    def close(self) -> None:
        """Free the model. The engine is of no use afterwards; closing twice is no error."""
        self._pool.shutdown()
        self._client.close()
        self._server = None

    def _check(self, ids: Sequence[int], adapter: str | None) -> None:
        """Refuse what llama.cpp would refuse later, with less to say."""
        require_adapter(adapter, self.adapters)
        if not ids:
            raise UserError("the prompt is empty", hint="a prompt has at least one token")
        if len(ids) > self.context:
            raise UserError(
                f"{len(ids)} tokens are more than the context of {self.context}", hint="shorten the text, or cut it"
            )
        outside = [token for token in ids if not 0 <= token < self._num_vocab]
        if outside:
            raise UserError(
                f"token {outside[0]} is not among the {self._num_vocab} of this GGUF",
                hint="the tokenizer belongs to another model: use the one that the GGUF was made with",
            )

    def _step(self, kind: _Kind, handles: Sequence[int]) -> dict[int, int]:
        """The next token of rows of one kind."""
        asked = {
            "prompt": [self._rows[handle].ids for handle in handles],
            "temperature": kind.temperature,
            "top_p": kind.top_p,
            "samplers": ["temperature", "top_p"],  # nothing else, in the order of our own engine
            "seed": kind.seed,
            "response_fields": ["tokens", "index"],
        }
        answers = self._complete(asked, kind.adapter)
        return {handles[answer["index"]]: answer["tokens"][0] for answer in answers}

    def _append(self, handle: int, token: int) -> Token:
        row = self._rows[handle]
        row.ids.append(token)
        row.num_sampled += 1
        row.left -= 1
        if token in row.sampling.stop_ids:
            del self._rows[handle]
            return Token(handle, token, "stop")
        if row.left == 0:
            del self._rows[handle]
            return Token(handle, token, "length")
        return Token(handle, token)

    def _sum(self, ids: list[int], adapter: str | None) -> float:
        return math.fsum(self._logprob(ids[:place], ids[place], adapter) for place in range(1, len(ids)))

    def _logprob(self, before: list[int], token: int, adapter: str | None) -> float:
        """Log-probability (nats) of a token, from a request that must sample it."""
        forced = {
            "prompt": [before],
            "temperature": 0.0,
            "logit_bias": [[token, FORCED]],
            "n_probs": 1,
            "response_fields": ["completion_probabilities"],
        }
        (answer,) = self._complete(forced, adapter)
        if answer:
            return float(answer["completion_probabilities"][0]["logprob"])
        # A token that ends inside a character is sampled, but not reported: another is forced, and all are listed.
        whole = self._read("POST", "/tokenize", {"content": "a", "add_special": False})["tokens"][0]
        forced |= {"logit_bias": [[whole, FORCED]], "n_probs": self._num_vocab}
        (answer,) = self._complete(forced, adapter)
        every = {entry["id"]: entry["logprob"] for entry in answer["completion_probabilities"][0]["top_logprobs"]}
        return float(every[token])

    def _complete(self, asked: Json, adapter: str | None) -> list[Json]:
        """One token for each prompt: one forward, when no more than the last token is new."""
        scales = [{"id": place, "scale": float(name == adapter)} for place, name in enumerate(self.adapters)]
        always = {"n_predict": 1, "cache_prompt": True, "return_tokens": True, "lora": scales}
        answer = self._read("POST", "/completion", {**asked, **always})
        return answer if isinstance(answer, list) else [answer]  # a list of one prompt is answered by itself

    def _read(self, method: str, path: str, asked: Json | None = None) -> Any:
        answer = self._client.request(method, path, json=asked)
        if answer.status_code != 200:
            raise MachineError(
                f"llama.cpp answered {answer.status_code}: {answer.text[:300]}",
                hint="try a newer xllamacpp, or the engine `sartor` on the model's folder",
            )
        return answer.json()


def open_engine(
    base: Path,
    adapters: Mapping[str, Path],
    *,
    dtype: str = "bfloat16",
    num_threads: int | None = None,
    quantize: Quantized = "none",
) -> LlamaCppEngine:
    """A GGUF file (or a folder that holds one) with LoRA adapters in GGUF form by name.

    `dtype` is that of the cache: "float32", or else half precision, llama.cpp's own choice.

    Raises:
        ModelError: no GGUF file there, or llama.cpp cannot load it, or the adapters are of a base held otherwise.
        UserError: the package is not installed.
    """
    protocol.require_plain(quantize, "llama.cpp")
    return LlamaCppEngine(base, adapters, dtype=dtype, num_threads=num_threads)


def require_files(base: Path, adapters: Mapping[str, Path]) -> None:
    """Refuse methods that llama.cpp has no code for, and what is not there as GGUF.

    A model or an adapter that Sartor made is not: those are safetensors.

    Raises:
        ModelError: naming the folder and what to do.
    """
    require_lora("llama.cpp", {name: path for name, path in adapters.items() if (path / CONFIG).is_file()})
    find_gguf(base, way_out=f"put the model as GGUF into this folder, with every adapter as GGUF in its own; {_OURS}")
    for path in adapters.values():
        find_gguf(path, way_out=f"put the adapter as GGUF into this folder ({_CONVERT}); {_OURS}")


def find_gguf(path: Path, *, way_out: str) -> Path:
    """The GGUF file at a path, or the only one in the folder there.

    Raises:
        ModelError: there is none, or more than one, or the file is something else.
    """
    file = path
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if len(found) > 1:
            listed = ", ".join(each.name for each in found)
            raise ModelError(f"{path} holds {len(found)} GGUF files: {listed}", hint="name the file itself")
        if not found:
            raise ModelError(f"{path} holds no GGUF file, and llama.cpp runs nothing else", hint=way_out)
        (file,) = found
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}", hint=way_out) from error
    if magic != b"GGUF":
        raise ModelError(f"{file} is no GGUF file: it begins with {magic!r}", hint=way_out)
    return file


def _open_server(model: Path, loras: Sequence[Path], key: str, *, dtype: str, num_threads: int | None) -> Any:
    """llama.cpp with the model loaded, listening on loopback; silent."""
    xllamacpp = _package()
    asked = xllamacpp.CommonParams()
    asked.model.path = str(model)
    asked.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0) for lora in loras]
    asked.lora_init_without_apply = True
    if num_threads is not None:
        asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = num_threads
    if dtype == "float32":
        asked.cache_type_k = asked.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        asked.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to f16
    asked.n_parallel, asked.n_ctx = NUM_SLOTS, NUM_SLOTS * LONGEST_CONTEXT  # it takes the model's own if that is less
    asked.fit_params = False  # it would change the context to fit a device, and say nothing
    asked.cache_ram_mib = 0  # no second cache of old prompts: 8 GiB by default
    asked.cache_idle_slots = False
    asked.warmup = False
    asked.api_keys, asked.ui, asked.endpoint_slots = [key], False, False
    asked.verbosity = 0
    try:
        return xllamacpp.Server(asked)
    except RuntimeError as error:
        files = ", ".join(file.name for file in (model, *loras))
        raise ModelError(
            f"llama.cpp (xllamacpp {metadata.version('xllamacpp')}) cannot load {files}",
            hint="the file may be damaged, an adapter of another model, of a family newer than this version, or too "
            "large for this machine's memory",
        ) from error


def _open_client(address: str, key: str) -> Any:
    import httpx2

    # No timeout: it is this very process that computes, and a long prompt takes as long as it takes.
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=address, headers=headers, timeout=None, trust_env=False)


def _package() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise UserError(
            "the engine llamacpp needs the package xllamacpp", hint="pip install 'sartor[llamacpp]'"
        ) from error
    return xllamacpp


def _kind(row: _Row) -> _Kind:
    """Greedy rows of an adapter go together. Chance is drawn anew for each token: from the seed and its place."""
    sampling = row.sampling
    if sampling.temperature == 0:
        return _Kind(row.adapter, 0.0, 1.0, 0)
    seed = zlib.crc32(f"{sampling.seed} {row.num_sampled}".encode()) % NO_SEED
    return _Kind(row.adapter, sampling.temperature, sampling.top_p, seed)
