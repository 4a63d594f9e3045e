"""The question and the answer of a seed, and a new example in its shape; what all recipes say to a model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sartor.augment import Made
from sartor.types import Chat, Example, Message, Pair


def unsuitable(example: Example) -> str:
    """Why an example cannot be a seed, in words; empty for one that can."""
    if not isinstance(example, Chat):
        return f"it is of the kind {example.kind}, not a conversation"
    if len(example.messages) < 2 or example.messages[-2].role != "user":
        return "its answer does not follow a question of the user"
    if not question_of(example).strip():
        return "its question is empty"
    if example.messages[-1].tool_calls or not example.target.strip():
        return "its answer is no text"
    return ""


def question_of(example: Made) -> str:
    """The last question."""
    asked = example.prompt if isinstance(example, Pair) else example.messages[:-1]
    return asked[-1].content


def answer_of(example: Made) -> str:
    """The answer to learn, the better one of two."""
    return example.chosen.content if isinstance(example, Pair) else example.target


def sides(example: Made) -> dict[str, Chat]:
    """A conversation for each of its answers, by the field in which the answer stands."""
    if isinstance(example, Chat):
        return {"messages": example}
    answers = {"chosen": example.chosen, "rejected": example.rejected}
    return {field: Chat(source=example.source, messages=(*example.prompt, answer)) for field, answer in answers.items()}


def remade(seed: Chat, *, question: str = "", answer: str = "") -> Chat:
    """The seed with another question, another answer, or both. What a seed thought is not what another one thinks."""
    *before, asked, said = seed.messages
    if question:
        asked = asked.model_copy(update={"content": question})
    if answer:
        said = said.model_copy(update={"content": answer, "reasoning": ""})
    return seed.model_copy(update={"messages": (*before, asked, said)})


def paired(seed: Chat, rejected: str) -> Pair:
    """The seed's answer as the better one of two."""
    last = seed.messages[-1]
    return Pair(
        source=seed.source,
        prompt=seed.prompt,
        chosen=last,
        rejected=Message(role="assistant", content=rejected),
        tools=seed.tools,
    )


def told(rules: str, seed: Chat, lessons: Sequence[str]) -> Message:
    """The system message: the rules, what the examples' own model is told, and what earlier rounds taught."""
    parts = [rules]
    before = "\n".join(message.content for message in seed.messages[:-2] if message.role in ("system", "developer"))
    if before:
        parts.append(f"The examples are for a model with these instructions:\n{before}")
    if lessons:
        parts.append("Earlier attempts were rejected. Avoid what was wrong with them:\n" + "\n".join(lessons))
    return Message(role="system", content="\n\n".join(parts))


def exchange(asked: str, said: str) -> tuple[Message, Message]:
    """One exchange as it should be: small models follow what was said better than what was asked for."""
    return Message(role="user", content=asked), Message(role="assistant", content=said)


def shown(**texts: str) -> str:
    """Texts as the JSON that is wanted: data, never instructions."""
    return json.dumps(texts, ensure_ascii=False)
