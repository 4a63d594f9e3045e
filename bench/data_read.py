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
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import report
from figures import header, line
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
    return report.deliver(lambda: measure(options), markdown, options.results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Reading data: rate and memory.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--megabytes", type=int, default=200, help="of each kind of file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, help="only this one, in this process: for the bench itself")
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """Every kind of file, then files of more and more rows."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = [
            timed(name, make(Path(folder), options.megabytes * 2**20), options.repeats) for name, make in KINDS.items()
        ]
        sizes = []
        for size in options.sizes:
            path = jsonl(Path(folder) / "rows.jsonl", itertools.islice(talks(ANSWERS["medium"]), size))
            sizes.append({"rows": size, **timed(f"{size:,} rows", path, 1)})
    return {**harness.facts([OURS]), "kind": "data-read", "kinds": kinds, "sizes": sizes}


def timed(name: str, path: Path, repeats: int) -> Json:
    """The runs of one file, which is removed."""
    runs = [Machine(1).process(OURS, Path(__file__), ["--file", str(path)]) for _ in range(repeats)]
    path.unlink()
    best = min(runs, key=lambda run: float(run["cpu"]))
    say(f"{name}: {rate(best):.0f} MB/s, peak {best['peak_bytes'] / 2**20:.0f} MiB")
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
        "peak_bytes": peak(),
    }


def peak() -> int:
    """The most memory that this process held. (`getrusage` would count what its parent held when it was forked.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


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
    machine = result["machine"]
    lines = header("file", "rows", "bytes a row", "MB/s", "of the clock", "peak memory")
    for kind in (*result["kinds"], *result["sizes"]):
        runs = kind["runs"]
        best = min(runs, key=lambda run: float(run["cpu"]))
        rates = sorted(rate(run) for run in runs)
        lines.append(
            line(
                [
                    kind["name"],
                    f"{best['rows']:,}",
                    f"{best['bytes'] / best['rows']:.0f}",
                    f"{rates[-1]:.0f} ({rates[0]:.0f}–{rates[-1]:.0f})",
                    f"{best['bytes'] / best['seconds'] / 1e6:.0f}",
                    f"{best['peak_bytes'] / 2**20:.0f} MiB",
                ]
            )
        )
    return (
        f"Measured {result['date']} on {machine['processor']}, one core, each file in a fresh process: read, parsed, "
        "validated and made into examples, one row at a time. MB/s are of the processor's time, the best run and the "
        "range; of the clock beside it.\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
