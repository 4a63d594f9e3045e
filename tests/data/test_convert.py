"""Converting: what is written reads back as it was, and what a format cannot hold is told, never lost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor import durable, formats, names
from sartor.cli.data import FORMATS
from sartor.data.convert import ALIASES, all_converted, convert, converted
from sartor.data.folder import making
from sartor.errors import DataError, RecipeError
from sartor.types import Chat, Example, Message, Pair, Source, Text, ToolCall, Unpaired

SOURCE = Source(file="rows.jsonl", line=7)
WRITERS = tuple(name for name in names.known("formats") if formats.named(name).WRITES)

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8).map(lambda s: f"x{s}")
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS, lambda v: st.lists(v, max_size=2), max_leaves=3
)


def said(role: Any, **more: Any) -> st.SearchStrategy[Message]:
    return st.builds(Message, role=st.just(role), content=WORDS, **more)


WEIGHTS = st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.5])
ANSWERS = said(
    "assistant", weight=WEIGHTS, reasoning=st.sampled_from(["", "", "hm"]), name=st.sampled_from(["", "", "Bo"])
)


@st.composite
def called(draw: st.DrawFn) -> tuple[Message, ...]:
    """A turn with calls, and their results, perhaps in another order."""
    count = draw(st.integers(1, 2))
    ids = draw(st.sampled_from([("", ""), ("a", "b")]))
    arguments = st.dictionaries(WORDS, VALUES, max_size=2)
    calls = tuple(ToolCall(name="f", arguments=draw(arguments), id=ids[index]) for index in range(count))
    order = draw(st.permutations(range(count)))
    results = tuple(Message(role="tool", content=draw(WORDS), tool_call_id=ids[index]) for index in order)
    return (Message(role="assistant", content=draw(st.sampled_from(["", "look"])), tool_calls=calls), *results)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[Message, ...]:
    first = draw(st.sampled_from([(), (), ("system",), ("developer",), ("system", "developer")]))
    turns = [Message(role=role, content="s") for role in first]
    for _ in range(draw(st.integers(0, 2))):
        turns += [draw(said("user")), *draw(called() | ANSWERS.map(lambda answer: (answer,)))]
        if turns[-1].role == "tool":
            turns.append(draw(ANSWERS))
    return (*turns, draw(said("user")))


TOOLS = st.sampled_from([(), (TOOL,)])
SOME = st.just(SOURCE)
PAIRS = st.builds(Pair, source=SOME, prompt=prompts(), chosen=ANSWERS, rejected=said("assistant"), tools=TOOLS)
EXAMPLES = st.one_of(
    st.builds(
        lambda prompt, answer, tools: Chat(source=SOURCE, messages=(*prompt, answer), tools=tools),
        prompts(),
        ANSWERS,
        TOOLS,
    ),
    st.builds(Text, source=SOME, text=WORDS),
    PAIRS.filter(lambda pair: pair.chosen != pair.rejected),
    st.builds(Unpaired, source=SOME, prompt=prompts(), answer=ANSWERS, good=st.booleans(), tools=TOOLS),
)


@pytest.mark.parametrize("name", WRITERS)
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(example=EXAMPLES)
def test_what_is_written_reads_back_or_says_what_is_lost(name: str, example: Example):
    form = formats.writer(name)
    done = converted(example, form)
    if done.row is None:
        (entry,) = done.entries
        assert (entry.action, entry.reason, entry.line) == ("dropped", "cannot_hold", 7)
        assert entry.field
        assert "expected" in entry.detail
        return
    row = json.loads(json.dumps(done.row, ensure_ascii=False))
    assert form.matches(row)
    assert [other for other in names.known("formats") if formats.named(other).matches(row)] == [name]
    parsed = form.parse(row, SOURCE)
    assert parsed.changes == ()
    assert {entry.action for entry in done.entries} <= {"changed"}
    if not done.entries:
        assert parsed.example == example
        assert parsed.example.digest == example.digest
    else:
        assert parsed.example != example


@pytest.mark.parametrize("name", WRITERS)
def test_a_sample_comes_back_from_every_format_that_holds_it(name: str):
    for other in WRITERS:
        example = formats.named(other).parse(formats.named(other).SAMPLE, SOURCE).example
        done = converted(example, formats.writer(name))
        assert done.row is not None or done.entries


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}]


def written(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_file_becomes_a_folder_with_rows_and_a_ledger(tmp_path: Path):
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    rows = [{"messages": CHAT}, {"messages": [CHAT[0], called]}, {"messages": 3}, {"messages": CHAT[:2] + CHAT[:1]}]
    path = written(tmp_path / "talk.jsonl", *rows)
    report = convert(path, tmp_path / "out", to="alpaca", label="talk.jsonl")
    assert (report.source_format, report.rows_in, report.rows_out) == ("chat", 4, 2)
    assert report.counts == {
        ("changed", "reasoning_left_out"): 2,
        ("changed", "cut_after_answer"): 1,
        ("dropped", "cannot_hold"): 1,
        ("dropped", "field"): 1,
    }
    assert durable.verify(tmp_path / "out") == ""
    made = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text("utf-8").splitlines()]
    assert made == [{"instruction": "q", "input": "", "output": "a"}] * 2
    told = list(durable.read_lines(tmp_path / "out" / "ledger.jsonl"))
    assert [entry["line"] for entry in told] == [1, 2, 3, 4, 4]


def test_what_a_row_was_made_of_is_told_where_it_is_left_out(tmp_path: Path):
    source = Source(file="rows.jsonl", line=7, origin="a.pdf")
    made = formats.named("completion").parse({"prompt": "q", "completion": "a"}, source).example
    with making(tmp_path / "set") as folder:
        folder.keep(made)
        folder.finish("# card")
    for form in WRITERS:
        done = converted(made, formats.writer(form))
        if done.row is not None:
            told = [(entry.action, entry.field, entry.reason) for entry in done.entries]
            assert told == ([] if form == "example" else [("changed", "source.origin", "origin_left_out")])
    report = convert(tmp_path / "set", tmp_path / "out", to="openai", label="set")
    assert report.counts == {("changed", "origin_left_out"): 1}


def test_a_data_folder_is_converted_and_comes_back(tmp_path: Path):
    pair = formats.named("preference").parse(formats.named("preference").SAMPLE, SOURCE).example
    with making(tmp_path / "set") as folder:
        folder.keep(pair)
        folder.finish("# card")
    convert(tmp_path / "set", tmp_path / "out", to="dpo", label="set")
    report = convert(tmp_path / "out" / "rows.jsonl", tmp_path / "back", to="example", label="rows.jsonl")
    assert (report.source_format, report.rows_out) == ("preference", 1)


def test_twice_gives_the_same_bytes(tmp_path: Path):
    path = written(tmp_path / "talk.jsonl", *[{"messages": CHAT}] * 5)
    for name in ("one", "two"):
        convert(path, tmp_path / name, to="openai", label="talk.jsonl")
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()


def test_a_file_that_breaks_leaves_nothing(tmp_path: Path):
    path = tmp_path / "talk.json"
    path.write_text('[{"text": "a"}, {"text": "b"')
    with pytest.raises(DataError, match="breaks"):
        convert(path, tmp_path / "out", to="text", label="talk.json")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["talk.json"]


@pytest.mark.parametrize("to", ["oasst", "steps", "opnai"])
def test_formats_that_are_not_written_are_refused(tmp_path: Path, to: str):
    with pytest.raises(RecipeError) as caught:
        convert(tmp_path / "none", tmp_path / "out", to=to, label="none")
    assert caught.value.hint
    with pytest.raises(RecipeError):
        all_converted((), to)


def test_an_unknown_format_is_answered_with_those_that_are_written(tmp_path: Path):
    with pytest.raises(RecipeError) as caught:
        convert(tmp_path / "none", tmp_path / "out", to="opnai", label="none")
    assert caught.value.hint.startswith("did you mean 'openai'? Known: ")
    told = caught.value.hint.partition("Known: ")[2].split(", ")
    assert set(told) == {*WRITERS, *ALIASES}
    assert set(re.findall(r"[a-z]+", FORMATS)) - {"or"} == set(told), "the option's help says the same"


def test_other_names_lead_to_formats_that_are_written():
    assert set(ALIASES.values()) <= set(WRITERS)
    assert not ALIASES.keys() & set(names.known("formats"))
