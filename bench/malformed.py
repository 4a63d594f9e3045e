"""Rows that are broken in every way that we know, and good ones between them, for `data_hostile.py`. Seeded."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

Json = dict[str, Any]

LIMIT = 30_000  # bytes: the longest line of these files, so that one that is too long need not be large
WRONG: tuple[Any, ...] = (None, True, 3, 1.5, [], {}, [1], "", " \t", "a\0b", "half \ud83d", "\udc00")
USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
SAID = ({"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"})


class Line(NamedTuple):
    """One line, and the reasons of which the ledger must give one; none for a good row. `field`: it names one."""

    raw: bytes
    reasons: frozenset[str] = frozenset()
    field: bool = False


def raw(row: Any) -> bytes:
    return json.dumps(row).encode()


def words(draw: random.Random) -> str:
    """A text that no format refuses."""
    return "x" + "".join(draw.choices('abc ä“\u2028\u00a0👩\u200d{}[]":,\\\n\t<|im_end|>', k=draw.randint(0, 40)))


#: A good row of each format, made with a text.
ROWS: dict[str, Callable[[str], Json]] = {
    "chat": lambda text: {"messages": [USER | {"content": text}, ANSWER]},
    "alpaca": lambda text: {"instruction": text, "input": "", "output": text},
    "completion": lambda text: {"prompt": text, "completion": text},
    "text": lambda text: {"text": text},
    "sharegpt": lambda text: {"conversations": [SAID[0] | {"value": text}, SAID[1]]},
    "preference": lambda text: {"prompt": text, "chosen": text, "rejected": f"not {text}"},
    "unpaired": lambda text: {"prompt": text, "completion": text, "label": True},
    "steps": lambda text: {"question": text, "answer": f"{text}\n#### 3"},
}
#: Conversations in orders that none has.
ORDERS = (
    [USER],
    [ANSWER],
    [USER, ANSWER, ANSWER],
    [USER, ANSWER, {"role": "system", "content": "late"}],
    [USER, {"role": "tool", "content": "3"}, ANSWER],
    [USER, ANSWER | {"weight": 2}],
    [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
    [USER | {"wieght": 0}, ANSWER],
)


def good(name: str, draw: random.Random) -> Line:
    row = ROWS[name](words(draw)) | draw.choice([{}, {"id": 7}, {"meta": {"a": [1.5, None]}}])
    return Line(json.dumps(row, ensure_ascii=draw.random() < 0.5).encode())


def bad(name: str, draw: random.Random) -> Line:
    """A row of that format with one fault."""
    return draw.choice(FAULTS)(name, draw)


def _cut(name: str, draw: random.Random) -> Line:
    whole = good(name, draw).raw
    return Line(whole[: draw.randint(1, len(whole) - 1)], frozenset({"syntax", "encoding"}))


def _garbage(name: str, draw: random.Random) -> Line:
    whole = good(name, draw).raw
    made = [b"{'a': 1}", b"}", b"nul", b'"', whole + b"," + whole, whole + b"]", b'{"a": 1,}', b'{"a": "\t"}', b"\0"]
    return Line(draw.choice([*made, b"x\xef\xbb\xbf" + whole]), frozenset({"syntax"}))


def _encoding(name: str, draw: random.Random) -> Line:
    whole = good(name, draw).raw
    junk = draw.choice([b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf8\x88\x80\x80\x80"])
    return Line(whole[:-1] + b', "more": "' + junk + b'"}', frozenset({"encoding"}))


def _mark(name: str, draw: random.Random) -> Line:
    return Line(b"\xef\xbb\xbf\xef\xbb\xbf" + good(name, draw).raw, frozenset({"encoding"}))


def _no_object(name: str, draw: random.Random) -> Line:
    made = [b"3", b"null", b"true", b'"text"', b"[1, 2]", b"-0.5", b"[" + good(name, draw).raw + b"]"]
    return Line(draw.choice(made), frozenset({"not_an_object"}))


def _number(name: str, draw: random.Random) -> Line:
    number = draw.choice([b"NaN", b"-Infinity", b"Infinity", b"1e999", b"-1e400", b"9" * 4301])
    return Line(good(name, draw).raw[:-1] + b', "score": ' + number + b"}", frozenset({"not_a_number"}))


def _doubled(name: str, draw: random.Random) -> Line:
    whole = good(name, draw).raw
    first = whole[1:].partition(b":")[0]
    more = draw.choice([first + b": 1", first + b' : "x"', b'"z": {"k": 1, "k": 2}', b'"z": [{"": 1, "": 1}]'])
    return Line(whole[:-1] + b", " + more + b"}", frozenset({"duplicate_key"}), field=True)


def _deep(name: str, draw: random.Random) -> Line:
    depth = draw.choice([64, 65, 100, 1000, 4000])
    opening, closing = draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
    core = b"" if opening == b"[" else b"1"
    closed = draw.random() < 0.5
    inner = opening * depth + core + closing * depth if closed else opening * depth
    end = b"}" if closed else b""
    return Line(b'{"deep": ' + inner + end, frozenset({"too_deep"} if depth > 64 or closed else {"too_deep", "syntax"}))


def _long(name: str, draw: random.Random) -> Line:
    return Line(b'{"text": "' + b"y" * draw.randint(LIMIT, 3 * LIMIT) + b'"}', frozenset({"too_long"}))


def _strange(name: str, draw: random.Random) -> Line:
    return Line(raw(draw.choice([{}, {"noise": 1}, {"": None}, {"colour": []}])), frozenset({"unknown_format"}))


def _spoiled(name: str, draw: random.Random) -> Line:
    """A field of the wrong type, missing where it must be, or with what no text may hold."""
    row = ROWS[name]("fine")
    key = draw.choice([key for key in row if key != "input"])
    if isinstance(row[key], list):
        return _spoiled_turns(row, key, draw)
    values = [value for value in WRONG if not (key == "label" and value is True)]
    spoiled = row | {key: draw.choice(values)}
    if name == "steps" and isinstance(spoiled["answer"], int) and not isinstance(spoiled["answer"], bool):
        spoiled["answer"] = None  # a number is an answer there
    return Line(raw(spoiled), frozenset({"field"}), field=True)


def _spoiled_turns(row: Json, key: str, draw: random.Random) -> Line:
    if key == "messages" and draw.random() < 0.4:
        turns: Any = draw.choice(ORDERS)
    elif draw.random() < 0.2:
        turns = draw.choice(WRONG)
    else:
        turns = [dict(turn) for turn in row[key]]
        turn = draw.choice(turns)
        part = draw.choice(sorted(turn))
        turn[part] = draw.choice(WRONG)
        if draw.random() < 0.2:
            del turn[part]
    return Line(raw({key: turns}), frozenset({"field"}), field=True)


FAULTS: tuple[Callable[[str, random.Random], Line], ...] = (
    *(_cut, _garbage, _encoding, _mark, _no_object, _number, _doubled, _deep, _long, _strange),
    *(_spoiled,) * 6,
)


def file_of(name: str, num_good: int, num_bad: int, seed: int) -> list[Line]:
    """The lines of one file, mixed."""
    draw = random.Random(f"{name}:{seed}")
    lines = [good(name, draw) for _ in range(num_good)] + [bad(name, draw) for _ in range(num_bad)]
    draw.shuffle(lines)
    return lines
