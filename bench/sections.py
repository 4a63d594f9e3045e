"""The rows of the comparison of methods: which section of Debian a package belongs to, by its one-line description.

Real texts that anyone with Debian has (`apt-cache dumpavail`, after `apt-get update`); a result holds their digest.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sartor import durable
from sartor.errors import DataError

SECTIONS = ("games", "sound", "graphics", "mail", "math", "database", "editors", "fonts")
SPLIT = {"train": 20, "dev": 2, "test": 10}  # rows of each section
SEED = 11

Row = tuple[str, str]


def write(folder: Path) -> None:
    """`train.jsonl`, `dev.jsonl` and `test.jsonl`: as many of each section in each, nothing twice."""
    texts: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for text, section in dict(sorted(packages())).items():
        texts[section].append(text)
    draw = random.Random(SEED)
    chosen = {section: draw.sample(members, sum(SPLIT.values())) for section, members in texts.items()}
    start = 0
    for part, count in SPLIT.items():
        rows = [(text, section) for section in SECTIONS for text in chosen[section][start : start + count]]
        draw.shuffle(rows)
        lines = [json.dumps({"prompt": f"Section of: {text}", "completion": section}) + "\n" for text, section in rows]
        durable.atomic_write(folder / f"{part}.jsonl", "".join(lines))
        start += count


def packages() -> Iterator[Row]:
    """(description, section) of each package in one of the sections."""
    for facts in available():
        if facts.get("Section") in SECTIONS and 20 <= len(facts["Description"]) <= 80:
            yield facts["Description"], facts["Section"]


def available() -> Iterator[dict[str, str]]:
    """What apt knows of each package, its one-line description in English under `Description`.

    Raises:
        DataError: apt knows no packages.
    """
    done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=False)
    if not done.stdout:
        raise DataError("apt-cache lists no packages", hint="apt-get update, on Debian or one of its kin")
    for stanza in done.stdout.split("\n\n"):
        facts = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        yield {"Description": facts.get("Description-en", ""), **facts}
