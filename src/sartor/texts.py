"""Text → tokens + loss mask for bases without chats: encoders and encoder-decoders. What `chat` is for decoders.

A prompt is the text of its messages, one below the other. What answers it is made part of the same sequence, so that
one kind of batch serves all bases; what has a weight tells the two apart:

- classifier: the text, then its label, an id from `FIRST_LABEL` on. The last token of the text predicts it.
- seq2seq: the text, then the token that starts the decoder, then the answer's tokens, which have the weight.
- embedder: the question, then the answer, whose positions have the weight. Nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sartor import hub
from sartor.chat import Rendered
from sartor.errors import DataError, ModelError, RecipeError, Where
from sartor.types import FIRST_LABEL, Chat, Form, Json, Kind, Message, Text, digest_of

WANTED = "rows with a prompt and a completion, or chats of text alone; for anything else choose a decoder"


def open_texts(folder: Path, base: Path, form: Form, labels: Iterable[str] = ()) -> Texts:
    """The renderer of a folder's tokenizer; how a decoder starts stands in the base's configuration.

    Raises:
        ModelError: the folder has no fast tokenizer, or it ends no text.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"no usable tokenizer in {folder}: {error}", hint="the folder needs tokenizer.json") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{type(tokenizer).__name__} is not a fast tokenizer", hint="add a tokenizer.json")
    end = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    if form == "seq2seq":
        end = hub.read_config(base).get("eos_token_id")
    if end is None:
        raise ModelError(f"the tokenizer in {folder} has no token that ends a text", hint="choose another base")
    start = hub.read_config(base).get("decoder_start_token_id", 0)
    return Texts(tokenizer.backend_tokenizer, form, start=int(start), end=int(end), labels=tuple(labels))


class Texts:
    """See `chat.Renderer`, whose methods these are.

    Attributes:
        stop_ids: the token that ends an answer.
        fingerprint: digest of all that decides the tokens: tokenizer, form, labels.
        labels: what a classifier chooses among. Without any, every answer counts as the first label: that is enough to
            count tokens before the training split is known.
    """

    def __init__(self, tokenizer: Any, form: Form, *, start: int, end: int, labels: tuple[str, ...] = ()) -> None:
        tokenizer.no_truncation()  # folders of sentence encoders cut at 128 tokens without a word
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # text that spells a control token is text
        self._tokenizer, self._form, self._start, self._end = tokenizer, form, start, end
        self.labels = labels
        self.stop_ids = frozenset({end})
        self.fingerprint = digest_of(tokenizer.to_str(), form, start, labels)

    def with_labels(self, labels: Iterable[str]) -> Texts:
        """The same, with labels to choose among."""
        return Texts(self._tokenizer, self._form, start=self._start, end=self._end, labels=tuple(labels))

    def render(self, example: Chat | Text) -> tuple[Rendered, ...]:
        """The one sequence that trains on an example.

        Raises:
            DataError: it is no text with an answer.
        """
        if isinstance(example, Text):
            where = Where(example.source.file, example.source.line)
            raise DataError("running text has no question and answer", hint=WANTED, where=where)
        source = self._source(example.prompt, example.tools, example)
        answer, weight = example.messages[-1], example.messages[-1].weight
        if answer.tool_calls or answer.reasoning:
            raise DataError("an answer with tool calls or reasoning", hint=WANTED, where=_where(example))
        if self._form == "classifier":
            label, known = self._label(answer.content.strip())
            return (_rendered((*source, label), len(source), weight if known else 0.0),)
        target = tuple(self._tokenizer.encode(answer.content).ids)
        if self._form == "embedder":  # the id at the end is predicted by nobody: what is shifted must not lose one
            return (_rendered((*source, *target, self._end), len(source) + 1, weight),)
        if target[-1:] != (self._end,):
            target = (*target, self._end)
        return (_rendered((*source, self._start, *target), len(source) + 1, weight),)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Json] = ()) -> tuple[int, ...]:
        """The tokens that ask for an answer: the first ids of the sequence that trained for it."""
        source = self._source(messages, tools, None)
        return (*source, self._start) if self._form == "seq2seq" else source

    def opening(self, text: str) -> tuple[int, ...]:
        """Running text has no answer here.

        Raises:
            DataError: always.
        """
        raise DataError("this base goes on with no running text", hint="send it as a user's message")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of an answer: a label, or tokens without control tokens."""
        told = list(ids)
        if any(id >= FIRST_LABEL for id in told):
            return self.text(told)
        return str(self._tokenizer.decode(told, skip_special_tokens=True))

    def text(self, ids: Sequence[int]) -> str:
        """The text of any ids, control tokens as they are spelt."""
        names = [self.labels[id - FIRST_LABEL] for id in ids if id >= FIRST_LABEL and self.labels]
        tokens = [id for id in ids if id < FIRST_LABEL]
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False)) + " ".join(names)

    def _label(self, name: str) -> tuple[int, bool]:
        """The id of a label, and whether it is one that training has."""
        if not self.labels:
            return FIRST_LABEL, True
        return (FIRST_LABEL + self.labels.index(name), True) if name in self.labels else (FIRST_LABEL, False)

    def _source(self, messages: Sequence[Message], tools: Sequence[Json], example: Chat | None) -> tuple[int, ...]:
        if tools or any(message.tool_calls or message.reasoning for message in messages):
            where = None if example is None else _where(example)
            raise DataError("this base takes no tools, tool calls or reasoning", hint=WANTED, where=where)
        return tuple(self._tokenizer.encode("\n".join(message.content for message in messages)).ids)


def form_of(kind: Kind, needs: frozenset[str]) -> Form:
    """What a base is used for, by its kind and by what its objective needs.

    Raises:
        RecipeError: no such use.
    """
    if "embeddings" not in needs:
        forms: dict[Kind, Form] = {"decoder": "decoder", "encoder": "classifier", "encoder_decoder": "seq2seq"}
        return forms[kind]
    if kind != "encoder":
        raise RecipeError(
            "`tune.objective` trains embeddings, and this base is no encoder",
            hint="choose an encoder, for example all-minilm-l6-v2, or the objective sft",
        )
    return "embedder"


def labels_of(examples: Iterable[Chat | Text]) -> tuple[str, ...]:
    """The labels of a classifier: the answers of its training split, in the order of the alphabet."""
    return tuple(sorted({example.target.strip() for example in examples if isinstance(example, Chat)}))


def _rendered(ids: tuple[int, ...], num_silent: int, weight: float) -> Rendered:
    weights = (0.0,) * num_silent + (weight,) * (len(ids) - num_silent)
    return Rendered(ids, weights, exact=True, stop_trained=True)


def _where(example: Chat) -> Where:
    return Where(example.source.file, example.source.line)
