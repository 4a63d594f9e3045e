"""Who is asked, as it is written down."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sartor.ask.opening import EMBEDDED, Who, open_asker
from sartor.ask.spending import Prices
from sartor.errors import RecipeError, UserError
from sartor.recipe import validated


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
    with pytest.raises(ValidationError) as found:
        Who.model_validate({"url": "http://localhost/v1", "model": "m", "token": "secret"})
    assert "secret" not in str(found.value)


@pytest.mark.parametrize("who", ["http://user:secret@host/v1", {"model": "http://user:secret@host/v1"}])
def test_a_url_alone_is_no_model_and_is_not_shown(who: Any) -> None:
    with pytest.raises(RecipeError, match="a name and no url") as found:
        validated(Who, {"engine": who} if isinstance(who, dict) else {"model": who}, "who")
    assert "secret" not in str(found.value)


def test_what_decides_answers_is_the_model_and_where_it_is() -> None:
    there = {"url": "http://localhost/v1", "model": "m"}
    patient = {"concurrency": 9, "timeout": 1, "tries": 2, "patience": 3, "key": "KEY", "prices": {"prompt": 1}}
    assert decided({**there, **patient}) == decided(there)
    assert decided({**there, "url": "http://localhost/v2"}) != decided(there) != decided({**there, "model": "n"})
    assert decided({}) == decided(EMBEDDED) == decided({"model": EMBEDDED, "rows": 3})
    here = [
        {"name": "m"},
        {"name": "m", "revision": "r"},
        {"name": "m", "quantize": "nf4"},
        {"name": "m", "template": {"a": 1}},
    ]
    assert len({str(decided({"model": model})) for model in here}) == 4


def decided(who: Any) -> Any:
    return Who.model_validate(who).decides
