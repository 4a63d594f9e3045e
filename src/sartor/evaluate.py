"""Measure: an arm on items gives scored answers; a policy on dev batches gives a loss."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.backends.protocol import Backend
from sartor.chat import Rendered, Renderer
from sartor.events import Answered, Event
from sartor.generate.protocol import Answer, Engine, FinishReason, Sampling
from sartor.metrics.load import Metric
from sartor.names import resolve
from sartor.plan import ProofPlan
from sartor.proof import Item
from sartor.types import Batch, Chat, Json, Score, Text


def dev_loss(backend: Backend, objective: Any, config: Any, dev: Sequence[Batch]) -> tuple[float, int]:
    """Mean loss over all supervised tokens of the dev batches, and their number."""
    sums = [backend.forward_backward(batch, objective, config, 1.0, grad=False) for batch in dev]
    weight = sum(objective.weight(batch) for batch in dev)
    return sum(part.loss for part in sums) / weight, sum(part.num_supervised for part in sums)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One item as it is put to the model.

    `whole` is empty unless the metric reads likelihoods; its target begins at `start`, which is at least 1.
    """

    reference: Any
    prompt: tuple[int, ...]
    whole: tuple[int, ...] = ()
    start: int = 0


class Examiner:
    """Puts items to a model under an arm and scores the answers, always in the same way."""

    def __init__(self, engine: Engine, renderer: Renderer, plan: ProofPlan, metric: Metric) -> None:
        self._engine = engine
        self._renderer = renderer
        self._plan = plan
        self._metric = metric
        self._config = metric.config_type(**plan.metric.settings)

    def examine(
        self, arm: str, config: Any, items: Sequence[Chat | Text], *, adapter: str | None
    ) -> Generator[Event, None, list[Item]]:
        """Answer and score all items, in batches of similar length; the results in the order of the items."""
        asked = [self._ask(arm, config, item) for item in items]
        order = sorted(range(len(items)), key=lambda index: len(asked[index].prompt))
        records: dict[int, Item] = {}
        for start in range(0, len(order), self._plan.batch_size):
            chosen = order[start : start + self._plan.batch_size]
            batch = [asked[index] for index in chosen]
            found = self._weigh(batch, adapter) if self._metric.reads_likelihood else self._answer(batch, adapter)
            for index, (output, score, answer) in zip(chosen, found, strict=True):
                item = items[index]
                records[index] = Item(
                    item=item.id,
                    arm=arm,
                    input=_shown(item),
                    target=asked[index].reference.target if isinstance(item, Chat) else item.text,
                    output=output,
                    score=score.value,
                    detail=score.detail,
                    finish=answer.finish,
                    prompt_tokens=len(asked[index].prompt),
                    output_tokens=len(answer.ids),
                    seconds=answer.seconds,
                )
            yield Answered(arm=arm, done=len(records), total=len(items))
        return [records[index] for index in range(len(items))]

    def _ask(self, arm: str, config: Any, item: Chat | Text) -> _Asked:
        """An item under an arm, as token ids: the prompt, and the prompt with the target after it."""
        if isinstance(item, Text):
            return _Asked(item, (), *_target(self._renderer.render(item)[0]))
        turns = resolve("arms", arm).messages(config, item)
        prompt = self._renderer.prompt(turns, item.tools)
        if not self._metric.reads_likelihood:
            return _Asked(self._reference(item), prompt)
        shown = item.model_copy(update={"messages": (*turns, item.messages[-1])})
        return _Asked(self._reference(item), prompt, *_target(self._rendered(shown)))

    def _weigh(self, batch: Sequence[_Asked], adapter: str | None) -> Iterator[tuple[str, Score, Answer]]:
        """The mean log-probability of each target: that of the whole less that of the prompt before it."""
        began = time.monotonic()
        totals = self._engine.logprobs([asked.whole for asked in batch], adapter)
        befores = self._engine.logprobs([asked.whole[: asked.start] for asked in batch], adapter)
        seconds = (time.monotonic() - began) / len(batch)
        for asked, total, before in zip(batch, totals, befores, strict=True):
            target = asked.whole[asked.start :]
            score = self._metric.score(self._config, asked.reference, (total - before) / len(target))
            yield score.detail, score, Answer(target, "stop", seconds)

    def _answer(self, batch: Sequence[_Asked], adapter: str | None) -> Iterator[tuple[str, Score, Answer]]:
        """Greedy answers. Seconds are the batch's, shared out: what one answer costs when answers are batched."""
        sampling = Sampling(max_new_tokens=self._plan.max_new_tokens, stop_ids=self._renderer.stop_ids)
        ids: list[list[int]] = [[] for _ in batch]
        ends: list[FinishReason] = ["length" for _ in batch]
        began = time.monotonic()
        for token in self._engine.stream([asked.prompt for asked in batch], sampling, adapter):
            if token.finish != "stop":
                ids[token.row].append(token.id)
            if token.finish:
                ends[token.row] = token.finish
        seconds = (time.monotonic() - began) / len(batch)
        for asked, row, end in zip(batch, ids, ends, strict=True):
            output = self._renderer.decode(row)
            yield output, self._metric.score(self._config, asked.reference, output), Answer(tuple(row), end, seconds)

    def _reference(self, item: Chat) -> Chat:
        """The item with its target as text: a turn that only calls tools is written as the template writes it."""
        last = item.messages[-1]
        if not last.tool_calls:
            return item
        whole, start = _target(self._rendered(item))
        text = self._renderer.decode(whole[start:])
        return item.model_copy(update={"messages": (*item.prompt, last.model_copy(update={"content": text}))})

    def _rendered(self, item: Chat) -> Rendered:
        """The item with just its target marked: an answer is scored whatever weight it has in training."""
        *earlier, last = item.messages
        context = [turn.model_copy(update={"weight": 0.0}) for turn in earlier]
        marked = (*context, last.model_copy(update={"weight": 1.0}))
        return self._renderer.render(item.model_copy(update={"messages": marked}))[-1]


def _target(rendered: Rendered) -> tuple[tuple[int, ...], int]:
    """The ids up to the last one with a weight, and where those begin: what follows the stop token is never said."""
    places = [index for index, weight in enumerate(rendered.weights) if weight]
    return rendered.ids[: places[-1] + 1], places[0]


def _shown(item: Chat | Text) -> tuple[Json, ...]:
    """The conversation before the target, for people."""
    if isinstance(item, Text):
        return ()
    return tuple(turn.model_dump(include={"role", "content"}) for turn in item.prompt)
