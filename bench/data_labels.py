"""Noisy labels: how many flipped ones are found, and how many of the found were flipped: `python bench/data_labels.py`.

The rows are Debian's one-line descriptions with their sections, of which one in ten is another one. Some descriptions
fit several sections, so not all that is suggested against the archive is wrong: the precision is a lower bound.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import report
import sections
from figures import header, line
from harness import OURS
from sartor.data.clean import Context
from sartor.data.clean.label_noise import Config, clean
from sartor.types import Chat, Message, Source
from sartor.workshop.knowing import embed_by

Json = dict[str, Any]

SEEDS = (1, 2, 3)
#: Descriptions of each section, where there are as many.
MOST = 400
FLIPPED = 0.1
METHODS = ("loss", "neighbours", "both")
MARGINS = (0.3, 0.4, 0.5, 0.6)


#: Who judges in the table: by words alone, and with an encoder's neighbours.
VECTORS = ("words", "encoder")
ENCODER = "all-minilm-l6-v2"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code is 0, or that of the error."""
    parser = argparse.ArgumentParser(description="Noisy labels: precision and recall of the suggestions.")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    options = parser.parse_args(arguments)
    return report.deliver(lambda: measure(options.seeds), markdown, options.results)


def measure(seeds: Sequence[int]) -> Json:
    """Each method and margin, over draws of the rows and of the flips."""
    found = [
        {"seed": seed, "vectors": vectors, "method": method, "margin": margin}
        | judged(rows, true, {"vectors": vectors, "method": method, "margin": margin})
        for seed, (rows, true) in ((seed, flipped(seed)) for seed in seeds)
        for vectors in VECTORS
        for method in METHODS
        if (vectors, method) != ("encoder", "loss")  # no neighbours, so none of its vectors
        for margin in MARGINS
    ]
    return {**harness.facts([OURS]), "kind": "data-labels", "runs": found}


def flipped(seed: int) -> tuple[list[Chat], list[str]]:
    """Rows of which some have a wrong label, and the labels of the archive."""
    draw = random.Random(seed)
    members: dict[str, list[str]] = {section: [] for section in sections.SECTIONS}
    for text, section in dict(sorted(sections.packages())).items():
        members[section].append(text)
    chosen = [
        (text, section) for section, texts in members.items() for text in draw.sample(texts, min(MOST, len(texts)))
    ]
    draw.shuffle(chosen)
    rows = []
    for number, (text, section) in enumerate(chosen, start=1):
        others = [other for other in sections.SECTIONS if other != section]
        given = draw.choice(others) if draw.random() < FLIPPED else section
        turns = (Message(role="user", content=f"Section of: {text}"), Message(role="assistant", content=given))
        rows.append(Chat(source=Source(file="sections", line=number), messages=turns))
    return rows, [section for _, section in chosen]


def judged(rows: Sequence[Chat], true: Sequence[str], settings: Json) -> Json:
    """What the cleaner suggests, against what was flipped."""
    start = time.perf_counter()
    outcomes = clean(rows, Config.model_validate(settings), Context(embed=embed))
    told = {entry.line: entry.detail for outcome in outcomes for entry in outcome.entries}
    flips = {row.source.line for row, section in zip(rows, true, strict=True) if row.target != section}
    hits = flips & told.keys()
    right = sum(told[place].startswith(f"rather {true[place - 1]!r}") for place in hits)
    return {
        "rows": len(rows),
        "flipped": len(flips),
        "told": len(told),
        "hits": len(hits),
        "right": right,
        "seconds": time.perf_counter() - start,
    }


def embed(conversations: Sequence[Sequence[Message]]) -> Any:
    """By the encoder, once for each batch: rows come in the same batches for each margin."""
    return _embed(tuple(tuple(messages) for messages in conversations))


@functools.cache
def _embed(conversations: tuple[tuple[Message, ...], ...]) -> Any:
    return embed_by(ENCODER)(conversations)


def markdown(result: Json) -> str:
    """The whole report."""
    runs = result["runs"]
    lines = header(
        "judged by", "near by", "margin", "told", "precision", "recall", "of the found, the right label", "rows/s"
    )
    for vectors, method, margin in itertools.product(VECTORS, METHODS, MARGINS):
        if mine := [run for run in runs if (run["vectors"], run["method"], run["margin"]) == (vectors, method, margin)]:
            told, hits, flips, right = (sum(run[key] for run in mine) for key in ("told", "hits", "flipped", "right"))
            rate = sum(run["rows"] for run in mine) / sum(run["seconds"] for run in mine)
            shares = [f"{hits / told:.1%}", f"{hits / flips:.1%}", f"{right / hits:.1%}"]
            speed = f"{rate:,.0f}" if vectors == "words" else "–"  # its vectors are made once for all margins
            lines.append(line([method, vectors, f"{margin:g}", f"{told:,}", *shares, speed]))
    head = (
        f"Measured {result['date']} on {result['machine']['processor']}: {runs[0]['rows']:,} descriptions of Debian's "
        f"packages in {len(sections.SECTIONS)} sections, {FLIPPED:.0%} of the labels flipped, "
        f"{len({run['seed'] for run in runs})} draws."
    )
    return head + "\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
