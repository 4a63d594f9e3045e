"""Where and how a policy computes: its device, its shapes, and the kernels that a GPU wants.

A GPU that compiles transformers' layers likes the same work again and again: micro-batches are filled up to one number
of tokens with a tail of weight zero, so that a layer is compiled once. All else computes no token more than it must.

Shape suffixes: T tokens · S segments · N supervised positions · D hidden size.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from sartor.adapters.changes import Prefix, Prompt, Rows
from sartor.backends import beginning
from sartor.backends.ranks import Place
from sartor.base import plain_attention
from sartor.data.fold import fold
from sartor.data.pack import pack, segment
from sartor.errors import Unsupported
from sartor.hardware import return_freed_memory
from sartor.ops import attention, consistency, cross_entropy, varlen
from sartor.ops.forest_attention import Forest, separate
from sartor.ops.quantised_linear import QuantisedLinear
from sartor.ops.workspace import Buffers
from sartor.types import Batch, digest_of

#: On a GPU the list of segment ends is filled up to a multiple of this, so that it has few lengths.
SEGMENT_STEP = 64
#: A micro-batch with more tokens than one should have is filled up to a multiple of this, for the same reason.
FILL_STEP = 512
SHORT_TAIL = 128  # tokens: no known window is shorter
#: Share by which a hidden state may differ when its beginning is computed once for several segments (SmolLM2-135M in
#: bf16: 0.011; one that does not see its beginning: more than 1).
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.05}
TIGHT = 1e-4
#: Tokens of the beginning on which that is tried.
BEGINNING = 24


def device_of(place: Place) -> torch.device:
    """The GPU of this rank, or the CPU where there is none."""
    return torch.device("cuda", place.local_rank) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def made_on(device: torch.device) -> Iterator[None]:
    """New tensors are made on a GPU, if it is one; on a CPU the detour of each call through torch's mode is saved."""
    if device.type == "cpu":
        yield
        return
    with device:
        yield


def register_attention(device: torch.device) -> None:
    """Make the flat attention of a device known to transformers."""
    (attention if device.type == "cpu" else varlen).register()


