"""Control tokens: which they are, how text of a user is kept from becoming one, and how pieces of text become ids.

A control token (`<|im_end|>`, `<think>`, …) steers the model. It may enter a sequence from the chat template, and from
what the assistant wrote, never from text that a user, a tool or a data row merely quotes. Nobody can tell these apart
in rendered text, so we mark before rendering: every place in a given string where a control token could begin gets a
private sentinel character, which makes the match impossible. What still matches afterwards is the template's own.
The text between control tokens is encoded by a second, *plain* tokenizer that has no way to make a control id at all.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from sartor.errors import DataError

#: Unicode noncharacters: legal in memory, never exchanged, never white space. One of them serves as the sentinel.
NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
#: What a token's `lstrip` and `rstrip` eat: Unicode's White_Space. Python's own `strip` takes four separators more.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True, slots=True)
class ControlToken:
    """`written`: an assistant writes it legitimately (`<think>`, `<tool_call>`), so its own content may hold it."""

    id: int
    text: str
    lstrip: bool
    rstrip: bool
    written: bool


def find_control_tokens(
    added: Iterable[Mapping[str, Any]], template: str, special_ids: frozenset[int]
) -> tuple[ControlToken, ...]:
    """The control tokens among a tokenizer's added tokens (entries of `added_tokens` in tokenizer.json).

    They are: the special ones, those shaped `<|…|>`, and those that the chat template writes. A single character
    cannot be broken by a sentinel, and white space is text, so neither is ever a control token.
    """
    found = []
    for token in added:
        text = token["content"]
        reserved = token["special"] or token["id"] in special_ids or (text.startswith("<|") and text.endswith("|>"))
        if len(text) > 1 and not text.isspace() and (reserved or text in template):
            found.append(ControlToken(token["id"], text, token["lstrip"], token["rstrip"], written=not reserved))
    return tuple(found)


class Codec:
    """Text with sentinels → ids. Built once for a tokenizer and its template.

    Args:
        spec: the parsed tokenizer.json.
        template: the source of the chat template ("" if there is none).
        special_ids: ids that the tokenizer's configuration calls special.
    """

    def __init__(self, spec: Mapping[str, Any], template: str, special_ids: frozenset[int]) -> None:
        tokens = find_control_tokens(spec["added_tokens"], template, special_ids)
        self._by_text = {token.text: token for token in tokens}
        self._plain = _plain_tokenizer(spec, tokens)
        self._all = _Guard(tuple(self._by_text))
        self._reserved = _Guard(tuple(token.text for token in tokens if not token.written))
        # The words that the template compares values with or reads keys by. They must reach it untouched.
        self._words = frozenset(re.findall(r"""[.'"](\w+)""", template))
        self._sentinels = [char for char in NONCHARACTERS if char not in template]
        #: Ids of the control tokens that only the template writes.
        self.reserved_ids = frozenset(token.id for token in tokens if not token.written)

    def sentinel(self, values: Sequence[Any]) -> str:
        """A private character that occurs in none of the JSON values, neither as it is nor escaped.

        Raises:
            DataError: the text is not Unicode (a lone surrogate), or holds all noncharacters.
        """
        text = json.dumps(values, ensure_ascii=False)
        _refuse_surrogates(text)
        lowered = text.lower()
        for char in self._sentinels:
            if char not in text and _escaped(char) not in lowered:
                return char
        raise DataError("the text holds all Unicode noncharacters U+FDD0 to U+FDEF", hint="remove them from the text")

    def protect(self, value: Any, sentinel: str, *, assistant: bool = False) -> Any:
        """A JSON value in whose strings (keys too) no control token can be found once it is rendered.

        `assistant`: the value is what an assistant wrote; it may hold the tokens that assistants write.
        """
        if isinstance(value, str):
            guard = self._reserved if assistant else self._all
            return guard.protect(value, sentinel, edges=value not in self._words)
        if isinstance(value, Mapping):
            return {self.protect(key, sentinel): self.protect(item, sentinel) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect(item, sentinel) for item in value]
        return value

    def encode(self, text: str, sentinel: str, cuts: Iterable[int]) -> list[list[int]]:
        """Rendered text, cut at the character offsets `cuts` → the ids of each segment (one more than cuts)."""
        bounds = [0, *sorted(cuts), len(text)]
        segments: list[list[int | str]] = [self._pieces(text[start:end], sentinel) for start, end in pairwise(bounds)]
        texts = [piece for pieces in segments for piece in pieces if isinstance(piece, str)]
        encoded = iter(self._plain.encode_batch_fast(texts, add_special_tokens=False))
        return [
            [id for piece in pieces for id in ((piece,) if isinstance(piece, int) else next(encoded).ids)]
            for pieces in segments
        ]

    def encode_plain(self, text: str) -> list[int]:
        """Running text → ids. Nothing in it is a control token."""
        _refuse_surrogates(text)
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def closing_token(self, text: str, start: int) -> tuple[int, int] | None:
        """(id, end offset) of the template's control token that closes rendered text; only white space may follow.

        White space that the token eats belongs to it.
        """
        matches = list(self._reserved.pattern.finditer(text, start))
        if not matches or text[matches[-1].end() :].strip():
            return None
        token = self._by_text[matches[-1][0]]
        return token.id, len(text) if token.rstrip else matches[-1].end()

    def _pieces(self, segment: str, sentinel: str) -> list[int | str]:
        """A segment as control ids and clean, non-empty texts, white space taken as the control tokens ask."""
        pieces: list[int | str] = []
        position, previous = 0, None
        matches: list[re.Match[str] | None] = [*self._all.pattern.finditer(segment), None]
        for match in matches:
            token = self._by_text[match[0]] if match else None
            text = segment[position : match.start() if match else len(segment)]
            text = text.replace(sentinel, "").replace(_escaped(sentinel), "")
            if previous and previous.rstrip:
                text = text.lstrip(WHITE_SPACE)
            if token and token.lstrip:
                text = text.rstrip(WHITE_SPACE)
            if text:
                pieces.append(text)
            if match and token:
                pieces.append(token.id)
                position, previous = match.end(), token
        return pieces


@dataclass(frozen=True)
class _Guard:
    """Knows where a set of token texts occurs, or could come to occur, in a string."""

    texts: tuple[str, ...]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches a token, the longest first, as tokenizers do."""
        return re.compile("|".join(map(re.escape, sorted(self.texts, key=len, reverse=True))) or "(?!)")

    @cached_property
    def _beginning(self) -> re.Pattern[str]:
        """Matches the first character of each token, also of tokens that overlap."""
        return re.compile(f"(?={self.pattern.pattern}).", re.DOTALL)

    @cached_property
    def _heads(self) -> frozenset[str]:
        return frozenset(text[:length] for text in self.texts for length in range(1, len(text)))

    @cached_property
    def _tails(self) -> frozenset[str]:
        return frozenset(text[length:] for text in self.texts for length in range(1, len(text)))

    @cached_property
    def _joined(self) -> str:
        return "\0".join(self.texts)

    @cached_property
    def _reach(self) -> int:
        return max(map(len, self.texts), default=1) - 1

    def protect(self, text: str, sentinel: str, *, edges: bool) -> str:
        """`text` with sentinels inside its tokens and, with `edges`, at an edge that a token could cross.

        A token crosses an edge when the template writes the rest of it, as in `'<' + key + '>'`. Templates like to
        strip strings, so the edge is that of the stripped string.
        """
        marked = self._beginning.sub(lambda match: match[0] + sentinel, text)
        core = text.strip()
        if not edges or not core:
            return marked
        reach = range(1, min(len(core), self._reach) + 1)
        inside = len(core) <= self._reach and core in self._joined
        if inside or any(core[-length:] in self._heads for length in reach):
            kept = len(marked.rstrip())
            marked = marked[:kept] + sentinel + marked[kept:]
        if any(core[:length] in self._tails for length in reach):
            kept = len(marked) - len(marked.lstrip())
            marked = marked[:kept] + sentinel + marked[kept:]
        return marked


def _escaped(sentinel: str) -> str:
    """The sentinel as JSON with `ensure_ascii` writes it: some templates ask for that."""
    return json.dumps(sentinel)[1:-1]


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        seen = ascii(text[error.start])
        raise DataError(
            f"the text holds {seen}, half of a surrogate pair", hint="save the file as UTF-8; drop or mend this row"
        ) from error


def _plain_tokenizer(spec: Mapping[str, Any], tokens: Sequence[ControlToken]) -> Tokenizer:
    """The same tokenizer without any way from text to a control id.

    Removing added tokens would shift the ids of those after them, and some models have the control tokens in their
    vocabulary as well. So the tokens stay, under names that nobody can write because nobody knows them.
    """
    secret = secrets.token_hex(16)
    model = dict(spec["model"])
    vocabulary = model["vocab"]
    # The model refers to its unknown token by name and has it in its vocabulary, so it can leave the added ones.
    unknown = model.get("unk_token") if isinstance(vocabulary, dict) else None
    names = {token.text: f"{secret}:{token.id}" for token in tokens if token.text != unknown}
    added = [
        {**token, "content": names.get(token["content"], token["content"]), "normalized": False}
        if token["content"] in names
        else token
        for token in spec["added_tokens"]
        if token["content"] != unknown
    ]
    if isinstance(vocabulary, list):  # Unigram: pairs of piece and score
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {names.get(piece, piece): id for piece, id in vocabulary.items()}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _mentions(merge, names)]
    plain = {"model": model, "added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps({**spec, **plain}, ensure_ascii=False))


def _mentions(merge: Any, names: Mapping[str, str]) -> bool:
    """Whether a merge rule of a BPE model makes or uses one of the names."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in names or right in names or left + right in names
