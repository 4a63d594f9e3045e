"""CSV and TSV: each row at the line on which it starts, whatever its quotes hold."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.data.read import Read, read
from sartor.data.reading import table
from sartor.data.reading.row import Bad, Row
from sartor.data.reading.table import table_rows
from sartor.errors import DataError
from sartor.types import Chat, Unpaired

Write = Callable[..., Path]


def rows_of(content: bytes | str, *, longest: int = 10_000, delimiter: str = "") -> list[Row | Bad]:
    raw = content if isinstance(content, bytes) else content.encode()
    return list(table_rows(io.BytesIO(raw), "t.csv", longest, delimiter=delimiter))


def values(content: bytes | str, **settings: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(row.line, row.value) for row in rows_of(content, **settings) if isinstance(row, Row)]


def bad(content: bytes | str, **settings: Any) -> list[tuple[int, str, str]]:
    return [(row.line, row.reason, row.field) for row in rows_of(content, **settings) if isinstance(row, Bad)]


def test_quoted_cells_hold_line_ends_delimiters_and_quotes():
    content = 'prompt,completion\r\n"a, ""b""\nc","d"\r\n\r\ne,f"g\r\n'
    assert values(content) == [
        (2, {"prompt": 'a, "b"\nc', "completion": "d"}),
        (5, {"prompt": "e", "completion": 'f"g'}),
    ]
    assert bad(content) == []


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_the_header_has_most_of(delimiter: str):
    assert values(f"a{delimiter}b\n1{delimiter}2\n") == [(2, {"a": "1", "b": "2"})]


def test_a_byte_order_mark_is_no_part_of_the_first_column():
    assert values(b"\xef\xbb\xbfa,b\n1,2") == [(2, {"a": "1", "b": "2"})]


def test_a_column_without_a_name_gets_its_number():
    assert values(",a\n0,x\n") == [(2, {"column_1": "0", "a": "x"})]


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), end=st.sampled_from(["\n", "\r\n"]))
def test_what_pythons_csv_writes_is_read(rows: list[tuple[str, str]], end: str):
    file = io.StringIO()
    csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    found = [(row["a"], row["b"]) for _, row in values(file.getvalue())]
    assert found == rows


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1\n2,3\n", [(2, "syntax", "b")]),
        ("a,b\n1,2,3\n2,3\n", [(2, "syntax", "b")]),
        (b"a,b\n1,caf\xe9\n2,3\n", [(2, "encoding", "b")]),
        ('a,b\n"1"x,2\n2,3\n', [(2, "syntax", "a")]),
        ('a,b\n1,"open\n2,3\n', [(2, "syntax", "b")]),
        ('messages,b\n"[1,",2\n2,3\n', [(2, "syntax", "messages")]),
        ('messages,b\n"{""a"": 1, ""a"": 1}",2\n2,3\n', [(2, "duplicate_key", "messages")]),
        ("a,b\n1," + "y" * 20_000 + "\n2,3\n", [(2, "too_long", "")]),
        ('a,b\n1,"' + "y\n" * 20_000 + '"\n2,3\n', None),
    ],
)
def test_a_bad_row_costs_only_itself(content: bytes | str, expected: list[tuple[int, str, str]] | None):
    if expected is not None:
        assert bad(content) == expected
    first, second = rows_of(content)[-1], bad(content)[0]
    assert isinstance(first, Row)
    assert list(first.value.values()) == ["2", "3"]
    assert second[0] == 2


def test_a_quote_that_nothing_closes_does_not_swallow_the_file():
    content = 'a,b\n"x,1\n' + "".join(f'"{n}",z\n' for n in range(500))
    assert bad(content) == [(2, "syntax", "a")]
    assert len(values(content)) == 500


@pytest.mark.parametrize("line", ['a"b,"c', 'a","b', 'a"",","b', '"a,b', 'a,"b""', 'a"","b', 'a"",""","b'])
@pytest.mark.parametrize("between", ["", "1,2\n" * 9])
def test_stray_quotes_on_every_line_cost_a_few_looks_at_each(line: str, between: str, monkeypatch: pytest.MonkeyPatch):
    looks = 0

    class Counted(table._Record):
        def feed(self, line: str) -> bool:
            nonlocal looks
            looks += 1
            return super().feed(line)

    monkeypatch.setattr(table, "_Record", Counted)
    content = "x,y\n" + f"{line}\n{between}" * 3000
    found = rows_of(content, longest=10_000_000)
    assert looks < 5 * content.count("\n")
    assert [row.line for row in found] == sorted({row.line for row in found})


