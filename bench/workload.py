"""The workloads: token ids and labels that all contestants share, w1 to w4 and w7 of the protocol.

Rows are rendered by Sartor's renderer, once, before anything is measured. Labels are ids, or -100 where not trained.
The texts are in `sources.py`.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import sources
from sartor import durable
from sartor.chat import open_renderer
from sartor.errors import DataError
from sartor.hub import Shape
from sartor.types import Chat, Message, Source, digest_of

IGNORED = -100
SEED = 20  # of the order of rows
_PACKAGE = "the package networkx, pinned in bench/setup.sh"
_CALLS = "demo/calls.jsonl, made by scripts/demo_data.py"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a workload is made: its texts, examples an optimizer step, and the lengths in tokens that are kept."""

    title: str
    source: str
    texts: Callable[[Path, Path], list[sources.Turns]]
    batch_size: int
    shortest: int
    longest: int


KINDS: dict[str, Kind] = {
    "w1": Kind(
        "short instructions",
        f"functions of {_PACKAGE}, and {_CALLS}, in turn",
        sources.short,
        8,
        shortest=1,
        longest=1000,
    ),
    "w2": Kind("multi-turn", f"functions of {_PACKAGE}", sources.talks, 4, shortest=900, longest=2048),
    "w3": Kind("long prompt, short answer", f"sections of {_PACKAGE}", sources.lookups, 4, shortest=600, longest=2048),
    "w4": Kind("identical long system prompt", _CALLS, sources.guided, 8, shortest=600, longest=1400),
    "w7": Kind("long context", f"modules of {_PACKAGE}", sources.long_texts, 1, shortest=6000, longest=8192),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows in the order of training: `ids` and `labels` of equal lengths, labels not shifted."""

    name: str
    source: str
    batch_size: int
    ids: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        return digest_of(self.ids, self.labels)

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.ids))

    @property
    def num_supervised(self) -> int:
        return sum(label != IGNORED for labels in self.labels for label in labels)

    @property
    def shared_prefix(self) -> int:
        """Tokens that all rows begin with."""
        return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*self.ids, strict=False)))

    def rows(self, start: int, stop: int) -> Workload:
        """Some of the rows only.

        Raises:
            DataError: there are not so many.
        """
        if stop > len(self.ids):
            raise DataError(f"{self.name} has {len(self.ids)} rows, not {stop}", hint="measure fewer steps")
        return replace(self, ids=self.ids[start:stop], labels=self.labels[start:stop])

    def write(self, path: Path) -> None:
        durable.atomic_write(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Workload:
        """The mirror of `write`."""
        facts = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**facts, **{key: tuple(map(tuple, facts[key])) for key in ("ids", "labels")}})


def describe(workload: Workload, shape: Shape, *, rank: int, method: str = "lora") -> dict[str, Any]:
    """What a reader must know of a workload to judge a rate on it; lengths in tokens, work in FLOP a useful token."""
    lengths = sorted(len(ids) for ids in workload.ids)
    supervised = sum(label != IGNORED for labels in workload.labels for label in labels) / sum(lengths)
    at = {percent: lengths[min(len(lengths) - 1, len(lengths) * percent // 100)] for percent in (5, 25, 50, 75, 95)}
    return {
        "title": KINDS[workload.name].title if workload.name in KINDS else workload.name,
        "source": workload.source,
        "digest": workload.digest,
        "rows": len(lengths),
        "batch_size": workload.batch_size,
        "mean_length": sum(lengths) / len(lengths),
        "lengths": {"min": lengths[0], **{f"p{percent}": at[percent] for percent in at}, "max": lengths[-1]},
        "supervised_share": supervised,
        "shared_prefix": workload.shared_prefix,
        "flop_per_token": flop_per_token(shape, lengths, supervised, rank=rank, method=method),
    }


def flop_per_token(shape: Shape, lengths: Sequence[int], supervised: float, *, rank: int, method: str) -> float:
    """FLOP that training needs for a useful token: no recomputation, no padding, nothing shared between rows.

    LoRA: frozen layers cost forward and dX; adapters forward, dX and their own gradients. Full: forward, dX and dW.
    Head: where supervised. Attention: causal, so half of the square, and the backward costs 2.5 forwards. The gradient
    with respect to the first layer's input, which nobody needs, is left out: q, k and v of one layer.
    """
    products = 6.0 if method == "full" else 4.0
    sizes = shape.linear_sizes()
    first = 2.0 * sum(math.prod(sizes[name]) for name in ("q_proj", "k_proj", "v_proj"))
    adapters = 0.0 if method == "full" else 6.0 * rank * sum(map(sum, sizes.values())) * shape.num_layers
    head = products * shape.hidden * shape.vocab * supervised
    weighted_length = sum(length * length for length in lengths) / sum(lengths)
    width = shape.num_heads * shape.head_dim
    attention = 3.5 * 2.0 * width * shape.num_layers * weighted_length
    unneeded = 0.0 if method == "full" else first  # a full run needs it: the embedding is trained
    return products * shape.num_linear - unneeded + adapters + head + attention


def build(name: str, *, model: Path, calls: Path, package: Path) -> Workload:
    """One workload by its name, rendered for a model; rows of other lengths than the workload is for are left out.

    Raises:
        DataError: its source is missing.
    """
    kind = KINDS[name]
    return render(name, kind, kind.texts(package, calls), model)


def render(name: str, kind: Kind, chats: Iterable[sources.Turns], model: Path) -> Workload:
    """Conversations as ids and labels, in a shuffled order that depends on `SEED` alone; equal rows once."""
    renderer = open_renderer(model)
    rows: dict[tuple[int, ...], tuple[int, ...]] = {}
    for line, turns in enumerate(chats, 1):
        messages = tuple(Message(role=role, content=text) for role, text in turns)
        for part in renderer.render(Chat(source=Source(file=name, line=line), messages=messages)):
            if kind.shortest <= len(part.ids) <= kind.longest:
                pairs = zip(part.ids, part.weights, strict=True)
                rows.setdefault(part.ids, tuple(token if weight else IGNORED for token, weight in pairs))
    order = list(rows)
    random.Random(SEED).shuffle(order)
    return Workload(name, kind.source, kind.batch_size, tuple(order), tuple(rows[ids] for ids in order))
