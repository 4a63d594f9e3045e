"""Personal identifiers: told, masked, replaced by stand-ins, or the row dropped.

A stand-in is of the same kind and shape, and the same for all spellings of one value in the whole data set and in any
other that is cleaned with the same seed: who wrote to whom can still be learnt. Whoever knows the seed can try values
out, so this is no anonymity.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, field_validator

from sartor import names
from sartor.data.clean import Context, Outcome
from sartor.data.extra import needs
from sartor.data.finding.identifiers import KIND, found_in, identifier, stand_in_of
from sartor.data.finding.redact import Redaction
from sartor.types import Example, Frozen

SUMMARY = "e-mail addresses, telephone, card, bank and identity numbers, IP addresses"
REASONS: tuple[str, ...] = names.known(KIND)
SELECTS = False
WHOLE = False

_VERBS = {"mask": "masked", "pseudonymise": "replaced", "report": "found", "drop": "found"}


class Config(Frozen):
    action: Literal["report", "mask", "drop", "pseudonymise"] = Field(
        default="mask", description="tell of it, write [KIND] in its place, drop the row, or write a stand-in"
    )
    kinds: tuple[str, ...] = Field(default=names.known(KIND), description="which kinds to look for")
    countries: tuple[str, ...] = Field(
        default=("US", "GB", "DE", "FR", "ES", "IT"),
        description="ISO codes of countries whose own spelling of telephone numbers counts; +41 … counts for all",
    )

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            if kind not in names.known(KIND):
                raise ValueError(f"unknown kind {kind!r}; {names.suggest(kind, names.known(KIND))}")
        return kinds

    @field_validator("countries")
    @classmethod
    def _countries(cls, countries: tuple[str, ...]) -> tuple[str, ...]:
        known = tuple(sorted(needs("phonenumbers").SUPPORTED_REGIONS))
        for country in countries:
            if country not in known:
                raise ValueError(f"unknown country {country!r}: two capitals as in ISO 3166, such as GB, not UK")
        return countries


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    kinds = tuple((kind, identifier(kind)) for kind in config.kinds)
    members = dict(kinds)

    def replace(kind: str, value: str) -> str:
        if config.action == "mask":
            return f"[{kind.upper()}]"
        return stand_in_of(kind, members[kind], value, context.seed)

    find = functools.partial(found_in, kinds=kinds, countries=config.countries)
    redaction = Redaction(find, config.action, replace, _VERBS[config.action])
    return map(redaction.of, rows)
