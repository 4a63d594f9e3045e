"""A reviewer at a desk, and decisions from a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sartor.ask import Answer
from sartor.augment import review
from sartor.augment.gather import gather
from sartor.augment.grow import grow, leave_waiting
from sartor.augment.review import at_desk, by_file, in_editor, read_back, safe, view, waiting, with_texts, written
from sartor.augment.work import Work, reopen
from sartor.errors import DataError, UserError
from sartor.types import Chat, Message, Pair, Source

from .makers import FakeAsker, job, new_example, said


class FakeDesk:
    """Presses keys in turn, gives reasons, and edits by replacing."""

    def __init__(self, keys: str, *, reason: str = "too vague", edit: tuple[str, str] = ("shop", "stall")) -> None:
        self._keys = iter(keys)
        self._reason = reason
        self._edit = edit
        self.shown: list[str] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def key(self, keys: Mapping[str, str]) -> str:
        return next(self._keys)

    def line(self, question: str) -> str:
        return self._reason

    def edit(self, text: str) -> str:
        return text.replace(*self._edit)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """A job of which four examples wait."""
    made = job(tmp_path / "work", accept=False, wanted=100, rounds=2)
    asker = FakeAsker(lambda question: Answer(question.key, new_example(question.key)))
    list(grow(made, asker, review=leave_waiting))
    assert len(list(waiting(made))) == 4
    return made


def fates(work: Work) -> list[str]:
    return [found.fate for found in work.outcomes()]


def test_a_reviewer_accepts_edits_and_rejects(work: Work, tmp_path: Path) -> None:
    assert at_desk(work, FakeDesk("aera")) == 4
    assert fates(work) == ["accepted", "accepted", "rejected", "accepted"]
    assert [example.target.startswith("The stall") for example in work.accepted() if isinstance(example, Chat)] == [
        False,
        True,
        False,
    ]
    folder = gather(work, tmp_path / "made", "made")
    assert [(entry.action, entry.reason, entry.line) for entry in folder.ledger()] == [
        ("changed", "edited", 2),
        ("dropped", "reviewed", 3),
    ]
    assert "- too vague" in work.lessons()


def test_who_leaves_finds_the_rest_waiting(work: Work) -> None:
    assert at_desk(work, FakeDesk("aq")) == 1
    assert fates(work) == ["accepted", "waiting", "waiting", "waiting"]
    assert at_desk(reopen(work.folder, "work"), FakeDesk("aaa")) == 3
    assert fates(work) == ["accepted"] * 4


def test_an_edit_that_cannot_be_read_is_asked_for_again(work: Work) -> None:
    desk = FakeDesk("erq", edit=("%%%% answer", ""))
    assert at_desk(work, desk) == 1
    assert any("the answer is gone" in text for text in desk.shown)
    assert fates(work)[0] == "rejected"


def test_after_the_review_the_next_round_begins_with_its_lessons(work: Work) -> None:
    at_desk(work, FakeDesk("rrra", reason="never name two towns"))
    asker = FakeAsker(lambda question: Answer(question.key, new_example(question.key)))
    list(grow(work, asker, review=leave_waiting))
    assert {question.key.partition("/")[0] for question in asker.asked} == {"round-002"}
    assert "never name two towns" in asker.asked[0].messages[0].content


def lines(path: Path, *decisions: object) -> Path:
    path.write_text("".join(json.dumps(decision) + "\n" for decision in decisions))
    return path


def test_a_file_decides_too(work: Work, tmp_path: Path) -> None:
    example = next(waiting(work)).checked.example
    assert example is not None
    file = lines(
        tmp_path / "decisions.jsonl",
        {"key": "round-001/001", "decision": "accept"},
        {"key": "round-001/002", "decision": "reject", "reason": "no"},
        {"key": "round-001/003", "decision": "edit", "example": example.model_dump(mode="json")},
        {"key": "round-001/002", "decision": "accept"},
    )
    assert by_file(work, file, "decisions.jsonl") == 4
    assert fates(work) == ["accepted", "accepted", "accepted", "waiting"]
    assert work.accepted()[2].source.line == 3


def chat(*turns: tuple[str, str], **more: object) -> dict[str, object]:
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"kind": "chat", "source": {"file": "x", "line": 1}, "messages": messages, **more}


USER, ASSISTANT = ("user", "Where?"), ("assistant", "There.")
PAIR = {
    "kind": "pair",
    "source": {"file": "x", "line": 1},
    "prompt": [{"role": "user", "content": "Where?"}],
    "chosen": {"role": "assistant", "content": "There."},
    "rejected": {"role": "assistant", "content": "Who knows."},
}
CALL = {"role": "assistant", "content": "There.", "tool_calls": [{"name": "look", "arguments": {}}]}


@pytest.mark.parametrize(
    ("example", "field"),
    [
        (chat(), "messages"),
        (chat(ASSISTANT), "messages"),
        (chat(USER), "messages"),
        (chat(USER, ("user", "Where else?")), "messages"),
        (chat(USER, ASSISTANT, ("assistant", "Here.")), "messages"),
        (chat(USER, ("assistant", " ")), "messages"),
        (chat(("user", ""), ASSISTANT), "messages"),
        (chat(USER, ("assistant", "a\0b")), "messages"),
        (chat(messages=[{"role": "user", "content": "Where?"}, CALL]), "messages"),
        (PAIR, "kind"),
    ],
)
def test_an_edit_of_no_use_takes_nothing(work: Work, tmp_path: Path, example: object, field: str) -> None:
    reject = {"key": "round-001/001", "decision": "reject"}
    edit = {"key": "round-001/002", "decision": "edit", "example": example}
    with pytest.raises(DataError) as found:
        by_file(work, lines(tmp_path / "decisions.jsonl", reject, edit), "decisions.jsonl")
    where = found.value.where
    assert where is not None
    assert (where.file, where.line) == ("decisions.jsonl", 2)
    assert where.field.startswith(f"example.{field}")
    assert "checked.jsonl" in found.value.hint
    assert fates(work) == ["waiting"] * 4


@pytest.fixture
def ranked(tmp_path: Path) -> Work:
    """A job of which pairs wait."""
    made = job(tmp_path / "work", recipe="preference", accept=False, rounds=1)
    wrong = '{"answer": "At the harbour, on the day after."}'
    list(grow(made, FakeAsker(lambda question: Answer(question.key, wrong)), review=leave_waiting))
    assert isinstance(next(waiting(made)).checked.example, Pair)
    return made


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, ""),
        ({"prompt": []}, "example.chosen"),
        ({"prompt": [{"role": "user", "content": " "}]}, "example.chosen"),
        ({"rejected": {"role": "assistant", "content": ""}}, "example.rejected"),
        ({"rejected": CALL}, "example.rejected"),
        ({"chosen": {"role": "user", "content": "There."}}, "example.chosen"),
        (chat(USER, ASSISTANT), "example.kind"),
    ],
)
def test_a_pair_stays_a_pair(ranked: Work, tmp_path: Path, changes: dict[str, object], field: str) -> None:
    example = changes if "kind" in changes else {**PAIR, **changes}
    key = next(waiting(ranked)).checked.key
    file = lines(tmp_path / "decisions.jsonl", {"key": key, "decision": "edit", "example": example})
    if not field:
        assert by_file(ranked, file, "decisions.jsonl") == 1
        return
    with pytest.raises(DataError) as found:
        by_file(ranked, file, "decisions.jsonl")
    assert found.value.where is not None
    assert found.value.where.field == field


def test_what_unicode_calls_a_line_end_ends_no_line(work: Work, tmp_path: Path) -> None:
    reason = "two\u2028lines\u0085and\u2029more"
    decision = {"key": "round-001/001", "decision": "reject", "reason": reason}
    (tmp_path / "d.jsonl").write_text(json.dumps(decision, ensure_ascii=False) + "\r\n\n", encoding="utf-8")
    assert by_file(work, tmp_path / "d.jsonl", "d.jsonl") == 1
    assert next(work.outcomes()).reason == reason


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"key": "round-009/001", "decision": "accept"}, "round-009/001"),
        ({"key": "round-001/001", "decision": "perhaps"}, "decision"),
        ({"key": "round-001/001", "decision": "edit"}, "an edit has the edited"),
        ({"key": "round-001/001"}, "decision"),
        ({"key": "round-001/001", "decision": "accept", "resaon": "x"}, "resaon"),
        ([], "an empty list"),
    ],
)
def test_a_wrong_line_takes_nothing(work: Work, tmp_path: Path, line: object, words: str) -> None:
    file = lines(tmp_path / "decisions.jsonl", {"key": "round-001/001", "decision": "accept"}, line)
    with pytest.raises(DataError, match=words) as found:
        by_file(work, file, "decisions.jsonl")
    assert found.value.where is not None
    assert found.value.where.line == 2
    assert fates(work) == ["waiting"] * 4


def test_what_failed_cannot_be_accepted(tmp_path: Path) -> None:
    work = job(tmp_path / "work", accept=False, rounds=1)
    list(grow(work, FakeAsker(lambda question: Answer(question.key, "no")), review=leave_waiting))
    file = lines(tmp_path / "decisions.jsonl", {"key": "round-001/001", "decision": "accept"})
    with pytest.raises(DataError, match="nothing to accept"):
        by_file(work, file, "decisions.jsonl")


def test_files_that_are_none(work: Work, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        by_file(work, tmp_path / "missing.jsonl", "missing.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot read"):
        by_file(work, tmp_path / "latin.jsonl", "latin.jsonl")
    with pytest.raises(DataError, match="holds no augmentation"):
        reopen(tmp_path, "here")


def test_a_reviewer_may_take_what_the_checks_rejected(tmp_path: Path) -> None:
    work = job(tmp_path / "work", accept=False, rounds=1)
    list(grow(work, FakeAsker(lambda question: Answer(question.key, said("Where?", "There."))), review=leave_waiting))
    assert fates(work) == ["rejected"] * 4
    by_file(work, lines(tmp_path / "d.jsonl", {"key": "round-001/002", "decision": "accept"}), "d.jsonl")
    assert fates(work) == ["rejected", "accepted", "rejected", "rejected"]


def test_what_is_shown_cannot_drive_a_terminal(tmp_path: Path) -> None:
    work = job(tmp_path / "work", accept=False, rounds=1)
    evil = said("Where do I\x1b[2J buy \u202e hammers in Turin?", "At the\r market\nof Turin.")
    list(grow(work, FakeAsker(lambda question: Answer(question.key, evil)), review=leave_waiting))
    shown = view(work, next(waiting(work)), "1 of 1")
    assert "\\x1b[2J" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert safe("a\tb\n") == "a\\tb\n"


def test_a_page_for_the_editor_reads_back() -> None:
    texts = {"question": "What\n\nis %%%% this?", "answer": "%%%%% answer\nIt is so."}
    assert read_back(written(texts), texts) == texts


def test_a_pair_is_edited_in_all_its_parts() -> None:
    pair = Pair(
        source=Source(file="x", line=1),
        prompt=(Message(role="system", content="s"), Message(role="user", content="q")),
        chosen=Message(role="assistant", content="good"),
        rejected=Message(role="assistant", content="bad"),
    )
    assert review.texts_of(pair) == {"question": "q", "better": "good", "worse": "bad"}
    changed = with_texts(pair, {"question": "Q", "better": "GOOD", "worse": "BAD"})
    assert review.texts_of(changed) == {"question": "Q", "better": "GOOD", "worse": "BAD"}


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    script = tmp_path / "editor.py"
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    return script


def test_the_users_editor_is_a_real_process(editor: Path) -> None:
    editor.write_text("import sys, pathlib\np = pathlib.Path(sys.argv[1])\np.write_text(p.read_text().upper())\n")
    assert in_editor("wörds") == "WÖRDS"


def test_an_editor_that_fails_changes_nothing(editor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor.write_text("raise SystemExit(3)\n")
    with pytest.raises(UserError, match="ended with 3"):
        in_editor("words")
    monkeypatch.setenv("EDITOR", "no-such-editor-here")
    with pytest.raises(UserError, match="cannot be started"):
        in_editor("words")
    monkeypatch.setenv("EDITOR", "unclosed 'quote")
    with pytest.raises(UserError, match="cannot be started"):
        in_editor("words")
