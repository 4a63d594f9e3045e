"""Failures become seeds: what the untuned model answers wrongly on train and dev shows what there is too little of.

Never of the test split: what is held out for the proof is not learned from, in no round and through no recipe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sartor.ask import Asker, Question, Wish
from sartor.augment.turns import unsuitable
from sartor.errors import DataError
from sartor.metrics.load import Metric
from sartor.proof import Item
from sartor.types import Chat, Example, LedgerEntry

ARM = "zero_shot"


@dataclass(frozen=True, slots=True)
class Mined:
    """The examples that were answered wrongly, the worst first, and what became of the other items."""

    seeds: tuple[Chat, ...]
    entries: tuple[LedgerEntry, ...]


def mined(
    items: Iterable[Item],
    examples: Sequence[Example],
    *,
    held_out: Collection[str] = (),
    arm: str = ARM,
    below: float = 1.0,
) -> Mined:
    """Seeds from the answers of a baseline.

    Args:
        items: answers with their scores, of whatever split.
        examples: those of train and dev; only they can become seeds.
        held_out: ids of the test split.
        arm: whose answers count.
        below: a lower score than this is a failure.

    Raises:
        DataError: an example is held out, or no item is one of train or dev.
    """
    by_id = {example.id: example for example in examples}
    if leaked := sorted(by_id.keys() & set(held_out)):
        raise DataError(f"{leaked[0]} is held out for the proof, and no seed", hint="give those of train and dev")
    asked = [item for item in items if item.arm == arm]
    ours = [item for item in asked if item.item in by_id]
    if not ours:
        raise DataError(
            f"none of {len(asked)} answers of {arm} is to an example of train or dev",
            hint="a baseline answers the test split, which is never learned from; `measured` answers train and dev",
        )
    failed = sorted((item for item in ours if item.score < below), key=lambda item: (item.score, item.item))
    seeds, entries = [], []
    for item in failed:
        example = by_id[item.item]
        why = unsuitable(example)
        if isinstance(example, Chat) and not why:
            seeds.append(example)
        else:
            entries.append(_entry(example, "unsuitable_seed", why))
    return Mined(tuple(seeds), tuple(entries))


def measured(
    examples: Sequence[Example], asker: Asker, metric: Metric, config: object, *, max_tokens: int, seed: int = 17
) -> Iterator[Item]:
    """What a model answers to the examples of train and dev, scored, as a baseline does it for test: greedily.

    An answer that failed has the score 0, and says why. Items come as they are answered.

    Raises:
        DataError: the metric does not read answers.
    """
    if metric.reads != "answer":
        raise DataError(f"the metric {metric.name} reads no answers", hint="mine failures by exact, f1 or contains")
    chats = {example.id: example for example in examples if isinstance(example, Chat) and not unsuitable(example)}
    questions = (Question(id, example.prompt) for id, example in chats.items())
    for answer in asker.ask(questions, Wish(max_tokens=max_tokens, temperature=0.0, seed=seed)):
        example = chats[answer.key]
        score = metric.score(config, example, answer.text)
        yield Item(
            item=answer.key,
            arm=ARM,
            input=tuple(turn.model_dump(include={"role", "content"}) for turn in example.prompt),
            target=example.target,
            output=answer.text,
            score=0.0 if answer.failure else score.value,
            detail=answer.failure or score.detail,
            finish="length" if answer.truncated else "stop",
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            seconds=answer.seconds,
        )


def _entry(example: Example, reason: str, detail: str) -> LedgerEntry:
    source = example.source
    return LedgerEntry(action="flagged", file=source.file, line=source.line, reason=reason, detail=detail)
