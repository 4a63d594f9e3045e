"""Who is asked, as it is written down."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sartor.ask.opening import Who, open_asker
from sartor.ask.spending import Prices
from sartor.errors import UserError


def test_a_word_is_a_model_here() -> None:
    who = Who.model_validate("smollm2-135m-instruct")
    assert who.engine is not None
    assert who.engine.model.name == "smollm2-135m-instruct"
    assert who.prices == Prices()


def test_a_mapping_with_a_url_is_an_endpoint() -> None:
    who = Who.model_validate({"url": "http://localhost:1/v1", "model": "m", "prices": {"prompt": 1}})
    assert who.prices.prompt == 1
    asker = open_asker(who)
    assert asker.name == "m"
    asker.close()


def test_a_mapping_with_a_model_is_a_model_here() -> None:
    who = Who.model_validate({"model": "smollm2-135m-instruct", "rows": 3})
    assert who.engine is not None
    assert who.engine.rows == 3


def test_both_at_once_are_refused() -> None:
    both = {"engine": {"model": "a"}, "endpoint": {"url": "http://localhost/v1", "model": "b"}}
    with pytest.raises(UserError, match="both"):
        open_asker(Who.model_validate(both))


def test_what_nobody_knows_is_refused() -> None:
    with pytest.raises(ValidationError):
        Who.model_validate({"url": "http://localhost/v1", "model": "m", "token": "secret"})
