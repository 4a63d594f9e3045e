"""The cleaner of personal identifiers, over whole examples."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor.data.clean import Context
from sartor.data.clean.pii import REASONS, Config, clean
from sartor.data.finding.identifiers import Span, apart
from sartor.types import Chat, Message, Source

VALUES = {
    "e_mail": "jane.doe@acme-corp.com",
    "phone": "+49 30 901820",
    "iban": "DE89 3704 0044 0532 0130 00",
    "card": "4111 1111 1111 1111",
    "ip_address": "66.187.233.211",
    "national_id": "123-45-6789",
}


def talk(line: int, *texts: str) -> Chat:
    turns = [Message(role="user" if index % 2 == 0 else "assistant", content=text) for index, text in enumerate(texts)]
    return Chat(source=Source(file="rows.jsonl", line=line), messages=tuple(turns))


def both(value: str) -> Chat:
    return talk(1, f"I am {value}.", f"Thank you: {value}")


def test_every_kind_is_a_reason() -> None:
    assert set(REASONS) == set(VALUES)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("action", ["report", "mask", "drop", "pseudonymise"])
def test_no_entry_holds_what_was_found(kind: str, action: str) -> None:
    (outcome,) = clean([both(VALUES[kind])], Config.model_validate({"action": action}), Context())
    assert {entry.reason for entry in outcome.entries} == {kind}
    assert len(outcome.entries) == (1 if action == "drop" else 2)
    assert all(VALUES[kind] not in entry.model_dump_json() for entry in outcome.entries)
    if action in ("mask", "pseudonymise"):
        assert outcome.example is not None
        assert VALUES[kind] not in outcome.example.model_dump_json()


@pytest.mark.parametrize("kind", VALUES)
def test_the_mask_says_the_kind(kind: str) -> None:
    (outcome,) = clean([both(VALUES[kind])], Config(), Context())
    assert isinstance(outcome.example, Chat)
    assert outcome.example.target == f"Thank you: [{kind.upper()}]"


@pytest.mark.parametrize("kind", VALUES)
def test_the_same_value_has_the_same_stand_in_everywhere(kind: str) -> None:
    rows = [talk(line, f"{line} {VALUES[kind]}", f"yes, {VALUES[kind]}") for line in range(1, 4)]
    config = Config(action="pseudonymise")
    outcomes = list(clean(rows, config, Context(seed=3)))
    names = {outcome.example.target for outcome in outcomes if isinstance(outcome.example, Chat)}
    assert len(names) == 1
    assert outcomes == list(clean(rows, config, Context(seed=3)))
    assert outcomes != list(clean(rows, config, Context(seed=4)))


def test_only_the_kinds_that_are_asked_for() -> None:
    text = " ".join(VALUES.values())
    (outcome,) = clean([talk(1, "hi", text)], Config(kinds=("iban",)), Context())
    assert isinstance(outcome.example, Chat)
    assert outcome.example.target == text.replace(VALUES["iban"], "[IBAN]")


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'e_mail'"):
        Config(kinds=("email",))


def test_an_unknown_country_is_refused() -> None:
    assert Config(countries=("CH",)).countries == ("CH",)
    for country in ("UK", "de", "Germany"):
        with pytest.raises(ValidationError, match="GB, not UK"):
            Config(countries=(country,))


def test_the_longest_of_overlapping_finds_wins_and_none_overlap() -> None:
    spans = (Span(0, 4, "phone"), Span(2, 9, "card"), Span(2, 9, "iban"), Span(9, 12, "phone"))
    assert apart(spans) == (Span(2, 9, "card"), Span(9, 12, "phone"))


@given(
    st.lists(
        st.builds(
            lambda start, size, kind: Span(start, start + size, kind),
            st.integers(0, 30),
            st.integers(1, 9),
            st.sampled_from("ab"),
        ),
        max_size=12,
    )
)
def test_the_longest_stay_as_if_each_was_compared_with_each(spans: list[Span]) -> None:
    taken: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span.kind, span.start)):
        if all(span.end <= other.start or other.end <= span.start for other in taken):
            taken.append(span)
    assert list(apart(spans)) == sorted(taken, key=lambda span: span.start)


@pytest.mark.timeout(20)  # compared each with each, these take minutes
def test_many_spans_of_which_two_overlap() -> None:
    spans = [Span(5 * place, 5 * place + 4, "phone") for place in range(60_000)]
    assert apart([*spans, Span(2, 4, "card")]) == tuple(spans)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(sorted(VALUES.values())), st.text(max_size=20)), max_size=8), st.integers(0, 9)
)
def test_any_text_goes_through_and_no_value_with_it(parts: list[str], seed: int) -> None:
    random.Random(seed).shuffle(parts)
    row = talk(1, "hi", "\n".join(parts) or "x")
    (outcome,) = clean([row], Config(), Context())
    assert isinstance(outcome.example, Chat)
    assert all(value not in outcome.example.target for value in VALUES.values())
    assert len(outcome.entries) == len(set(parts) & set(VALUES.values()))
