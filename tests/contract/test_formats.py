"""Every format keeps its contract: its sample parses, sniffing is exclusive, no row makes it crash."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor import formats, names
from sartor.errors import FieldError
from sartor.types import EXAMPLE, Chat, Example, Pair, Source, Text, Unpaired

SOURCE = Source(file="rows.jsonl", line=7)
FORMATS = names.known("formats")

#: Texts as they come, half surrogate pairs and NULs among them.
TEXTS = st.text(st.characters(), max_size=12) | st.sampled_from(["", " ", "user", "assistant", "system", "tool", "\0"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
MESSAGE_KEYS = ["role", "content", "weight", "name", "tool_calls", "tool_call_id", "function_call", "reasoning_content"]
MESSAGES = st.dictionaries(st.sampled_from(MESSAGE_KEYS) | TEXTS, SCALARS | st.lists(SCALARS, max_size=2), max_size=5)
VALUES = st.recursive(
    SCALARS | MESSAGES | st.lists(MESSAGES, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of a JSON value, itself included."""
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of the value with `new` in that place."""
    if not path:
        return new
    made = copy.deepcopy(value)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = new
    return made


def check_outcome(form: formats.Format, row: dict[str, Any]) -> None:
    """Either an example that can be written and read again, or an error that says everything."""
    before = copy.deepcopy(row)
    try:
        parsed = form.parse(row, SOURCE)
    except FieldError as error:
        assert error.field
        assert error.seen
        assert error.expected
        str(error).encode("utf-8")  # no half surrogate pair reaches the terminal or the ledger
        error.field.encode("utf-8")
        assert "\0" not in str(error) + error.field
    else:
        assert EXAMPLE.validate_json(parsed.example.model_dump_json()) == parsed.example
        check_answers(parsed.example)
    assert repr(row) == repr(before), "parsing must not change the row"


def check_answers(example: Example) -> None:
    """Whatever shall be learned from is an answer to something."""
    if isinstance(example, Text):
        assert example.text.strip()
        return
    answers = {
        Chat: lambda: example.messages[-1:],
        Pair: lambda: (example.chosen, example.rejected),
        Unpaired: lambda: (example.answer,),
    }[type(example)]()
    assert example.prompt
    assert example.prompt[-1].role != "assistant"
    assert {answer.role for answer in answers} == {"assistant"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_its_parts(name: str):
    form = formats.named(name)
    assert form.SUMMARY
    assert "\n" not in form.SUMMARY
    assert form.FIELDS
    assert set(form.FIELDS) & form.SAMPLE.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_the_sample_parses_unchanged(name: str):
    form = formats.named(name)
    parsed = form.parse(form.SAMPLE, SOURCE)
    assert parsed.changes == ()
    assert parsed.example.source == SOURCE
    assert parsed.example.id == "rows.jsonl:7"


@pytest.mark.parametrize("name", FORMATS)
def test_sniffing_is_exclusive(name: str):
    sample = formats.named(name).SAMPLE
    assert [other for other in FORMATS if formats.named(other).matches(sample)] == [name]
    assert formats.sniff([sample]) == name


@pytest.mark.parametrize("name", FORMATS)
def test_keys_alone_decide_the_match(name: str):
    form = formats.named(name)
    assert form.matches(dict.fromkeys(form.SAMPLE))
    assert not form.matches({})


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_row_is_an_error(name: str):
    with pytest.raises(FieldError):
        formats.named(name).parse({}, SOURCE)


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_row_crashes_a_format(name: str, data: st.DataObject):
    form = formats.named(name)
    keys = st.sampled_from([*form.FIELDS, *form.SAMPLE]) | TEXTS
    check_outcome(form, data.draw(st.dictionaries(keys, VALUES, max_size=5)))


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_damage_to_the_sample_crashes_a_format(name: str, data: st.DataObject):
    form = formats.named(name)
    place = data.draw(st.sampled_from(places(form.SAMPLE)[1:]))
    check_outcome(form, replaced(form.SAMPLE, place, data.draw(VALUES)))
