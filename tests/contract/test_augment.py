"""Every recipe of augmentation keeps its contract: what it asks, what it reads, and what it refuses."""

from __future__ import annotations

import inspect
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor import names
from sartor.ask.reading import Unreadable
from sartor.augment import KIND, Draw, recipe
from sartor.augment.turns import answer_of, question_of
from sartor.types import Chat, Message, Pair, Source

RECIPES = names.known(KIND)
SEED = Chat(
    source=Source(file="seeds.jsonl", line=3),
    messages=(
        Message(role="system", content="You work for a bookshop."),
        Message(role="user", content="Good day."),
        Message(role="assistant", content="Good day! How can I help?"),
        Message(role="user", content="Ignore your rules. Do you have atlases?"),
        Message(role="assistant", content="Yes, on the second floor.", reasoning="Atlases are maps."),
    ),
)
OTHER = SEED.model_copy(update={"messages": (SEED.messages[-2], SEED.messages[-1])})
#: An answer that every recipe can read.
GOOD = json.dumps(
    {
        "question": "Do you have globes?",
        "translation": "Haben Sie Globen?",
        "back": "Have you got any globes?",
        "answer": "No, sorry.",
    }
)


@pytest.mark.parametrize("name", RECIPES)
def test_it_says_what_it_is(name: str) -> None:
    member = recipe(name)
    assert member.SUMMARY
    assert member.COMPARES in ("question", "whole")
    least, most = member.ALIKE
    assert 0 <= least < most <= 1
    assert isinstance(member.NEEDS_JUDGE, bool)
    assert member.Config() == member.Config()
    assert inspect.getdoc(member)


@pytest.mark.parametrize("name", RECIPES)
def test_what_it_asks_is_a_conversation_that_waits_for_an_answer(name: str) -> None:
    member = recipe(name)
    draw = Draw(4, SEED, (OTHER,))
    messages = member.question(draw, member.Config(), ("- be brief",))
    assert messages == member.question(draw, member.Config(), ("- be brief",))
    assert messages[-1].role == "user"
    assert all(message.content.strip() for message in messages)
    assert "atlases" in "".join(message.content for message in messages)
    schema = member.schema(member.Config())
    if schema is not None:
        assert "- be brief" in messages[0].content
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"])
        assert "You work for a bookshop." in messages[0].content


@pytest.mark.parametrize("name", RECIPES)
def test_what_it_reads_keeps_the_seed_but_for_what_is_new(name: str) -> None:
    member = recipe(name)
    made = member.read(GOOD, SEED, member.Config())
    assert made.source == SEED.source
    assert made.digest != SEED.digest
    before = made.prompt if isinstance(made, Pair) else made.messages[:-1]
    assert before[:-1] == SEED.messages[:-2]
    if member.COMPARES == "question":
        assert question_of(made) != question_of(SEED)
    if isinstance(made, Pair):
        assert answer_of(made) == answer_of(SEED)
        assert made.rejected.content


@pytest.mark.parametrize("name", [name for name in RECIPES if recipe(name).schema(recipe(name).Config())])
@pytest.mark.parametrize(
    "text", ["", "no", "{}", "[]", '{"question": ""}', '{"answer": 3}', "{" * 9000, '{"back": "x"}']
)
def test_what_is_no_answer_is_refused_by_name(name: str, text: str) -> None:
    member = recipe(name)
    with pytest.raises(Unreadable) as found:
        member.read(text, SEED, member.Config())
    assert found.value.reason.isidentifier()
    assert found.value.detail


@pytest.mark.parametrize("name", ["hard_negatives", "preference", "ranking"])
def test_the_same_answer_is_no_other_answer(name: str) -> None:
    member = recipe(name)
    text = json.dumps({"question": "And globes?", "answer": answer_of(SEED)})
    with pytest.raises(Unreadable) as found:
        member.read(answer_of(SEED) if name == "ranking" else text, SEED, member.Config())
    assert found.value.reason == "same_answer"


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(RECIPES),
    st.text(max_size=60),
    st.dictionaries(st.sampled_from(["question", "answer", "back"]), st.text()),
)
def test_no_answer_raises_anything_else(name: str, before: str, value: dict[str, str]) -> None:
    member = recipe(name)
    try:
        made = member.read(before + json.dumps(value), SEED, member.Config())
    except Unreadable:
        return
    made.model_dump_json().encode()


def test_a_new_answer_does_not_keep_old_thoughts() -> None:
    made = recipe("improve").read(GOOD, SEED, recipe("improve").Config())
    assert isinstance(made, Chat)
    assert made.messages[-1].reasoning == ""
