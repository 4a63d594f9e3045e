"""Keys, tokens, passwords and private keys: told, masked, or the row dropped.

Found by the shapes that issuers document and by assignments to names such as `password`. A leaked key stays leaked:
whoever issued it should revoke it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field

from sartor.data.clean import Context, Outcome
from sartor.data.finding.identifiers import Span, apart
from sartor.data.finding.redact import Redaction
from sartor.data.finding.secret_shapes import secrets_in
from sartor.types import Example, Frozen

SUMMARY = "API keys, tokens, passwords and private keys"
REASONS = ("api_key", "token", "password", "private_key")
SELECTS = False
WHOLE = False


class Config(Frozen):
    action: Literal["report", "mask", "drop"] = Field(
        default="mask", description="tell of it, write [KIND] in its place, or drop the row"
    )


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    verb = "masked" if config.action == "mask" else "found"
    return map(Redaction(_find, config.action, lambda kind, value: f"[{kind.upper()}]", verb).of, rows)


def _find(text: str) -> tuple[Span, ...]:
    return apart(tuple(secrets_in(text)))
