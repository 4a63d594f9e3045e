"""The contract of a cleaner, over every file of the folder and over rows of cleaners in any order."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor import names
from sartor.data.clean import KIND, Cleaner, Context, Outcome, cleaner
from sartor.data.clean.texts import messages_of, texts_of, whole_of
from sartor.data.cleaning import Chosen, cleaned
from sartor.types import EXAMPLE, Chat, Example, Frozen, LedgerEntry, Message, Pair, Source, Text, ToolCall, Unpaired

NAMES = names.known(KIND)

#: What rows are made of: good and bad texts, near ones among them, so that every cleaner meets something to do.
TEXTS = st.sampled_from(
    [
        "",
        " ",
        "\0\x07",
        "no",
        "Yes.",
        "I'm sorry, but I cannot help with that.",
        "Please write to jane.doe@acme-corp.com or call +49 30 901820, card 4111 1111 1111 1111.",
        "AKIAIOSFODNN7EXAMPLE ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "caf\u00c3\u00a9 \u00e2\u20ac\u201c d\u00e9j\u00e0 vu",
        "<div class='x'>Hello &amp; welcome<br/>to <b>us</b></div>",
        "Das ist ein deutscher Satz, der von niemandem auf Englisch gelesen wird.",
        "中文维基百科是维基百科协作计划的中文版本自年月日正式成立",
        "the the the the the the the the the the the the the the the the",
        "The quick brown fox jumps over the lazy dog near the river bank every single day of the long hot summer.",
        "The quick brown fox jumps over the lazy dog near the river bank every single day of the long hot winter.",
        "The quick brown fox jumps over the lazy dog near the river bank every single day of the long hot summer, and",
        "What is 17 + 25?",
        "What is 17 + 26?",
        "x" * 5000,
    ]
)
ANY_TEXTS = TEXTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

ADDRESS = "jane.doe@acme-corp.com"
#: What calls and tools are made of, keys and numbers among it that `pii` looks at.
ARGUMENTS = st.dictionaries(
    st.sampled_from(["to", ADDRESS, "bob@acme-corp.com", "[E_MAIL]"]),
    TEXTS | st.sampled_from([4111111111111111, 7, None]),
    max_size=3,
)
TOOLS = st.lists(
    st.builds(
        lambda about, keys: {
            "type": "function",
            "function": {"name": "send", "description": about, "parameters": keys},
        },
        TEXTS,
        ARGUMENTS,
    ),
    max_size=1,
).map(tuple)


def messages(role: Any, texts: st.SearchStrategy[str] = ANY_TEXTS) -> st.SearchStrategy[Message]:
    calls = st.lists(st.builds(ToolCall, name=st.just("send"), arguments=ARGUMENTS), max_size=1).map(tuple)
    return st.builds(
        Message,
        role=st.just(role),
        content=texts,
        reasoning=st.sampled_from(["", "", "hm"]),
        name=st.sampled_from(["", "", ADDRESS]),
        tool_calls=calls if role == "assistant" else st.just(()),
    )


SOURCE = Source(file="rows.jsonl", line=1)
PROMPTS = st.lists(messages("user"), min_size=1, max_size=2).map(tuple)
EXAMPLES: st.SearchStrategy[Example] = st.one_of(
    st.builds(
        lambda p, a, tools: Chat(source=SOURCE, messages=(*p, a), tools=tools), PROMPTS, messages("assistant"), TOOLS
    ),
    st.builds(lambda text: Text(source=SOURCE, text=text), ANY_TEXTS),
    st.builds(
        lambda p, a, b: Pair(source=SOURCE, prompt=p, chosen=a, rejected=b),
        PROMPTS,
        messages("assistant"),
        messages("assistant"),
    ),
    st.builds(
        lambda p, a, good: Unpaired(source=SOURCE, prompt=p, answer=a, good=good),
        PROMPTS,
        messages("assistant"),
        st.booleans(),
    ),
)


def numbered(examples: Sequence[Example]) -> list[Example]:
    """Each on a line of its own."""
    return [
        example.model_copy(update={"source": Source(file="rows.jsonl", line=line)})
        for line, example in enumerate(examples, start=1)
    ]


ROWS = st.lists(EXAMPLES, max_size=30).map(numbered)
HELD_OUT = tuple(
    Chat(
        source=Source(file="test.jsonl", line=line),
        messages=(Message(role="user", content=text), Message(role="assistant", content="no")),
    )
    for line, text in enumerate(["What is 17 + 25?", "Who was it that did this thing there?"], start=1)
)


def toy_embed(conversations: Sequence[Sequence[Message]]) -> np.ndarray:
    """Counts of letters, of length 1."""
    letters = [[1.0 + message.content.count(letter) for letter in "aeinorst"] for (message, *_) in conversations]
    vectors_ND = np.array(letters, np.float32).reshape(-1, 8)
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True))


CONTEXT = Context(held_out=HELD_OUT, count_tokens=lambda example: len(whole_of(example)) // 4, embed=toy_embed)


def configs(member: Cleaner) -> list[Frozen]:
    """The defaults, and each choice of each field that offers some."""
    found = [member.Config()]
    for name, field in member.Config.model_fields.items():
        if typing.get_origin(field.annotation) is typing.Literal:
            found += [member.Config.model_validate({name: choice}) for choice in typing.get_args(field.annotation)]
    return found


def check(row: Example, outcome: Outcome, reasons: tuple[str, ...]) -> None:
    """The entries say what became of the row, and nothing else became of it."""
    actions = {entry.action for entry in outcome.entries}
    assert ("dropped" in actions) == (outcome.example is None)
    assert [entry.action for entry in outcome.entries].count("dropped") <= 1
    if outcome.example is not None:
        assert ("changed" in actions) == (outcome.example != row)
        assert outcome.example.source == row.source
        assert outcome.example.kind == row.kind
        assert EXAMPLE.validate_json(outcome.example.model_dump_json()) == outcome.example
    fields = {found.field for found in texts_of(row)} | {""}
    places = [] if isinstance(row, Text) else [place for place, _ in messages_of(row)]
    fields |= {f"{place}.name" for place in places}
    inside = ("tools[", *(f"{place}.tool_calls[" for place in places))
    for entry in outcome.entries:
        assert (entry.file, entry.line) == (row.source.file, row.source.line)
        assert entry.reason in reasons
        assert entry.detail
        assert entry.field in fields or entry.field.startswith(inside), entry.field
        entry.model_dump_json()


ROW = Text(source=SOURCE, text="as it came")
OTHER = ROW.model_copy(update={"text": "another"})


def entry(action: str, **changes: Any) -> LedgerEntry:
    values = {
        "action": action,
        "file": SOURCE.file,
        "line": SOURCE.line,
        "field": "text",
        "reason": "why",
        "detail": "x",
    }
    return LedgerEntry.model_validate({**values, **changes})


@pytest.mark.parametrize(
    "fault",
    [
        Outcome(None),
        Outcome(OTHER),
        Outcome(ROW, (entry("changed"),)),
        Outcome(ROW, (entry("dropped"),)),
        Outcome(None, (entry("dropped"), entry("dropped"))),
        Outcome(OTHER.model_copy(update={"source": Source(file="a", line=2)}), (entry("changed"),)),
        Outcome(None, (entry("dropped", line=2),)),
        Outcome(None, (entry("dropped", reason="no word of its own"),)),
        Outcome(None, (entry("dropped", detail=""),)),
        Outcome(None, (entry("dropped", field="messages[7].content"),)),
    ],
)
def test_planted_faults_are_found(fault: Outcome) -> None:
    check(ROW, Outcome(OTHER, (entry("changed"),)), ("why",))
    with pytest.raises(AssertionError):
        check(ROW, fault, ("why",))


def outcomes_of(member: Cleaner, rows: Sequence[Example], config: Frozen) -> list[Outcome]:
    """A cleaner that can do with one pass gets no more."""
    return list(member.clean(rows if member.WHOLE else iter(rows), config, CONTEXT))


def test_the_cleaners_of_the_issue_are_known() -> None:
    duplicates = {"exact_duplicates", "near_duplicates", "semantic_duplicates"}
    assert duplicates | {"contradictions", "label_noise", "outliers", "contamination"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_members(name: str) -> None:
    member = cleaner(name)
    assert member.SUMMARY.strip() == member.SUMMARY != ""
    assert "\n" not in member.SUMMARY
    assert len(member.SUMMARY) <= 100
    assert member.REASONS
    assert len(set(member.REASONS)) == len(member.REASONS)
    assert isinstance(member.SELECTS, bool)
    assert isinstance(member.WHOLE, bool)


@pytest.mark.parametrize("name", NAMES)
def test_config_is_frozen_described_and_refuses_unknown_keys(name: str) -> None:
    kind = cleaner(name).Config
    assert issubclass(kind, Frozen)
    assert kind.model_validate_json(kind().model_dump_json()) == kind()
    with pytest.raises(ValidationError):
        kind.model_validate({"no_such_option": 1})
    for option, field in kind.model_fields.items():
        assert field.description, f"option {option} has no description"


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_rows_in_are_rows_out_and_entries_twice_the_same(name: str, data: st.DataObject) -> None:
    member = cleaner(name)
    rows, config = data.draw(ROWS), data.draw(st.sampled_from(configs(member)))
    outcomes = outcomes_of(member, rows, config)
    assert len(outcomes) == len(rows)
    for row, outcome in zip(rows, outcomes, strict=True):
        check(row, outcome, member.REASONS)
    assert outcomes_of(member, rows, config) == outcomes


@pytest.mark.parametrize("name", [name for name in NAMES if not cleaner(name).WHOLE])
def test_who_needs_not_all_rows_waits_for_no_end(name: str) -> None:
    def endless() -> Iterator[Example]:
        for line in itertools.count(1):
            yield Text(
                source=Source(file="rows.jsonl", line=line), text=f"Row {line} of many that never come to an end."
            )

    member = cleaner(name)
    assert isinstance(next(member.clean(endless(), member.Config(), CONTEXT)), Outcome)


def asked(question: str, answer: str) -> Chat:
    return Chat(
        source=SOURCE, messages=(Message(role="user", content=question), Message(role="assistant", content=answer))
    )


def scenes() -> list[list[Example]]:
    """Rows of which the first is strange among the others, and not by itself."""
    kinds = {"fruit": ["apple", "pear", "plum", "cherry"], "tool": ["hammer", "saw", "drill", "wrench"]}
    usual = [
        asked(f"the {one} and the {other}, {row}", kind)
        for kind, words in kinds.items()
        for row, (one, other) in enumerate(itertools.permutations(words, 2))
    ]
    long = "the apple and the pear, " * 40
    english = [asked(f"Question {row}", "This is the answer that was written in English again.") for row in range(9)]
    german = asked("Question", "Das ist ein deutscher Satz, der von niemandem auf Englisch gelesen wird.")
    return [
        numbered([asked(long, "tool"), asked(long, "fruit"), *usual]),  # long, mislabelled, contradicted
        numbered([german, *english]),
    ]


@pytest.mark.parametrize("name", [name for name in NAMES if cleaner(name).WHOLE])
def test_who_sees_all_rows_first_has_to(name: str) -> None:
    def reasons(rows: list[Example]) -> list[str]:
        member = cleaner(name)
        return [entry.reason for entry in outcomes_of(member, rows, member.Config())[0].entries]

    assert any(reasons(rows[:1]) != reasons(rows) for rows in scenes())


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS, order=st.permutations(NAMES), length=st.integers(1, 5))
def test_cleaners_in_any_order_lose_nothing(rows: list[Example], order: list[str], length: int) -> None:
    steps = [Chosen(name, cleaner(name), cleaner(name).Config()) for name in order[:length]]

    def run() -> tuple[str, list[LedgerEntry]]:
        told: list[LedgerEntry] = []
        left = list(cleaned(rows, steps, CONTEXT, told.append))
        lines = [example.source.line for example in left]
        gone = [entry.line for entry in told if entry.action == "dropped"]
        assert lines == sorted(lines)
        assert sorted(lines + gone) == [row.source.line for row in rows]
        changed = {entry.line for entry in told if entry.action == "changed"}
        assert all(example == rows[example.source.line - 1] or example.source.line in changed for example in left)
        return "\n".join(example.model_dump_json() for example in left), told

    assert run() == run()
