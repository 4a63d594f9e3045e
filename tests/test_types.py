"""The nouns: frozen, read back as written, and digests that mean the same content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor.types import EXAMPLE, Message, Source, Text, ToolCall, digest_of

from .plans import chat

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


def test_a_chat_is_a_prompt_and_a_target() -> None:
    example = chat("2 + 2?", "4", system="be brief", line=7)
    assert [turn.role for turn in example.prompt] == ["system", "user"]
    assert example.target == "4"
    assert example.id == "rows.jsonl:7"


def test_digests_ignore_the_source() -> None:
    one, other = chat("q", "a", line=1), chat("q", "a", line=2)
    assert (one.digest, one.prompt_digest) == (other.digest, other.prompt_digest)
    assert chat("q", "b").digest != one.digest
    assert chat("q", "b").prompt_digest == one.prompt_digest
    assert chat("q", "a", system="s").prompt_digest != one.prompt_digest
    with_tools = one.model_copy(update={"tools": ({"name": "f"},)})
    assert with_tools.prompt_digest != one.prompt_digest
    text = Text(source=Source(file="f", line=3), text="words")
    assert text.prompt_digest == text.digest
    assert text.id == "f:3"


def test_examples_come_back_from_their_lines() -> None:
    call = Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={"a": [1, None]}, id="x"),))
    example = chat("q", "a").model_copy(update={"messages": (Message(role="user", content="q"), call)})
    for value in (example, Text(source=Source(file="f", line=3), text="Zürich\n")):
        assert EXAMPLE.validate_json(value.model_dump_json()) == value


def test_unknown_keys_and_changes_are_refused() -> None:
    with pytest.raises(ValidationError):
        Message(role="user", text="x")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Message(role="narrator")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Message(role="user").content = "x"  # type: ignore[misc]


@given(value=st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_of_keys_does_not_change_a_digest(value: dict[str, object]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))
    assert len(digest_of(value)) == 64


def test_digests_tell_values_apart() -> None:
    values = [(), ("",), ([],), ({},), (None,), (0,), (False,), ("0",), ("a", "b"), (["a", "b"],), ("ab",)]
    assert len({digest_of(*value) for value in values}) == len(values)
    assert digest_of("\ud800") != digest_of("\ud801")
    with pytest.raises(TypeError, match="object has no canonical JSON"):
        digest_of(object())
