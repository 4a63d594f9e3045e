"""Who is asked, as a recipe or a command says it: a model on this machine, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from sartor.ask import Asker
from sartor.ask import endpoint as there
from sartor.ask import engine as here
from sartor.ask.spending import Prices
from sartor.errors import UserError
from sartor.types import Frozen

#: What answers where nothing is said: the model that travels with Sartor.
EMBEDDED = "smollm2-135m-instruct"


class Who(Frozen):
    """One of two: `engine` (a model here) or `endpoint` (a url and a model there). A word is a model here."""

    engine: here.Config | None = Field(default=None, description="A model on this machine, and how it is run.")
    endpoint: there.Config | None = Field(default=None, description="An endpoint that speaks OpenAI's chat API.")

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"engine": {"model": value}}
        if isinstance(value, Mapping) and "url" in value:
            return {"endpoint": value}
        if isinstance(value, Mapping) and "model" in value:
            return {"engine": value}
        return value

    @property
    def name(self) -> str:
        """The model's name, for cards."""
        return self.endpoint.model if self.endpoint else self.engine.model.name if self.engine else EMBEDDED

    @property
    def prices(self) -> Prices:
        return self.endpoint.prices if self.endpoint else Prices()


def open_asker(who: Who) -> Asker:
    """The asker of that description; whoever opens it closes it.

    Raises:
        UserError: neither or both are given, or what is given cannot be used.
    """
    if who.engine and who.endpoint:
        raise UserError("both a model here and an endpoint are named to be asked", hint="leave one of them out")
    if who.endpoint:
        return there.open_asker(who.endpoint)
    return here.open_asker(who.engine or here.Config.model_validate({"model": EMBEDDED}))
