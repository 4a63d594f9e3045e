"""Fixed bounds on length."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sartor.data.clean import Context
from sartor.errors import RecipeError

from .rows import outcomes, reasons, talk, text


def test_off_until_it_is_set() -> None:
    assert reasons("length", talk("")) == []
    assert reasons("length", talk("x" * 100_000)) == []


def test_bounds() -> None:
    assert reasons("length", talk("four"), shortest=5) == ["too_short"]
    assert reasons("length", talk("four"), shortest=4, longest=4) == []
    assert reasons("length", talk("four"), longest=3) == ["too_long"]
    assert reasons("length", talk("one two"), unit="words", shortest=3) == ["too_short"]
    assert reasons("length", talk("a", question="What? " * 9), of="question", longest=20) == ["too_long"]
    assert reasons("length", talk("a", question="b"), of="whole", shortest=4) == ["too_short"]


def test_a_running_text_is_all_one_part() -> None:
    for part in ("question", "answer", "whole"):
        assert reasons("length", text("four"), of=part, shortest=4, longest=4) == []
        assert reasons("length", text("four"), of=part, shortest=5) == ["too_short"]


def test_tokens_need_a_model() -> None:
    context = Context(count_tokens=lambda example: 12)
    (outcome,) = outcomes("length", [talk("a")], context, unit="tokens", longest=11)
    assert outcome.entries[0].detail == "12 tokens of the row, at most 11"
    with pytest.raises(RecipeError, match="needs a model"):
        outcomes("length", [talk("a")], unit="tokens", longest=11)


def test_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="below shortest"):
        outcomes("length", [], shortest=5, longest=4)
