"""The texts of an example: all of them, in order, with their fields; and edits that touch nothing else."""

from __future__ import annotations

import pytest

from sartor.data.clean.texts import answer_of, edited, part_of, question_of, texts_of, whole_of
from sartor.types import Chat, Example, Message, Pair, Source, Text, ToolCall, Unpaired

SOURCE = Source(file="rows.jsonl", line=1)
ASK = Message(role="user", content="What?")
CALL = ToolCall(name="look", arguments={"what": "it"})
GOOD, BAD = Message(role="assistant", content="this", reasoning="hm"), Message(role="assistant", content="that")

EXAMPLES: dict[str, Example] = {
    "chat": Chat(
        source=SOURCE,
        messages=(
            ASK,
            Message(role="assistant", tool_calls=(CALL,)),
            Message(role="tool", content="found", tool_call_id="1"),
            GOOD,
        ),
    ),
    "text": Text(source=SOURCE, text="running"),
    "pair": Pair(source=SOURCE, prompt=(ASK,), chosen=GOOD, rejected=BAD),
    "unpaired": Unpaired(source=SOURCE, prompt=(ASK,), answer=BAD, good=False),
}
FIELDS = {
    "chat": ["messages[0].content", "messages[2].content", "messages[3].content", "messages[3].reasoning"],
    "text": ["text"],
    "pair": ["prompt[0].content", "chosen.content", "chosen.reasoning", "rejected.content"],
    "unpaired": ["prompt[0].content", "answer.content"],
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_text_has_its_field(kind: str) -> None:
    found = list(texts_of(EXAMPLES[kind]))
    assert [each.field for each in found] == FIELDS[kind]
    asked = ("prompt", "messages[0]", "messages[2]")
    assert [each.answer for each in found] == [not each.field.startswith(asked) for each in found]


def test_question_answer_and_whole() -> None:
    parts = {kind: (question_of(each), answer_of(each), whole_of(each)) for kind, each in EXAMPLES.items()}
    assert parts == {
        "chat": ("What?\nfound", "this", "What?\nfound\nthis\nhm"),
        "text": ("", "running", "running"),
        "pair": ("What?", "this", "What?\nthis\nhm\nthat"),
        "unpaired": ("What?", "that", "What?\nthat"),
    }


def test_a_running_text_is_all_one_part() -> None:
    assert {part_of(EXAMPLES["text"], part) for part in ("question", "answer", "whole")} == {"running"}
    assert part_of(EXAMPLES["pair"], "question") == "What?"
    assert part_of(EXAMPLES["pair"], "answer") == "this"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_edits_touch_every_text_and_nothing_else(kind: str) -> None:
    example = EXAMPLES[kind]
    louder, fields = edited(example, str.upper)
    assert list(fields) == FIELDS[kind]
    assert [each.text for each in texts_of(louder)] == [each.text.upper() for each in texts_of(example)]
    quiet, _ = edited(example, str.lower)
    assert edited(louder, str.lower)[0] == quiet
    assert louder.source == SOURCE


def test_an_edit_that_changes_nothing_gives_the_same_example() -> None:
    for example in EXAMPLES.values():
        assert edited(example, str) == (example, ())
        assert edited(example, str)[0] is example
    (chat, _) = edited(EXAMPLES["chat"], lambda text: text.replace("found", "seen"))
    assert isinstance(chat, Chat)
    assert chat.messages[1].tool_calls == (CALL,)
    assert edited(EXAMPLES["chat"], lambda text: text.replace("found", "seen"))[1] == ("messages[2].content",)
