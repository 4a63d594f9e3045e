"""Sartor's own engine: a local model, asked in one running batch, without any network.

It is not held to a schema: what it says is read leniently, and what cannot be read is a named failure like any other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from sartor.ask import Answer, Question, Wish
from sartor.errors import SartorError, UserError
from sartor.generate.protocol import Engine, Failed, Sampling, Token, lost
from sartor.hub import find
from sartor.names import resolve
from sartor.recipe import ModelSpec
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.chat import Speech


class Config(Frozen):
    """Which model answers."""

    model: ModelSpec = Field(description="The model, as in `model` of a recipe.")
    rows: int = Field(default=8, ge=1, le=256, description="Questions computed together.")

    @field_validator("model", mode="before")
    @classmethod
    def _is_no_url(cls, value: Any) -> Any:
        if isinstance(value, str) and "://" in value:
            raise ValueError("a model here has a name and no url; an endpoint is {url: …, model: …}")
        return value


@dataclass(slots=True)
class _Row:
    """A question in the batch."""

    question: Question
    prompt: tuple[int, ...]
    began: float
    ids: list[int] = field(default_factory=list)


class Local:
    """See `ask.Asker`. The engine is its own from here on: `close` closes it."""

    def __init__(self, name: str, engine: Engine, renderer: Speech, *, rows: int) -> None:
        self.name = name
        self._engine = engine
        self._renderer = renderer
        self._rows = rows

    def ask(self, questions: Iterable[Question], wish: Wish) -> Iterator[Answer]:
        """Ask them, so many at once; leaving the loop early takes back what is under way."""
        waiting = iter(questions)
        batch: dict[int, _Row] = {}
        try:
            while True:
                while len(batch) < self._rows and (question := next(waiting, None)) is not None:
                    failed = self._join(batch, question, wish)
                    if failed is not None:
                        yield failed
                if not batch:
                    return
                yield from self._step(batch)
        finally:
            for handle in batch:
                self._engine.cancel(handle)

    def close(self) -> None:
        self._engine.close()

    def _join(self, batch: dict[int, _Row], question: Question, wish: Wish) -> Answer | None:
        """Let a question join the batch; or say why it cannot be asked."""
        began = time.monotonic()
        try:
            prompt = self._renderer.prompt(question.messages)
            sampling = Sampling(
                max_new_tokens=wish.max_tokens,
                stop_ids=self._renderer.stop_ids,
                temperature=wish.temperature,
                seed=question.seed(wish.seed),
            )
            handle = self._engine.submit(prompt, sampling, None)
        except UserError as error:
            return Answer(key=question.key, failure=f"cannot_be_asked: {error}")
        batch[handle] = _Row(question, prompt, began)
        return None

    def _step(self, batch: dict[int, _Row]) -> Iterator[Answer]:
        """One step of the batch; the answers that end with it."""
        try:
            tokens = self._engine.advance()
        except Failed as failed:
            yield self._answer(batch.pop(failed.row), failure=f"engine: {_words(failed.error)}")
            return
        for token in tokens:
            yield from self._take(batch, token)
        for handle in batch.keys() - set(self._engine.requests):
            yield self._answer(batch.pop(handle), failure=f"engine: {lost(handle)}")

    def _take(self, batch: dict[int, _Row], token: Token) -> Iterator[Answer]:
        row = batch[token.row]
        if token.finish != "stop":
            row.ids.append(token.id)
        if token.finish is None:
            return
        del batch[token.row]
        text = self._renderer.decode(row.ids)
        if text.strip():
            yield self._answer(row, text=text, truncated=token.finish == "length")
        else:
            yield self._answer(row, failure="empty: the answer has no text")

    def _answer(self, row: _Row, *, text: str = "", failure: str = "", truncated: bool = False) -> Answer:
        return Answer(
            key=row.question.key,
            text=text,
            failure=failure,
            prompt_tokens=len(row.prompt),
            output_tokens=len(row.ids),
            seconds=round(time.monotonic() - row.began, 3),
            truncated=truncated,
        )


def open_asker(config: Config) -> Local:
    """An asker of a model on this machine.

    Raises:
        ModelError: there is none, or it cannot be opened.
    """
    from sartor.chat import open_renderer  # jinja2, which whoever only reads settings does without

    base = find(config.model)
    renderer = open_renderer(base.folder, template_kwargs=config.model.template.items())
    quantize = config.model.quantize or "none"
    engine = resolve("generate", "sartor").open_engine(base.folder, {}, max_rows=config.rows, quantize=quantize)
    return Local(config.model.name, engine, renderer, rows=config.rows)


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, SartorError) else f"{type(error).__name__}: {error}"
