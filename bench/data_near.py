"""Near duplicates: what is found, what is found in vain, and how time and memory grow: `python bench/data_near.py`.

Texts are put together from Debian's one-line descriptions (`apt-get update` first), which gives phrases that people
write, shared by chance as they are in the wild. Each pair's Jaccard index is counted here in plain Python, by sets of
words, so that the engine is judged by another's arithmetic. Rates are from the texts to the answers; each size runs in
fresh processes, whose memory is their own.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import report
import sections
from contestants.common import peak_bytes
from figures import cautions, header, line, spread
from harness import OURS, Machine, say
from sartor.data import near
from sartor.data.near.shingles import CHARACTERS, WORDS

Json = dict[str, Any]

SEED = 5
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
#: One-line descriptions that make a text: 80 to 90 words.
LONG = 12
#: Shares of words that are replaced in the copy of a text: Jaccard indices from 1 to 0.3.
SHARES = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.15, 0.35)
#: Of the texts of a growing corpus, how many are a copy of an earlier one with a word or two changed.
COPIES = 0.1
BINS = ((0.3, 0.5), (0.5, 0.6), (0.6, 0.65), (0.65, 0.7), (0.7, 0.75), (0.75, 0.8), (0.8, 0.9), (0.9, 1.01))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code is 0, or that of the error."""
    options = parse(arguments)
    if options.rows:
        print(json.dumps(grown(options.rows)))
        return 0
    return report.deliver(measure, markdown, options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("Near duplicates: recall, false pairs, time and memory.", threads=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--pairs", type=int, default=10_000, help="labelled pairs")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes of each size")
    parser.add_argument("--rows", type=int, default=0, help="only this size, in this process: for the bench itself")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """Everything, the growing corpus in fresh processes."""
    found = {"long": labelled(options.pairs, LONG), "short": labelled(options.pairs, 1)}
    machine, runs = Machine(options.threads), []
    for size in options.sizes:
        for _ in range(options.repeats):
            runs.append(machine.measured(OURS, Path(__file__), ["--rows", str(size)]))
            say(f"{size:,} texts: {runs[-1]['seconds']:.1f} s")
    settings = {"repeats": options.repeats, "threads": options.threads}
    facts = {**harness.facts([OURS]), "kind": "data-near", "settings": settings}
    return {**facts, "pairs": found, "descriptions": natural(), "runs": runs}


def descriptions() -> list[str]:
    """Every different one-line description, in the order of the alphabet."""
    return sorted({facts["Description"] for facts in sections.available()} - {""})


def composed(count: int, parts: int, phrases: Sequence[str], draw: random.Random) -> Iterator[list[str]]:
    """Texts as lists of words."""
    for _ in range(count):
        yield " ".join(draw.choice(phrases) for _ in range(parts)).split()


def changed(words: Sequence[str], share: float, vocabulary: Sequence[str], draw: random.Random) -> list[str]:
    """A copy in which some words are others."""
    return [draw.choice(vocabulary) if draw.random() < share else word for word in words]


def true_jaccard(left: str, right: str, parts: int) -> float:
    """By sets of strings: runs of words for long texts, of characters for short ones."""
    sets = []
    for text in (left, right):
        plain = " ".join(text.lower().split())
        units: Sequence[str] = _words(plain) if parts > 1 else plain
        width = WORDS if parts > 1 else CHARACTERS
        sets.append({tuple(units[start : start + width]) for start in range(max(1, len(units) - width + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def _words(text: str) -> list[str]:
    return "".join(char if char.isalnum() else " " for char in text).split()


def labelled(num_pairs: int, parts: int) -> Json:
    """Pairs of known Jaccard index, in one corpus: how many of each bin are found, and how many that should not be."""
    draw = random.Random(SEED)
    phrases = descriptions()
    vocabulary = sorted({word for phrase in phrases for word in phrase.split()})
    originals = list(composed(num_pairs, parts, phrases, draw))
    copies = [changed(words, draw.choice(SHARES), vocabulary, draw) for words in originals]
    texts = [" ".join(words) for words in (*originals, *copies)]
    pairs = found_pairs(texts)
    known = [true_jaccard(texts[row], texts[row + num_pairs], parts) for row in range(num_pairs)]
    bins = []
    for low, high in BINS:
        rows = [row for row, jaccard in enumerate(known) if low <= jaccard < high]
        bins.append(
            {
                "low": low,
                "high": high,
                "pairs": len(rows),
                "found": sum((row + num_pairs, row) in pairs for row in rows),
            }
        )
    wrong = [pair for pair in pairs if true_jaccard(texts[pair[0]], texts[pair[1]], parts) < near.THRESHOLD]
    return {"bins": bins, "reported": len(pairs), "wrong": len(wrong)}


def found_pairs(texts: Sequence[str]) -> set[tuple[int, int]]:
    """Every pair (later, earlier) that the engine calls near: all texts are kept."""
    import numpy as np

    index = near.Index()
    pairs = set()
    for start in range(0, len(texts), near.BATCH):
        look = index.look(texts[start : start + near.BATCH])
        pairs |= {(start + row, number) for row, number, _ in look.pairs}
        index.take(look, np.ones(look.num_texts, bool))
    return pairs


def natural() -> Json:
    """Debian's own descriptions, each as it is, against all pairs by comparing each with each."""
    texts = descriptions()[::4]
    true = all_pairs(texts)
    groups = near.groups(texts, frame=False)
    matches = near.Index().add(texts)
    beside = {later for later, earlier in true if matches[later] is None and matches[earlier] is None}
    wrong = sum(match is not None and (row, match.number) not in true for row, match in enumerate(matches))
    return {
        "texts": len(texts),
        "pairs": len(true),
        "in_one_group": sum(groups[later] == groups[earlier] for later, earlier in true),
        "dropped": sum(match is not None for match in matches),
        "kept_beside_a_near_one": len(beside),
        "dropped_wrongly": wrong,
    }


def all_pairs(texts: Sequence[str]) -> set[tuple[int, int]]:
    """Pairs at the threshold or over it, without any sketch: by counting shingles in common in an inverted index."""
    holders: dict[str, list[int]] = {}
    sizes, pairs = [], set()
    for row, text in enumerate(texts):
        plain = " ".join(text.lower().split())
        grams = {plain[start : start + CHARACTERS] for start in range(max(1, len(plain) - CHARACTERS + 1))}
        common: dict[int, int] = {}
        for gram in grams:
            for other in holders.get(gram, ()):
                common[other] = common.get(other, 0) + 1
            holders.setdefault(gram, []).append(row)
        sizes.append(len(grams))
        pairs |= {
            (row, other)
            for other, shared in common.items()
            if shared / (len(grams) + sizes[other] - shared) >= near.THRESHOLD
        }
    return pairs


def grown(size: int) -> Json:
    """Time and memory of a corpus that comes in batches; making the texts is not counted."""
    draw = random.Random(SEED)
    phrases = descriptions()
    index = near.Index()
    seconds = cpu = 0.0
    num_copies = num_found = num_bytes = 0
    last: list[list[str]] = []
    for start in range(0, size, near.BATCH):
        batch = list(composed(min(near.BATCH, size - start), LONG, phrases, draw))
        for row in range(len(batch)):
            if last and draw.random() < COPIES:
                batch[row] = [*draw.choice(last)[:-1], "changed"]
                num_copies += 1
        last = batch
        texts = [" ".join(words) for words in batch]
        num_bytes += sum(len(text.encode()) for text in texts)
        before, before_cpu = time.perf_counter(), time.process_time()
        matches = index.add(texts)
        seconds += time.perf_counter() - before
        cpu += time.process_time() - before_cpu
        num_found += sum(match is not None for match in matches)
    return {
        "texts": size,
        "seconds": seconds,
        "cpu": cpu,
        "text_bytes": num_bytes,
        "copies": num_copies,
        "found": num_found,
        "index_bytes": index.num_bytes,
        "peak_bytes": peak_bytes(),
    }


def markdown(result: Json) -> str:
    """The whole report."""
    settings = result["settings"]
    parts = [
        f"Measured {result['date']} on {result['machine']['processor']}, threads: {settings['threads']}; each size "
        f"{settings['repeats']} times, each in a fresh process. Threshold {near.THRESHOLD}; runs of {WORDS} words, or "
        f"of {CHARACTERS} characters for short texts.",
        *cautions(result["runs"], settings["repeats"]),
        *(_pairs_table(name, found) for name, found in result["pairs"].items()),
        _natural_line(result["descriptions"]),
        _sizes_table(result["runs"]),
    ]
    return "\n\n".join(parts) + "\n"


def _pairs_table(name: str, found: Json) -> str:
    over = [part for part in found["bins"] if part["low"] >= near.THRESHOLD]
    total, hit = sum(part["pairs"] for part in over), sum(part["found"] for part in over)
    lines = header("Jaccard index", "pairs", "reported")
    lines += [
        line(
            [f"{part['low']:g}–{min(part['high'], 1):g}", f"{part['pairs']:,}", f"{part['found'] / part['pairs']:.2%}"]
        )
        for part in found["bins"]
        if part["pairs"]
    ]
    return (
        f"### Pairs of {name} texts\n\n"
        + "\n".join(lines)
        + f"\n\nRecall from {near.THRESHOLD} on: {hit / total:.2%} of {total:,}. "
        f"Of {found['reported']:,} reported pairs {found['wrong']:,} "
        f"({found['wrong'] / found['reported']:.3%}) are below it."
    )


def _natural_line(found: Json) -> str:
    return (
        f"### Debian's descriptions as they are\n\n{found['texts']:,} of them, each compared with each: "
        f"{found['pairs']:,} pairs from {near.THRESHOLD} on, of which {found['in_one_group'] / found['pairs']:.2%} "
        f"stand in one group. Of {found['dropped']:,} texts that were dropped, {found['dropped_wrongly']:,} are near "
        f"to none that is kept; {found['kept_beside_a_near_one']:,} were kept beside a near one."
    )


def _sizes_table(runs: Sequence[Json]) -> str:
    """Medians with their range; memory is the most of any run."""
    sizes: dict[int, list[Json]] = {}
    for run in runs:
        sizes.setdefault(run["texts"], []).append(run)
    lines = header("texts", "seconds", "texts/s", "MB/s", "memory of the index", "bytes a text", "peak", "copies found")
    lines += [_size(same) for same in sizes.values()]
    return "### From small to large\n\n" + "\n".join(lines)


def _size(runs: Sequence[Json]) -> str:
    """The runs of one size, which has the same texts each time."""
    first = runs[0]
    by_processor = statistics.median(run["texts"] / run["cpu"] for run in runs)
    index, peak = (max(run[key] for run in runs) for key in ("index_bytes", "peak_bytes"))
    cells = [
        f"{first['texts']:,}",
        spread((run["seconds"] for run in runs), ".1f"),
        f"{spread((run['texts'] / run['seconds'] for run in runs), ',.0f')}; {by_processor:,.0f} by processor time",
        f"{statistics.median(run['text_bytes'] / run['seconds'] for run in runs) / 1e6:.1f}",
        f"{index / 2**20:,.0f} MiB",
        f"{index / first['texts']:,.0f}",
        f"{peak / 2**20:,.0f} MiB",
        f"{first['found']:,} for {first['copies']:,}",
    ]
    return line(cells)


if __name__ == "__main__":
    raise SystemExit(main())
