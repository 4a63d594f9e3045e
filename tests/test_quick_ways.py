"""The quick ways give what the careful ones give, whatever bytes come: they only save time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor.data.read import read
from sartor.data.reading import express
from sartor.errors import FieldError
from sartor.formats import plain, sharegpt, strict
from sartor.formats.turns import conversation, read_turns
from sartor.types import Source

SOURCE = Source(file="rows.jsonl", line=7)

#: Pieces of JSON and of what only looks like it, to be put together in any order.
PIECES = st.sampled_from(
    [
        *("{", "}", "[", "]", ",", ":", '"', '":', '" :', '"a":', '"a" :', '"a\\":', '\\"', "\\\\", '\\\\"', '\\":'),
        *(
            " ",
            "\t",
            "\n",
            "\r",
            "\x0b",
            "null",
            "true",
            "-0",
            "-0.0",
            "1",
            "1e5",
            "1e999",
            "-1e999",
            "NaN",
            "Infinity",
        ),
        *(
            '"\\ud83d"',
            '"\\ud83d\\ude00"',
            '"\\udc00"',
            '"\\u0000"',
            '"\\x"',
            '"a"',
            '"b"',
            '"é"',
            "0.1",
            "01",
            "\ufeff",
        ),
        *("9" * 25, "9" * 4301, "[" * 70, '{"a":' * 70, "]" * 70, "1.7976931348623157e309", "5e-324", "\x7f", "\0"),
    ]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab":\\ é', max_size=4), inner, max_size=3),
    max_leaves=12,
)
SPACES = st.sampled_from(["", " ", "\t", " \n "])


def outcome(read: Any, raw: bytes) -> tuple[Any, ...]:
    try:
        value = read(raw)
    except strict.Malformed as error:
        return ("refused", error.reason, error.seen, error.expected, error.field, error.at)
    return ("read", repr(value))


@settings(deadline=None, max_examples=150)
@given(raw=st.lists(PIECES, max_size=12).map(lambda parts: "".join(parts).encode()) | st.binary(max_size=40))
def test_any_bytes_are_read_alike(raw: bytes):
    assert outcome(strict.loads, raw) == outcome(strict.careful, raw)


@settings(deadline=None, max_examples=80)
@given(tree=TREES, plainly=st.booleans(), comma=SPACES, colon=SPACES, indent=st.sampled_from([None, 1]))
def test_any_json_is_read_alike(tree: Any, plainly: bool, comma: str, colon: str, indent: int | None):
    written = json.dumps(tree, ensure_ascii=plainly, separators=(f",{comma}", f"{colon}:{colon}"), indent=indent)
    raw = written.encode("utf-8", "surrogatepass")
    assert outcome(strict.loads, raw) == outcome(strict.careful, raw)


@settings(deadline=None, max_examples=80)
@given(data=st.data(), tree=TREES)
def test_a_doubled_key_is_never_overlooked(data: st.DataObject, tree: Any):
    key = json.dumps(data.draw(st.text('a":\\ :', max_size=4)))
    inner = json.dumps(tree)
    space = data.draw(SPACES)
    for raw in (
        f"{{{key}:{inner},{key}{space}:1}}",
        f'[{{{key}{space}:{inner}}},{{{key}:1,"x":{inner},{key}:"\\":"}}]',
    ):
        assert outcome(strict.loads, raw.encode()) == outcome(strict.careful, raw.encode())
        with pytest.raises(strict.Malformed):
            strict.loads(raw.encode())


@pytest.mark.parametrize("depth", [62, 63, 64, 65, 199, 200, 201])
@pytest.mark.parametrize("core", ["", "1", '"a"', "1e999"])
def test_any_depth_is_read_alike(depth: int, core: str):
    for raw in (
        b"[" * depth + core.encode() + b"]" * depth,
        b'{"a":' * depth + b'"' + core.encode() + b'"' + b"}" * depth,
    ):
        assert outcome(strict.loads, raw) == outcome(strict.careful, raw)


def test_most_rows_go_the_quick_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(strict, "careful", lambda raw: pytest.fail("the careful way was taken"))
    for text in ("plain", 'he said "so": {"a": 1}', "un deux : trois", "http://x/?a=1:2", "\\u00e9 é\n\t"):
        row = {"messages": [{"role": "user", "content": text}], "n": [1, 2.5, None, {}]}
        assert strict.loads(json.dumps(row).encode()) == row


# --- plain conversations ---

TEXTS = st.sampled_from(["hi", "a b", "", " ", "\n", "x\0", "half \ud83d", "\ude00", "é", "\u2003"])
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "assistant", "user", "tool", "function", "human"])
MESSAGES = st.builds(lambda role, content: {"role": role, "content": content}, ROLES, TEXTS)
ODD = st.sampled_from(
    [
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "assistant", "tool_calls": []},
        {"role": ["user"], "content": "a"},
        {"role": None, "content": "a"},
        {"content": "a", "name": "b"},
        {"role": "user"},
        "user",
        None,
    ]
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(messages=st.lists(MESSAGES | ODD, max_size=5) | st.lists(MESSAGES, max_size=6))
def test_a_plain_conversation_is_what_the_careful_way_makes_of_it(messages: list[Any]):
    quick = plain.plain_chat(messages, SOURCE)
    if quick is None:
        return
    parsed = conversation(read_turns({"messages": messages}, "messages"), (), SOURCE)
    assert parsed.changes == ()
    assert parsed.example == quick
    assert parsed.example.model_dump_json() == quick.model_dump_json()


#: Pieces of a row of messages: put together they may be one, double a key, or lack one.
PARTS = st.sampled_from(
    [
        *(
            '"role":"user"',
            '"role":"assistant"',
            '"role":"system"',
            '"role" :"user"',
            '"content":"a"',
            '"content": "é"',
        ),
        *('"content":"x\\":y"', '"content":"\\\\"', '"content":"q\\"q"', '"content":""', '"content":":"', '"name":"b"'),
        *(
            '"weight":1',
            '"weight":"0"',
            '"content":null',
            '"content":"\\ud83d"',
            '"content":"\\u0000"',
            '"r\\u006fle":"user"',
        ),
    ]
)
TURNS = st.lists(PARTS, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}") | st.sampled_from(
    ['{"role":"user","content":"hi"}', '{"role":"assistant","content":"ok"}', '{"role":"system"}', "null"]
)
AROUND = st.sampled_from(
    [
        "{%s}",
        "{%s}\n",
        ' {%s,"id":1} ',
        "{%s,%s}",
        '{"tools":null,%s}',
        "[%s]",
        '{%s,"messages":[]}',
        "\ufeff{%s}",
        "{%s}}",
    ]
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    turns=st.lists(TURNS, max_size=4), around=AROUND, more=st.sampled_from(["", ',{"role":"assistant","content":"z"}'])
)
def test_a_plain_line_is_what_the_careful_way_makes_of_it(turns: list[str], around: str, more: str):
    row = f'"messages":[{",".join(turns)}{more}]'
    raw = around.replace("%s", row).encode()
    quick = plain.plain_line(raw, SOURCE.file, SOURCE.line)
    if quick is None:
        return
    parsed = conversation(read_turns(strict.careful(raw), "messages"), (), SOURCE)
    assert parsed.changes == ()
    assert parsed.example.model_dump_json() == quick.model_dump_json()


@pytest.mark.parametrize("text", ["hi", 'he said "so": 1', "\\", "é\n", "a: b"])
def test_a_plain_line_goes_the_quick_way(text: str):
    row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]}
    assert plain.plain_line(json.dumps(row).encode(), "rows.jsonl", 7) is not None


@pytest.mark.parametrize("end", [b"", b',"score":1'])
def test_a_file_gives_the_same_by_either_way(tmp_path: Path, end: bytes, monkeypatch: pytest.MonkeyPatch):
    good = b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]' + end + b"}\n"
    bad = good.replace(b"assistant", b"alien")
    path = tmp_path / "rows.jsonl"
    path.write_bytes((good * 700 + bad) * 3)
    quick = read(path, format=None, fields={}, label="rows.jsonl")
    monkeypatch.setattr(express, "LINES", {})
    assert read(path, format=None, fields={}, label="rows.jsonl") == quick
    assert (len(quick.examples), len(quick.entries)) == (2100, 3)


def test_the_express_closes_where_it_only_costs_time():
    tried = []
    way = express.Express("rows.jsonl", lambda raw, file, line: tried.append(raw))
    for line in range(5000):
        assert way.take(b"{}", line) is None
    assert len(tried) < 2000
    assert express.express_for("alpaca", "rows.jsonl") is None


SPEAKERS = st.sampled_from(["human", "gpt", "system", "human", "gpt", "tool", "GPT", ["gpt"], None])
SPOKEN = st.builds(lambda speaker, value: {"from": speaker, "value": value}, SPEAKERS, TEXTS | st.none())


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(turns=st.lists(SPOKEN | ODD, max_size=5))
def test_plain_turns_are_what_the_careful_way_makes_of_them(turns: list[Any]):
    def outcome_of(row: dict[str, Any]) -> Any:
        try:
            return sharegpt.parse(row, SOURCE)
        except FieldError as error:
            return error.field, error.seen, error.expected

    assert outcome_of({"conversations": turns}) == outcome_of({"conversations": turns, "tools": ""})


def test_a_plain_conversation_goes_the_quick_way():
    turns = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "q"), ("assistant", "é")]
    assert plain.plain_chat([{"role": role, "content": content} for role, content in turns], SOURCE) is not None


@pytest.mark.parametrize("content", ["a\0", "\ud83d", "", " \n"])
def test_what_has_to_be_refused_is_left_to_the_careful_way(content: str):
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    assert plain.plain_chat(messages, SOURCE) is None
    with pytest.raises(FieldError):
        read_turns({"messages": messages}, "messages")
