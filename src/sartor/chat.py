"""Messages + tokenizer → tokens + loss mask, and back. The only rendering and masking code.

The model's own chat template writes the text. What is trained is found by rendering prefixes, because common templates
do not mark it: P, the messages before a turn with the generation prompt, is what the model is given when it is served;
E, the messages up to and with the turn, is what it should have made of it. What E adds to P is trained, up to and with
the token that closes the turn. Text is cut where an answer begins, in training and in prompts alike, so the ids of a
prompt are always the first ids of the sequence that trained for it.

Terms: *turn* one assistant message · *span* its trained characters · *stop token* the control token that closes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateError

from sartor.control import Codec
from sartor.errors import DataError, ModelError, RecipeError, Where
from sartor.hub import GENERATION, read_settings
from sartor.types import Chat, Json, Message, Text, ToolCall, digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: What the renderer itself hands to a template: not to be set as a template argument.
RESERVED_KWARGS = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})


@dataclass(frozen=True, slots=True)
class Rendered:
    """One token sequence to train on.

    ids: T token ids · weights: T numbers, the weight of the turn where the token itself is a trained target, else 0 ·
    exact: every trained span follows exactly the prompt that will be served · stop_trained: every trained span ends
    with a token that ends generation.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    exact: bool
    stop_trained: bool


@dataclass(frozen=True, slots=True)
class _Turn:
    """An assistant turn: `text` is the conversation up to and with it, [start, end) its span in that text."""

    text: str
    start: int
    end: int
    weight: float
    exact: bool
    stop: int | None


@dataclass(frozen=True, slots=True)
class _Script:
    """A conversation as the template gets it: sentinels are in place, one set of messages and tools for all renders."""

    messages: tuple[Json, ...]
    weights: tuple[float, ...]
    tools: tuple[Json, ...]
    sentinel: str
    where: Where | None


class Speech(Protocol):
    """What the house needs of a renderer, this file's or that of `texts`."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides the tokens."""
        ...

    def render(self, example: Chat | Text) -> tuple[Rendered, ...]:
        """The sequences that train on an example."""
        ...

    def prompt(self, messages: Sequence[Message], tools: Sequence[Json] = ()) -> tuple[int, ...]:
        """The ids after which an answer comes."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of an answer."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of any ids."""
        ...


