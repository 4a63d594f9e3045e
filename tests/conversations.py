"""Conversations, a small tokenizer and questions about what was rendered, for the tests of chat.py and control.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sartor.chat import Rendered, Renderer, preview
from sartor.types import Chat, Json, Message, Source, ToolCall

SOURCE = Source(file="rows.jsonl", line=7)
WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city – now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = ToolCall(name="weather", arguments={"city": "Zürich"}, id="call00001")


def system(content: str) -> Message:
    return Message(role="system", content=content)


def user(content: str) -> Message:
    return Message(role="user", content=content)


def assistant(content: str = "", **fields: Any) -> Message:
    return Message(role="assistant", content=content, **fields)


def tool(content: str) -> Message:
    return Message(role="tool", content=content, tool_call_id="call00001")


def chat(*messages: Message, tools: Sequence[Json] = ()) -> Chat:
    return Chat(source=SOURCE, messages=messages, tools=tuple(tools))


def tiny(template: str | None, special: Sequence[str | AddedToken] = ("<s>", "<end>"), **kwargs: Any) -> Any:
    """A byte-level tokenizer without merges, with the template and the tokens of a test."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: id for id, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    backend.add_tokens(["<think>", "</think>", "<rare>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", chat_template=template, **kwargs)


TINY = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def whole(tokenizer: Any, example: Chat, *, generate: bool = False, **kwargs: Any) -> Any:
    """What transformers itself makes of a conversation, in its own message shape."""
    messages = []
    for message in example.messages:
        shaped: Json = {"role": message.role, "content": message.content}
        if message.reasoning:
            shaped["reasoning_content"] = message.reasoning
        if message.tool_calls:
            calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
            shaped["tool_calls"] = [{"type": "function", "function": call} for call in calls]
        messages.append(shaped)
    return tokenizer.apply_chat_template(
        messages, tools=list(example.tools) or None, add_generation_prompt=generate, return_dict=False, **kwargs
    )


def spans(rendered: Rendered, renderer: Renderer) -> list[str]:
    """The trained stretches of a sequence, as text."""
    return [text for text, trained in preview(rendered, renderer) if trained]


def trained(example: Chat, renderer: Renderer) -> list[list[str]]:
    return [spans(rendered, renderer) for rendered in renderer.render(example)]


def num_controls(ids: Sequence[int], tokenizer: Any) -> int:
    """How many ids are added tokens: all of them steer the model in the tokenizers used here."""
    return sum(id in tokenizer.added_tokens_decoder for id in ids)


def assert_prompts_are_prefixes(example: Chat, renderer: Renderer) -> None:
    """Each trained turn is trained in exactly one sequence, right after the very prompt that is served for it."""
    sequences = renderer.render(example)
    for index, message in enumerate(example.messages):
        if message.role == "assistant" and message.weight:
            prompt = renderer.prompt(example.messages[:index], example.tools)
            size = len(prompt)
            after = [s for s in sequences if s.ids[:size] == prompt and s.weights[size] and not s.weights[size - 1]]
            assert len(after) == 1, (index, len(after))
