"""The workloads: token ids and labels that all contestants share, from data that anyone can get.

`calls`: the rows of `demo/calls.jsonl` as they are: short requests with much shorter answers.
`code`: functions of one pinned package: the signature and the first paragraph of its documentation in, the body out.
Lengths spread widely and most tokens are supervised, as in the common instruction data sets.

Rows are rendered by Sartor's renderer, once, before anything is measured. Labels are ids, or -100 where not trained.
"""

from __future__ import annotations

import ast
import json
import random
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sartor import durable
from sartor.chat import open_renderer
from sartor.errors import DataError
from sartor.hub import Shape
from sartor.types import Chat, Message, Source, digest_of

IGNORED = -100
SEED = 20  # of the order of rows
MAX_CHARACTERS = 2000  # a row of `code`: below 1,024 tokens, where TRL would begin to truncate

Pair = tuple[str, str]
Turns = Sequence[tuple[Literal["system", "user", "assistant"], str]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows in the order of training: `ids` and `labels` of equal lengths, labels not shifted."""

    name: str
    source: str
    ids: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        return digest_of(self.ids, self.labels)

    def first(self, count: int) -> Workload:
        """The first rows only.

        Raises:
            DataError: there are not so many.
        """
        if count > len(self.ids):
            raise DataError(f"{self.name} has {len(self.ids)} rows, not {count}", hint="measure fewer steps")
        return Workload(self.name, self.source, self.ids[:count], self.labels[:count])

    def write(self, path: Path) -> None:
        durable.atomic_write(path, json.dumps(asdict(self)))


def describe(workload: Workload, shape: Shape, *, rank: int) -> dict[str, Any]:
    """What a reader must know of a workload to judge a rate on it; lengths in tokens, work in FLOP a useful token."""
    lengths = sorted(len(ids) for ids in workload.ids)
    supervised = sum(label != IGNORED for labels in workload.labels for label in labels) / sum(lengths)
    at = {percent: lengths[min(len(lengths) - 1, len(lengths) * percent // 100)] for percent in (5, 50, 95)}
    return {
        "source": workload.source,
        "digest": workload.digest,
        "rows": len(lengths),
        "mean_length": sum(lengths) / len(lengths),
        "lengths": {"min": lengths[0], **{f"p{percent}": at[percent] for percent in at}, "max": lengths[-1]},
        "supervised_share": supervised,
        "flop_per_token": flop_per_token(shape, lengths, supervised, rank=rank),
    }


def flop_per_token(shape: Shape, lengths: Sequence[int], supervised: float, *, rank: int) -> float:
    """FLOP that LoRA training needs for a token, without recomputation and without padding.

    Frozen layers: forward and dX. Adapters: forward, dX and their own gradients. Head: forward and dX where
    supervised. Attention: causal, so half of the square, and the backward costs 2.5 forwards.
    """
    frozen = 4.0 * shape.num_linear
    adapters = 6.0 * rank * sum(map(sum, shape.linear_sizes().values())) * shape.num_layers
    head = 4.0 * shape.hidden * shape.vocab * supervised
    weighted_length = sum(length * length for length in lengths) / sum(lengths)
    width = shape.num_heads * shape.head_dim
    return frozen + adapters + head + 3.5 * 2.0 * width * shape.num_layers * weighted_length


def build(name: str, *, model: Path, calls: Path, package: Path) -> Workload:
    """One workload by its name, rendered for a model.

    Raises:
        DataError: its source is missing.
    """
    if name == "calls":
        chats: Iterable[Turns] = read_calls(calls)
        source = f"{calls.name}, made by scripts/demo_data.py"
    else:
        chats = [(("user", asked), ("assistant", answer)) for asked, answer in read_functions(package)]
        source = f"public functions of the package {package.name}, pinned in bench/setup.sh"
    return render(name, source, chats, model)


def read_calls(path: Path) -> list[Turns]:
    """The conversations of a JSONL file of chats."""
    if not path.is_file():
        raise DataError(f"{path} is missing", hint=f"python scripts/demo_data.py {path}")
    rows = (json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines())
    return [tuple((turn["role"], turn["content"]) for turn in row) for row in rows]


def read_functions(package: Path) -> list[Pair]:
    """(request, body) of each public, documented function of a package's modules, tests left out."""
    if not package.is_dir():
        raise DataError(f"{package} is missing", hint="bash bench/setup.sh")
    files = (path for path in sorted(package.rglob("*.py")) if "tests" not in path.parts)
    pairs = [pair for path in files for pair in functions_of(path.read_text(encoding="utf-8"))]
    return [pair for pair in pairs if sum(map(len, pair)) <= MAX_CHARACTERS]


def functions_of(source: str) -> Iterator[Pair]:
    """(request, body) of each public, documented top-level function of a module. Comments stay: lines are copied."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or len(node.body) < 2:
            continue
        documentation = ast.get_docstring(node)
        if not documentation:
            continue
        first, last = node.body[0].lineno, node.body[0].end_lineno
        paragraph = " ".join(documentation.split("\n\n")[0].split())
        signature = "\n".join(lines[node.lineno - 1 : first - 1])
        body = textwrap.dedent("\n".join(lines[last : node.end_lineno])).strip("\n")
        if signature and body:
            yield f"{paragraph}\n\n{signature}", body


def render(name: str, source: str, chats: Iterable[Turns], model: Path) -> Workload:
    """Conversations as ids and labels, in a shuffled order that depends on `SEED` alone; equal rows once."""
    renderer = open_renderer(model)
    rows: dict[tuple[int, ...], tuple[int, ...]] = {}
    for line, turns in enumerate(chats, 1):
        messages = tuple(Message(role=role, content=text) for role, text in turns)
        for part in renderer.render(Chat(source=Source(file=name, line=line), messages=messages)):
            pairs = zip(part.ids, part.weights, strict=True)
            rows.setdefault(part.ids, tuple(token if weight else IGNORED for token, weight in pairs))
    order = list(rows)
    random.Random(SEED).shuffle(order)
    return Workload(name, source, tuple(order), tuple(rows[ids] for ids in order))
