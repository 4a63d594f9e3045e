"""Seeds, a fake that is asked and remembers what it was asked, and jobs of both."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sartor.ask import Answer, Question, Wish
from sartor.augment.work import Config, Work, open_work
from sartor.types import Chat, Message, Source

THINGS = (
    "bread",
    "cheese",
    "apples",
    "candles",
    "paper",
    "pencils",
    "lamps",
    "shoes",
    "hats",
    "gloves",
    "ropes",
    "nails",
    "soap",
    "plates",
    "cups",
    "spoons",
)
TOWNS = (
    "Lyon",
    "Porto",
    "Graz",
    "Bergen",
    "Turku",
    "Gdynia",
    "Brno",
    "Split",
    "Varna",
    "Cork",
    "Ghent",
    "Parma",
    "Malmo",
    "Tartu",
    "Zadar",
    "Pilsen",
)

Script = Callable[[Question], Answer]


def chat(question: str, answer: str, *, line: int = 1, file: str = "seeds.jsonl", system: str = "") -> Chat:
    before = (Message(role="system", content=system),) if system else ()
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Chat(source=Source(file=file, line=line), messages=(*before, *turns))


def seeds(number: int = 6) -> list[Chat]:
    return [
        chat(f"Where do I buy {THINGS[n]} in the town of {TOWNS[n]}?", f"At the market of {TOWNS[n]}.", line=n + 1)
        for n in range(number)
    ]


def said(question: str, answer: str) -> str:
    return json.dumps({"question": question, "answer": answer})


def draw(key: str, size: int) -> int:
    """A number below `size` that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % size


def new_example(key: str) -> str:
    """Another question for each key, of the kind that the seeds are of."""
    words = [f"{TOWNS[draw(f'{key}{n}', len(TOWNS))]} {THINGS[draw(f'{n}{key}', len(THINGS))]}" for n in range(3)]
    return said(f"Who sells {' or '.join(words)} on day {draw(key, 300)}?", f"The shop at gate {draw(key, 90)}.")


def mixed(question: Question) -> Answer:
    """Good ones, and each kind of bad one, by the key."""
    key = question.key
    if key.endswith("/mark"):
        text = json.dumps({"reason": "so", "score": 4 + draw(key, 7)})
    else:
        bad = ["nonsense", said("Again?", ""), "", said(*_seed_texts())]
        kind = draw(key, 12)
        text = bad[kind] if kind < len(bad) else new_example(key)
    if not text:
        return Answer(key, failure="empty: the answer has no text", prompt_tokens=5)
    return Answer(key, text, prompt_tokens=5, output_tokens=2)


class FakeAsker:
    """Answers by a script. Each key that it is asked is a line of `log`, if there is one."""

    name = "fake"

    def __init__(self, script: Script = mixed, log: Path | None = None) -> None:
        self._script = script
        self._log = log
        self.asked: list[Question] = []
        self.wishes: list[Wish] = []

    def ask(self, questions: Iterable[Question], wish: Wish) -> Iterator[Answer]:
        self.wishes.append(wish)
        for question in questions:
            self.asked.append(question)
            if self._log is not None:
                handle = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(handle, f"{question.key}\n".encode())
                os.close(handle)
            yield self._script(question)

    def close(self) -> None:
        pass


def job(folder: Path, *, number: int = 6, **config: Any) -> Work:
    settings: dict[str, Any] = {"wanted": 8, "size": 4, "rounds": 3, "accept": True}
    checks = {"language": False}
    return open_work(folder, seeds(number), Config.model_validate({**settings, "checks": checks, **config}))


def _seed_texts() -> tuple[str, str]:
    first = seeds(1)[0]
    return first.messages[0].content, first.target