def test_too_many_cells_over_several_lines_are_one_bad_row():
    assert bad('a,b\n1,2,"x\ny"\n3,4\n') == [(2, "syntax", "b")]
    assert values('a,b\n1,2,"x\ny"\n3,4\n') == [(4, {"a": "3", "b": "4"})]


def test_a_cell_has_a_limit_of_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "MOST_LINES", 100)
    content = 'a,b\n1,"open\n' + "2,3\n" * 500
    (row,) = [row for row in rows_of(content) if isinstance(row, Bad)]
    assert (row.line, row.field) == (2, "b")
    assert "100 lines" in row.expected
    assert len(values(content)) == 500


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "no header"),
        ("a,a\n1,2\n", "twice"),
        (b"caf\xe9,b\n1,2\n", "not UTF-8"),
        ('"a,b\n1,2\n', "no header"),
        ("a,b", "a header and no rows"),
        ("a,b\n\r\n\n", "a header and no rows"),
    ],
)
def test_a_table_needs_a_header_and_rows(content: bytes | str, match: str):
    with pytest.raises(DataError, match=match) as caught:
        rows_of(content)
    assert caught.value.hint


@settings(deadline=None, max_examples=150)
@given(content=st.binary(max_size=200) | st.text('ab",;\n\r\t{}[]', max_size=200).map(str.encode))
def test_no_bytes_crash_it_and_no_line_is_lost(content: bytes):
    try:
        found = rows_of(b"a,b\n" + content, longest=60)
    except DataError as error:
        assert "no rows" in str(error)
        return
    lines = [row.line for row in found]
    assert lines == sorted(lines)
    assert len(set(lines)) == len(lines)


# --- as a file of examples ---


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str, name: str = "rows.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode())
        return path

    return written


def taken(path: Path, **settings: Any) -> Read:
    return read(path, **({"format": None, "fields": {}, "label": path.name} | settings))


@pytest.mark.parametrize(("name", "delimiter"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_a_table_is_sniffed_as_any_file(write: Write, name: str, delimiter: str):
    result = taken(write(f"instruction{delimiter}output\nq{delimiter}a\n\n{delimiter}\n", name))
    assert (result.format, [example.id for example in result.examples]) == ("alpaca", [f"{name}:2"])
    assert [(entry.line, entry.field) for entry in result.entries] == [(4, "output")]


@pytest.mark.parametrize("format", [None, "completion"])
def test_a_header_alone_is_refused_by_its_name(write: Write, format: str | None):
    with pytest.raises(DataError, match=r"rows\.csv: this table has a header and no rows"):
        taken(write("prompt,completion\n"), format=format)


def test_json_in_cells_is_read_where_it_is_structure(write: Write):
    turns = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'.replace('"', '""')
    (example,) = taken(write(f'messages,tools\n"{turns}",[]\n')).examples
    assert isinstance(example, Chat)
    assert example.target == "a"


def test_json_that_is_an_answer_stays_a_text(write: Write):
    (example,) = taken(write('prompt,completion\nq,"{""city"": ""Rome""}"\n')).examples
    assert isinstance(example, Chat)
    assert example.target == '{"city": "Rome"}'


def test_columns_are_mapped_and_ratings_read(write: Write):
    path = write("ask,say,label\nq,a,False\nr,b,maybe\n")
    result = taken(path, fields={"prompt": "ask", "completion": "say"})
    (example,) = result.examples
    assert isinstance(example, Unpaired)
    assert not example.good
    assert [(entry.line, entry.field) for entry in result.entries] == [(3, "label")]
