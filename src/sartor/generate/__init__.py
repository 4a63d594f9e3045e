"""Sampling: prompts in, tokens out, one at a time. An engine is one file, with an `open_engine`."""

NOT_MEMBERS: frozenset[str] = frozenset({"protocol", "batch"})
