"""Noisy labels: how many flipped ones are found, and how many of the found were flipped: `python bench/data_labels.py`.

The rows are Debian's one-line descriptions with their sections, of which one in ten is another one. Some descriptions
fit several sections, so not all that is suggested against the archive is wrong: the precision is a lower bound.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import report
import sections
from figures import cautions, header, line, spread
from harness import OURS, Machine, say
from sartor.data.clean import Context
from sartor.data.clean.label_noise import Config, clean
from sartor.types import Chat, Message, Source
from sartor.workshop.knowing import embed_by

Json = dict[str, Any]

SEEDS = (1, 2, 3, 4, 5)
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
    options = parse(arguments)
    if options.seed is not None:
        print(json.dumps({"seed": options.seed, "found": drawn(options.seed)}))
        return 0
    return report.deliver(measure, markdown, options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("Noisy labels: precision and recall of the suggestions.")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--seed", type=int, help="only this draw, in this process: for the bench itself")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Json:
    """Draws of the rows and of the flips, each in a fresh process."""
    machine, runs = Machine(options.threads), []
    for seed in options.seeds:
        runs.append(machine.measured(OURS, Path(__file__), ["--seed", str(seed)]))
        say(f"draw {seed}: {runs[-1]['wall_seconds']:.0f} s")
    settings = {"threads": options.threads}
    return {**harness.facts([OURS]), "kind": "data-labels", "settings": settings, "runs": runs}


def drawn(seed: int) -> list[Json]:
    """Each method and margin on one draw."""
    rows, true = flipped(seed)
    asked = [
        {"vectors": vectors, "method": method, "margin": margin}
        for vectors, method, margin in itertools.product(VECTORS, METHODS, MARGINS)
        if (vectors, method) != ("encoder", "loss")  # no neighbours, so none of its vectors
    ]
    return [{**settings, **judged(rows, true, settings)} for settings in asked]


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
    found = [each for run in runs for each in run["found"]]
    lines = header(
        "judged by", "near by", "margin", "told", "precision", "recall", "of the found, the right label", "rows/s"
    )
    for vectors, method, margin in itertools.product(VECTORS, METHODS, MARGINS):
        asked = (vectors, method, margin)
        if mine := [each for each in found if (each["vectors"], each["method"], each["margin"]) == asked]:
            told, hits, flips, right = (sum(each[key] for each in mine) for key in ("told", "hits", "flipped", "right"))
            shares = [f"{hits / told:.1%}", f"{hits / flips:.1%}", f"{right / hits:.1%}"]
            rates = [each["rows"] / each["seconds"] for each in mine]
            speed = spread(rates, ",.0f") if vectors == "words" else "–"  # its vectors are made once for all margins
            lines.append(line([method, vectors, f"{margin:g}", f"{told:,}", *shares, speed]))
    head = (
        f"Measured {result['date']} on {result['machine']['processor']}, threads: {result['settings']['threads']}; "
        f"{found[0]['rows']:,} descriptions of Debian's packages in {len(sections.SECTIONS)} sections, {FLIPPED:.0%} "
        f"of the labels flipped, {len(runs)} draws, each in a fresh process."
    )
    return "\n\n".join([head, *cautions(runs, len(runs)), "\n".join(lines)]) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
