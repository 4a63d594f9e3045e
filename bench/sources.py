"""The texts of the workloads, from data that anyone can get: one pinned package's source, and the demo's rows.

The package is networkx, read as files and never imported; `bench/setup.sh` puts it in place. The rows are those of
`demo/calls.jsonl`, which `scripts/demo_data.py` makes. Each function gives conversations as turns of (role, text).
"""

from __future__ import annotations

import ast
import json
import random
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from sartor.errors import DataError

Turns = tuple[tuple[Literal["system", "user", "assistant"], str], ...]

SEED = 20  # of what is asked about a text
MAX_CHARACTERS = 2000  # of a row of `code`: below 1,024 tokens
TALK_CHARACTERS = (3200, 6400)  # of a multi-turn conversation: 1,000 to 2,000 tokens
SECTION_CHARACTERS = (3000, 5000)  # of the source in a long prompt: 800 to 1,500 tokens
GUIDE_CHARACTERS = 2100  # of the examples in the shared prompt: with the instruction, 600 to 1,000 tokens
LONG_CHARACTERS = 25_500  # of source before a function: with the request close to 8,000 tokens, and never over it


@dataclass(frozen=True, slots=True)
class Function:
    """A public, documented top-level function: what it does, its signature, its body, and where it starts."""

    paragraph: str
    signature: str
    body: str
    start: int

    @property
    def request(self) -> str:
        return f"{self.paragraph}\n\n{self.signature}"

    @property
    def size(self) -> int:
        return len(self.request) + len(self.body)


def short(package: Path, calls: Path) -> list[Turns]:
    """W1: a short function's body for its documentation, and a call for a request, in turn: two common shapes."""
    written = [_asked(item) for item in chain.from_iterable(small_functions(package))]
    random.Random(SEED).shuffle(written)
    pairs = zip_longest(written, read_calls(calls))
    return [turns for pair in pairs if None not in pair for turns in pair if turns]


def talks(package: Path, calls: Path) -> list[Turns]:
    """W2: several functions asked for one after the other; every answer is trained."""
    shortest, longest = TALK_CHARACTERS
    found: list[Turns] = []
    talk: list[Function] = []
    for item in chain.from_iterable(small_functions(package)):
        if sum(part.size for part in talk) + item.size > longest:
            talk = []
        talk.append(item)
        if sum(part.size for part in talk) >= shortest:
            found.append(tuple(turn for part in talk for turn in _asked(part)))
            talk = []
    return found


def lookups(package: Path, calls: Path) -> list[Turns]:
    """W3: a section of source and a question; the answer is one signature of it."""
    shortest, longest = SECTION_CHARACTERS
    chooser = random.Random(SEED)
    found: list[Turns] = []
    for path in modules(package):
        source = path.read_text(encoding="utf-8")
        for section in sections(source, shortest):
            functions = list(functions_of(section))
            if not functions or not shortest <= len(section) <= longest:
                continue
            asked = chooser.choice(functions)
            question = f"{section}\n\nWhich of these functions does this: {asked.paragraph}\nAnswer with its signature."
            found.append((("user", question), ("assistant", asked.signature)))
    return found


def guided(package: Path, calls: Path) -> list[Turns]:
    """W4: one long instruction with many examples, the same in every row; then a short request and its call."""
    rows = read_calls(calls)
    random.Random(SEED).shuffle(rows)
    guide, used = rows[0][0][1], 0
    while len(guide) < GUIDE_CHARACTERS:
        guide += f"\n\nFor example:\n{rows[used][1][1]}\n{rows[used][2][1]}"
        used += 1
    return [(("system", guide), *turns[1:]) for turns in rows[used:]]


def long_texts(package: Path, calls: Path) -> list[Turns]:
    """W7: thousands of lines of the package, then a function to write; its body is the answer. No text twice."""
    found: list[Turns] = []
    before = ""
    for path in modules(package):
        source = path.read_text(encoding="utf-8")
        starts = [0, *(len(line) for line in source.splitlines(keepends=True))]
        for item in functions_of(source):
            text = before + source[: sum(starts[: item.start])]
            if len(text) >= LONG_CHARACTERS and item.size <= MAX_CHARACTERS:
                asked = f"{text[-LONG_CHARACTERS:]}\n\nWrite the body of this function.\n{item.request}"
                found.append((("user", asked), ("assistant", item.body)))
                before, source, starts = "", "", []
                break
        before += source
    return found


def read_calls(path: Path) -> list[Turns]:
    """The conversations of a JSONL file of chats.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing", hint=f"python scripts/demo_data.py {path}")
    rows = (json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines())
    return [tuple((turn["role"], turn["content"]) for turn in row) for row in rows]


def modules(package: Path) -> list[Path]:
    """The source files of a package, tests left out.

    Raises:
        DataError: the package is not there.
    """
    if not package.is_dir():
        raise DataError(f"{package} is missing", hint="bash bench/setup.sh")
    return [path for path in sorted(package.rglob("*.py")) if "tests" not in path.relative_to(package).parts]


def small_functions(package: Path) -> list[list[Function]]:
    """The functions of each module that are at most `MAX_CHARACTERS` long."""
    found = (functions_of(path.read_text(encoding="utf-8")) for path in modules(package))
    return [[item for item in functions if item.size <= MAX_CHARACTERS] for functions in found]


def sections(source: str, shortest: int) -> Iterator[str]:
    """A module's text cut between top-level statements, each part at least `shortest` characters long but the last."""
    lines = source.splitlines(keepends=True)
    begin = 0
    for node in ast.parse(source).body:
        part = "".join(lines[begin : node.end_lineno])
        if len(part) >= shortest:
            yield part
            begin = node.end_lineno or begin
    if begin < len(lines):
        yield "".join(lines[begin:])


def functions_of(source: str) -> Iterator[Function]:
    """The public, documented top-level functions of a module. Comments stay: lines are copied."""
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
            yield Function(paragraph, signature, body, start=node.lineno)


def _asked(item: Function) -> Turns:
    return (("user", item.request), ("assistant", item.body))