def open_renderer(folder: Path, *, template_kwargs: Iterable[tuple[str, Any]] = ()) -> Renderer:
    """The renderer of a model folder: its tokenizer, its chat template, and the stop tokens of its generation config.

    Raises:
        ModelError: the folder has no fast tokenizer, or one that cannot be split at control tokens.
        RecipeError: a template argument that the template does not read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no usable tokenizer in {folder}: {error}",
            hint="the folder needs tokenizer.json and tokenizer_config.json",
        ) from error
    eos = read_settings(folder, GENERATION).get("eos_token_id") if (folder / GENERATION).exists() else None
    eos_ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return Renderer(tokenizer, template_kwargs=template_kwargs, eos_ids=eos_ids)


class Renderer:
    """Turns examples into tokens and tokens into text, for one tokenizer and one set of template arguments.

    Attributes:
        stop_ids: the tokens that end generation.
        fingerprint: digest of all that decides the tokens: tokenizer, template, template arguments.
        ignored: what the template leaves out, a subset of `tools`, `tool calls`, `reasoning` and `system messages`.
            An example that needs one of them is refused.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        template_kwargs: Iterable[tuple[str, Any]] = (),
        eos_ids: Iterable[int] = (),
    ) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"{type(tokenizer).__name__} is not a fast tokenizer", hint="choose a model with a tokenizer.json"
            )
        templates = tokenizer.chat_template or ""
        template = "\n".join(templates.values()) if isinstance(templates, Mapping) else templates
        backend = tokenizer.backend_tokenizer.to_str()
        self._tokenizer = tokenizer
        self._has_template = bool(template)
        self._takes_developer = "developer" in template
        self._kwargs = _checked_kwargs(dict(template_kwargs), template)
        self._codec = Codec(json.loads(backend), template, frozenset(tokenizer.all_special_ids))
        self.fingerprint = digest_of(backend, templates, self._kwargs)
        self.ignored = frozenset(self._find_ignored()) if template else frozenset()
        eos = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.stop_ids = frozenset({*eos, *eos_ids, *(self._probe() if template else ())})

    def render(self, example: Chat | Text) -> tuple[Rendered, ...]:
        """The sequences that train on an example: each trained turn once, in the context it will be generated in.

        Mostly one. Templates that rewrite history (Qwen3 drops earlier thoughts) need more: a turn whose tokens are
        not in the sequence of a later one gets its own. Nothing if no turn has a weight. Ids end with the last trained
        turn.

        Raises:
            DataError: the template refuses the conversation or leaves a part of it out, or a turn has no prompt.
            ModelError: the model has no chat template.
        """
        where = Where(example.source.file, example.source.line)
        if isinstance(example, Text):
            return (self._render_text(example.text, where),)
        script = self._script(example.messages, example.tools, where)
        trained = [index for index, weight in enumerate(script.weights) if weight]
        if not trained:
            return ()
        turns = self._turns(script, trained[-1] + 1)
        sequences: list[list[_Turn]] = []
        for turn in reversed([turn for turn in turns if turn.weight]):
            for sequence in sequences:
                if turn.end <= sequence[-1].start and sequence[0].text.startswith(turn.text[: turn.end]):
                    sequence.append(turn)
                    break
            else:
                sequences.append([turn])
        return tuple(self._rendered(sequence, turns, script.sentinel) for sequence in reversed(sequences))

    def prompt(self, messages: Sequence[Message], tools: Sequence[Json] = ()) -> tuple[int, ...]:
        """The tokens after which the model answers. Raises as `render` does."""
        script = self._script(messages, tools, None)
        text = self._text(script, len(script.messages), generate=True)
        turns = self._turns(script, len(script.messages), strict=False)
        return tuple(chain.from_iterable(self._codec.encode(text, script.sentinel, _cuts(text, turns))))

    def opening(self, text: str) -> tuple[int, ...]:
        """The tokens of running text, for the model to go on with: it begins as in training.

        A first token that starts text, if the tokenizer adds one, and the text.

        Raises:
            DataError: the text is not Unicode.
        """
        first = self._tokenizer("a").input_ids[0]
        start = (first,) if first == self._tokenizer.bos_token_id else ()
        return (*start, *self._codec.encode_plain(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of an answer: without stop tokens and those that only a template writes (`<think>` stays)."""
        silent = self.stop_ids | self._codec.reserved_ids
        return self.text([id for id in ids if id not in silent])

    def text(self, ids: Sequence[int]) -> str:
        """The text of any ids, control tokens as they are spelt."""
        return str(self._tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False))

    def _render_text(self, text: str, where: Where) -> Rendered:
        """Running text up to the end-of-text token."""
        try:
            ids = self.opening(text)
        except DataError as error:
            raise DataError(error.message, hint=error.hint, where=where) from error
        end = self._tokenizer.eos_token_id
        ids += () if end is None else (end,)
        weights = (0.0, *(1.0,) * (len(ids) - 1))[: len(ids)]
        return Rendered(ids, weights, exact=True, stop_trained=end is not None)

    def _script(self, messages: Sequence[Message], tools: Sequence[Json], where: Where | None) -> _Script:
        """The conversation in the template's shape, with a sentinel wherever given text could become control."""
        if not self._has_template:
            raise ModelError(
                "the model has no chat template, so it cannot take messages",
                hint="choose an instruct model, or train on plain text and ask with it (POST /v1/completions)",
            )
        if not messages:
            raise DataError("the conversation has no messages", hint="give at least one user message", where=where)
        self._refuse_ignored(messages, tools, where)
        plain = [self._as_template_message(message) for message in messages]
        try:
            sentinel = self._codec.sentinel([plain, list(tools)])
        except DataError as error:
            raise DataError(error.message, hint=error.hint, where=where) from error
        weights = tuple(message.weight if message.role == "assistant" else 0.0 for message in messages)
        protected = tuple(self._protected(message, sentinel) for message in plain)
        return _Script(protected, weights, tuple(self._codec.protect(list(tools), sentinel)), sentinel, where)

    def _refuse_ignored(self, messages: Sequence[Message], tools: Sequence[Json], where: Where | None) -> None:
        used = {
            "tools": bool(tools),
            "tool calls": any(message.tool_calls for message in messages),
            "reasoning": any(message.reasoning for message in messages),
            "system messages": any(message.role in ("system", "developer") for message in messages),
        }
        for feature in sorted(self.ignored):
            if used[feature]:
                raise DataError(
                    f"the chat template of this model leaves out {feature}",
                    hint=f"write the {feature} into the content of the messages, or choose a model that takes them",
                    where=where,
                )

    def _as_template_message(self, message: Message) -> Json:
        """A message in the shape of the OpenAI API, with parsed arguments; templates test for keys, so none is empty.

        A developer is a system where the template knows no developer.
        """
        role = "system" if message.role == "developer" and not self._takes_developer else message.role
        shaped: Json = {"role": role, "content": message.content}
        if message.reasoning:
            shaped["reasoning_content"] = message.reasoning
        if message.name:
            shaped["name"] = message.name
        if message.tool_call_id:
            shaped["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            shaped["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                | ({"id": call.id} if call.id else {})
                for call in message.tool_calls
            ]
        return shaped

    def _protected(self, message: Json, sentinel: str) -> Json:
        """The values of a message protected; its keys, its role and the type of its calls are ours."""
        codec, assistant = self._codec, message["role"] == "assistant"
        content = codec.protect(message["content"], sentinel, assistant=assistant)
        rest = {key: value for key, value in message.items() if key not in ("role", "content")}
        return {"role": message["role"], "content": content} | {
            key: codec.protect(value, sentinel) for key, value in rest.items()
        }

    def _text(self, script: _Script, length: int, *, generate: bool) -> str:
        """The first `length` messages as the template writes them, `generate` adds the generation prompt."""
        try:
            # As a batch of one, because a single conversation may not be empty there.
            (text,) = self._tokenizer.apply_chat_template(
                [list(script.messages[:length])],
                tools=list(script.tools) or None,
                add_generation_prompt=generate,
                tokenize=False,
                **self._kwargs,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(
                f"the chat template refuses this conversation: {error}",
                hint="bring the messages into the order and shape that the model knows, or drop the row",
                where=script.where,
            ) from error
        return str(text)

    def _turns(self, script: _Script, length: int, *, strict: bool = True) -> list[_Turn]:
        """The assistant turns among the first `length` messages; with `strict` the trained ones must have a span.

        Turns that are context only are left out where the template cannot render the conversation up to them. So is a
        first message of the assistant: nothing prompts it.
        """
        turns = []
        for index, message in enumerate(script.messages[:length]):
            if message["role"] != "assistant":
                continue
            trained = strict and script.weights[index] != 0
            if index == 0 and trained:
                raise DataError(
                    "the conversation starts with the assistant, so nothing prompts its first message",
                    hint="give that message weight 0, or put a user message before it",
                    where=script.where,
                )
            try:
                turns += [self._turn(script, index)] if index else []
            except DataError:
                if trained:
                    raise
        return turns

    def _turn(self, script: _Script, index: int) -> _Turn:
        prompt = self._text(script, index, generate=True)
        text = self._text(script, index + 1, generate=False)
        exact = text.startswith(prompt)
        start = len(prompt) if exact else self._inexact_start(script, index, prompt, text)
        stop, end = self._codec.closing_token(text, start) or (None, len(text))
        return _Turn(text, start, end, script.weights[index], exact, stop)

    def _inexact_start(self, script: _Script, index: int, prompt: str, text: str) -> int:
        """Where an answer begins if the template shows it otherwise in history than after the generation prompt.

        A third rendering, of an answer that begins with the sentinel, shows what is the same before every answer.

        Raises:
            DataError: adding the answer changed what stands before it.
        """
        answer = {"role": "assistant", "content": script.sentinel}
        any_answer = _Script((*script.messages[:index], answer), (), script.tools, script.sentinel, script.where)
        start = _shared_length(prompt, text, self._text(any_answer, index + 1, generate=False))
        if start < len(self._text(script, index, generate=False)):
            raise DataError(
                f"the chat template rewrites the conversation before message {index + 1} when that message is added",
                hint="give that message weight 0, or choose a model with another template",
                where=script.where,
            )
        return start

    def _rendered(self, trained: Sequence[_Turn], turns: Sequence[_Turn], sentinel: str) -> Rendered:
        """The sequence of the last trained turn, which is the first of `trained`, with the others inside it."""
        text = trained[0].text
        earlier = turns[: next(place for place, turn in enumerate(turns) if turn is trained[0]) + 1]
        cuts = _cuts(text, earlier)
        ids: list[int] = []
        weights: list[float] = []
        for start, segment in zip((0, *cuts), self._codec.encode(text, sentinel, cuts), strict=True):
            weight = sum((turn.weight for turn in trained if turn.start <= start < turn.end), 0.0)
            ids += segment
            weights += [weight] * len(segment)
        stops = all(turn.stop in self.stop_ids for turn in trained)
        return Rendered(tuple(ids), tuple(weights), all(turn.exact for turn in trained), stops)

    def _find_ignored(self) -> Iterable[str]:
        """What the template leaves out without a word. What it refuses aloud is told by its own error."""
        for feature, (messages, tools) in _PROBES.items():
            script = self._probe_script(messages, tools)
            try:
                text = self._text(script, len(messages), generate=False)
            except DataError:
                continue
            if _WORD not in text:
                yield feature

    def _probe(self) -> frozenset[int]:
        """The tokens that close a turn in neutral conversations.

        Raises:
            ModelError: encoding piece by piece does not give the tokens that the tokenizer itself gives.
        """
        probes = [(_NEUTRAL, ()), *(probe for feature, probe in _PROBES.items() if feature not in self.ignored)]
        stops = set()
        for messages, tools in probes:
            script = self._probe_script(messages, tools)
            for length in range(1, len(messages) + 1):
                try:
                    text = self._text(script, length, generate=messages[length - 1].role != "assistant")
                except DataError as error:
                    if messages is _NEUTRAL:
                        raise ModelError(
                            error.message, hint="choose a model that takes a plain conversation"
                        ) from error
                    continue
                turns = self._turns(script, length, strict=False)
                ours = list(chain.from_iterable(self._codec.encode(text, script.sentinel, _cuts(text, turns))))
                if ours != self._tokenizer(text, add_special_tokens=False).input_ids:
                    raise ModelError(
                        "this tokenizer gives other tokens for a conversation in pieces than for it as a whole "
                        "(it marks the start of text, as SentencePiece does)",
                        hint="choose a model with a byte-level tokenizer: SmolLM2, Qwen, Llama 3, Phi, Granite",
                    )
                stops |= {turn.stop for turn in turns if turn.stop is not None}
        return frozenset(stops)

    def _probe_script(self, messages: Sequence[Message], tools: Sequence[Json]) -> _Script:
        plain = tuple(self._as_template_message(message) for message in messages)
        return _Script(plain, (0.0,) * len(plain), tuple(tools), self._codec.sentinel([*plain, *tools]), None)


def preview(rendered: Rendered, renderer: Speech) -> list[tuple[str, bool]]:
    """The sequence as text, in pieces, each with whether it is trained: what the coloured view shows."""
    pieces = groupby(zip(rendered.ids, rendered.weights, strict=True), key=lambda pair: pair[1] != 0)
    return [(renderer.text([id for id, _ in piece]), trained) for trained, piece in pieces]


def _cuts(text: str, turns: Sequence[_Turn]) -> list[int]:
    """The offsets at which the answers in `text` begin and end, as far as the template wrote them there unchanged."""
    places = {place for turn in turns for place in (turn.start, turn.end) if text.startswith(turn.text[:place])}
    return sorted(places - {0, len(text)})


def _shared_length(*texts: str) -> int:
    """How many characters all texts begin with in common."""
    return sum(1 for _ in takewhile(lambda characters: len(set(characters)) == 1, zip(*texts, strict=False)))


def _checked_kwargs(kwargs: Json, template: str) -> Json:
    read = set(re.findall(r"\w+", template)) - RESERVED_KWARGS
    for name in kwargs:
        if name not in read:
            raise RecipeError(
                f"the chat template has no argument {name!r}", hint="remove it; the model's card lists its arguments"
            )
    return kwargs


#: A word that no template contains, and conversations that hold it only in the part that is probed.
_WORD = "quincunx"
_ASK, _ANSWER = Message(role="user", content="Why? 2 + 2"), Message(role="assistant", content="So: 4.")
_NEUTRAL = (_ASK, _ANSWER, Message(role="user", content="And\n  then"), _ANSWER)
_TOOL: Json = {"name": _WORD, "description": "Do it.", "parameters": {"type": "object", "properties": {}}}
_TOOLS: tuple[Json, ...] = ({"type": "function", "function": _TOOL},)
_CALL = Message(role="assistant", tool_calls=(ToolCall(name=_WORD, arguments={}, id="call00001"),))
_PROBES: Mapping[str, tuple[tuple[Message, ...], tuple[Json, ...]]] = {
    "system messages": ((Message(role="system", content=_WORD), _ASK, _ANSWER), ()),
    "tools": ((_ASK, _ANSWER), _TOOLS),
    "tool calls": ((_ASK, _CALL, Message(role="tool", content="done", tool_call_id="call00001")), ()),
    "reasoning": ((_ASK, Message(role="assistant", content="So: 4.", reasoning=_WORD)), ()),
}
