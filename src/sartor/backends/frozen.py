"""The layers below the lowest trained one give the same every epoch: their output is computed once and kept.

Each segment goes through them alone. So what enters the trained layers is a function of the segment and of nothing
beside it, to the last bit: not of the batch it shares, of what is already kept, or of where a run was interrupted. A
run with a full cache, one with none and a resumed one are the same run.

Shape suffixes: T tokens of a batch · L tokens of a segment · D hidden size.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from sartor.adapters.beside.tuner import Beside
from sartor.backends.estimate import KEPT_SHARE
from sartor.backends.placement import Policy, decode
from sartor.backends.ranks import here
from sartor.errors import MachineError, Unsupported
from sartor.hardware import memory_bytes
from sartor.ops.forest_attention import separate
from sartor.types import Batch

VERIFY_EVERY = 32  # one use in so many is computed again: 3 % of what is saved

#: tokens_L and positions_L of one segment to its hidden states (L, D).
Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Cache:
    """Hidden states by digest, in memory up to a budget.

    Nothing is turned out to make room: epochs go round, so what was used longest ago is what is needed next. What does
    not fit is computed again.
    """

    def __init__(self, *, memory_bytes: int) -> None:
        self.in_memory = 0  # bytes
        self._memory_bytes = memory_bytes
        self._kept: dict[str, torch.Tensor] = {}

    def get(self, digest: str) -> torch.Tensor | None:
        """What was kept (never to be written to), or None."""
        return self._kept.get(digest)

    def put(self, entries: Mapping[str, torch.Tensor]) -> None:
        """Keep what fits."""
        for digest, item in entries.items():
            if digest not in self._kept and self.in_memory + item.nbytes <= self._memory_bytes:
                self._kept[digest] = item
                self.in_memory += item.nbytes

    def clear(self) -> None:
        """Throw away everything."""
        self._kept.clear()
        self.in_memory = 0


class Frozen:
    """Hidden states that enter the lowest trained layer, from the cache or computed.

    `forward` runs one segment through the lower half. Every `verify_every`-th use of a kept entry, from the first, is
    computed again and compared bit by bit.
    """

    def __init__(self, forward: Forward, cache: Cache, *, verify_every: int = VERIFY_EVERY) -> None:
        self._forward = forward
        self._cache = cache
        self._verify_every = verify_every
        self.num_computed = 0
        self.num_reused = 0

    @torch.no_grad()
    def hidden(self, batch: Batch) -> torch.Tensor:
        """Of a whole batch (T, D), on the CPU.

        Raises:
            MachineError: what was kept is not what the model computes.
        """
        digests: list[str] = []
        found: dict[str, torch.Tensor] = {}
        fresh: dict[str, torch.Tensor] = {}
        for row, (start, end) in zip(batch.rows, pairwise(batch.offsets_S1.tolist()), strict=True):
            tokens_L, positions_L = (torch.from_numpy(part[start:end]) for part in (batch.tokens_T, batch.positions_T))
            digests.append(key(tokens_L, positions_L))
            if digests[-1] in found:
                continue
            kept = self._cache.get(digests[-1])
            if kept is None:
                kept = fresh[digests[-1]] = self._compute(tokens_L, positions_L)
            else:
                self._verify(row, tokens_L, positions_L, kept)
                self.num_reused += 1
            found[digests[-1]] = kept
        self._cache.put(fresh)
        return torch.cat([found[digest] for digest in digests])

    def _verify(self, row: str, tokens_L: torch.Tensor, positions_L: torch.Tensor, kept_LD: torch.Tensor) -> None:
        if self.num_reused % self._verify_every or _same(self._compute(tokens_L, positions_L), kept_LD):
            return
        self._cache.clear()
        raise MachineError(
            f"the kept activations of {row} are not what the model computes",
            hint="all that was kept is thrown away: start the same command again, and it goes on from its checkpoint",
        )

    def _compute(self, tokens_L: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor:
        self.num_computed += 1
        return self._forward(tokens_L, positions_L).cpu()


def keep_below(policy: Policy, tuned: nn.Module) -> tuple[Frozen | None, str]:
    """What leaves the layers below the lowest trained one of a fused model; None where all are trained, or it is wrong.

    The second is what went wrong. `policy.upper` becomes the layers above. Only on a CPU, as the plan has no memory
    for it elsewhere. The ranks of a machine share what one process may keep.
    """
    if policy.device.type != "cpu":
        return None, ""
    model = policy.model
    lowest = num_frozen(tuned, model.base_model, model.get_output_embeddings())
    if not lowest:
        return None, ""
    lower, policy.upper = split(model.base_model, lowest)

    def through(decoder: Any, stream_LD: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor:
        forest = separate(torch.tensor([0, len(positions_L)], device=policy.device))
        return decode(decoder, stream_LD, positions_L.to(policy.device), {"forest": forest})[0]

    def embed(tokens_L: torch.Tensor) -> torch.Tensor:
        return policy.embed(tokens_L.to(policy.device))

    def below(tokens_L: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor:
        return through(lower, embed(tokens_L), positions_L)

    def halves(tokens_L: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor:
        return through(policy.upper, below(tokens_L, positions_L), positions_L)

    def whole(tokens_L: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor:
        return through(model.base_model, embed(tokens_L), positions_L)

    problem = find_fault(whole, halves, model.config.get_text_config().vocab_size)
    if problem:
        return None, f"nothing is kept of the {lowest} frozen layers: {problem}. Right, but slower."
    room = int(KEPT_SHARE * memory_bytes()) // here().local_size
    return Frozen(below, Cache(memory_bytes=room)), ""


def key(tokens_L: torch.Tensor, positions_L: torch.Tensor) -> str:
    """The digest under which the hidden states of a segment are kept."""
    digest = hashlib.sha256(len(tokens_L).to_bytes(8, "little"))
    digest.update(tokens_L.numpy().tobytes() + positions_L.numpy().tobytes())
    return digest.hexdigest()


def split(decoder: nn.Module, lowest: int) -> tuple[nn.Module, nn.Module]:
    """Two views of a transformers decoder that share its parameters: the layers below `lowest`, and the rest.

    The lower view has no final norm, so its `last_hidden_state` is what the upper one takes as `inputs_embeds`.
    `find_fault` says whether that is right for this decoder.

    Raises:
        Unsupported: the decoder is not a list `layers` followed by a `norm`.
    """
    children = dict(decoder.named_children())
    if not {"layers", "norm"} <= children.keys():
        raise Unsupported(f"{type(decoder).__name__} has no `layers` and `norm`", hint="train without the cache")
    layers = list(children["layers"].children())
    lower, upper = _view(decoder, layers[:lowest]), _view(decoder, layers[lowest:])
    lower.norm = nn.Identity()
    kinds = "layer_types"  # the decoder reads it by the number of the layer in its own list
    if kinds in lower.config.to_dict():
        lower.config.layer_types = lower.config.layer_types[:lowest]
        upper.config.layer_types = upper.config.layer_types[lowest:]
    return lower, upper


def _view(decoder: nn.Module, layers: list[nn.Module]) -> Any:
    """A deep copy that stops at the children: a module and a configuration of its own, over the same parameters."""
    view: Any = copy.deepcopy(decoder, {id(child): child for child in decoder.children()})
    view.layers = nn.ModuleList(layers)
    view.config.num_hidden_layers = len(layers)
    return view


def num_frozen(model: nn.Module, decoder: Any, head: nn.Module) -> int:
    """How many of the decoder's layers, from the bottom, no training changes.

    0 if what feeds them is trained too, or if something reads more than what leaves the last of them. That one is never
    among them: it is where the supervised rows are picked.
    """
    if isinstance(decoder.norm, Beside):
        return 0
    trained = {id(item) for item in model.parameters() if item.requires_grad}
    layers = list(decoder.layers)
    parts = [{id(item) for item in layer.parameters()} for layer in layers]
    lowest = next((index for index, part in enumerate(parts) if part & trained), len(layers) - 1)
    above = {id(item) for part in (decoder.norm, head) for item in part.parameters()}
    above -= {id(item) for item in decoder.get_input_embeddings().parameters()}  # a tied head feeds them
    return lowest if trained <= above.union(*parts) else 0


@torch.no_grad()
def find_fault(whole: Forward, halves: Forward, vocab_size: int) -> str:
    """Run the same tokens through a decoder and through its two halves, twice: not a bit may differ. What went wrong.

    The model decides, not our reading of its code: dropout and noise show here, and a decoder that does more to its
    input than run layers over it. The state of the random generator stays as it is.
    """
    generator = torch.Generator().manual_seed(0)
    tokens_L, positions_L = torch.randint(vocab_size, (12,), generator=generator), torch.arange(12)
    with torch.random.fork_rng():
        first, second = halves(tokens_L, positions_L), halves(tokens_L, positions_L)
        if not _same(first, second):
            return "two runs of the same tokens differ, as under dropout"
        if not _same(first, whole(tokens_L, positions_L)):
            return "the decoder in two halves is not the decoder"
    return ""


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit by bit, so that what is not a number equals itself."""
    return one.dtype == other.dtype and torch.equal(_bytes(one), _bytes(other))


def _bytes(item: torch.Tensor) -> torch.Tensor:
    return item.contiguous().view(torch.uint8)
