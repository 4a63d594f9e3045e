"""Data that is broken or means harm: `python bench/data_hostile.py`. Every number but the times should be a round one.

Malformed rows: each is in the ledger at its line, with a field where it has one, and no good row beside them is lost.
Bombs: each is refused by a named limit; each in fresh processes with its time and its memory. Control tokens: hostile
texts rendered with four real tokenizers, which must hold exactly the control tokens of a harmless conversation.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import malformed
import report
from contestants.common import peak_bytes
from figures import cautions, header, line, spread
from harness import MODEL, OURS, Machine, say
from sartor.chat import Renderer
from sartor.data.read import stream
from sartor.errors import SartorError
from sartor.hub import find
from sartor.recipe import ModelSpec
from sartor.types import Chat, Message, Source

Json = dict[str, Any]

SEED = 11
TOKENIZERS = harness.HERE.parent / ".cache" / "tokenizers"
FAMILIES = ("smollm2", "qwen3", "llama3_1", "gemma3")
GOOD = b'{"prompt": "q", "completion": "a"}\n'
MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code is 0, or that of the error."""
    options = parse(arguments)
    if options.only:
        print(json.dumps(alone(options)))
        return 0
    return report.deliver(measure, markdown, options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("Malformed rows, bombs, and control tokens in texts.", threads=1)
    parser.add_argument("--count", type=int, default=10_000, help="malformed rows, good rows, and texts a tokenizer")
    parser.add_argument("--families", nargs="*", default=FAMILIES)
    parser.add_argument("--bombs", nargs="*", default=tuple(BOMBS))
    parser.add_argument("--folder", type=Path, help="where `--only make:` makes its file")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes of each part")
    parser.add_argument("--only", default="", help="one part in this process: for the bench itself")
    return parser.parse_args(arguments)


def alone(options: argparse.Namespace) -> Json:
    """One part, in this process."""
    kind, _, what = options.only.partition(":")
    if kind == "rows":
        return malformed_rows(what, options.count)
    if kind == "family":
        return smuggled(what, options.count)
    return made(what, options.folder) if kind == "make" else bomb(Path(what))


def measure(options: argparse.Namespace) -> Json:
    """Every part in processes of its own: its name and its runs."""
    machine = Machine(options.threads)

    def part(name: str, only: str, *arguments: str) -> Json:
        asked = ["--only", only, *arguments]
        runs = [machine.measured(OURS, Path(__file__), asked) for _ in range(options.repeats)]
        say(f"{name}: {spread((run['wall_seconds'] for run in runs), '.1f')} s")
        return {"name": name, "runs": runs}

    each = -(-options.count // len(malformed.ROWS))
    rows = [part(name, f"rows:{name}", "--count", str(each)) for name in malformed.ROWS]
    bombs = []
    for name in options.bombs:
        with tempfile.TemporaryDirectory() as folder:
            path = machine.process(OURS, Path(__file__), ["--only", f"make:{name}", "--folder", folder])["path"]
            bombs.append(part(name, f"bomb:{path}"))
    families = [part(name, f"family:{name}", "--count", str(options.count)) for name in options.families]
    settings = {"repeats": options.repeats, "threads": options.threads}
    facts = {**harness.facts([OURS]), "kind": "data-hostile", "settings": settings}
    return {**facts, "rows": rows, "bombs": bombs, "families": families}


def markdown(result: Json) -> str:
    """The whole report."""
    rows, settings = result["rows"], result["settings"]
    totals = {key: sum(_worst(row, key) for row in rows) for key in ("missed", "unnamed", "refused")}
    num = sum(row["runs"][0]["bad"] for row in rows)
    runs = [run for part in (*rows, *result["bombs"], *result["families"]) for run in part["runs"]]
    parts = [
        f"Measured {result['date']} on {result['machine']['processor']}, threads: {settings['threads']}; each part "
        f"{settings['repeats']} times, each in a fresh process. Seconds are the median and the range, memory and "
        "mistakes the most of any run.",
        *cautions(runs, settings["repeats"]),
        f"### Malformed rows\n\n{num:,} malformed rows among as many good ones, in {len(rows)} formats: "
        f"{totals['missed']} not reported at their line with their reason, {totals['unnamed']} without their field, "
        f"{totals['refused']} good rows refused, 0 crashes. Memory grew by at most "
        f"{max(map(_grown, rows)):.0f} MiB, with all outcomes kept.",
        "### Bombs\n\n" + _bombs_table(result["bombs"]),
        "### Control tokens\n\n" + _families_table(result["families"]),
    ]
    return "\n\n".join(parts) + "\n"


def _worst(part: Json, key: str) -> int:
    """The most mistakes of a kind in any run."""
    return max(len(run[key]) for run in part["runs"])


def _grown(part: Json) -> float:
    """MiB, the most of any run."""
    return max(float(run["grown_bytes"]) for run in part["runs"]) / MIB


def _seconds(part: Json) -> str:
    return spread((run["seconds"] for run in part["runs"]), ".1f")


def _bombs_table(bombs: Sequence[Json]) -> str:
    lines = header("file", "size", "stopped by", "rows kept", "seconds", "memory grew by")
    for part in bombs:
        found = part["runs"][0]
        said = found["said"][0].replace("|", "/") if found["said"] else "–"
        cells = [part["name"], f"{found['bytes'] / 1e6:.3g} MB", said, f"{found['kept']:,}"]
        lines.append(line([*cells, _seconds(part), f"{_grown(part):.0f} MiB"]))
    return "\n".join(lines)


def _families_table(families: Sequence[Json]) -> str:
    lines = header("tokenizer", "tokens that steer", "hostile texts", "with a whole one", "forged", "seconds")
    for part in families:
        counts = [f"{part['runs'][0][key]:,}" for key in ("steering_tokens", "texts", "with_a_whole_token")]
        lines.append(line([part["name"], *counts, f"**{_worst(part, 'forged')}**", _seconds(part)]))
    return "\n".join(lines)


# --- malformed rows ---


def malformed_rows(name: str, count: int) -> Json:
    """One file of a format: `count` good rows and as many bad ones."""
    lines = malformed.file_of(name, count, count, SEED)
    missed, unnamed, refused = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(b"\n".join(item.raw for item in lines))
        before = peak_bytes()
        outcomes = list(stream(path, format=None, fields={}, label="rows.jsonl", longest=malformed.LIMIT))
    for number, (item, outcome) in enumerate(zip(lines, outcomes, strict=True), start=1):
        dropped = [entry for entry in outcome.entries if entry.action == "dropped"]
        if not item.reasons:
            refused += [number] * (outcome.example is None)
        elif len(dropped) != 1 or dropped[0].line != number or dropped[0].reason not in item.reasons:
            missed.append([number, item.raw[:200].decode("utf-8", "replace"), [entry.reason for entry in dropped]])
        elif item.field and not dropped[0].field:
            unnamed.append(number)
    return {
        "bad": count,
        "good": count,
        "missed": missed,
        "unnamed": unnamed,
        "refused": refused,
        "grown_bytes": peak_bytes() - before,
    }


# --- bombs ---


def _jsonl(path: Path, *pieces: bytes) -> Path:
    with path.open("wb") as file:
        file.writelines(pieces)
    return path


def _gzip(path: Path) -> Path:
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(GOOD)
        for _ in range(2048):
            file.write(b"y" * MIB)
    return path


def _parquet(path: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.array(["y" * (300 * MIB)], pyarrow.large_string())
    repeated = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), text)
    parquet.write_table(pyarrow.table({"text": repeated}), path, compression="zstd")
    return path


#: Files that a reader without limits dies of, or spends minutes on.
BOMBS: dict[str, Callable[[Path], Path]] = {
    "a line of 200 MB": lambda folder: _jsonl(
        folder / "a.jsonl", GOOD, b'{"text": "', *[b"y" * MIB] * 200, b'"}\n', GOOD
    ),
    "a line of 200 MB that is not JSON": lambda folder: _jsonl(folder / "a.jsonl", GOOD, *[b"\0" * MIB] * 200, b"\n"),
    "brackets 100,000 deep": lambda folder: _jsonl(
        folder / "a.jsonl", GOOD, b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    ),
    "objects 10,000,000 deep": lambda folder: _jsonl(folder / "a.jsonl", GOOD, b'{"a":' * 10_000_000, b"\n"),
    "an array whose first element never ends": lambda folder: _jsonl(
        folder / "a.json", b'[{"text": "', *[b"y" * MIB] * 200
    ),
    "an integer of 60 million digits": lambda folder: _jsonl(
        folder / "a.jsonl", GOOD, b'{"text": "a", "n": ', b"9" * 60_000_000, b"}\n"
    ),
    "a quote that nothing closes in 200 MB of CSV": lambda folder: _jsonl(
        folder / "a.csv", b'text\n"open', *[b"y" * 1023 + b"\n"] * (200 * 1024)
    ),
    "2 GB in a gzip file of 2 MB": lambda folder: _gzip(folder / "a.jsonl.gz"),
    "300 GB in a Parquet file of 10 kB": lambda folder: _parquet(folder / "a.parquet"),
}


def made(name: str, folder: Path) -> Json:
    """The file, made in a process of its own, whose memory is not that of the reader."""
    return {"path": str(BOMBS[name](folder))}


def bomb(path: Path) -> Json:
    """Read one, and see what stops it, or which rows it costs."""
    before, start = peak_bytes(), time.perf_counter()
    kept = 0
    said: list[str] = []
    try:
        for outcome in stream(path, format=None, fields={}, label=path.name):
            kept += outcome.example is not None
            said += [f"{entry.reason}: {entry.detail}" for entry in outcome.entries[: 3 - len(said)]]
    except SartorError as error:
        said.append(str(error))
    return {
        "bytes": path.stat().st_size,
        "kept": kept,
        "said": [words[:200] for words in said],
        "seconds": time.perf_counter() - start,
        "grown_bytes": peak_bytes() - before,
    }


# --- control tokens ---


def smuggled(family: str, count: int) -> Json:
    """Hostile texts as what a user and an assistant said, against a harmless conversation."""
    from transformers import AutoTokenizer

    folder = find(ModelSpec(name=MODEL)).folder if family == "smollm2" else TOKENIZERS / family
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    renderer = Renderer(tokenizer)
    added = [(id, token) for id, token in tokenizer.added_tokens_decoder.items() if len(token.content.strip()) > 2]
    steers = {
        id
        for id, token in added
        if token.special or token.content.startswith("<|") or token.content in tokenizer.chat_template
    }
    tags = [token.content for id, token in added if id in steers]
    draw = random.Random(SEED)
    plain = _steering(renderer, steers, "u", "a")
    start, held, forged = time.perf_counter(), 0, []
    for number in range(count):
        text = hostile(tags, draw)
        held += any(tag in text for tag in tags)
        if _steering(renderer, steers, text, "a") != plain:
            forged.append([number, text])
    return {
        "texts": count,
        "with_a_whole_token": held,
        "steering_tokens": len(steers),
        "forged": forged,
        "seconds": time.perf_counter() - start,
    }


def hostile(tags: Sequence[str], draw: random.Random) -> str:
    """Control tokens, halves of them, and what stands around them in a template."""
    pieces = []
    for _ in range(draw.randint(1, 8)):
        tag = draw.choice(tags)
        cut = draw.randint(1, len(tag) - 1)
        filler = draw.choice(
            ["\n", "\n\n", " ", "system\n", "assistant\n", "model\n", "é", "\u200b", "obey", "<", "|>"]
        )
        pieces.append(draw.choice([tag, tag, tag, tag[:cut], tag[cut:], filler, filler]))
    return "".join(pieces) if "".join(pieces).strip() else "x"


def _steering(renderer: Renderer, steers: set[int], asked: str, answer: str) -> list[tuple[list[int], list[int]]]:
    """Of each sequence: the tokens that steer, in their order, and those of them that are trained."""
    messages = (Message(role="user", content=asked), Message(role="assistant", content=answer))
    rendered = renderer.render(Chat(source=Source(file="x", line=1), messages=messages))
    return [
        (
            [id for id in part.ids if id in steers],
            [id for id, weight in zip(part.ids, part.weights, strict=True) if weight],
        )
        for part in rendered
    ]


if __name__ == "__main__":
    raise SystemExit(main())
