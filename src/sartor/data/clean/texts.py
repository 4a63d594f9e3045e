"""The texts of an example, whatever its kind: to look at, and to edit with the field named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sartor.types import Chat, Example, Message, Pair, Text, Unpaired

#: What is edited in a message. Arguments of tool calls and schemas are data, not prose.
PARTS = ("content", "reasoning")

#: Which part of an example counts.
Part = Literal["question", "answer", "whole"]

#: What has messages.
Talk = Chat | Pair | Unpaired


@dataclass(frozen=True, slots=True)
class Found:
    """One text: `field` is its path, such as `messages[2].content`; `answer`: the model shall learn to write it."""

    field: str
    text: str
    answer: bool


def texts_of(example: Example) -> Iterator[Found]:
    """Every text that is not empty, in reading order."""
    if isinstance(example, Text):
        yield Found("text", example.text, answer=True)
        return
    last = len(example.messages) - 1 if isinstance(example, Chat) else -1
    for place, message in messages_of(example):
        answer = place in ("chosen", "rejected", "answer") or place == f"messages[{last}]"
        for part in PARTS:
            if text := vars(message)[part]:
                yield Found(f"{place}.{part}", text, answer)


def question_of(example: Example) -> str:
    """All that the model is asked, as one text; empty for running text."""
    return "\n".join(found.text for found in texts_of(example) if not found.answer)


def answer_of(example: Example) -> str:
    """What the model shall answer, the better one of two; a running text as a whole."""
    if isinstance(example, Chat):
        return example.target
    if isinstance(example, Text):
        return example.text
    return (example.chosen if isinstance(example, Pair) else example.answer).content


def whole_of(example: Example) -> str:
    """All texts as one."""
    return "\n".join(found.text for found in texts_of(example))


def part_of(example: Example, part: Part) -> str:
    """One part of an example as a text. A running text is all one part."""
    if isinstance(example, Text):
        return example.text
    return {"question": question_of, "answer": answer_of, "whole": whole_of}[part](example)


def edited(example: Example, edit: Callable[[str], str]) -> tuple[Example, tuple[str, ...]]:
    """The example with each text replaced by what `edit` makes of it, and the fields that are other now."""
    changed = tuple(found.field for found in texts_of(example) if edit(found.text) != found.text)
    if not changed:
        return example, ()

    if isinstance(example, Text):
        return example.model_copy(update={"text": edit(example.text)}), changed

    def over(message: Message) -> Message:
        return message.model_copy(update={part: edit(vars(message)[part]) for part in PARTS if vars(message)[part]})

    return with_messages(example, over), changed


def with_messages(example: Talk, over: Callable[[Message], Message]) -> Talk:
    """The example with each message replaced by what `over` makes of it."""
    if isinstance(example, Chat):
        return example.model_copy(update={"messages": tuple(map(over, example.messages))})
    update: dict[str, object] = {"prompt": tuple(map(over, example.prompt))}
    if isinstance(example, Pair):
        update |= {"chosen": over(example.chosen), "rejected": over(example.rejected)}
    else:
        update["answer"] = over(example.answer)
    return example.model_copy(update=update)


def messages_of(example: Talk) -> Iterator[tuple[str, Message]]:
    """Every message with its path, in reading order."""
    if isinstance(example, Chat):
        yield from ((f"messages[{index}]", message) for index, message in enumerate(example.messages))
        return
    yield from ((f"prompt[{index}]", message) for index, message in enumerate(example.prompt))
    if isinstance(example, Pair):
        yield "chosen", example.chosen
        yield "rejected", example.rejected
    else:
        yield "answer", example.answer
