"""Reading a file: every row is kept or reported at its line, whatever the file holds."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor import formats, names
from sartor.data import ledger
from sartor.data.folder import making
from sartor.data.read import Read, read, stream
from sartor.errors import DataError, RecipeError
from sartor.types import Chat, Document, Text

BOM = b"\xef\xbb\xbf"
GOOD = b'{"prompt": "q", "completion": "a"}'
LIMIT = 5000

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: bytes, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return written


def taken(path: Path, **settings: Any) -> Read:
    return read(path, **({"format": None, "fields": {}, "label": f"data/{path.name}"} | settings))


def refused(path: Path, **settings: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        taken(path, **settings)
    assert caught.value.hint
    return caught.value


def told(result: Read) -> list[tuple[int, str]]:
    assert result.rows == result.ledger.kept + result.ledger.dropped
    return [(entry.line, entry.reason) for entry in result.entries]


# --- the bar: malformed rows of all sorts, each reported at its line, no good row refused ---

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
SAID = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
SAMPLES = {name: formats.named(name).SAMPLE for name in names.known("formats")}
#: What may stand in a file as a value of the wrong type.
WRONG = st.sampled_from([None, True, 3, 1.5, [], {}, [1], "", " \t", "a\0b", "half \ud83d", "\udc00"])
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).map(lambda s: f"x{s}")


def raw(row: Any) -> bytes:
    return json.dumps(row).encode()


def chat_of(*messages: dict[str, Any]) -> bytes:
    return raw({"messages": list(messages)})


#: Damage that does not depend on the format of the file: (bytes of one line, the ledger's reason).
BROKEN = st.one_of(
    st.integers(1, len(GOOD) - 1).map(lambda cut: (GOOD[:cut], "syntax")),
    st.sampled_from(
        [b"{'a': 1}", b"}", b"nul", b'"', GOOD + b"," + GOOD, GOOD + b"]", b'{"a": 1,}', b'{"a": "\t"}']
    ).map(lambda line: (line, "syntax")),
    st.sampled_from([b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\xaf"]).map(
        lambda junk: (b'{"prompt": "' + junk + b'", "completion": "a"}', "encoding")
    ),
    st.just((b"x" + BOM + GOOD, "syntax")),
    st.just((BOM + BOM + GOOD, "encoding")),
    st.sampled_from([b"\0", b'{"prompt": "\0", "completion": "a"}']).map(lambda line: (line, "syntax")),
    st.sampled_from([b"3", b"null", b"true", b'"text"', b"[1, 2]", b"-0.5", b"[" + GOOD + b"]"]).map(
        lambda line: (line, "not_an_object")
    ),
    st.sampled_from([b"NaN", b"-Infinity", b"1e999", b"9" * 4301]).map(
        lambda number: (b'{"prompt": "q", "completion": "a", "score": ' + number + b"}", "not_a_number")
    ),
    st.sampled_from([b'{"prompt": "q", "prompt": "q", "completion": "a"}', b'{"text": {"a": 1, "a": 1}}']).map(
        lambda line: (line, "duplicate_key")
    ),
    st.integers(65, 1500).map(lambda depth: (b'{"x": ' + b"[" * depth + b"]" * depth + b"}", "too_deep")),
    st.integers(65, LIMIT - 10).map(lambda depth: (b"[" * depth, "too_deep")),
    st.integers(LIMIT, 3 * LIMIT).map(lambda size: (b'{"text": "' + b"y" * size + b'"}', "too_long")),
)
STRANGE = st.sampled_from([{}, {"noise": 1}, {"": None}, {"colour": []}]).map(lambda row: (raw(row), "unknown_format"))
#: Damage to a field, for each format.
SPOILED: dict[str, st.SearchStrategy[tuple[bytes, str]]] = {
    "alpaca": st.tuples(st.sampled_from(["instruction", "output"]), WRONG).map(
        lambda spoil: raw({"instruction": "q", "output": "a"} | {spoil[0]: spoil[1]})
    )
    | st.sampled_from([{"history": "x"}, {"history": [["q"]]}, {"system": 3}, {"input": ["x"]}]).map(
        lambda extra: raw({"instruction": "q", "output": "a"} | extra)
    ),
    "chat": st.tuples(st.sampled_from([0, 1]), st.sampled_from(["role", "content"]), WRONG).map(
        lambda spoil: chat_of(
            *(message | ({spoil[1]: spoil[2]} if index == spoil[0] else {}) for index, message in enumerate(MESSAGES))
        )
    )
    | WRONG.map(lambda value: raw({"messages": value}))
    | st.sampled_from(
        [
            chat_of(MESSAGES[0]),
            chat_of(MESSAGES[1]),
            chat_of(*MESSAGES, MESSAGES[1]),
            chat_of(*MESSAGES, {"role": "system", "content": "late"}),
            chat_of(MESSAGES[0], {"role": "tool", "content": "3"}, MESSAGES[1]),
            chat_of(MESSAGES[0], MESSAGES[1] | {"weight": 2}),
            chat_of(MESSAGES[0], {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
        ]
    ),
    "completion": st.tuples(st.sampled_from(["prompt", "completion"]), WRONG).map(
        lambda spoil: raw({"prompt": "q", "completion": "a"} | {spoil[0]: spoil[1]})
    )
    | st.sampled_from(
        [raw({"prompt": "q"}), raw({"completion": "a"}), raw({"prompt": MESSAGES, "completion": MESSAGES})]
    ),
    "text": WRONG.map(lambda value: raw({"text": value})),
    "sharegpt": st.tuples(st.sampled_from([0, 1]), st.sampled_from(["from", "value"]), WRONG).map(
        lambda spoil: raw(
            {
                "conversations": [
                    turn | ({spoil[1]: spoil[2]} if index == spoil[0] else {}) for index, turn in enumerate(SAID)
                ]
            }
        )
    )
    | st.sampled_from(
        [
            {"conversations": SAID[:1]},
            {"conversations": [SAID[0], SAID[1], SAID[1]]},
            {"conversations": SAID, "tools": "{"},
        ]
    ).map(raw),
    "preference": st.tuples(st.sampled_from(["prompt", "chosen", "rejected"]), WRONG).map(
        lambda spoil: raw({"prompt": "q", "chosen": "a", "rejected": "b"} | {spoil[0]: spoil[1]})
    )
    | st.just(raw({"prompt": "q", "chosen": "a", "rejected": "a"})),
    "unpaired": st.tuples(st.sampled_from(["prompt", "completion"]), WRONG).map(
        lambda spoil: raw({"prompt": "q", "completion": "a", "label": True} | {spoil[0]: spoil[1]})
    )
    | st.sampled_from([None, 1, "yes", [True]]).map(
        lambda label: raw({"prompt": "q", "completion": "a", "label": label})
    ),
    "steps": st.tuples(st.sampled_from(["question", "answer"]), st.sampled_from([None, [], {}, "", "a\0"])).map(
        lambda spoil: raw({"question": "q", "answer": "a"} | {spoil[0]: spoil[1]})
    ),
}
GOODS: dict[str, st.SearchStrategy[bytes]] = {
    "alpaca": st.tuples(WORDS, WORDS).map(lambda t: raw({"instruction": t[0], "input": "", "output": t[1], "id": 3})),
    "chat": WORDS.map(lambda word: chat_of({"role": "user", "content": word}, MESSAGES[1])),
    "completion": st.tuples(WORDS, WORDS).map(
        lambda t: json.dumps({"prompt": t[0], "completion": t[1]}, ensure_ascii=False).encode()
    ),
    "text": WORDS.map(lambda word: raw({"text": word})),
    "sharegpt": WORDS.map(lambda word: raw({"conversations": [SAID[0] | {"value": word}, SAID[1]]})),
    "preference": WORDS.map(lambda word: raw({"prompt": word, "chosen": word, "rejected": f"not {word}"})),
    "unpaired": WORDS.map(lambda word: raw({"prompt": word, "completion": word, "label": False})),
    "steps": WORDS.map(lambda word: raw({"question": word, "answer": f"{word}\n#### 3"})),
}
NUM_BAD = 30


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes, list[tuple[int, str]], int]:
    """A JSONL file: (its format, its bytes, the bad lines with their reasons, the number of good rows)."""
    name = draw(st.sampled_from(sorted(GOODS)))
    good = draw(st.lists(GOODS[name].map(lambda line: (line, "")), min_size=1, max_size=8))
    bad_rows = BROKEN | STRANGE | SPOILED[name].map(lambda line: (line, "field"))
    bad = draw(st.lists(bad_rows, min_size=NUM_BAD, max_size=NUM_BAD))
    blank = draw(st.lists(st.sampled_from([(b"", "blank"), (b" \t", "blank")]), max_size=3))
    lines = draw(st.permutations([*good, *bad, *blank]))
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    content = end.join(line for line, _ in lines) + draw(st.sampled_from([b"", end]))
    content = draw(st.sampled_from([b"", BOM])) + content
    reported = [(number, reason) for number, (_, reason) in enumerate(lines, 1) if reason not in ("", "blank")]
    return name, content, reported, len(good)


def test_over_a_thousand_malformed_rows_are_each_reported_and_no_good_row_is_refused(tmp_path: Path):
    num_reported = 0
    seen_reasons: set[str] = set()
    path = tmp_path / "rows.jsonl"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(file=damaged_files())
    def each_row_is_accounted_for(file: tuple[str, bytes, list[tuple[int, str]], int]):
        nonlocal num_reported
        name, content, expected, num_good = file
        path.write_bytes(content)
        result = taken(path, format=name, longest=LIMIT)
        assert told(result) == expected
        assert len(result.examples) == num_good
        assert result.rows == num_good + len(expected)
        for entry in result.entries:
            assert entry.file == "data/rows.jsonl"
            assert "saw " in entry.detail
            assert ", expected " in entry.detail
            assert entry.detail.isprintable()
            assert bool(entry.field) == (entry.reason in ("field", "duplicate_key"))
        num_reported += len(expected)
        seen_reasons.update(entry.reason for entry in result.entries)

    each_row_is_accounted_for()
    assert num_reported >= 1000
    assert seen_reasons == ledger.UNREADABLE


# --- JSONL ---


def test_blank_lines_are_no_rows_and_yet_count_as_lines(write: Write):
    result = taken(write(BOM + b"\n" + GOOD + b"\r\n\r\n  \r\n" + GOOD + b"\n\t\n{"))
    assert [example.source.line for example in result.examples] == [2, 5]
    assert told(result) == [(7, "syntax")]
    assert result.entries[0].detail == "saw the end at character 2, expected a property name enclosed in double quotes"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_do_not_matter(write: Write, end: bytes, last: bool):
    result = taken(write(end.join([GOOD] * 3) + (end if last else b"")))
    assert [example.id for example in result.examples] == [f"data/rows.jsonl:{line}" for line in (1, 2, 3)]
    assert result.format == "completion"


def test_unicode_line_separators_do_not_end_a_line(write: Write):
    row = {"prompt": "a\u2028b\x85c\u2029", "completion": "\x0bd"}
    result = taken(write(json.dumps(row, ensure_ascii=False).encode().replace(b"\x0b", b"\\u000b") + b"\n" + GOOD))
    assert isinstance(result.examples[0], Chat)
    assert [message.content for message in result.examples[0].messages] == ["a\u2028b\x85c\u2029", "\x0bd"]


def test_a_giant_line_is_skipped_without_being_held(write: Write):
    path = write(GOOD + b"\n")
    with path.open("ab") as file:
        file.write(b'{"text": "')
        for _ in range(40):
            file.write(b"y" * 2**20)
        file.write(b'"}\n' + GOOD + b"\n")
    tracemalloc.start()
    result = taken(path, longest=2**20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told(result) == [(2, "too_long")]
    assert [example.source.line for example in result.examples] == [1, 3]
    assert peak < 8 * 2**20


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_longest_line_is_still_read(write: Write, end: bytes):
    path = write(GOOD + end)
    assert taken(path, longest=len(GOOD + end.rstrip(b"\n"))).rows == 1
    assert told(taken(path, longest=len(GOOD) - 1, format="completion")) == [(1, "too_long")]


@pytest.mark.parametrize(("digits", "reasons"), [(4300, []), (4301, [(1, "not_a_number")])])
def test_giant_integers_are_told(write: Write, digits: int, reasons: list[tuple[int, str]]):
    path = write(b'{"text": "a", "n": ' + b"9" * digits + b"}")
    assert told(taken(path, format="text")) == reasons


def test_a_conversation_that_goes_on_after_its_answer_is_changed(write: Write):
    row = {"turns": [*MESSAGES, MESSAGES[0]]}
    result = taken(write(raw(row)), fields={"messages": "turns"})
    (entry,) = result.entries
    assert (entry.action, entry.line, entry.field, entry.reason) == ("changed", 1, "turns[2]", "cut_after_answer")
    assert result.ledger.counts() == {}
    assert len(result.examples) == 1


def test_a_sniffed_file_keeps_strangers_out(write: Write):
    rated = raw({"prompt": "q", "completion": "bad", "label": False})
    path = write(b"\n".join([GOOD, GOOD, rated, b'{"text": "x"}']))
    assert told(taken(path)) == [(3, "unknown_format"), (4, "unknown_format")]
    assert told(taken(path, format="completion")) == [(4, "unknown_format")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "context": "c", "system_prompt": "s"},
        {"messages": MESSAGES, "context": "c", "system_prompt": "s"},
        {"prompt": "q", "chosen": "a", "rejected": "b", "context": "c", "system_prompt": "s"},
    ],
)
def test_a_column_that_often_belongs_to_the_question_is_told_once_where_it_is_not_read(write: Write, row: Any):
    quiet = row | {"context": "", "system_prompt": None, "id": "x", "url": "y", "topic": "z"}
    result = taken(write(b"\n".join(map(raw, [quiet, row, row, quiet]))))
    assert [(entry.action, entry.line, entry.field, entry.reason) for entry in result.entries] == [
        ("flagged", 2, "context", "unread_column"),
        ("flagged", 2, "system_prompt", "unread_column"),
    ]
    assert f"the format {result.format} does not read" in result.entries[0].detail
    assert len(result.examples) == 4


@pytest.mark.parametrize("answers", [{"output": "a"}, {"chosen": "a", "rejected": "b"}, {"output": "a", "label": True}])
def test_an_input_belongs_to_an_instruction(write: Write, answers: dict[str, Any]):
    row = {"instruction": "q", "input": "i", "history": [["q", "a"]], "system": "s", **answers}
    assert taken(write(raw(row))).entries == ()
    (entry,) = taken(write(raw({"prompt": "q", "input": "i", "chosen": "a", "rejected": "b"}))).entries
    assert (entry.field, entry.reason) == ("input", "unread_column")


def test_bad_rows_first_do_not_hide_the_format(write: Write):
    result = taken(write(b"{\n" * 1500 + GOOD))
    assert (result.format, result.rows, len(result.examples)) == ("completion", 1501, 1)


def test_rows_beyond_the_sniffed_ones_are_read(write: Write):
    result = taken(write(b"\n".join([GOOD] * 2500)))
    assert (result.rows, len(result.examples)) == (2500, 2500)


def test_progress_ends_at_the_whole_file(write: Write):
    calls: list[tuple[int, int]] = []
    path = write(b"\n".join([GOOD] * 2500))
    taken(path, progress=lambda done, size: calls.append((done, size)))
    assert calls == sorted(calls)
    assert len(calls) > 2
    assert calls[-1] == (path.stat().st_size, path.stat().st_size)


# --- one row at a time ---


def test_a_stream_gives_what_reading_gives(write: Write):
    path = write(b"\n".join([GOOD, b"{", b"", raw({"prompt": "q"}), GOOD]))
    found = stream(path, format=None, fields={}, label="data/rows.jsonl")
    assert (found.format, found.rows) == ("completion", 0)
    outcomes = list(found)
    whole = taken(path)
    assert tuple(outcome.example for outcome in outcomes if outcome.example) == whole.examples
    assert tuple(entry for outcome in outcomes for entry in outcome.entries) == whole.entries
    assert (found.rows, whole.rows) == (4, 4)


def test_a_stream_holds_little_of_a_file(write: Write):
    rows = [raw({"prompt": f"{number}", "completion": "y" * 10_000}) for number in range(1200)]
    path = write(b"\n".join(rows))
    tracemalloc.start()
    kept = sum(outcome.example is not None for outcome in stream(path, format=None, fields={}, label="rows.jsonl"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept == 1200
    assert peak < 8 * 2**20 < path.stat().st_size


def test_a_data_folder_is_read_as_its_examples(write: Write, tmp_path: Path):
    examples = taken(write(b"\n".join([GOOD] * 3))).examples
    with making(tmp_path / "set") as folder:
        folder.keep(*examples)
        folder.finish("# card")
    result = taken(tmp_path / "set")
    assert (result.format, result.examples) == ("example", examples)
    (tmp_path / "set" / "examples.jsonl").write_bytes(GOOD)
    assert "damaged" in str(refused(tmp_path / "set"))


def test_a_folder_of_documents_has_no_examples(tmp_path: Path):
    with making(tmp_path / "set") as folder:
        folder.keep(Document(place="a.md", text="x", digest="0", time="2026-01-01T00:00:00Z"))
        folder.finish("# card")
    assert "documents" in str(refused(tmp_path / "set"))


# --- the field map ---


def test_fields_are_renamed_and_dotted_paths_followed(write: Write):
    row = {"data": {"question": "q"}, "answer.text": "a", "prompt": "not this"}
    result = taken(write(raw(row)), fields={"prompt": "data.question", "completion": "answer.text"})
    (example,) = result.examples
    assert isinstance(example, Chat)
    assert [message.content for message in example.messages] == ["q", "a"]


def test_columns_may_swap_names(write: Write):
    path = write(raw({"prompt": "a", "completion": "q"}))
    (example,) = taken(path, fields={"prompt": "completion", "completion": "prompt"}).examples
    assert isinstance(example, Chat)
    assert [message.content for message in example.messages] == ["q", "a"]


def test_unmapped_fields_keep_their_columns(write: Write):
    path = write(raw({"instruction": "q", "answer": "a", "system": "s"}))
    (example,) = taken(path, fields={"output": "answer"}).examples
    assert isinstance(example, Chat)
    assert [message.content for message in example.messages] == ["s", "q", "a"]


def test_a_missing_column_is_a_bad_row_that_tells_the_keys(write: Write):
    rows = [{"question": "q", "answer": "a"}, {"query": "q", "answer": "a"}, {"question": None, "answer": "a"}]
    result = taken(write(b"\n".join(map(raw, rows))), fields={"prompt": "question", "completion": "answer"})
    assert told(result) == [(2, "field"), (3, "field")]
    assert [entry.field for entry in result.entries] == ["question", "question"]
    assert "saw the keys query, answer" in result.entries[0].detail
    assert "`question`" in result.entries[0].detail
    assert result.entries[1].detail == "saw null, expected a text"


def test_columns_that_no_row_has_are_answered_with_those_that_are_there(write: Write):
    with pytest.raises(DataError) as caught:
        taken(write(b"\n".join([raw({"ask": "q", "reply": "a"})] * 3)), fields={"prompt": "question"})
    assert caught.value.hint == "correct `data.fields` (`--fields`): such a row has the keys ask, reply"


@pytest.mark.parametrize("inner", [{"data": 3}, {"data": None}, {"data": {}}, {}])
def test_a_missing_dotted_column_is_a_bad_row(write: Write, inner: dict[str, Any]):
    result = taken(write(raw(inner)), fields={"text": "data.body"})
    assert [(entry.field, entry.reason) for entry in result.entries] == [("data.body", "field")]


@pytest.mark.parametrize(
    "settings", [{"format": "chta"}, {"fields": {"promt": "q"}}, {"format": "text", "fields": {"prompt": "q"}}]
)
def test_unknown_names_are_recipe_errors(write: Write, settings: dict[str, Any]):
    with pytest.raises(RecipeError):
        taken(write(GOOD), **settings)


# --- JSON arrays ---


def test_an_array_is_read_element_by_element(write: Write):
    path = write(BOM + b' [\n{"text": "a]\\"}"},\n\n  {"text":\n"b"}, 3,\n{"text": NaN},\n{"text": 5} ]\n', "rows.json")
    result = taken(path)
    assert [(example.source.line, example.text) for example in result.examples if isinstance(example, Text)] == [
        (2, 'a]"}'),
        (4, "b"),
    ]
    assert told(result) == [(5, "not_an_object"), (6, "not_a_number"), (7, "field")]
    assert [entry.detail.partition(":")[0] for entry in result.entries] == ["element 3", "element 4", "element 5"]


@given(
    rows=st.lists(st.text(max_size=30).map(lambda s: "x" + s), min_size=1, max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    plain=st.booleans(),
)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_array_gives_its_rows(write: Write, rows: list[str], indent: int | None, plain: bool):
    written = json.dumps([{"text": row, "more": [{"a": row}]} for row in rows], indent=indent, ensure_ascii=plain)
    result = taken(write(written.encode("utf-8", "surrogatepass"), "rows.json"))
    good = [row for row in rows if "\0" not in row]
    assert len({example.id for example in result.examples}) == len(good)
    assert [example.text for example in result.examples if isinstance(example, Text)] == good
    assert result.rows == len(rows)


def test_elements_that_share_a_line_keep_ids_of_their_own(write: Write):
    result = taken(write(b'[{"text": "a"}, 3, {"text": "b"},\n {"text": "c"}]', "rows.json"))
    assert [example.id for example in result.examples] == [f"data/rows.json:{element}" for element in (1, 3, 4)]
    assert [(entry.line, entry.detail.partition(":")[0]) for entry in result.entries] == [(2, "element 2")]


def test_an_entry_has_the_id_of_its_row_where_rows_share_a_line(write: Write):
    rows = [
        {"messages": MESSAGES},
        {"messages": [*MESSAGES, MESSAGES[0]]},
        {"messages": 3},
        {"text": "x"},
        {"messages": MESSAGES, "context": "c"},
        4,
    ]
    result = taken(write(raw(rows), "rows.json"), format="chat")
    assert [example.source.line for example in result.examples] == [1, 2, 5]
    assert [(entry.line, entry.reason) for entry in result.entries] == [
        (2, "cut_after_answer"),
        (3, "field"),
        (4, "unknown_format"),
        (5, "unread_column"),
        (6, "not_an_object"),
    ]
    result = taken(write(raw([{"talk": MESSAGES}, {}]), "rows.json"), fields={"messages": "talk"})
    assert [(entry.line, entry.field) for entry in result.entries] == [(2, "talk")]


@pytest.mark.parametrize(
    ("content", "num_rows", "line", "column", "expected"),
    [
        (b'[\n{"text": "a"},\n{"text": "b"', 1, 3, 13, "`,`"),
        (b'[\n{"text": "a"},\n{"text": "b}]', 1, 3, 10, "closing quote"),
        (b'[\n{"text": "a"},\n{"text": "b},\n{"text": "c"}]', 1, 3, 14, "invalid control character"),
        (b'[{"text": "a"}, {"text": "b"}\n', 2, 2, 1, "`,` or `]`"),
        (b'[{"text": "a"},\n {"text": "b"}\n {"text": "c"}]', 2, 3, 2, "`,` or `]`"),
        (b'[{"text": "a"},\n {"text": \'b\'}]', 1, 2, 11, "a value"),
        ('[{"text": "äö"}, {"text" 3}]'.encode(), 1, 1, 26, "`:`"),
        (b'[{"text": "a"},]', 1, 1, 16, "an element"),
        (b'[{"text": "a"},, {"text": "b"}]', 1, 1, 16, "an element"),
        (b'[{"text": "a"}, oops]', 1, 1, 17, "a value"),
        (b'[{"text": "a"}] x', 1, 1, 17, "nothing after"),
        (b'[{"text": "a"},', 1, 1, 16, "a value"),
        (b"[", 0, 1, 2, "a value"),
        (b"[" * 100_000, 0, 1, 2, "the rest"),
    ],
)
def test_a_broken_array_is_refused_where_it_breaks(
    write: Write, content: bytes, num_rows: int, line: int, column: int, expected: str
):
    error = refused(write(content, "rows.json"))
    assert error.where is not None
    assert (error.where.file, error.where.line, error.where.column) == ("data/rows.json", line, column)
    assert f"after {num_rows} rows" in error.message
    assert expected in error.message.replace("','", "`,`").replace("':'", "`:`").replace("'", "`")


def test_an_overlong_element_is_refused_by_a_named_limit(write: Write):
    content = b'[{"text": "a"},\n{"text": "' + b"y" * 5000 + b'"}]'
    assert len(taken(write(content, "rows.json")).examples) == 2
    error = refused(write(content, "rows.json"), longest=4000)
    assert str(error).startswith("data/rows.json:2:1: ")
    assert "at most 4,000 bytes" in str(error)


def test_an_array_larger_than_a_chunk_is_cut_rightly(write: Write):
    rows = [{"text": f"{number} " + 'ä"\\' * (number % 7) * 100} for number in range(4000)]
    result = taken(write(json.dumps(rows, ensure_ascii=False, indent=1).encode(), "rows.json"))
    assert [example.text for example in result.examples if isinstance(example, Text)] == [row["text"] for row in rows]
    assert [example.source.line for example in result.examples[:3]] == [2, 5, 8]


def test_deep_elements_cost_only_themselves(write: Write):
    deep = b'{"text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    assert told(taken(write(b"[" + deep + b',\n{"text": "a"}]', "rows.json"))) == [(1, "too_deep")]
    assert told(taken(write(b'[{"text": "a"}, ' + deep + b"]", "rows.json"))) == [(2, "too_deep")]


def test_an_empty_array_is_refused(write: Write):
    assert "empty" in str(refused(write(b" [ ] ", "rows.json")))


# --- text ---


def test_a_text_file_gives_its_blocks(write: Write):
    result = taken(write(BOM + b"\n\n[1] one\n  two  \r\n\t\nthree\n\n\n", "book.txt"))
    assert [(example.source.line, example.text) for example in result.examples if isinstance(example, Text)] == [
        (3, "[1] one\n  two  "),
        (6, "three"),
    ]
    assert (result.format, result.rows) == ("text", 2)


def test_bad_blocks_are_reported(write: Write):
    content = b"good\n\nbad\nb\xe9d\nbad\n\n" + b"y" * 200 + b"\n\n" + b"line\n" * 30 + b"\nlast"
    result = taken(write(content, "book.txt"), format="text", longest=100)
    assert told(result) == [(4, "encoding"), (7, "too_long"), (9, "too_long")]
    assert [example.source.line for example in result.examples] == [1, 40]


# --- what a file is ---


@pytest.mark.parametrize("name", ["rows.txt", "rows.json", "rows", "rows.data", "rows.jsonl"])
def test_content_says_what_a_file_is(write: Write, name: str):
    assert taken(write(GOOD + b"\n" + GOOD, name)).rows == 2
    assert taken(write(b"[" + GOOD + b",\n" + GOOD + b"]\n", name)).rows == 2


def test_jsonl_whose_first_row_is_a_list_is_no_array(write: Write):
    assert told(taken(write(b"[1, 2]\n" + GOOD))) == [(1, "not_an_object")]


@pytest.mark.parametrize(
    ("content", "name", "match"),
    [
        (b"", "rows.jsonl", "empty"),
        (BOM + b" \n\n", "rows.jsonl", "empty"),
        (b"\x1f\x8b\x08junk", "rows.jsonl.gz", "gzip"),
        (b"PAR1junk", "rows.parquet", "Parquet"),
        (b"PK\x03\x04junk", "rows.jsonl", "zip"),
        ('{"a": 1}'.encode("utf-16"), "rows.jsonl", "UTF-16"),
        (b'{\n  "train": [["a", "b"]],\n  "test": []\n}', "rows.json", "one JSON object over many lines"),
        (b"\x7fELF\0\0\0", "rows.jsonl", "binary"),
        (b"prose with a \0 in it", "book.txt", "binary"),
        (b"a,b\n1,2\n", "rows.dat", "cannot tell"),
        (b"no\njson\n", "rows.jsonl", "none of 2 rows can be read\n  data/rows.jsonl:1: saw `no`"),
    ],
)
def test_what_is_no_data_is_refused(write: Write, content: bytes, name: str, match: str):
    assert match in str(refused(write(content, name)))


def test_a_missing_file_offers_the_nearest(write: Write):
    path = write(GOOD, "tickets.jsonl")
    assert "tickets.jsonl" in refused(path.with_name("tikets.jsonl")).hint
    assert "relative to the recipe" in refused(path.with_name("x") / "y.jsonl").hint


def test_a_folder_is_refused_with_what_is_in_it(write: Write):
    path = write(GOOD)
    error = refused(path.parent)
    assert "is a folder" in str(error)
    assert "rows.jsonl" in error.hint


def test_no_message_holds_the_path_of_this_machine(write: Write):
    path = write(b"\n".join([GOOD, b"{"]))
    result = taken(path)
    assert str(path.parent) not in repr(result)
    assert str(path.parent) not in str(refused(path.with_name("none.jsonl"), label="none.jsonl"))
