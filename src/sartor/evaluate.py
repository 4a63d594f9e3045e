"""Measure: an arm on items gives scored answers; a policy on dev batches gives a loss."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from sartor.backends.protocol import Backend
from sartor.chat import Renderer
from sartor.events import Answered, Event
from sartor.generate.protocol import Answer, Engine, FinishReason, Sampling
from sartor.metrics.load import Metric
from sartor.names import resolve
from sartor.plan import ProofPlan
from sartor.proof import Item
from sartor.types import Batch, Chat, Score


def dev_loss(backend: Backend, objective: Any, config: Any, dev: Sequence[Batch]) -> tuple[float, int]:
    """Mean loss over all supervised tokens of the dev batches, and their number."""
    sums = [backend.forward_backward(batch, objective, config, 1.0, grad=False) for batch in dev]
    weight = sum(objective.weight(batch) for batch in dev)
    return sum(part.loss for part in sums) / weight, sum(part.num_supervised for part in sums)


class Examiner:
    """Puts items to a model under an arm and scores the answers, always in the same way."""

    def __init__(self, engine: Engine, renderer: Renderer, plan: ProofPlan, metric: Metric) -> None:
        self._engine = engine
        self._renderer = renderer
        self._plan = plan
        self._metric = metric
        self._config = metric.config_type(**plan.metric.settings)

    def examine(
        self, arm: str, config: Any, items: Sequence[Chat], *, adapter: str | None
    ) -> Generator[Event, None, list[Item]]:
        """Answer and score all items, in batches of similar length; the results in the order of the items."""
        module = resolve("arms", arm)
        conversations = [module.messages(config, item) for item in items]
        prompts = [self._renderer.prompt(turns, item.tools) for turns, item in zip(conversations, items, strict=True)]
        order = sorted(range(len(items)), key=lambda index: len(prompts[index]))
        records: dict[int, Item] = {}
        for start in range(0, len(order), self._plan.batch_size):
            chosen = order[start : start + self._plan.batch_size]
            answers = self._answer([prompts[index] for index in chosen], adapter)
            for index, answer in zip(chosen, answers, strict=True):
                item, output = items[index], self._renderer.decode(answer.ids)
                score = self._score(item, output)
                records[index] = Item(
                    item=item.id,
                    arm=arm,
                    input=tuple(turn.model_dump(include={"role", "content"}) for turn in item.prompt),
                    target=self._reference(item).target,
                    output=output,
                    score=score.value,
                    detail=score.detail,
                    finish=answer.finish,
                    prompt_tokens=len(prompts[index]),
                    output_tokens=len(answer.ids),
                    seconds=answer.seconds,
                )
            yield Answered(arm=arm, done=len(records), total=len(items))
        return [records[index] for index in range(len(items))]

    def _answer(self, prompts: Sequence[Sequence[int]], adapter: str | None) -> list[Answer]:
        """Seconds are the batch's, shared out: what one answer costs when answers are batched."""
        sampling = Sampling(max_new_tokens=self._plan.max_new_tokens, stop_ids=self._renderer.stop_ids)
        ids: list[list[int]] = [[] for _ in prompts]
        ends: list[FinishReason] = ["length" for _ in prompts]
        began = time.monotonic()
        for token in self._engine.stream(prompts, sampling, adapter):
            if token.finish != "stop":
                ids[token.row].append(token.id)
            if token.finish:
                ends[token.row] = token.finish
        seconds = (time.monotonic() - began) / len(prompts)
        return [Answer(tuple(row), end, seconds) for row, end in zip(ids, ends, strict=True)]

    def _score(self, item: Chat, output: str) -> Score:
        return self._metric.score(self._config, self._reference(item), output)

    def _reference(self, item: Chat) -> Chat:
        """The item with its target as text: a turn that only calls tools is written as the template writes it."""
        last = item.messages[-1]
        if not last.tool_calls:
            return item
        rendered = self._renderer.render(item)[-1]
        start = len(self._renderer.prompt(item.prompt, item.tools))
        text = self._renderer.decode(rendered.ids[start:])
        return item.model_copy(update={"messages": (*item.prompt, last.model_copy(update={"content": text}))})
