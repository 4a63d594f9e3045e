"""Measure: an arm on items gives scored answers; a policy on dev batches gives a loss."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sartor.backends.protocol import Backend
from sartor.chat import Rendered, Speech
from sartor.events import Answered, Event
from sartor.generate.embedder import embedder
from sartor.generate.protocol import Answer, Engine, FinishReason, Sampling
from sartor.metrics.load import Metric
from sartor.names import resolve
from sartor.plan import ProofPlan
from sartor.proof import Item
from sartor.types import Batch, Chat, Json, Message, Score, Text


def dev_loss(backend: Backend, objective: Any, config: Any, dev: Sequence[Batch]) -> tuple[float, int]:
    """Mean loss over all supervised tokens of the dev batches of all ranks, and their number."""
    sums = [backend.forward_backward(batch, objective, config, 1.0, grad=False) for batch in dev]
    weight = backend.sum(sum(objective.weight(batch) for batch in dev))
    loss, num_supervised = sum(part.loss for part in sums), sum(part.num_supervised for part in sums)
    return backend.sum(loss) / weight, int(backend.sum(num_supervised))


@dataclass(frozen=True, slots=True)
class _Asked:
    """One item as it is put to the model.

    `whole` is empty unless the metric reads likelihoods; its target begins at `start`, which is at least 1.
    """

    reference: Any
    prompt: tuple[int, ...]
    whole: tuple[int, ...] = ()
    start: int = 0


#: For each of the items that were put to the model: its output, its score, and the answer; progress on the way.
_Found = Generator[Event, None, list[tuple[str, Score, Answer]]]


class Examiner:
    """Puts items to a model under an arm and scores the answers, always in the same way."""

    def __init__(self, engine: Engine, renderer: Speech, plan: ProofPlan, metric: Metric) -> None:
        self._engine = engine
        self._renderer = renderer
        self._plan = plan
        self._metric = metric
        self._config = metric.config_type(**plan.metric.settings)
        self._vectors: dict[tuple[int, ...], Any] = {}

    def examine(
        self, arm: str, config: Any, items: Sequence[Chat | Text], *, adapter: str | None
    ) -> Generator[Event, None, list[Item]]:
        """Answer and score all items, the shortest first; the results in the order of the items."""
        asked = [self._ask(arm, config, item) for item in items]
        order = sorted(range(len(items)), key=lambda index: len(asked[index].prompt))
        found = yield from self._find(arm, config, [asked[index] for index in order], adapter)
        records: dict[int, Item] = {}
        for index, (output, score, answer) in zip(order, found, strict=True):
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
        return [records[index] for index in range(len(items))]

    def length(self, item: Chat | Text, arm: str = "zero_shot", config: Any = None) -> int:
        """Tokens that an item takes under an arm, with room for its answer; the item as it stands if none is named."""
        asked = self._ask(arm, config, item)
        return len(asked.whole) or len(asked.prompt) + self._plan.max_new_tokens

    def _ask(self, arm: str, config: Any, item: Chat | Text) -> _Asked:
        """An item under an arm, as token ids: the prompt, and the prompt with the target after it."""
        if isinstance(item, Text):
            return _Asked(item, (), *_target(self._renderer.render(item)[0]))
        module = resolve("arms", arm)
        turns = module.messages(config, item) if "messages" in vars(module) else item.prompt
        prompt = self._renderer.prompt(turns, item.tools)
        if self._metric.reads != "likelihood":
            return _Asked(self._reference(item), prompt)
        shown = item.model_copy(update={"messages": (*turns, item.messages[-1])})
        return _Asked(self._reference(item), prompt, *_target(self._rendered(shown)))

    def _find(self, arm: str, config: Any, asked: Sequence[_Asked], adapter: str | None) -> _Found:
        """The outputs with their scores, in the one way that suits arm and metric."""
        if "answers" in vars(resolve("arms", arm)):
            return self._own(arm, config, asked)
        ways = {"answer": self._answer, "likelihood": self._weigh, "rank": self._rank}
        return ways[self._metric.reads](arm, asked, adapter)

    def _own(self, arm: str, config: Any, asked: Sequence[_Asked]) -> _Found:
        """What an arm answers by itself."""
        began = time.monotonic()
        outputs = resolve("arms", arm).answers(config, [each.reference for each in asked], self._embed)
        scores = [
            self._metric.score(self._config, each.reference, output)
            for each, output in zip(asked, outputs, strict=True)
        ]
        yield Answered(arm=arm, done=len(asked), total=len(asked))
        answer = Answer((), "stop", (time.monotonic() - began) / max(1, len(asked)))
        return [(output, score, answer) for output, score in zip(outputs, scores, strict=True)]

    def _rank(self, arm: str, asked: Sequence[_Asked], adapter: str | None) -> _Found:
        """The place of each target among the targets of all items, the nearest first; what is as near comes before it.

        The output is the nearest.
        """
        began = time.monotonic()
        pool = list(dict.fromkeys(each.reference.target for each in asked))
        texts = [self._renderer.prompt((Message(role="user", content=target),)) for target in pool]
        engine = embedder(self._engine)
        cosines_NP = engine.embed([each.prompt for each in asked], adapter) @ engine.embed(texts, adapter).T
        yield Answered(arm=arm, done=len(asked), total=len(asked))
        answer = Answer((), "stop", (time.monotonic() - began) / max(1, len(asked)))
        found = []
        for each, cosines_P in zip(asked, cosines_NP, strict=True):
            rank = int((cosines_P >= cosines_P[pool.index(each.reference.target)]).sum())
            found.append((pool[cosines_P.argmax()], self._metric.score(self._config, each.reference, rank), answer))
        return found

    def _embed(self, conversations: Sequence[Sequence[Message]]) -> Any:
        """Conversations as the base encoder sees them, each computed once."""
        prompts = [self._renderer.prompt(messages) for messages in conversations]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._vectors]
        if new:
            self._vectors |= zip(new, embedder(self._engine).embed(new, None), strict=True)
        return np.stack([self._vectors[prompt] for prompt in prompts])

    def _weigh(self, arm: str, asked: Sequence[_Asked], adapter: str | None) -> _Found:
        """The mean log-probability of each target: that of the whole less that of the prompt before it.

        In batches, because an engine weighs a list as one: progress is told between two of them.
        """
        found = []
        for start in range(0, len(asked), self._plan.batch_size):
            batch = asked[start : start + self._plan.batch_size]
            began = time.monotonic()
            totals = self._engine.logprobs([each.whole for each in batch], adapter)
            preceded = [each for each in batch if each.start > 1]  # one token alone has nothing to be predicted from
            befores = iter(self._engine.logprobs([each.whole[: each.start] for each in preceded], adapter))
            seconds = (time.monotonic() - began) / len(batch)
            for each, total in zip(batch, totals, strict=True):
                target = each.whole[each.start :]
                weighed = total - (next(befores) if each.start > 1 else 0.0)
                score = self._metric.score(self._config, each.reference, weighed / len(target))
                found.append((score.detail, score, Answer(target, "stop", seconds)))
            yield Answered(arm=arm, done=len(found), total=len(asked))
        return found

    def _answer(self, arm: str, asked: Sequence[_Asked], adapter: str | None) -> _Found:
        """Greedy answers, all asked at once: in a running batch the next one begins when another ends.

        Seconds are all answers', shared out: what one answer costs when answers are batched.
        """
        sampling = Sampling(max_new_tokens=self._plan.max_new_tokens, stop_ids=self._renderer.stop_ids)
        ids: list[list[int]] = [[] for _ in asked]
        ends: dict[int, FinishReason] = {}
        began = time.monotonic()
        for token in self._engine.stream([each.prompt for each in asked], sampling, adapter):
            if token.finish != "stop":
                ids[token.row].append(token.id)
            if token.finish:
                ends[token.row] = token.finish
                if len(ends) % self._plan.batch_size == 0 or len(ends) == len(asked):
                    yield Answered(arm=arm, done=len(ends), total=len(asked))
        seconds = (time.monotonic() - began) / max(1, len(asked))
        outputs = [self._renderer.decode(row) for row in ids]
        scores = [
            self._metric.score(self._config, each.reference, output)
            for each, output in zip(asked, outputs, strict=True)
        ]
        answers = [Answer(tuple(row), ends[place], seconds) for place, row in enumerate(ids)]
        return list(zip(outputs, scores, answers, strict=True))

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
    return rendered.ids[: places[-1] + 1], max(1, places[0])  # nothing predicts the first token


def _shown(item: Chat | Text) -> tuple[Json, ...]:
    """The conversation before the target, for people."""
    if isinstance(item, Text):
        return ()
    return tuple(turn.model_dump(include={"role", "content"}) for turn in item.prompt)
