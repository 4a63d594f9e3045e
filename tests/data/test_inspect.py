"""Looking into a data set: numbers, histograms, search, samples of the ledger, tokens with the loss mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.data.finding.languages import language_of
from sartor.data.folder import DataFolder, making
from sartor.data.inspect import Asked, Facts, examples_of, holds, inspect, spread_of, tokens_of, words_of
from sartor.types import Document, Example, LedgerEntry, Message, Pair, Source, Unpaired

from ..toy_speech import ToySpeech  # noqa: TID252 - the tests are no package that could be imported by name
from .rows import talk, text


def entry(line: int, reason: str = "e_mail", action: str = "changed") -> LedgerEntry:
    return LedgerEntry.model_validate(
        {"action": action, "file": "rows.jsonl", "line": line, "reason": reason, "detail": f"masked: {line}"}
    )


def rows(count: int) -> Iterator[Example]:
    return (talk("yes" if line % 3 else "no", f"Is {line} odd?", line=line) for line in range(1, count + 1))


def test_numbers() -> None:
    facts = inspect(rows(30), label="odd")
    assert (facts.label, facts.rows, facts.kinds) == ("odd", 30, {"chat": 30})
    assert facts.roles == {"user": 30, "assistant": 30}
    assert facts.labels == {"yes": 20, "no": 10}
    found = {spread.name: spread for spread in facts.spreads}
    assert list(found) == ["turns", "characters of the question", "characters of the answer"]
    assert (found["turns"].lowest, found["turns"].highest, found["turns"].total) == (2, 2, 60)
    answers = found["characters of the answer"]
    assert [(bar.low, bar.count) for bar in answers.bars] == [(2, 10), (3, 20)]
    assert (answers.mean, answers.median) == (80 / 30, 3)


def test_long_or_many_answers_are_no_labels() -> None:
    assert inspect([talk(f"answer {line}", line=line) for line in range(20)], label="x").labels == {}
    assert inspect([talk("a\nb"), talk("c")], label="x").labels == {}
    assert inspect([talk("a" * 100), *rows(9)], label="x").labels == {}
    assert inspect([talk(str(line)) for line in range(1000)], label="x").labels == {}


def test_no_rows() -> None:
    facts = inspect([], label="none")
    assert (facts.rows, facts.spreads, facts.shown) == (0, (), ())
    assert Facts.model_validate_json(facts.model_dump_json()) == facts


def test_every_kind_of_row() -> None:
    asked = (Message(role="system", content="Be kind."), Message(role="user", content="Hi?"))
    good, bad = Message(role="assistant", content="Hi!", reasoning="hm"), Message(role="assistant", content="No.")
    source = Source(file="rows.jsonl", line=1)
    examples: list[Example] = [
        Pair(source=source, prompt=asked, chosen=good, rejected=bad),
        Unpaired(source=source, prompt=asked, answer=bad, good=False),
        text("Running text."),
    ]
    facts = inspect(examples, label="x", renderer=ToySpeech())
    assert facts.kinds == {"pair": 1, "unpaired": 1, "text": 1}
    pair, unpaired, running = facts.shown
    assert [part.role for part in pair.parts] == ["system", "user", "chosen", "chosen, reasoning", "rejected"]
    assert [part.role for part in unpaired.parts] == ["system", "user", "answer"]
    assert [(part.role, part.answer) for part in running.parts] == [("text", True)]
    assert [len(shown.tokens) for shown in facts.shown] == [2, 1, 1]


def test_languages_are_told_where_somebody_tells_them() -> None:
    german = "Der Reiher steht im flachen Wasser und wartet, bis ein Fisch vorbeikommt."
    facts = inspect([talk(german), talk("ja", "ok?")], label="x", language_of=language_of)
    assert (facts.languages, facts.judged) == ({"de": 1, "not told": 1}, 2)
    assert inspect([talk(german)], label="x").languages == {}


def test_search_takes_all_words_in_any_order() -> None:
    assert words_of('Refund "order Number"  late') == ("refund", "order number", "late")
    row = talk("Your order number, please.", "A REFUND is late")
    assert holds(row, 'late refund "order number"')
    assert not holds(row, '"number order"')
    facts = inspect(rows(50), label="x", asked=Asked(search="5 odd", most=2))
    assert facts.matches == len([line for line in range(1, 51) if "5" in str(line)])
    assert [shown.row for shown in facts.shown] == ["rows.jsonl:5", "rows.jsonl:15"]


def test_a_seeded_sample_of_a_reason_with_the_rows_where_they_are() -> None:
    entries = [*(entry(line) for line in range(1, 41)), *(entry(line, "refusal", "dropped") for line in range(41, 44))]
    asked = Asked(reason="e_mail", most=4, seed=1)
    facts = inspect(rows(20), entries, label="x", asked=asked)
    assert facts.matches == 40
    assert [(told.action, told.reason, told.count) for told in facts.ledger] == [
        ("changed", "e_mail", 40),
        ("dropped", "refusal", 3),
    ]
    assert len(facts.shown) == 4
    assert facts == inspect(rows(20), entries, label="x", asked=asked)
    other = inspect(rows(20), entries, label="x", asked=Asked(reason="e_mail", most=4, seed=2))
    assert [shown.row for shown in facts.shown] != [shown.row for shown in other.shown]
    for shown in facts.shown:
        line = int(shown.row.rpartition(":")[2])
        assert [told.line for told in shown.entries] == [line]
        assert bool(shown.parts) == (line <= 20)
        assert bool(shown.note) == (line > 20)


def test_several_entries_of_a_row_stand_together() -> None:
    facts = inspect(rows(3), [entry(2), entry(2)], label="x", asked=Asked(reason="e_mail"))
    assert [(shown.row, len(shown.entries)) for shown in facts.shown] == [("rows.jsonl:2", 2)]
    assert facts.matches == 2


def test_tokens_with_the_loss_mask() -> None:
    (rendered,) = ToySpeech().render(talk("naïve 👍", "Hm?"))
    tokens = tokens_of(rendered, ToySpeech())
    assert "".join(token.text for token in tokens) == "user: Hm?\nassistant: naïve 👍\n<end>"
    assert "ï" in [token.text for token in tokens]
    assert "👍" in [token.text for token in tokens]
    assert [token.trained for token in tokens] == [False] * 10 + [True] * 20
    facts = inspect([talk("ab")], label="x", renderer=ToySpeech())
    found = {spread.name: spread.total for spread in facts.spreads}
    assert found["tokens"] == len("user: What is it?\nassistant: ab\n") + 1
    assert found["trained tokens"] == len("assistant: ab\n") + 1


def test_bytes_that_are_no_character_are_still_shown() -> None:
    (rendered,) = ToySpeech().render(text("a"))
    broken = rendered.__class__((0x80, 0x80, 97), (1.0, 1.0, 1.0), True, True)
    assert "a" in "".join(token.text for token in tokens_of(broken, ToySpeech()))


def test_a_row_that_the_model_cannot_be_given_says_why() -> None:
    facts = inspect([talk("unsayable")], label="x", renderer=ToySpeech())
    assert facts.shown[0].note == "the model cannot be given this row: it cannot be said"
    assert facts.shown[0].parts
    assert facts.shown[0].tokens == ()


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60))
def test_bars_hold_every_number_once(values: list[int]) -> None:
    spread = spread_of("x", values)
    assert sum(bar.count for bar in spread.bars) == len(values)
    assert 1 <= len(spread.bars) <= 13
    for bar in spread.bars[:-1]:
        assert bar.count == sum(bar.low <= value < bar.high for value in values)
    assert spread.lowest <= spread.median <= spread.most <= spread.highest


def test_a_folder_of_documents(tmp_path: Path) -> None:
    with making(tmp_path / "docs") as folder:
        folder.keep(Document(place="a.md", text="Herons wade.", digest="d", time="2026-01-01T00:00:00Z"))
        folder.finish("# docs\n")
    facts = inspect(examples_of(DataFolder(tmp_path / "docs")), label="docs")
    assert facts.kinds == {"text": 1}
    assert facts.shown[0].row == "a.md:1"


@pytest.mark.parametrize("search", ["", "  ", '""'])
def test_an_empty_search_finds_all(search: str) -> None:
    assert inspect(rows(8), label="x", asked=Asked(search=search)).matches == 8
