"""The base model, asked as the item stands: nothing added."""

from __future__ import annotations

from sartor.arms.as_it_stands import Config, candidates, described, messages
from sartor.types import Form

__all__ = ["FORMS", "SUMMARY", "TUNED", "Config", "candidates", "described", "messages"]

SUMMARY = "the base model, asked as it stands"
TUNED = False
FORMS: frozenset[Form] = frozenset({"decoder", "embedder", "seq2seq"})
