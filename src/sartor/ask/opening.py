"""Who is asked, as a recipe or a command says it: a model on this machine, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from sartor.ask import Asker
from sartor.ask import endpoint as there
from sartor.ask import engine as here
from sartor.ask.spending import Prices
from sartor.errors import UserError
from sartor.types import Frozen, Json

#: What answers where nothing is said: the model that travels with Sartor.
EMBEDDED = "smollm2-135m-instruct"


class Who(Frozen):
    """One of two: `engine` (a model here) or `endpoint` (a url and a model there). A word is a model here."""

    model_config = ConfigDict(hide_input_in_errors=True)

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
        return self.endpoint.model if self.endpoint else self.local.model.name

    @property
    def local(self) -> here.Config:
        """The model here that is asked where no endpoint is named."""
        return self.engine or here.Config.model_validate({"model": EMBEDDED})

    @property
    def decides(self) -> Json:
        """What decides the answers: the model and where it is, not how patiently, at what price or with which key."""
        if self.endpoint:
            return self.endpoint.model_dump(mode="json", include={"url", "model"})
        return self.local.model_dump(mode="json", include={"model"})

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
    return here.open_asker(who.local)
