"""Reading data: how fast rows are read and validated, and in how much memory: `python bench/data_read.py`.

Rates are of one core, from the file to the examples and ledger entries, over generated conversations; each file is
read in a fresh process, whose peak memory is its own, and once before, so that the disk is not what is measured.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import report
from contestants.common import peak_bytes
from figures import cautions, header, line, spread
from harness import OURS, Machine, say
from sartor.data.read import stream

Json = dict[str, Any]

SEED = 5
#: Mean characters of an answer: a label or a line, a paragraph, a page.
ANSWERS = {"short": 120, "medium": 900, "long": 4000}
#: Rows of the growing file.
SIZES = (10_000, 100_000, 1_000_000)
COMMON = (
    "the of and to in is it you that he was for on are with as his they be at one have this from or had by hot but "
    "some what there we can out other were all your when up use word how said each she which do their time if will "
    "way about many then them would write like so these her long make thing see him two has look more day could go "
    "come did my sound no most number who over know water than call first people may down side been now find Zürich "
    'naïve “quoted” "plain" don\'t 3.14 x=1:'
)
WORDS = COMMON.split()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code is 0, or that of the error."""
    options = parse(arguments)
    if options.file:
        print(json.dumps(read_once(options.file)))
        return 0
    return report.deliver(measure, markdown, options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("Reading data: rate and memory.", threads=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--megabytes", type=int, default=200, help="of each kind of file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--file", type=Path, help="only this one, in this process: for the bench itself")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """Every kind of file, then files of more and more rows."""
    machine, files = Machine(options.threads), []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in KINDS.items():
            path = make(Path(folder), options.megabytes * 2**20)
            files.append(timed(machine, name, path, options.repeats))
        for size in options.sizes:
            path = jsonl(Path(folder) / "rows.jsonl", itertools.islice(talks(ANSWERS["medium"]), size))
            files.append(timed(machine, f"{size:,} rows", path, options.repeats))
    settings = {"repeats": options.repeats, "threads": options.threads}
    return {**harness.facts([OURS]), "kind": "data-read", "settings": settings, "files": files}


def timed(machine: Machine, name: str, path: Path, repeats: int) -> Json:
    """The runs of one file, which is removed."""
    runs = [machine.measured(OURS, Path(__file__), ["--file", str(path)]) for _ in range(repeats)]
    path.unlink()
    say(f"{name}: {spread(map(rate, runs), '.0f')} MB/s")
    return {"name": name, "runs": runs}


def read_once(path: Path) -> Json:
    """Read a file, one row at a time."""
    with path.open("rb") as file:
        while file.read(2**22):
            pass
    start, start_cpu = time.perf_counter(), time.process_time()
    found = stream(path, format=None, fields={}, label=path.name)
    kept = sum(outcome.example is not None for outcome in found)
    return {
        "bytes": path.stat().st_size,
        "rows": found.rows,
        "kept": kept,
        "format": found.format,
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - start_cpu,
        "peak_bytes": peak_bytes(),
    }


def rate(run: Json) -> float:
    """MB (10^6 bytes) a second of the processor's time."""
    return float(run["bytes"] / run["cpu"] / 1e6)


# --- what is read ---


def talks(characters: int) -> Iterator[Json]:
    """Conversations whose answers have that many characters on average, exponentially distributed."""
    draw = random.Random(SEED)

    def text(mean: float) -> str:
        words = draw.choices(WORDS, k=max(2, int(draw.expovariate(1) * mean / 4.7)))
        return " ".join(words[: len(words) // 2]) + "\n\n" + " ".join(words[len(words) // 2 :])

    while True:
        turns = [
            ("system", "You are a helpful assistant."),
            ("user", text(characters / 4)),
            ("assistant", text(characters)),
        ]
        yield {"messages": [{"role": role, "content": content} for role, content in turns]}


def pairs(characters: int) -> Iterator[Json]:
    for talk in talks(characters):
        _, asked, answered = talk["messages"]
        yield {"instruction": asked["content"], "input": "", "output": answered["content"]}


def said(characters: int) -> Iterator[Json]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    for talk in talks(characters):
        turns = [{"from": names[turn["role"]], "value": turn["content"]} for turn in talk["messages"]]
        yield {"conversations": turns}


def up_to(rows: Iterator[Json], num_bytes: int) -> Iterator[Json]:
    """As many rows as fill that many bytes of JSONL."""
    for row in rows:
        num_bytes -= len(json.dumps(row, ensure_ascii=False).encode()) + 1
        if num_bytes < 0:
            return
        yield row


def jsonl(path: Path, rows: Iterator[Json]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def array(path: Path, rows: Iterator[Json]) -> Path:
    path.write_text(json.dumps(list(rows), ensure_ascii=False, indent=2), encoding="utf-8")
    return path


def table(path: Path, rows: Iterator[Json]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("instruction", "input", "output"))
        writer.writeheader()
        writer.writerows(rows)
    return path


def columns(path: Path, rows: Iterator[Json]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=5000)
    return path


def packed(path: Path, rows: Iterator[Json]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def _kind(
    name: str, write: Callable[[Path, Iterator[Json]], Path], rows: Iterator[Json]
) -> Callable[[Path, int], Path]:
    return lambda folder, size: write(folder / name, up_to(rows, size))


KINDS: dict[str, Callable[[Path, int], Path]] = {
    **{
        f"chat, JSONL, {words} answers": _kind("rows.jsonl", jsonl, talks(characters))
        for words, characters in ANSWERS.items()
    },
    "alpaca, JSONL": _kind("rows.jsonl", jsonl, pairs(ANSWERS["medium"])),
    "ShareGPT, JSONL": _kind("rows.jsonl", jsonl, said(ANSWERS["medium"])),
    "chat, JSON array": _kind("rows.json", array, talks(ANSWERS["medium"])),
    "alpaca, CSV": _kind("rows.csv", table, pairs(ANSWERS["medium"])),
    "chat, Parquet": _kind("rows.parquet", columns, talks(ANSWERS["medium"])),
    "chat, JSONL in gzip (packed bytes)": _kind("rows.jsonl.gz", packed, talks(ANSWERS["medium"])),
}


def markdown(result: Json) -> str:
    """The whole report."""
    settings, lines = result["settings"], header("file", "rows", "bytes a row", "MB/s", "of the clock", "peak memory")
    for file in result["files"]:
        runs = file["runs"]
        cells = [
            file["name"],
            f"{runs[0]['rows']:,}",
            f"{runs[0]['bytes'] / runs[0]['rows']:.0f}",
            spread(map(rate, runs), ".0f"),
            f"{statistics.median(run['bytes'] / run['seconds'] for run in runs) / 1e6:.0f}",
            f"{max(run['peak_bytes'] for run in runs) / 2**20:.0f} MiB",
        ]
        lines.append(line(cells))
    parts = [
        f"Measured {result['date']} on {result['machine']['processor']}, threads: {settings['threads']}; each file "
        f"{settings['repeats']} times, each in a fresh process: read, parsed, validated and made into examples, one "
        "row at a time. MB/s are of the processor's time, the median and the range, and of the clock beside it; memory "
        "is the most of any run.",
        *cautions([run for file in result["files"] for run in file["runs"]], settings["repeats"]),
        "\n".join(lines),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
