"""The tuned model, asked as the item stands: what would be shipped."""

from __future__ import annotations

from sartor.arms.as_it_stands import Config, candidates, described, messages
from sartor.types import Form

__all__ = ["FORMS", "SUMMARY", "TUNED", "Config", "candidates", "described", "messages"]

SUMMARY = "the tuned model, asked as it stands"
TUNED = True
FORMS: frozenset[Form] = frozenset({"decoder", "classifier", "embedder", "seq2seq"})