class Policy(nn.Module):
    """Embedding, decoder and head as one module: sharding gathers weights around a forward, so all are read in one.

    `model` is the causal language model with its adapters in place; `dtype` the type of the products, `stream` that of
    the residual stream.
    `beginning` gives the virtual tokens of a method that has some, `head_rows` the rows of the head that one trains;
    `coupled` has one that draws something in each forward take two (`ops/consistency.py`).
    """

    def __init__(self, model: Any, dtype: torch.dtype, stream: torch.dtype, tile: int = cross_entropy.TILE) -> None:
        super().__init__()
        self.model = model
        self.stream = stream
        self._tile = tile
        self._room = Buffers(tile)
        self._dtype = dtype
        self.packed = True
        self.fused = False
        self.whole = True
        self.beginning: Callable[[], Prompt | Prefix | None] = _none
        self.head_rows: Callable[[], Rows | None] = _none
        self.coupled = False
        self.upper: Any = None  # the decoder without its frozen lower layers, where what leaves those is kept

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def has_prefix(self) -> bool:
        """Whether a method's virtual tokens are keys and values, which are no tokens of the batch."""
        return isinstance(self.beginning(), Prefix)

    def begun(self, batch: Batch, num_virtual: int) -> Batch:
        """A batch that leaves room for what stands at the beginning of each segment."""
        if not num_virtual:
            return batch
        make = beginning.moved if self.has_prefix else beginning.inserted
        return make(batch, num_virtual)

    def forward(
        self,
        tokens_T: torch.Tensor,
        positions_T: torch.Tensor,
        offsets_S1: torch.Tensor,
        longest: int,
        supervised_N: torch.Tensor,
        targets_N: torch.Tensor,
        parents_P: torch.Tensor | None = None,
        stream_TD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The log-probability (N,) of each target, fp32; in training, where two passes are coupled, (2, N): below it
        how far the passes are apart.

        Fused layers take `offsets_S1` as a forest whose nodes have `parents_P` (left out, they share nothing), and give
        back the supervised rows only. `stream_TD` is what enters the first layer of `upper`.
        """

        def run() -> torch.Tensor:
            if not self.fused:
                return self._hidden(tokens_T, positions_T, offsets_S1, longest)[0, supervised_N]
            forest = separate(offsets_S1) if parents_P is None else Forest(offsets_S1, parents_P)
            return self._decode(tokens_T, positions_T, {"forest": forest, "rows": supervised_N}, stream_TD).squeeze(0)

        hidden_ND = run()
        logprobs_N = self._logprobs(hidden_ND, targets_N)
        if not (self.coupled and torch.is_grad_enabled()):
            return logprobs_N
        return torch.stack((logprobs_N, consistency.divergence(hidden_ND, run(), self._head(), self._tile)))

    def _logprobs(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        head_VD = self._head()
        rows = self.head_rows()
        if rows is not None:
            own = (rows.tokens_C, rows.rows_CD, rows.bias_C)
            return cross_entropy.replaced_logprobs(hidden_ND, head_VD, *own, targets_N, self._tile, self._room)
        if isinstance(head_VD, torch.Tensor) and head_VD.requires_grad and not self.whole:
            return cross_entropy.tiled_logprobs(hidden_ND, head_VD, targets_N, self._tile)
        return cross_entropy.supervised_logprobs(hidden_ND, head_VD, targets_N, self._tile, self._room)

    def hidden(
        self, tokens_T: torch.Tensor, positions_T: torch.Tensor, offsets_S1: torch.Tensor, longest: int
    ) -> torch.Tensor:
        """Last hidden states (1, T, D): a forward of its own, so it must not be called from within another."""
        return self._hidden(tokens_T, positions_T, offsets_S1, longest)

    @torch.no_grad()
    def probe(self) -> torch.Tensor:
        """A forward of three short segments, with arguments for plain and for fused layers alike."""
        lengths = (7, 5, 9)
        with made_on(self.device):
            offsets_S1 = torch.tensor([0, 7, 12, 21], dtype=torch.int32)
            tokens_T = torch.arange(5, 26) % self.model.config.get_text_config().vocab_size
            positions_T = torch.cat([torch.arange(length) for length in lengths])
        segments = {"cu_seq_lens_q": offsets_S1, "max_length_q": max(lengths)}
        return self._decode(tokens_T, positions_T, {**segments, "forest": separate(offsets_S1)})

    @torch.no_grad()
    def find_unequal(self) -> str:
        """Run two segments that begin alike through fused layers, with the beginning computed once and twice.

        What differs, or empty. Each token is looked at by itself: the few after the beginning are those that can.
        """
        vocab = self.model.config.get_text_config().vocab_size
        ids = [[(5 + 7 * place) % vocab for place in range(BEGINNING)] + [(last % vocab)] * 6 for last in (1, 2)]
        (batch,) = pack([segment(f"probe {row}", row, [1.0] * len(row)) for row in ids], micro_tokens=10**6)
        folded = fold(batch)

        def here(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(self.device)

        forests = (
            (batch.tokens_T, batch.positions_T, separate(here(batch.offsets_S1))),
            (folded.tokens_U, folded.positions_U, Forest(here(folded.offsets_P1), here(folded.parents_P))),
        )
        try:
            apart_TD, once_UD = (
                self._decode(here(tokens), here(positions), {"forest": forest})[0].float()
                for tokens, positions, forest in forests
            )
        except Unsupported as refusal:
            return refusal.message
        once_TD = once_UD[here(folded.places_T)]
        error = float(((once_TD - apart_TD).norm(dim=-1) / apart_TD.norm(dim=-1)).max())
        if error < TOLERANCE.get(self._dtype, TIGHT):  # so that NaN is refused too
            return ""
        return f"a hidden state differs by {error:.1%} when its beginning is computed once for two segments"

    def _hidden(
        self, tokens_T: torch.Tensor, positions_T: torch.Tensor, offsets_S1: torch.Tensor, longest: int
    ) -> torch.Tensor:
        """One packed forward, or one segment at a time where packing is off."""
        if self.fused:
            return self._decode(tokens_T, positions_T, {"forest": separate(offsets_S1)})
        if self.packed:
            return self._decode(tokens_T, positions_T, {"cu_seq_lens_q": offsets_S1, "max_length_q": longest})
        spans = pairwise(offsets_S1.tolist())
        parts = [self._decode(tokens_T[start:end], positions_T[start:end], {}) for start, end in spans if end > start]
        return torch.cat(parts, dim=1)

    def own_logits(self, tokens_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model itself makes of one segment, (1, T, V), and the same by one product with its head."""
        asked: dict[str, Any] = {"input_ids": tokens_T[None], "use_cache": False}
        if self.packed:
            ends = torch.tensor([0, len(tokens_T)], dtype=torch.int32, device=tokens_T.device)
            asked |= {"cu_seq_lens_q": ends, "max_length_q": len(tokens_T)}
        hidden_1TD = self.model.base_model(**asked).last_hidden_state
        return self.model(**asked).logits, cross_entropy.logits(hidden_1TD, self._head())

    def _head(self) -> cross_entropy.Head:
        head = self.model.get_output_embeddings()
        return head if isinstance(head, QuantisedLinear) else head.weight

    def _decode(
        self,
        tokens_T: torch.Tensor,
        positions_T: torch.Tensor,
        segments: dict[str, Any],
        stream_TD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        decoder = self.model.base_model if stream_TD is None else self.upper
        prefix = self.beginning()
        if isinstance(prefix, Prefix):
            pairs = list(zip(prefix.keys_PG, prefix.values_PG, strict=True))
            one = {"past_key_values": beginning.cached(prefix, self.model.config, self._dtype)}
            segments = {**segments, "prefix": pairs} if segments else one
        hidden_1TD: torch.Tensor = decode(
            decoder, self.embed(tokens_T) if stream_TD is None else stream_TD, positions_T, segments
        )
        return hidden_1TD.to(self._dtype)

    def embed(self, tokens_T: torch.Tensor) -> torch.Tensor:
        """What enters the first layer, (T, D)."""
        text, prompt = self.model.get_input_embeddings(), self.beginning()
        if isinstance(prompt, Prompt):
            return beginning.embed(text, tokens_T, prompt.embeddings_PD).to(self.stream)
        embedded_TD: torch.Tensor = text(tokens_T).to(self.stream)
        return embedded_TD


def _none() -> None:
    """What most methods have."""


def decode(decoder: Any, stream_TD: torch.Tensor, positions_T: torch.Tensor, segments: dict[str, Any]) -> torch.Tensor:
    """What leaves a decoder, (1, T, D)."""
    hidden_1TD: torch.Tensor = decoder(
        inputs_embeds=stream_TD[None], position_ids=positions_T[None], attention_mask=None, use_cache=False, **segments
    ).last_hidden_state
    return hidden_1TD


@torch.no_grad()
def own(model: nn.Module) -> None:
    """Copy the weights out of the file they are mapped from: a single one left there keeps the whole file in memory."""
    for weight in model.parameters():
        weight.data = weight.detach().clone()
        return_freed_memory()


def layers_of(model: Any) -> list[nn.Module]:
    """The decoder layers of a model: the members of its longest list of modules, as every family keeps them."""
    lists = [part for part in model.base_model.modules() if isinstance(part, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


@torch.no_grad()
def bring(model: nn.Module, device: torch.device) -> None:
    """Bring what a method keeps beside the model that it tunes to the device that this one is on already."""
    for item in (*model.parameters(), *model.buffers()):
        if item.device != device:
            item.data = item.data.to(device)


def use_gpu_kernels(model: Any, device: torch.device) -> bool:
    """Norm, rotation and activation as single kernels of Liger, through its own hook; whether that was done.

    Where Liger is not installed, or does not know this type of model (it then does nothing), `compile_layers` fuses
    most of the same; and where a tuning method wraps norms or feed-forward parts, whose forwards Liger would replace.
    """
    if device.type == "cpu" or importlib.util.find_spec("liger_kernel") is None:
        return False
    try:
        liger = importlib.import_module("liger_kernel.transformers.monkey_patch")
    except ImportError:  # of another transformers than this one
        return False
    if model.config.model_type not in vars(liger).get("MODEL_TYPE_TO_APPLY_LIGER_FN", {}):
        return False
    replaced = [part for name, part in model.named_modules() if name.endswith(("norm", ".mlp"))]
    if not all(type(part).__module__.startswith("transformers.") for part in replaced):
        return False
    # The loss is ours: it computes the logits of supervised positions only.
    liger._apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    return True


def recompute_layers(model: Any, asked: str) -> str:
    """Have the backward compute layers of transformers' own again, whole, through its own switch; what to say of it.

    Only our layers know their parts. Without re-entrance the inputs need no gradient; transformers sees to that too.
    """
    if not model.supports_gradient_checkpointing:
        return f"recompute: {asked} is not done: {type(model).__name__} knows no such thing. It takes more memory."
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return f"recompute: {asked} is done by transformers, a whole layer at a time: right, but slower."


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Compile each decoder layer by itself: as all have one code, it is compiled once, in seconds, not minutes."""
    for layer in layers_of(model):
        layer.compile(backend=backend)


@contextmanager
def without_flat_attention(model: Any) -> Iterator[None]:
    """A model that computes rows by themselves meanwhile: on any device, over any window."""
    usual = model.config._attn_implementation
    if usual == attention.NAME:
        model.set_attn_implementation(plain_attention(model))
    try:
        yield
    finally:
        if usual == attention.NAME:
            model.set_attn_implementation(usual)


def still(model: nn.Module) -> str:
    """Take a base's own dropout away: with it the result would depend on how a step is cut. What was taken, or ""."""
    found = set()
    for module in model.modules():
        facts = vars(module)
        names = ["p"] if isinstance(module, nn.Dropout) else [name for name in facts if name.endswith("dropout")]
        for name in names:
            if isinstance(facts[name], float) and facts[name] > 0:
                found.add(f"{facts[name]:g}")
                setattr(module, name, 0.0)
    return ", ".join(sorted(found))


def shortest_window(model: nn.Module) -> int:
    """The shortest sliding window of a transformers model's layers, in tokens; 0 if none has one."""
    own = [vars(module)["sliding_window"] for module in model.modules() if "sliding_window" in vars(module)]
    config: Any = vars(model)["config"]
    return min(filter(None, own or [config.get_text_config().to_dict().get("sliding_window")]), default=0)


def room_for(batch: Batch, num_tokens: int) -> int:
    """The tokens that a micro-batch is filled up to: `num_tokens`, and for a longer one the next of few lengths."""
    return num_tokens if batch.num_tokens <= num_tokens else -(-batch.num_tokens // FILL_STEP) * FILL_STEP


def filled(batch: Batch, num_tokens: int, *, segment_step: int = 1) -> Batch:
    """A batch with a tail of weight zero that brings it to `num_tokens`; a longer one stays as it is.

    Its segments are short, or no longer than the batch's own: a sliding window may bound those. Ends are filled up to a
    multiple of `segment_step` by repeating the last: empty segments. What is added is of the row "", which is none.
    """
    missing = num_tokens - batch.num_tokens
    if missing <= 0:
        return batch
    longest = max(batch.longest_segment, SHORT_TAIL)
    num_tails = -(-missing // longest)
    num_ends = len(batch.offsets_S1) + num_tails
    ends = np.full(-(-num_ends // segment_step) * segment_step, num_tokens, dtype=batch.offsets_S1.dtype)
    ends[: len(batch.offsets_S1)] = batch.offsets_S1
    ends[len(batch.offsets_S1) : num_ends - 1] = batch.num_tokens + longest * np.arange(1, num_tails)
    nothing = np.zeros(missing, dtype=batch.tokens_T.dtype)
    return replace(
        batch,
        tokens_T=np.concatenate([batch.tokens_T, nothing]),
        positions_T=np.concatenate([batch.positions_T, np.arange(missing, dtype=batch.positions_T.dtype) % longest]),
        targets_T=np.concatenate([batch.targets_T, nothing]),
        weights_T=np.concatenate([batch.weights_T, np.zeros(missing, dtype=batch.weights_T.dtype)]),
        offsets_S1=ends,
        rows=(*batch.rows, *[""] * (len(ends) - len(batch.offsets_S1))),
    )


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the random numbers, for a checkpoint."""
    state = {"random": torch.get_rng_state()}
    return state | ({"random_cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(tensors: Mapping[str, torch.Tensor], rank: int) -> None:
    """The mirror of `random_state`, from those of all ranks below each other; one from a CPU leaves a GPU's as it is.

    Where fewer ranks saved than are here, each of the others begins anew, by a seed made of what they saved and of its
    own number: no two ranks drop out alike.
    """
    states_R = tensors["random"]
    if rank >= len(states_R):
        torch.manual_seed(int(digest_of(states_R.tolist(), rank)[:16], 16))  # of the GPU's numbers as well
        return
    torch.set_rng_state(states_R[rank].clone())  # torch 2.13 crashes on a state that is part of a larger tensor
    if "random_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random_cuda"][rank].clone())


def on_one_rank(model: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A model like a sharded one, in the type in which it is computed, that holds the whole tensors on the CPU."""
    with torch.device("meta"):
        twin = type(model)(model.config)
    dtype = model.config.dtype
    twin.load_state_dict({name: item.to(dtype) for name, item in tensors.items()}, assign=True)
    twin.tie_weights()
    return twin
