"""A local model is asked in one batch; the engine is a fake, the tokens are real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sartor.ask import Question, Wish
from sartor.ask.engine import Local
from sartor.errors import MachineError, UserError
from sartor.generate.protocol import Failed, Sampling, Token
from sartor.types import Message

from ..engines import FakeEngine, renderer_of  # noqa: TID252 - the tests are no package

Asking = Callable[..., tuple[Local, FakeEngine]]


class Troubled(FakeEngine):
    """An engine that refuses long prompts, and fails or forgets a request when it is told to."""

    fails, forgets = -1, -1

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        if len(prompt) > 200:
            raise UserError("the prompt leaves no room for an answer", hint="shorten it")
        return super().submit(prompt, sampling, adapter)

    def advance(self) -> list[Token]:
        if self.fails in self._rows:
            del self._rows[self.fails]
            raise Failed(self.fails, MachineError("out of memory", hint="close something"))
        self._rows.pop(self.forgets, None)
        return super().advance()


@pytest.fixture
def asking(smollm2_folder: Path, smollm2_tokenizer: Any) -> Asking:
    def opened(script: Callable[[str, str | None], str], *, rows: int = 2) -> tuple[Local, FakeEngine]:
        renderer = renderer_of(smollm2_folder)
        engine = Troubled(renderer, smollm2_tokenizer, script)
        return Local("fake", engine, renderer, rows=rows), engine

    return opened


def questions(*texts: str) -> list[Question]:
    return [Question(text[:9], (Message(role="user", content=text),)) for text in texts]


def test_answers_come_with_their_tokens(asking: Asking) -> None:
    local, engine = asking(lambda prompt, adapter: f"You said {'one' if 'one' in prompt else 'other'}.")
    answers = {answer.key: answer for answer in local.ask(questions("one", "two", "three"), Wish())}
    assert {key: answer.text for key, answer in answers.items()} == {
        "one": "You said one.",
        "two": "You said other.",
        "three": "You said other.",
    }
    assert all(answer.prompt_tokens > 5 and answer.output_tokens >= 4 for answer in answers.values())
    assert len(engine.asked) == 3


def test_a_short_limit_says_that_it_cut(asking: Asking) -> None:
    local, _ = asking(lambda prompt, adapter: "one two three four five")
    (answer,) = local.ask(questions("count"), Wish(max_tokens=2))
    assert answer.truncated
    assert answer.output_tokens == 2


def test_what_cannot_be_answered_is_a_failure_by_name(asking: Asking) -> None:
    local, engine = asking(lambda prompt, adapter: "" if "nothing" in prompt else "Yes.", rows=4)
    engine.fails, engine.forgets = 1, 2  # type: ignore[attr-defined]
    asked = questions("nothing", "fails here", "forgotten", "word " * 300, "fine")
    failures = {answer.key: answer.failure for answer in local.ask(asked, Wish())}
    assert {key: failure.partition(":")[0] for key, failure in failures.items()} == {
        "nothing": "empty",
        "fails her": "engine",
        "forgotten": "engine",
        "word word": "cannot_be_asked",
        "fine": "",
    }


def test_leaving_early_empties_the_batch(asking: Asking) -> None:
    local, engine = asking(lambda prompt, adapter: "Yes." if "one" in prompt else "A much longer answer than that.")
    answers = local.ask(questions("one", "two", "three"), Wish())
    assert next(answers).key == "one"
    answers.close()  # type: ignore[attr-defined]
    assert not engine.requests
    local.close()
    assert engine.closed
